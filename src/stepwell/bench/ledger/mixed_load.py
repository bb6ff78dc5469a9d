"""A mixed load: everything that customers do to a server, in one program that a seed decides.

Sessions of three tenants under three service tiers; a lead agent that waits for tools, for its children and
for people; prompts that share beginnings; bursts; answers that are cancelled, asked for twice at once, or
refused because a budget is spent. Its runner gives it the time and carries out nothing else.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from stepwell.engines.probe import GREEDY
from stepwell.loop.driver import Driver
from stepwell.loop.requests import Delta, Finished, Generation, Output, Preempted, Rejected
from stepwell.policy.types import Caller, Hint, RequestId, Wait

SECOND_US = 1_000_000
BUDGETED = "globex"
"""The tenant whose budget is reached again and again."""
TENANTS = (("acme", "priority"), (BUDGETED, "default"), ("initech", "flex"))
DOCUMENTS = 40
"""Different ones; the same document in a later session is a prefix that lies somewhere."""
SPENT_CODES = ("insufficient_quota", "session_budget_exceeded", "agent_budget_exceeded")
_RETRY_US = dict.fromkeys(SPENT_CODES, 30 * SECOND_US) | {"rate_limit_exceeded": 5 * SECOND_US}


@dataclass(frozen=True, slots=True)
class MixedSize:
    """How much of it."""

    system_tokens: int = 256
    """Shared by all agents of a tenant."""
    document_tokens: int = 256
    message_tokens: int = 96
    """Most that is added to a context before a turn."""
    answer_tokens: int = 96
    context_tokens: int = 1_536
    """An agent whose context is longer begins no further turn."""
    turns: int = 4
    session_every_s: float = 12.0
    burst_sessions: int = 10
    burst_every_s: float = 60.0


@dataclass(slots=True, eq=False)
class LoadAgent:
    """One agent's side of the conversation."""

    tenant: str
    service_tier: str
    session: str
    name: str
    parent: LoadAgent | None
    context: list[int]
    turns_left: int
    waits_for: int = 0
    """Children that have not finished."""

    @property
    def role(self) -> str:
        return "lead" if self.parent is None else "reader"

    @property
    def caller(self) -> Caller:
        above = self.parent.name if self.parent is not None else None
        key = f"key_{self.tenant}"
        return Caller(self.tenant, self.service_tier, self.session, self.name, above, self.role, key)


@dataclass(slots=True, eq=False)
class LoadTurn:
    """One request and what came of it."""

    agent: LoadAgent
    generation: Generation
    request: RequestId = 0
    tokens: list[int] = field(default_factory=list)
    extra: bool = False
    """A second choice, or prepared KV: no turn goes on with it."""


class MixedLoad:
    """Call ``act`` whenever ``due_us`` has come or something was answered."""

    def __init__(
        self,
        driver: Driver,
        source: Sequence[int],
        seed: int,
        begun_us: int,
        until_us: int,
        size: MixedSize,
    ) -> None:
        """``source``: tokens to cut prompts from. ``until_us``: no session begins later."""
        self.counts: Counter[str] = Counter()
        self.waits_for_budget = False
        """The budgeted tenant was refused and not topped up since."""
        self._driver, self._source, self._size = driver, source, size
        self._dice = random.Random(seed)
        self._until_us = until_us
        self._answers: deque[tuple[LoadTurn, Output]] = deque()
        self._due: list[tuple[int, int, Callable[[int], None]]] = []
        self._number = 0
        self._sessions = 0
        self._systems = {
            tenant: self._cut(size.system_tokens, index) for index, (tenant, _) in enumerate(TENANTS)
        }
        self._at(0, self._next_session)
        self._at(begun_us + int(size.burst_every_s * SECOND_US / 3), self._burst)

    def due_us(self) -> int | None:
        """When it wants to act next by itself; 0: now."""
        return 0 if self._answers else self._due[0][0] if self._due else None

    def act(self, now_us: int) -> None:
        """Take in what was answered, and do what is due."""
        while self._answers:
            self._take(*self._answers.popleft(), now_us)
        while self._due and self._due[0][0] <= now_us:
            heapq.heappop(self._due)[2](now_us)

    def _at(self, when_us: int, what: Callable[[int], None]) -> None:
        self._number += 1
        heapq.heappush(self._due, (when_us, self._number, what))

    def _within_us(self, least_s: float, most_s: float) -> int:
        return int(self._dice.uniform(least_s, most_s) * SECOND_US)

    def _cut(self, count: int, place: int | None = None) -> list[int]:
        """Tokens from the source; the same for the same place."""
        room = len(self._source) - count
        start = self._dice.randrange(room) if place is None else place * 7_919 % room
        return list(self._source[start : start + count])

    # --- sessions -----------------------------------------------------------------------------

    def _next_session(self, now_us: int) -> None:
        if now_us < self._until_us:
            self._session(now_us)
            mean_s = self._size.session_every_s
            self._at(now_us + int(self._dice.expovariate(1 / mean_s) * SECOND_US), self._next_session)

    def _burst(self, now_us: int) -> None:
        if now_us < self._until_us:
            self.counts["bursts"] += 1
            for _ in range(self._size.burst_sessions):
                self._session(now_us)
            self._at(now_us + int(self._size.burst_every_s * SECOND_US), self._burst)

    def _session(self, now_us: int) -> None:
        self._sessions += 1
        self.counts["sessions"] += 1
        tenant, service_tier = TENANTS[self._sessions % len(TENANTS)]
        document = self._cut(self._size.document_tokens, 100 + self._dice.randrange(DOCUMENTS))
        context = self._systems[tenant] + document
        name = f"s{self._sessions}"
        lead = LoadAgent(tenant, service_tier, name, name, None, context, self._size.turns)
        if self._dice.random() < 0.1:
            self._prewarm(lead)
        self._ask(lead, now_us)

    def _prewarm(self, agent: LoadAgent) -> None:
        """Have the KV of a beginning ready before the first question."""
        self.counts["prewarmed"] += 1
        generation = self._generation(agent, tuple(agent.context), 1, prewarm=True)
        self._submit(LoadTurn(agent, generation, extra=True))

    # --- turns --------------------------------------------------------------------------------

    def _ask(self, agent: LoadAgent, now_us: int) -> None:
        agent.turns_left -= 1
        agent.context += self._cut(self._dice.randint(8, self._size.message_tokens))
        prompt = tuple(agent.context)
        new_tokens = self._dice.randint(8, self._size.answer_tokens)
        turn = LoadTurn(agent, self._generation(agent, prompt, new_tokens, hint=self._hint()))
        self._submit(turn)
        if self._dice.random() < 0.1:
            self.counts["second_choices"] += 1
            second = self._generation(agent, prompt, new_tokens, same_prompt=True)
            self._submit(LoadTurn(agent, second, extra=True))
        if self._dice.random() < 0.08:
            self._at(now_us + self._within_us(0, 1.5), partial(self._cancel, turn))

    def _hint(self) -> Hint:
        dice = self._dice.random()
        if dice < 0.2:
            return Hint(Wait.TOOL, expected_us=self._within_us(1, 30))
        return Hint(retain_us=300 * SECOND_US) if dice < 0.3 else Hint()

    def _generation(
        self,
        agent: LoadAgent,
        prompt: tuple[int, ...],
        new_tokens: int,
        *,
        hint: Hint | None = None,
        prewarm: bool = False,
        same_prompt: bool = False,
    ) -> Generation:
        return Generation(
            prompt,
            new_tokens,
            GREEDY,
            caller=agent.caller,
            hint=hint or Hint(),
            prewarm=prewarm,
            same_prompt=same_prompt,
        )

    def _submit(self, turn: LoadTurn) -> None:
        self.counts["requests"] += 1
        turn.tokens.clear()
        answers = self._answers
        turn.request = self._driver.submit(turn.generation, lambda output: answers.append((turn, output)))

    def _cancel(self, turn: LoadTurn, now_us: int) -> None:
        self._driver.cancel(turn.request)

    def _take(self, turn: LoadTurn, output: Output, now_us: int) -> None:
        match output:
            case Delta(_, tokens):
                turn.tokens += [info.token for info in tokens]
            case Preempted():
                self.counts["preempted"] += 1
            case Finished():
                self._finished(turn, output, now_us)
            case Rejected(code):
                self._rejected(turn, code, now_us)

    def _rejected(self, turn: LoadTurn, code: str, now_us: int) -> None:
        """Ask again later, as a client would; whose budget is spent keeps its state until then."""
        spent = code in SPENT_CODES
        self.counts["refused_by_budget" if spent else f"rejected_{code}"] += 1
        self.waits_for_budget = self.waits_for_budget or spent
        if not turn.extra and now_us < self._until_us:
            again_us = _RETRY_US.get(code, SECOND_US) + self._within_us(0, 2)
            self._at(now_us + again_us, lambda _: self._submit(turn))

    def _finished(self, turn: LoadTurn, finished: Finished, now_us: int) -> None:
        self.counts["finished" if finished.reason != "cancelled" else "cancelled"] += 1
        if turn.extra:
            return
        agent = turn.agent
        agent.context += turn.tokens
        if finished.reason == "cancelled" or len(agent.context) > self._size.context_tokens:
            agent.turns_left = 0
        self._go_on(agent, turn.request, now_us)

    # --- between turns ------------------------------------------------------------------------

    def _go_on(self, agent: LoadAgent, request: RequestId, now_us: int) -> None:
        dice = self._dice.random()
        if agent.turns_left <= 0:
            self._say(agent, request, Hint(Wait.DONE))
            self._done(agent, now_us)
        elif agent.parent is None and dice < 0.35:
            self._say(agent, request, Hint(Wait.CHILD))
            self._spawn(agent, now_us)
        elif dice < 0.75:
            expected_us = self._within_us(0.5, 20)
            self._say(agent, request, Hint(Wait.TOOL, expected_us=expected_us))
            self._at(now_us + expected_us, partial(self._ask, agent))
        else:  # a person reads, and says nothing about it
            self._at(now_us + self._within_us(20, 120), partial(self._ask, agent))

    def _say(self, agent: LoadAgent, request: RequestId, hint: Hint) -> None:
        self.counts["hints"] += 1
        self._driver.hint(request, agent.tenant, agent.name, hint)

    def _spawn(self, lead: LoadAgent, now_us: int) -> None:
        """Children begin with what the lead knows."""
        for number in range(self._dice.randint(1, 3)):
            self.counts["children"] += 1
            name = f"{lead.name}/r{lead.turns_left}{number}"
            turns = self._dice.randint(1, 2)
            context = list(lead.context)
            child = LoadAgent(lead.tenant, lead.service_tier, lead.session, name, lead, context, turns)
            lead.waits_for += 1
            self._ask(child, now_us)

    def _done(self, agent: LoadAgent, now_us: int) -> None:
        parent = agent.parent
        if parent is None:
            self.counts["sessions_done"] += 1
            return
        parent.waits_for -= 1
        if not parent.waits_for:
            self._at(now_us + self._within_us(0, 0.2), partial(self._ask, parent))

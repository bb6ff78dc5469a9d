"""vLLM as what a server's routes ask about: what runs, which agents there are, what was counted.

Turns do not come this way: the front end sends them to vLLM as they are (``front.py``), because vLLM has its
own templates, parsers and tokeniser.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from stepwell.basics.clock import Clock
from stepwell.engines.base import EngineInfo
from stepwell.loop.requests import Generation, Rejected, Sink
from stepwell.loop.snapshot import AgentView, Snapshot
from stepwell.policy.types import Caller, Embedded, Hint, KvTier, RequestId
from stepwell.tiers.base import TierUsage
from stepwell.vllm.books import EngineBooks
from stepwell.vllm.kv_places import KvPlaces
from stepwell.vllm.usage import Used

MOST_AGENTS = 10_000
COUNTERS = (
    "prompt_tokens_computed",
    "prompt_tokens_device",
    "generation_tokens",
    "requests_finished",
    "requests_cancelled",
    "requests_rejected",
)
NOTHING_HERE = TierUsage(0, 0, 0)
"""vLLM does not say how many bytes lie in its KV tiers."""


class EngineLoop:
    """A ``LoopPort``. Lives in the event loop's thread, as the routes do."""

    def __init__(self, info: EngineInfo, clock: Clock, is_up: Callable[[], bool]) -> None:
        self._info, self._clock, self._is_up = info, clock, is_up
        self.books: EngineBooks | None = None
        self.places: KvPlaces | None = None
        """Where agents' KV lies, if the engine tells."""
        self.tell_hint: Callable[[str, str, Hint], None] | None = None
        """Tells the engine what an agent has said between two turns; None: it does not listen."""
        self.begun = 0
        """Turns so far."""
        self._quiet_since_us = clock.now_us()
        self._live: dict[RequestId, Caller] = {}
        self._agents: OrderedDict[tuple[str, str], AgentView] = OrderedDict()
        self._counters = dict.fromkeys(COUNTERS, 0)

    # --- what the front end tells ------------------------------------------------------------------

    def number(self) -> RequestId:
        self.begun += 1
        return self.begun

    def began(self, request: RequestId, caller: Caller, hint: Hint) -> None:
        self._live[request] = caller
        if not caller.agent:
            return
        at = caller.tenant, caller.agent
        before = self._agents.pop(at, None)
        self._agents[at] = AgentView(
            caller.tenant,
            caller.service_tier,
            caller.session,
            caller.agent,
            caller.parent_agent,
            "running",
            0 if before is None else before.tokens,
            {},
            1 if before is None else before.turns + 1,
            None if before is None else before.last_ttft_us,
            caller.role,
            hint=hint,
        )
        while len(self._agents) > MOST_AGENTS:
            self._agents.popitem(last=False)

    def ended(self, request: RequestId, used: Used, reason: str, ttft_us: int | None) -> None:
        caller = self._live.pop(request, None)
        self._quiet_since_us = self._clock.now_us()
        count = self._counters
        count["prompt_tokens_computed"] += max(0, used.prompt_tokens - used.cached_tokens)
        count["prompt_tokens_device"] += used.cached_tokens
        count["generation_tokens"] += used.generated_tokens
        if reason in ("stop", "length"):
            count["requests_finished"] += 1
        else:
            count["requests_cancelled" if reason == "cancelled" else "requests_rejected"] += 1
        at = ("", "") if caller is None else (caller.tenant, caller.agent)
        if (view := self._agents.get(at)) is not None:
            tokens = used.prompt_tokens + used.generated_tokens
            self._agents[at] = replace(
                view, state="idle", tokens=tokens or view.tokens, last_ttft_us=ttft_us or view.last_ttft_us
            )

    def quiet_for_s(self, at_least_s: float) -> bool:
        return self._clock.now_us() - self._quiet_since_us >= at_least_s * 1e6

    @property
    def running(self) -> int:
        return len(self._live)

    # --- the port ----------------------------------------------------------------------------------

    @property
    def info(self) -> EngineInfo:
        return self._info

    @property
    def serves(self) -> bool:
        return self._is_up()

    def now_us(self) -> int:
        return self._clock.now_us()

    def validate(self, generation: Generation) -> None:
        """vLLM does that."""

    def submit(self, generation: Generation, sink: Sink) -> RequestId:
        """Nothing is generated from tokens here."""
        request = self.number()
        sink(Rejected("server_overloaded", "This server passes requests on to vLLM as they are."))
        return request

    def cancel(self, request: RequestId, reason: str = "cancelled") -> None:
        """A turn ends when its connection does."""

    def hint(
        self, request: RequestId, tenant: str, agent: str, hint: Hint, *, paid_only: bool = False
    ) -> None:
        """Kept to be looked at, and told to our parts in the engine: vLLM itself takes hints with a request
        and never between two."""
        if (view := self._agents.get((tenant, agent))) is not None:
            self._agents[tenant, agent] = replace(view, hint=hint)
            if self.tell_hint is not None:
                self.tell_hint(tenant, agent, hint)

    def embedded(self, event: Embedded) -> None:
        if self.books is not None:
            self.books.embedded(event)

    def named(self, requests: Sequence[RequestId], name: str) -> None:
        """vLLM keeps no record by which a request could be explained."""

    def why(self, what: str) -> list[dict[str, Any]]:
        return []

    def snapshot(self) -> Snapshot:
        blocks = dict.fromkeys(KvTier, 0) if self.places is None else self.places.blocks()
        usage = {tier: replace(NOTHING_HERE, blocks=count) for tier, count in blocks.items()}
        agents = [self._placed(view) for view in list(self._agents.values())]
        return Snapshot(self.now_us(), self.running, 0, usage, agents, dict(self._counters))

    def agent(self, tenant: str, agent: str) -> AgentView | None:
        view = self._agents.get((tenant, agent))
        return None if view is None else self._placed(view)

    def _placed(self, view: AgentView) -> AgentView:
        """With where its KV lies now."""
        if self.places is None:
            return view
        return replace(view, kv_tokens=self.places.held((view.tenant, view.agent)))

    def stop(self, drain_s: float = 30.0) -> None:
        """The front end stops vLLM's process."""

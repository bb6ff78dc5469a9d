"""The crew as a plain script over the API: a lead, readers, a critic and a writer.

::

    lead plans -> readers read page after page and report -> lead drafts, a person looks at it
    -> critic asks -> readers answer -> critic judges; writer writes, and again -> lead answers

Between its turns every agent waits: for a page, for others, for a person. That is where its KV
sinks; the critic's question is where readers come back after a long wait.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from stepwell.agents.pointing import BEFORE_TASK, MOST_TOKENS, pointing_schema, with_sentences
from stepwell.demo.client import Api, Caller, Message, Reply
from stepwell.demo.record import KV_TIERS, Customer, Turn

Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Shape:
    """How large a crew is and how long it talks."""

    readers: int = 4
    pages: int = 2
    page_tokens: int = 112
    opening_tokens: int = 64
    """How much of the document's beginning every agent of the crew knows."""
    note_tokens: int = 18
    """Longest answer of a turn."""
    answer_tokens: int = 44
    """Longest final answer."""
    patience: float = 1.0
    """Scales the waits between turns."""

    @property
    def agents(self) -> int:
        return self.readers + 3


QUICK = Shape(
    readers=3, pages=1, page_tokens=96, opening_tokens=48, note_tokens=16, answer_tokens=32, patience=0.4
)


@dataclass(frozen=True, slots=True)
class Brief:
    """What one crew is given."""

    customer: Customer
    common: str
    """The system message: what every agent of the crew knows."""
    pages: tuple[tuple[str, ...], ...]
    """Per reader, the pages it reads."""
    quotes: tuple[str, ...]
    """Per reader, the sentence of its pages nearest to the question: what its search tool finds."""
    best_quotes: tuple[str, ...]
    """The nearest of them: what lead, critic and writer work with."""
    offered: tuple[str, ...] = ()
    """The sentences of the whole document that the lead may point at as its answer; empty: it words one."""


@dataclass(slots=True)
class AgentStatus:
    """What an agent is doing, as its own script knows it (the server cannot know why it waits)."""

    agent: str
    role: str
    doing: str = "not started"
    turns: int = 0
    last_ttft_s: float | None = None
    context_tokens: int = 0
    busy: bool = False
    """Whether it is calling the model right now."""


@dataclass(slots=True)
class Board:
    """Everything that is known about the run so far; the screen reads it, the crews write it."""

    began_s: float = 0.0
    statuses: dict[str, AgentStatus] = field(default_factory=dict)
    turns: list[Turn] = field(default_factory=list)
    sessions_s: dict[str, tuple[float, float]] = field(default_factory=dict)
    answers: dict[str, str] = field(default_factory=dict)


class Agent:
    """One reasoning chain: a conversation that grows by a question and an answer per turn."""

    def __init__(
        self, brief: Brief, role: str, api: Api, board: Board, sleep: Sleep, patience: float
    ) -> None:
        tenant = brief.customer.tenant
        self.key = f"{tenant}/{role}"
        parent = None if role == "lead" else f"{tenant}/lead"
        self._caller = Caller(brief.customer.api_key, brief.customer.service_tier, self.key, role, parent)
        self._messages: list[Message] = [{"role": "system", "content": brief.common}]
        self._api = api
        self._board = board
        self._sleep = sleep
        self._patience = patience
        # Waits are drawn per agent, so they are the same in every run however turns interleave.
        self._rng = random.Random(self.key)
        self.status = board.statuses.setdefault(self.key, AgentStatus(self.key, role))

    async def ask(
        self,
        question: str,
        max_tokens: int,
        task: str,
        waits_for: str | None = None,
        schema: Mapping[str, Any] | None = None,
    ) -> str:
        """One turn. The answer is kept exactly as it came, so that its KV is found again.

        ``waits_for``: what the server is told about the time after it. Who has a parent need not say for
        whom an answer is; of a lead's, those that are for its own agents are not shown to the customer.
        """
        self._messages.append({"role": "user", "content": question})
        self.status.doing, self.status.busy = task, True
        caller = replace(self._caller, waits_for=waits_for)
        reply = await self._api.turn(self._messages, max_tokens, caller, schema)
        self.status.busy = False
        self._messages.append({"role": "assistant", "content": reply.text})
        self._note(reply, task)
        return " ".join(reply.text.split())

    async def wait(self, low_s: float, high_s: float, doing: str) -> None:
        """Do something that is not a call of the model."""
        self.status.doing = doing
        await self._sleep(self._patience * (low_s + (high_s - low_s) * self._rng.random()))

    def rest(self, doing: str) -> None:
        """Wait for others."""
        self.status.doing = doing

    def _note(self, reply: Reply, task: str) -> None:
        turn = turn_of(reply, self.key, self.status.turns + 1, task, self._board.began_s)
        self._board.turns.append(turn)
        self.status.turns += 1
        self.status.last_ttft_s = turn.ttft_s
        self.status.context_tokens = turn.prompt_tokens + turn.output_tokens


def turn_of(reply: Reply, agent: str, number: int, task: str, began_s: float) -> Turn:
    """The turn as its client saw it, with what the server's usage says about its cache."""
    usage = reply.usage
    details = usage.get("prompt_tokens_details") or {}
    by_tier = details.get("cached_tokens_by_kv_tier") or {}
    first_s = reply.first_token_s if reply.first_token_s is not None else reply.end_s
    return Turn(
        agent=agent,
        number=number,
        task=task,
        start_s=reply.start_s - began_s,
        first_token_s=first_s - began_s,
        end_s=reply.end_s - began_s,
        prompt_tokens=int(usage.get("prompt_tokens", 0)),
        output_tokens=int(usage.get("completion_tokens", 0)),
        cached_tokens={tier: int(by_tier.get(tier, 0)) for tier in KV_TIERS},
        recomputed_tokens=int(details.get("recomputed_tokens", 0)),
        retries=reply.retries,
    )


def _listed(sentences: Sequence[str]) -> str:
    """Sentences as a list; what several agents said stands there once."""
    return "\n".join(f"- {sentence}" for sentence in dict.fromkeys(sentences) if sentence)


@dataclass(slots=True)
class Crew:
    """One customer's session."""

    brief: Brief
    shape: Shape
    api: Api
    board: Board
    sleep: Sleep = asyncio.sleep
    lead: Agent = field(init=False)
    readers: list[Agent] = field(init=False)
    critic: Agent = field(init=False)
    writer: Agent = field(init=False)

    def __post_init__(self) -> None:
        self.lead = self._agent("lead")
        self.readers = [self._agent(f"reader-{number + 1}") for number in range(self.shape.readers)]
        self.critic = self._agent("critic")
        self.writer = self._agent("writer")

    def _agent(self, role: str) -> Agent:
        return Agent(self.brief, role, self.api, self.board, self.sleep, self.shape.patience)

    async def run(self) -> str:
        """The whole session; returns the answer."""
        note, answer = self.shape.note_tokens, self.shape.answer_tokens
        question = "In one sentence: what should the readers look for?"
        await self.lead.ask(question, note, "plans", waits_for="child")
        self.lead.rest("waits for the readers")
        await asyncio.gather(*(self._read(at) for at in range(len(self.readers))))
        draft = await self.lead.ask(f"{self._quote}\n{self._task}", note, "drafts")
        person = asyncio.create_task(self.lead.wait(2.0, 4.0, "waits for a person"))
        judgement, proposal = await asyncio.gather(self._check(draft), self._write(draft, answer))
        await person
        text = await self._answer(judgement, proposal)
        for agent in (self.lead, self.critic, self.writer, *self.readers):
            agent.rest("done")
        return text

    async def _answer(self, judgement: str, proposal: str) -> str:
        """The lead's last turn: like a reader of ``stepwell run documents`` it points at the sentence."""
        said = f"The critic says: {judgement}\nThe writer proposes: {proposal}"
        offered = self.brief.offered
        if not offered:
            question = f"{said}\n\n{self._quote}\n{self._task}"
            return await self.lead.ask(question, self.shape.answer_tokens, "answers")
        question = f"{with_sentences(said, offered)}{BEFORE_TASK}{self.brief.customer.question}"
        number = await self.lead.ask(question, MOST_TOKENS, "answers", schema=pointing_schema(offered))
        chosen = int(number) if number.isascii() and number.isdigit() else 1
        return offered[chosen - 1] if 1 <= chosen <= len(offered) else offered[0]

    async def _read(self, at: int) -> None:
        """One reader: page after page, then a report on the sentence that its search tool found."""
        reader, note = self.readers[at], self.shape.note_tokens
        for number, page in enumerate(self.brief.pages[at]):
            await reader.wait(0.3, 1.5, "turns the page")
            await reader.ask(
                f"Page {number + 1} of your part:\n{page}\n\nIn one sentence: what does this page say?",
                note,
                f"reads page {number + 1}",
            )
        await reader.wait(0.3, 1.0, "searches its part")
        await reader.ask(
            f"Quote from your part:\n{_listed([self.brief.quotes[at]])}\n{self._task}",
            note,
            "reports to the lead",
        )
        reader.rest("waits for the critic")

    async def _check(self, draft: str) -> str:
        """The critic asks, every reader answers, the critic judges."""
        note = self.shape.note_tokens
        doubt = await self.critic.ask(
            f"{self._quote}\nThe lead's draft: {draft}\nIn one sentence: which quote speaks for the draft?",
            note,
            "reads the draft",
        )
        self.critic.rest("waits for the readers")
        answers = await asyncio.gather(*(self._reply(reader, doubt) for reader in self.readers))
        return await self.critic.ask(f"The readers say:\n{_listed(answers)}\n{self._task}", note, "judges")

    async def _reply(self, reader: Agent, doubt: str) -> str:
        await reader.wait(0.2, 1.5, "looks it up")
        answer = await reader.ask(
            f"The critic says: {doubt}\nIn one sentence: what does your part say about this?",
            self.shape.note_tokens,
            "answers the critic",
        )
        reader.rest("done")
        return answer

    async def _write(self, draft: str, answer_tokens: int) -> str:
        """The writer proposes an answer, and another one when it has read the draft. Only the lead hears the
        critic: a small model copies what it hears."""
        await self.writer.ask(f"{self._quote}\n{self._task}", answer_tokens, "writes")
        await self.writer.wait(2.0, 4.0, "puts it aside")
        proposal = await self.writer.ask(
            f"The lead's draft: {draft}\n\n{self._quote}\n{self._task}", answer_tokens, "writes it again"
        )
        self.writer.rest("waits for the lead")
        return proposal

    @property
    def _quote(self) -> str:
        """The nearest sentence of all that the readers found. A small model answers better from one."""
        return f"Quotes from the document:\n{_listed(self.brief.best_quotes[:1])}"

    @property
    def _task(self) -> str:
        """Small models answer best when the question comes last."""
        return f"From the quotes, answer in one sentence: {self.brief.customer.question}"

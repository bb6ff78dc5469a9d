"""The crew as a plain script over the API: a lead, readers, a critic and a writer.

::

    lead plans -> readers read page after page and report -> lead drafts, a person looks at it
    -> critic asks -> readers answer -> critic judges -> writer writes, lead comments, writer ends

Between its turns every agent waits: for a page, for others, for a person. That is where its KV
sinks; the critic's question is where readers come back after a long wait.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from stepwell.demo.client import Api, Caller, Message, Reply
from stepwell.demo.record import KV_TIERS, Customer, Turn

Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Shape:
    """How large a crew is and how long it talks."""

    readers: int = 4
    pages: int = 2
    page_tokens: int = 144
    opening_tokens: int = 96
    """How much of the document's beginning every agent of the crew knows."""
    note_tokens: int = 24
    """Longest answer of a turn."""
    answer_tokens: int = 64
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

    async def ask(self, question: str, max_tokens: int, task: str) -> str:
        """One turn. The answer is kept exactly as it came, so that its KV is found again."""
        self._messages.append({"role": "user", "content": question})
        self.status.doing, self.status.busy = task, True
        reply = await self._api.turn(self._messages, max_tokens, self._caller)
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

    @property
    def question(self) -> str:
        return self.brief.customer.question

    async def run(self) -> str:
        """The whole session; returns the answer."""
        note, answer = self.shape.note_tokens, self.shape.answer_tokens
        plan = await self.lead.ask(
            f"You lead {self.shape.readers} readers. Name the words they should look for.", note, "plans"
        )
        self.lead.rest("waits for the readers")
        reports = "\n".join(await asyncio.gather(*(self._read(at, plan) for at in range(len(self.readers)))))
        draft = await self.lead.ask(
            f"Your readers report:\n{reports}\nDraft an answer in one sentence.", note, "drafts"
        )
        person = asyncio.create_task(self.lead.wait(2.0, 4.0, "waits for a person"))
        judgement = await self._check(reports, draft)
        await person
        text = await self._write(reports, draft, judgement, answer)
        for agent in (self.lead, self.critic, self.writer, *self.readers):
            agent.rest("done")
        return text

    async def _read(self, at: int, plan: str) -> str:
        """One reader: page after page, then a report."""
        reader, note = self.readers[at], self.shape.note_tokens
        for number, page in enumerate(self.brief.pages[at]):
            await reader.wait(0.3, 1.5, "turns the page")
            lead_in = (
                f"You are reader {at + 1}. The lead says: {plan}\nA page of your part:\n{page}\nNote one "
                "fact from it."
                if number == 0
                else f"The next page of your part:\n{page}\nNote one more fact from it."
            )
            await reader.ask(lead_in, note, f"reads page {number + 1}")
        await reader.wait(0.3, 1.0, "looks over its notes")
        report = await reader.ask(
            f"From your pages, answer in one sentence: {self.question}", note, "reports to the lead"
        )
        reader.rest("waits for the critic")
        return report

    async def _check(self, reports: str, draft: str) -> str:
        """The critic asks, every reader answers, the critic judges."""
        note = self.shape.note_tokens
        doubt = await self.critic.ask(
            f"You are the critic. The readers report:\n{reports}\nThe draft: {draft}\nAsk the readers one "
            "question.",
            note,
            "reads the draft",
        )
        self.critic.rest("waits for the readers")
        answers = await asyncio.gather(*(self._reply_to_critic(reader, doubt) for reader in self.readers))
        self.critic.rest("judges")
        return await self.critic.ask(
            "The readers answer:\n"
            + "\n".join(answers)
            + "\nSay in one sentence what the draft must change.",
            note,
            "judges",
        )

    async def _reply_to_critic(self, reader: Agent, doubt: str) -> str:
        await reader.wait(0.2, 1.5, "looks it up")
        answer = await reader.ask(
            f"The critic asks: {doubt}\nAnswer in one sentence from your pages.",
            self.shape.note_tokens,
            "answers the critic",
        )
        reader.rest("done")
        return answer

    async def _write(self, reports: str, draft: str, judgement: str, answer_tokens: int) -> str:
        """Writer, lead, writer."""
        first = await self.writer.ask(
            f"You are the writer. The readers report:\n{reports}\nThe draft: {draft}\nThe critic says: "
            f"{judgement}\n"
            f"Answer the question: {self.question}",
            self.shape.note_tokens,
            "writes",
        )
        self.writer.rest("waits for the lead")
        comment = await self.lead.ask(
            f"The writer proposes: {first}\nSay in one sentence what is still missing.",
            self.shape.note_tokens,
            "comments",
        )
        self.lead.rest("waits for the writer")
        return await self.writer.ask(
            f"The lead says: {comment}\nNow write the final answer to: {self.question}",
            answer_tokens,
            "writes the answer",
        )

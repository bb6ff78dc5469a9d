"""The records of the policy: ``AgentRecord``, one per agent between its turns, and ``Turn``, one per request
from arrival to its last token."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from stepwell.policy.block_index import Block, Match
from stepwell.policy.contracts import Contract
from stepwell.policy.drafting import DraftRecord
from stepwell.policy.types import NO_HINT, BlockId, Hint, Hinted, RequestArrived, RequestId, WaitCause, Waits


class TurnState(StrEnum):
    """vLLM's request states; ``loading`` is waiting for its blocks to come up from disk."""

    WAITING = "waiting"
    LOADING = "loading"
    RUNNING = "running"
    PREEMPTED = "preempted"


RUNNING: Final = TurnState.RUNNING
"""As ``types.DEVICE``: asked of every turn of every step."""


@dataclass(slots=True, eq=False)
class AgentRecord:
    """What is remembered of an agent between its turns: its context, its habits, what it waits for."""

    tenant: str
    service_tier: str
    session: str
    agent: str
    parent_agent: str | None
    role: str = ""
    unknown: bool = False
    """No request said which agent it is, or of what kind."""
    turns: int = 0
    tokens: int = 0
    units: tuple[bytes, ...] = ()
    tail: bytes = b""
    last_use_us: int = 0
    last_request: RequestId = 0
    open_turns: dict[RequestId, None] = field(default_factory=dict)
    path: list[Block] = field(default_factory=list)
    """Its context as blocks, root first: position is depth."""
    hint: Hint = NO_HINT
    """What it said last about what comes next."""
    paid_us: int | None = None
    """``retain_us`` of its latest turn that was served: what it may be kept for where that has a price."""
    kept_by: Hinted | None = None
    """The hint that says for how long to keep the context; None: its turn says so."""
    idle_since_us: int | None = None
    """When its last open turn ended; None while one is open."""
    drafts: DraftRecord = field(default_factory=DraftRecord)
    active_us: int = 0
    idle_us: int = 0
    """How long it had open turns, and how long it waited between them, in all."""


@dataclass(slots=True, eq=False)
class ComputeHad:
    """How much compute a tenant or a session has had, in microseconds (``fairness.py``)."""

    us: int = 0
    known: bool = True
    """Whether it still counts: one that was forgotten has to be looked up again."""


@dataclass(slots=True, eq=False)
class Turn:
    """One request. Token counts: ``computed <= total``; the sampled token is known, not computed."""

    arrival: RequestArrived
    record: AgentRecord
    total: int
    units: list[bytes]
    contract: Contract
    """Of the service tier it runs under."""
    waiting_since_us: int = 0
    """When its waiting would have begun had it waited all at one go: what it waited earlier counts."""
    waited_us: int = 0
    """In the queue, and for its first token on the device without compute, before the stretch under way."""
    waits_on: bool = True
    """Whether a stretch is under way: it has no place, or its last step gave it nothing."""
    aged: bool = False
    """It has waited for as long as a turn may: see ``at_bound``."""
    leads: bool = False
    """It is the one of those whose turn it is: none goes before it and none preempts it."""
    due_us: int = field(init=False)
    """When it would have waited for so long had it waited ever since it came."""
    had_place: bool = False
    """It was on the device before and was preempted."""
    opened_at: int = 0
    """Tokens it knew when it was opened last."""
    state: TurnState = TurnState.WAITING
    computed: int = 0
    tail: bytes = b""
    """Names the first ``computed`` tokens exactly."""
    path: list[Block] = field(default_factory=list)
    """Blocks of this turn that lie on the device and are pinned by it, root first."""
    frames: int = 0
    """Frames of its own: blocks that are not sealed."""
    draft: int = 0
    """Tokens at hand as a guess at what comes next."""
    checked: int = 0
    """Of them, those that the step under way checks."""
    stuck: bool = False
    """Another turn's block of the same name is in use: from here on nothing more is sealed."""
    resume: BlockId | None = None
    """After a preemption: the tail block it left behind."""
    opened_tail: Block | None = None
    """The block that was used in part when the turn was opened."""
    promised: list[BlockId] = field(default_factory=list)
    """Prompt blocks that this turn is computing now; other turns that need them wait."""
    claimed: list[Block] = field(default_factory=list)
    """Blocks it waits for or is about to load."""
    walked: list[Match] = field(default_factory=list)
    """While it waits: what was stored of it when that was looked up last."""
    planned: list[Match] | None = None
    """While it waits: the stored path it would begin with, as of ``planned_at_us``; None: look again."""
    planned_at_us: int = 0
    planned_tokens: int = 0
    """Tokens of that path in whole blocks."""
    planned_next: bool = False
    """Whether the block after those was stored too, and was left out because computing it is quicker."""
    planned_bytes: int = 0
    """Of that path: what does not lie on the device."""
    all_there_at: int = -1
    """``BlockManager.stranded`` when all of that path was last seen on the device or the host."""
    no_room: tuple[int, ...] = ()
    """What its place depends on, as of ``no_room_at_us``, when there was none for it."""
    no_room_at_us: int = 0
    waits: Waits | None = None
    """Why it waits, as was told last."""
    short_of: WaitCause = WaitCause.ROOM
    """What was missing when it was looked for a place last."""
    fetching: list[Block] = field(default_factory=list)
    """Of that path: what has yet to come up from disk, the last needed first."""
    from_disk: dict[BlockId, None] = field(default_factory=dict)
    """Blocks that came up from disk for this turn."""
    stored_tokens: int = 0
    """In whole blocks: how far its prompt was stored when that was looked up last, also where no running
    state is kept to go on from."""
    branch_tokens: int = 0
    """How far it was when the turn was opened, if it has to compute to there again; else 0."""
    behind: bool = False
    """While it waits: another turn is computing what it will begin with."""
    keeps: list[int] = field(default_factory=list)
    """Ends of blocks at which the engine was told to keep its running state, since it was opened."""
    state_tokens: int = 0
    """The last end of a block of its path that keeps one."""
    id: RequestId = field(init=False)
    account: tuple[str, str] = field(init=False)
    """Under which its compute is booked: service tier and tenant."""
    session_account: tuple[str, str] = field(init=False)
    tenant_had: ComputeHad | None = None
    session_had: ComputeHad | None = None
    """What its accounts have had, as they were looked up last."""

    def __post_init__(self) -> None:
        arrival = self.arrival
        self.id = arrival.request
        self.account = self.contract.name, arrival.tenant
        self.session_account = arrival.tenant, arrival.session
        self.due_us = self.waiting_since_us + self.contract.max_wait_us

    def stands_still(self, now_us: int) -> None:
        """It is given no compute from now on, or once more."""
        if not self.waits_on:
            self.waits_on, self.waiting_since_us = True, now_us - self.waited_us

    def goes_on(self, now_us: int) -> None:
        """It is given compute. What a stream waits between two tokens on the device counts only until the
        next one: how fast it is then is a matter of its guarantee."""
        if self.waits_on and self.prefilling:
            self.waited_us = now_us - self.waiting_since_us
        self.waits_on = False

    @property
    def remaining(self) -> int:
        return self.total - self.computed

    @property
    def prefilling(self) -> bool:
        """Whether more than the newest token is still to be computed."""
        return self.total - self.computed > 1

    @property
    def blocks_held(self) -> int:
        return len(self.path) + self.frames

"""The nouns of Stepwell: what can happen (events) and what is decided (a plan).

Everything the policy sees arrives as an event; everything it wants is in the plan that ``step``
returns. Both are plain values that never change, so a run can be written to a file and decided again later.
Of the three that a step makes by the hundred (``Move``, ``Drop``, ``Piece``) the type checker alone sees to
that: to make a frozen dataclass takes three times as long, and eight times where the policy is compiled.

Units: tokens are counts, sizes are bytes, times are microseconds, all integers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

BlockId = bytes
"""16 bytes: the chained hash of every token up to the block's last one, salted per tenant."""

RequestId = int
"""Given by the driver in order of arrival; never taken from a client."""


class KvTier(StrEnum):
    """Where a block's bytes lie, fastest first."""

    DEVICE = "device"
    HOST = "host"
    DISK = "disk"


DEVICE: Final = KvTier.DEVICE
HOST: Final = KvTier.HOST
DISK: Final = KvTier.DISK
"""For loops over blocks: looking a member up at its class takes longer than what is done with it there."""


@dataclass(frozen=True, slots=True)
class BlockMeta:
    """What names a block and lets it be found again.

    A block is the run of tokens ``[depth * block_tokens, depth * block_tokens + n_tokens)`` of one
    prefix. It is full, or it is the tail of a prefix (``n_tokens < block_tokens``).

    ``units`` holds the chained hash after every ``unit_tokens`` tokens inside the block, so that a
    prompt that leaves the block half-way still finds the half they share.
    ``id`` equals ``units[-1]`` when the block ends on a unit boundary.
    """

    id: BlockId
    parent: BlockId | None
    depth: int
    n_tokens: int
    units: tuple[bytes, ...]
    tenant: str
    size_bytes: int
    """With the running state at its end, of a block that keeps one: see ``checkpoints``."""


class Wait(StrEnum):
    """What an agent waits for between two turns."""

    TOOL = "tool"
    CHILD = "child"
    """An agent that it has spawned."""
    PERSON = "person"
    AGENT = "agent"
    """Its turn in a workflow: it is called after ``Hint.after_agent`` has answered."""
    DONE = "done"
    """Nothing: the agent is finished and its KV is of no more use."""
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Hint:
    """What comes after a turn, as far as the caller says or the server can see.

    Hints are hints. How far to believe them is learned per tenant, so a false one hurts its own tenant.
    """

    wait: Wait = Wait.UNKNOWN
    expected_us: int | None = None
    """From the end of this turn to the agent's next one."""
    after_agent: str | None = None
    """An agent of the same tenant whose answer ends the wait (``Wait.AGENT`` and ``Wait.CHILD``)."""
    retain_us: int | None = None
    """A paid-for time to live (``prompt_cache_options.ttl`` and its relatives): for so long after its
    last use the context is worth keeping on disk at least."""
    tool: str = ""
    """Of ``Wait.TOOL``: which tool; calls of one take about as long as each other. Empty: not said."""


NO_HINT: Final = Hint()


@dataclass(frozen=True, slots=True)
class Caller:
    """The caller of the model: one value from the HTTP request to the ledger."""

    tenant: str
    service_tier: str = "default"
    session: str = ""
    agent: str = ""
    """Empty: not said, and the agent is recognised by what its prompt goes on from."""
    parent_agent: str | None = None
    role: str = ""
    """What kind of agent it is (its name in the program); gaps are learned per role."""
    key: str = ""
    """The id of the API key. For the ledger: it decides nothing."""


# --- events: what happened ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RequestArrived:
    """An agent calls the model. ``units`` are the chained hashes of the prompt's full units."""

    request: RequestId
    caller: Caller
    prompt_tokens: int
    max_new_tokens: int
    units: tuple[bytes, ...]
    hint: Hint = NO_HINT
    prewarm: bool = False
    """Nothing of what it generates is used; only its prompt's KV is wanted."""
    same_prompt: bool = False
    """A further choice of a prompt that another request of the same call pays for."""
    adapter: str = ""
    """The adapter it is computed under. For the ledger: the names of its units say so to the policy."""

    @property
    def tenant(self) -> str:
        """Between tenants, and between the sessions of one, the machine is shared out."""
        return self.caller.tenant

    @property
    def session(self) -> str:
        return self.caller.session


@dataclass(frozen=True, slots=True)
class Hinted:
    """More is known about what an agent waits for, after its turn was sent or has ended.

    ``request`` is the agent's latest turn; ``agent`` may be empty, like the turn's.
    """

    request: RequestId
    tenant: str
    agent: str
    hint: Hint
    paid_only: bool = False
    """Keeping KV has a price: the context is kept no longer than the agent's own turns have paid for."""


@dataclass(frozen=True, slots=True)
class Embedded:
    """Texts were embedded or ranked for a caller, beside the loop. Nothing is to be decided: the books charge
    it, and a recording keeps it so that they can be made again."""

    caller: Caller
    model: str
    tokens: int
    spent_us: int = 0
    """How long that model computed for them, in a process of its own."""


@dataclass(frozen=True, slots=True)
class RequestCancelled:
    """The client has gone, or the operator has said stop."""

    request: RequestId
    reason: str = "cancelled"
    """For the ledger: an error code when it was the server that gave up."""


@dataclass(frozen=True, slots=True)
class Progressed:
    """What one step did for one request.

    ``computed`` is how many tokens of the request now have KV on the device; ``total`` how many
    tokens it knows (prompt and generated). ``units`` are the hashes of units that became complete
    among the known tokens since the last event; ``tail`` names the ``computed`` tokens exactly
    (it equals a unit hash when ``computed`` lies on a unit boundary).
    ``finished`` is the finish reason, or None while the request goes on.
    """

    request: RequestId
    computed: int
    total: int
    units: tuple[bytes, ...]
    tail: bytes
    finished: str | None = None
    draft: int = 0
    """How many tokens are at hand as a guess at what comes next; see ``drafting``."""


@dataclass(frozen=True, slots=True)
class Computed:
    """One engine step took this long: the measurements behind load-or-recompute.

    ``depth_tokens`` is the sum over the batch's tokens of how many tokens stood before each.
    """

    prefill_tokens: int
    decode_tokens: int
    depth_tokens: int
    duration_us: int
    draft_tokens: int = 0
    """Drafted tokens that were checked, right or wrong; they are in none of the counts above."""


@dataclass(frozen=True, slots=True)
class Moved:
    """A move has ended, well or badly. ``ok`` false: the bytes are not at ``target``.

    After a failed read ``gone`` says that the source copy is unusable as well (damaged, missing).
    """

    block: BlockId
    source: KvTier
    target: KvTier
    ok: bool
    size_bytes: int
    duration_us: int
    gone: bool = False


@dataclass(frozen=True, slots=True)
class Recovered:
    """The disk tier was warm: these blocks survived the last run, parents before children."""

    blocks: tuple[BlockMeta, ...]
    elsewhere: bool = False
    """They lie in a store that several nodes share, and a turn is about to ask for them."""


@dataclass(frozen=True, slots=True)
class StepFailed:
    """The engine could not run these requests; their KV on the device is not to be trusted."""

    requests: tuple[RequestId, ...]


@dataclass(frozen=True, slots=True)
class StateLost:
    """A planned ``LoadState`` could not be carried out: the block is on the device as before, without its
    running state. ``gone``: the copy on the host is unusable."""

    block: BlockId
    gone: bool = False


@dataclass(frozen=True, slots=True)
class OpenFailed:
    """A planned ``Open`` could not be carried out because one of its blocks did not load."""

    request: RequestId


@dataclass(frozen=True, slots=True)
class DemoteIdle:
    """The operator wants every idle block pushed down to ``target`` (host or disk)."""

    target: KvTier


@dataclass(frozen=True, slots=True)
class Draining:
    """The server is going down: admit nothing more, keep on disk what is worth keeping."""


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """The machine worked for another of its models for so long since the last step. Nothing is to be decided:
    the books of this model leave that time to those of the other."""

    duration_us: int


@dataclass(frozen=True, slots=True)
class Resized:
    """Several models share host memory and disk, and this one's parts are now so large. One that holds more
    gives it up at once, as far as nothing under way needs it."""

    host_bytes: int
    disk_bytes: int


@dataclass(frozen=True, slots=True)
class Unloading:
    """The engine is about to give its memory back: no idle block stays on the device. No turn runs."""


Event = (
    RequestArrived
    | Hinted
    | Embedded
    | RequestCancelled
    | Progressed
    | Computed
    | Moved
    | Recovered
    | StepFailed
    | StateLost
    | OpenFailed
    | DemoteIdle
    | Draining
    | Elsewhere
    | Resized
    | Unloading
)


# --- plan: what is decided ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Seal:
    """Name the request's KV of ``block.depth``; from now on it outlives the request."""

    request: RequestId
    block: BlockMeta


@dataclass(frozen=True, slots=True)
class KeepState:
    """Once the request has computed ``tokens`` tokens, where a block ends, its running state is kept for that
    block until it is sealed: with the state, if ``BlockMeta.size_bytes`` has room for it, or without."""

    request: RequestId
    tokens: int


@dataclass(frozen=True, slots=True)
class Adopt:
    """The request goes on with ``block``, which lies on the device, in place of the frame that it has just
    filled with the same tokens; that frame is free. If ``block`` is to keep a running state and has none, it
    gets the request's, where that was told to keep it."""

    request: RequestId
    block: BlockMeta


@dataclass(frozen=True, slots=True)
class DropState:
    """The device keeps the block and forgets its running state: the room is wanted for others."""

    block: BlockId


@dataclass(frozen=True, slots=True)
class LoadState:
    """The block lies on the device without the running state that it keeps: bring that up from the host."""

    block: BlockMeta


@dataclass(frozen=True, slots=True)
class Close:
    """The request leaves the device; what was sealed stays, the rest is forgotten.

    ``preempted``: it will be opened again later and goes on where it was.
    """

    request: RequestId
    preempted: bool = False
    by: RequestId = field(default=0, compare=False)
    """Of a preemption: the request that gets the room; itself, if there was none for it to grow."""


@dataclass(slots=True, unsafe_hash=True, init=False)
class Move:
    """Copy a block one KV tier down or up. The source copy stays until it is dropped.

    device <-> host happens at once, in order. host <-> disk is queued and ends with ``Moved``.
    """

    block: Final[BlockMeta]
    source: Final[KvTier]
    target: Final[KvTier]

    def __init__(self, block: BlockMeta, source: KvTier, target: KvTier) -> None:
        self.block, self.source, self.target = block, source, target


@dataclass(slots=True, unsafe_hash=True, init=False)
class Drop:
    """Forget one copy of a block.

    ``beneficiary`` is the request that gets the room; 0: no request in particular.
    """

    block: Final[BlockId]
    tier: Final[KvTier]
    beneficiary: Final[RequestId]

    def __init__(self, block: BlockId, tier: KvTier, beneficiary: RequestId = 0) -> None:
        self.block, self.tier, self.beneficiary = block, tier, beneficiary


@dataclass(frozen=True, slots=True)
class Open:
    """The request gets a place on the device, with its first ``cached_tokens`` already there.

    ``blocks`` are on the device, root first; the last one may be used only in part.
    The three counts say where those tokens lay when the request was admitted.
    """

    request: RequestId
    blocks: tuple[BlockId, ...]
    cached_tokens: int
    from_device_tokens: int
    from_host_tokens: int
    from_disk_tokens: int
    recomputed_tokens: int
    """Tokens that will be computed although they had been before (counted in whole units)."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """The request is not taken. ``code`` is the OpenAI error code."""

    request: RequestId
    code: str
    retry_after_ms: int


Action = Seal | KeepState | Adopt | DropState | LoadState | Close | Move | Drop | Open | Refuse


@dataclass(slots=True, unsafe_hash=True, init=False)
class Piece:
    """Run tokens ``[start, start + count)`` of a request; sample if that reaches the last one. What goes
    beyond the last one that is known is drafted."""

    request: Final[RequestId]
    start: Final[int]
    count: Final[int]

    def __init__(self, request: RequestId, start: int, count: int) -> None:
        self.request, self.start, self.count = request, start, count


@dataclass(frozen=True, slots=True)
class Taken:
    """A request that arrived in this step and was taken on, and its agent: the policy recognises agents
    that do not name themselves, and remembers their roles."""

    request: RequestId
    caller: Caller


class WaitCause(StrEnum):
    """Why a request that was taken on has no place on the device."""

    QUEUE = "queue"
    """Others go before it."""
    ROOM = "room"
    """It is its turn, and there are no frames for its context."""
    PLACE = "place"
    """It is its turn, and as many requests run as may, beside the places that are owed to others."""
    PREFIX = "prefix"
    """Another request is computing the beginning of its prompt."""
    DISK = "disk"
    """Its KV is on its way up from disk."""


@dataclass(frozen=True, slots=True)
class Waits:
    """From this step on a request waits for another cause. It explains, and decides nothing."""

    request: RequestId
    cause: WaitCause
    behind: RequestId = 0
    """The request that it waits for, as far as it is one: the one in front, or one that holds the room."""
    rule: str = ""
    """Of ``QUEUE``: by which rule the other goes first."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What one step does: the actions in order, then the batch."""

    actions: tuple[Action, ...] = ()
    batch: tuple[Piece, ...] = ()
    steady_steps: int = 1
    """How often the batch, each piece moved on by its count, may run in all before the policy has anything
    new to decide, unless something happens. A simulation may take them in one stride."""
    wake_at_us: int | None = None
    """When the policy wants to be called again although nothing happens; None: only on an event."""
    taken: tuple[Taken, ...] = field(default=(), compare=False)
    """For the books. It is not carried out, and is no part of the decision hash."""
    waits: tuple[Waits, ...] = field(default=(), compare=False)
    """What has changed about why requests wait: for explanations, and no part of the decision hash."""

"""Everything that happens in a session, as one stream of values: for the live view, the trace and tests."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class TurnUsage:
    """What one turn took, as the server counts it."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    recomputed_tokens: int = 0
    completion_tokens: int = 0
    cost_microusd: int | None = None
    """None: the server does not say."""
    cut: bool = False
    """The answer ended at the turn's token limit."""
    cached_by_tier: Mapping[str, int] = field(default_factory=dict)
    """Cached tokens per KV tier where they lay; empty: the server does not say."""
    first_token_us: int | None = None
    """Time to the first token as the client saw it; None: the answer was not streamed."""


@dataclass(frozen=True, slots=True)
class Began:
    """The session begins, or goes on where it stopped."""

    session: str
    ask: str
    resumed: bool


@dataclass(frozen=True, slots=True)
class Spawned:
    agent: str
    parent: str | None
    role: str


@dataclass(frozen=True, slots=True)
class Assigned:
    """A task begins, or goes on in a session that is resumed."""

    agent: str
    key: str
    task: str


@dataclass(frozen=True, slots=True)
class Appended:
    """Messages that an agent's conversation has grown by; all so far are the prompt of its next turn."""

    agent: str
    messages: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class TurnBegan:
    agent: str
    number: int
    model: str = ""
    request: Mapping[str, Any] = field(default_factory=dict)
    """What is asked beside the messages: sampling, tools, the form of the answer."""


@dataclass(frozen=True, slots=True)
class TurnEnded:
    agent: str
    number: int
    usage: TurnUsage
    duration_us: int
    response: str = ""
    """The server's id of the answer; empty where it gives none."""


@dataclass(frozen=True, slots=True)
class Retried:
    agent: str
    why: str
    wait_ms: int


@dataclass(frozen=True, slots=True)
class CallBegan:
    agent: str
    tool: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class CallEnded:
    agent: str
    tool: str
    duration_us: int
    ok: bool
    result: str = ""


@dataclass(frozen=True, slots=True)
class Waiting:
    """The agent has no turn; ``waits_for`` in the words of the server's hints."""

    agent: str
    waits_for: str
    after_agent: str | None = None
    expected_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Messaged:
    author: str
    recipient: str
    text: str


@dataclass(frozen=True, slots=True)
class Planned:
    agent: str
    round_number: int
    steps: tuple[str, ...]
    dropped: tuple[str, ...] = ()
    """Why steps were left out, a sentence each."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A task has an outcome; ``text`` is the answer, or what went wrong."""

    agent: str
    outcome: str
    text: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The session is idle, paused, or cannot go on."""

    status: str
    text: str


Event = (
    Began
    | Spawned
    | Assigned
    | Appended
    | TurnBegan
    | TurnEnded
    | Retried
    | CallBegan
    | CallEnded
    | Waiting
    | Messaged
    | Planned
    | Ended
    | Finished
)
Listener = Callable[[Event], None]
_WORDS = re.compile(r"(?<!^)(?=[A-Z])")


def kind(event: Event) -> str:
    """``turn_ended`` for ``TurnEnded``."""
    return _WORDS.sub("_", type(event).__name__).lower()


def as_json(event: Event) -> dict[str, Any]:
    """A line of the trace file, without its time."""
    return {"event": kind(event)} | asdict(event)


@dataclass(slots=True)
class Stream:
    """Tells every listener, in the order of what happened."""

    listeners: list[Listener] = field(default_factory=list)

    def __call__(self, event: Event) -> None:
        for listener in self.listeners:
            listener(event)


def now_us() -> int:
    return time.monotonic_ns() // 1_000

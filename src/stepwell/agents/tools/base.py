"""What a tool is: a name, a schema, and something that is called with arguments and answers in text."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

ToolCall = Callable[[Mapping[str, Any]], Awaitable[str]]


class ToolError(Exception):
    """The call failed in a way that the model should read: one sentence, no traceback."""


@dataclass(frozen=True, slots=True)
class Tool:
    """One thing that an agent can have done for it."""

    name: str
    """As the model calls it: letters, digits, ``_`` and ``-``, at most 64."""
    description: str
    """One or two sentences for the model."""
    parameters: Mapping[str, Any]
    """JSON schema of the arguments: an object."""
    call: ToolCall
    """Raises ``ToolError``; whatever else it raises is a bug of the tool and is told to the model as one."""
    expected_ms: int = 100
    """How long a call usually takes: the server is told, and keeps or lets go of the caller's KV by it."""
    timeout_s: float = 30.0
    """After this long a call is given up; the model is told so."""
    max_answer_chars: int = 8_000
    """A longer answer is cut, and says so."""
    idempotent: bool = False
    """Whether a call whose outcome a crash left unknown may be done again; if not, the model is told."""

"""What a tool is: a name, a schema, something that answers in text; and the one way in which it is run."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from stepwell.errors import StepwellError

GIVE_UP_S = 1.0
"""How long a call that was cancelled may take to clean up before it is given up."""
MAY_RETRY = " It may be tried once more."
"""Ends the sentence about a call that failed by chance: such a call is no repeat when it is made again."""
MAX_ERROR_CHARS = 1_000
"""Of what went wrong, however short answers of the tool have to be."""
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
    """After this long a call is given up; the model is told so. ``math.inf``: never (the runtime's verbs)."""
    max_answer_chars: int = 8_000
    """A longer answer is cut, and says so."""
    idempotent: bool = False
    """Whether a call whose outcome a crash left unknown may be done again; if not, the model is told."""
    volatile: bool = False
    """Whether the answer changes over time. The same call of any other tool is made once and answered from
    its first result after that."""


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a call came to, as the model reads it."""

    text: str
    ok: bool
    """False: ``text`` is the one sentence that says what went wrong."""
    seconds: float


async def run_tool(tool: Tool, arguments: Mapping[str, Any] | str) -> ToolResult:
    """Calls a tool and says what came of it, whatever happens; only being cancelled gets through.

    ``arguments`` may be the JSON text of a model. A call that takes longer than ``tool.timeout_s`` is
    cancelled and given up. A longer answer than ``tool.max_answer_chars`` is cut and says so.
    """
    start = time.perf_counter()
    try:
        text, ok = await _within(tool, _mapping(arguments)), True
    except (ToolError, StepwellError) as error:
        text, ok = f"{tool.name} failed: {line_of(error)}", False
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a tool may raise anything; the crew goes on
        text, ok = f"{tool.name} is broken: {type(error).__name__}: {line_of(error)}", False
    limit = tool.max_answer_chars if ok else max(tool.max_answer_chars, MAX_ERROR_CHARS)
    return ToolResult(_cut(text, limit), ok, time.perf_counter() - start)


def _mapping(arguments: Mapping[str, Any] | str) -> Mapping[str, Any]:
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except (ValueError, RecursionError):
            raise ToolError("the arguments are not valid JSON") from None
    if not isinstance(arguments, Mapping):
        raise ToolError("the arguments must be one JSON object with the argument names as keys")
    return arguments


async def _within(tool: Tool, arguments: Mapping[str, Any]) -> str:
    """The answer, or ``ToolError`` after ``timeout_s``, even when the call refuses to be cancelled."""
    if tool.timeout_s == math.inf:
        return await _guarded(tool, arguments)
    task = asyncio.ensure_future(_guarded(tool, arguments))
    task.add_done_callback(_read_outcome)
    try:
        done, _ = await asyncio.wait({task}, timeout=tool.timeout_s)
    except asyncio.CancelledError:
        task.cancel()
        await asyncio.wait({task}, timeout=GIVE_UP_S)
        raise
    if done:
        return task.result()
    task.cancel()
    await asyncio.wait({task}, timeout=GIVE_UP_S)
    raise ToolError(f"it did not answer within {tool.timeout_s:g} s and was given up.{MAY_RETRY}")


async def _guarded(tool: Tool, arguments: Mapping[str, Any]) -> str:
    try:
        return await tool.call(arguments)
    except (SystemExit, KeyboardInterrupt) as error:
        # A task that ends with these takes the event loop with it.
        raise ToolError(f"it raised {type(error).__name__}") from None
    except asyncio.CancelledError:
        current = asyncio.current_task()
        if current is not None and current.cancelling():
            raise
        raise ToolError("it was cancelled from inside") from None


def _read_outcome(task: asyncio.Future[str]) -> None:
    """An abandoned call's late error is of no use, and not worth a warning."""
    if not task.cancelled():
        task.exception()


def line_of(error: BaseException) -> str:
    return " ".join(str(error).split()) or "without a message"


def _cut(text: str, limit: int) -> str:
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= limit else f"{text[:limit]}\n(cut: {len(text):,} characters in all)"

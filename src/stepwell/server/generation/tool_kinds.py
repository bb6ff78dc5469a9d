"""Which tool an answer calls, as the policy tells tools apart: by name, a shell by the program that it runs.

How long a tool takes hangs on which one it is, and of a shell on the program (a test suite, a listing). The
policy learns gaps by these names, and recordings keep them; so of arguments there is no text in them, only a
short hash of the program's name.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Iterable

from stepwell.server.callers.identity import clean

_SHELL_ARGUMENTS = ("command", "cmd")
_MOST_ARGUMENT_CHARS = 65_536
_WRAPPERS = frozenset({"sudo", "time", "env", "nohup", "nice", "exec"})


def tool_kind(calls: Iterable[tuple[str, str]]) -> str:
    """The kind of the last call of an answer: calls of one answer run side by side or one after the other,
    and the last is the one that is waited for. Empty: there is none. Never raises."""
    name, arguments = next(iter(deque(calls, maxlen=1)), ("", ""))
    program = _program(arguments) if name else ""
    known = clean(name) or ""
    return f"{known}~{_short(program)}" if known and program else known


def _program(arguments: str) -> str:
    """The first word of a shell's command line that names a program; empty: the call runs no shell."""
    if len(arguments) > _MOST_ARGUMENT_CHARS:
        return ""
    try:
        said = json.loads(arguments)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(said, dict):
        return ""
    line = next((said[key] for key in _SHELL_ARGUMENTS if key in said), None)
    if isinstance(line, list):
        line = " ".join(word for word in line if isinstance(word, str))
    if not isinstance(line, str):
        return ""
    words = (word for word in line[:1024].split() if "=" not in word and word not in _WRAPPERS)
    return next(words, "").rpartition("/")[2]


def _short(program: str) -> str:
    return hashlib.blake2b(program.encode("utf-8", "replace"), digest_size=3).hexdigest()

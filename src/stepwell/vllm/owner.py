"""The owner of a request, from what it carries through vLLM (``kv_transfer_params``).

Clients that reach vLLM may write anything there, so the front end fills it in from what it has authenticated
and strips what clients send. What is missing or of the wrong type counts as not said.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stepwell.policy.types import NO_HINT, Caller, Hint, Wait

FIELDS = ("tenant", "service_tier", "session", "agent", "parent_agent", "role", "key")
REQUEST = "request"
"""The front end's own number of a request, for its books."""
HINT_FIELDS = ("wait", "expected_ms", "after_agent", "retain_ms", "tool")
MOST_TOOL_CHARS = 255
_LONGEST_MS = 7 * 24 * 3600 * 1000


def caller_of(params: Mapping[str, Any] | None) -> Caller:
    """The caller that a request names."""
    said = {name: value for name in FIELDS if isinstance(value := (params or {}).get(name), str) and value}
    return Caller(
        said.get("tenant", ""),
        said.get("service_tier", "default"),
        said.get("session", ""),
        said.get("agent", ""),
        said.get("parent_agent"),
        said.get("role", ""),
        said.get("key", ""),
    )


def request_of(params: Mapping[str, Any] | None) -> int:
    """The front end's number of the request; 0: it has none."""
    number = (params or {}).get(REQUEST)
    return number if isinstance(number, int) and not isinstance(number, bool) and number > 0 else 0


def hint_of(params: Mapping[str, Any] | None) -> Hint:
    """What comes after the turn, as far as the request says."""
    said = params or {}
    after, word, tool = said.get("after_agent"), said.get("wait"), said.get("tool")
    hint = Hint(
        Wait(word) if isinstance(word, str) and word in set(Wait) else Wait.UNKNOWN,
        _us(said.get("expected_ms")),
        after if isinstance(after, str) else None,
        _us(said.get("retain_ms")),
        tool if isinstance(tool, str) and len(tool) <= MOST_TOOL_CHARS and word == Wait.TOOL else "",
    )
    return NO_HINT if hint == NO_HINT else hint


def params_of(caller: Caller, hint: Hint = NO_HINT) -> dict[str, Any]:
    """What a front end puts into ``kv_transfer_params``: ``caller_of`` and ``hint_of`` read it back."""
    said: dict[str, Any] = {name: value for name in FIELDS if (value := getattr(caller, name))}
    if hint.wait is not Wait.UNKNOWN:
        said["wait"] = hint.wait.value
    if hint.tool:
        said["tool"] = hint.tool
    if hint.after_agent is not None:
        said["after_agent"] = hint.after_agent
    for name, us in (("expected_ms", hint.expected_us), ("retain_ms", hint.retain_us)):
        if us is not None:
            said[name] = us // 1000
    return said


def _us(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _LONGEST_MS:
        return None
    return value * 1000

"""What comes next: what a client says about the time after its turn.

Like identity, hints stand in one table, one row per convention, because products spell the same
thing differently. Every field is taken from the first row that says it; of several times to live the
longest counts. A hint is never an error: what is absurd, of the wrong type or unknown is passed over,
and times are brought within ``MIN_US`` and ``MAX_US``. How far to believe a hint is the policy's business;
an agent that is named can only be one of the caller's own tenant.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any
from urllib.parse import unquote

from stepwell.policy.types import Hint, Wait
from stepwell.server.callers.identity import Body, Headers, Identity, clean

MIN_US = 1_000
MAX_US = 24 * 3_600 * 1_000_000
ABSURD_US = 30 * MAX_US
"""A time beyond this is a mistake."""
EPHEMERAL_TTL = "5m"
"""Anthropic's ``cache_control`` without a ``ttl``."""
BREAKPOINT_TTL = "30m"
"""OpenAI's ``prompt_cache_breakpoint`` without one."""
MAX_EDITS = 64

DECLARED = {wait.value: wait for wait in Wait if wait is not Wait.UNKNOWN}
"""The values of ``next``."""


@dataclass(frozen=True, slots=True)
class HintClaim:
    """What one convention found, before cleaning."""

    wait: object = None
    expected_ms: object = None
    after_agent: object = None
    ttls: tuple[object, ...] = ()
    tool: object = None


NOTHING = HintClaim()
Reader = Callable[[Headers, Body], HintClaim]


@dataclass(frozen=True, slots=True)
class HintConvention:
    source: str
    read: Reader


def read_hint(headers: Headers, body: Body, identity: Identity) -> Hint:
    """The hint of one request. Pure; never raises, whatever the client sends."""
    return hint_of(claims_of(headers, body), identity)


def claims_of(headers: Headers, body: Body) -> list[HintClaim]:
    """What a request says by each convention; nothing else of its body is kept."""
    return [row.read(headers, body) for row in CONVENTIONS]


def hint_of(claims: list[HintClaim], identity: Identity) -> Hint:
    """The hint of claims, once their maker is known. Pure; never raises."""
    return _hint(claims, identity.session, identity.agent)


def read_agent_hint(value: Body, session: str, agent: str) -> Hint:
    """A hint that is sent between turns: the keys of ``agent_hint``. Pure; never raises.

    Here an edit ``prefetch`` means that the agent is about to be called.
    """
    claims = [_agent_hint(value), HintClaim(expected_ms=0 if "prefetch" in _edits(value) else None)]
    return _hint(claims, session, agent)


def wants_prewarm(body: Body) -> bool:
    """Whether only the cache is to be prepared (``prompt_cache_options.prewarm``, ``generate: false``)."""
    return _mapping(body.get("prompt_cache_options")).get("prewarm") is True or body.get("generate") is False


# --- cleaning ----------------------------------------------------------------------------------


def _hint(claims: list[HintClaim], session: str, agent: str) -> Hint:
    wait = next((w for claim in claims if (w := _wait(claim.wait)) is not None), Wait.UNKNOWN)
    after = next((name for claim in claims if (name := clean(claim.after_agent))), "")
    if after and wait is Wait.UNKNOWN:
        wait = Wait.AGENT
    retain = [us for claim in claims for ttl in claim.ttls if (us := ttl_us(ttl)) is not None]
    return Hint(
        wait=wait,
        expected_us=next((us for c in claims if (us := _milliseconds_us(c.expected_ms)) is not None), None),
        after_agent=_full_name(after, session, agent) if wait in (Wait.AGENT, Wait.CHILD) else None,
        retain_us=max(retain, default=None),
        tool=next((name for claim in claims if (name := clean(claim.tool))), "") if wait is Wait.TOOL else "",
    )


def _wait(value: object) -> Wait | None:
    return DECLARED.get(value.strip().lower()) if isinstance(value, str) and len(value) < 32 else None


def _full_name(name: str, session: str, agent: str) -> str | None:
    """Members of a session are known as ``session/name``; each may call the others by name."""
    prefix = f"{session}/"
    is_member = bool(session) and agent.startswith(prefix)
    return (name if not is_member or name.startswith(prefix) else prefix + name) or None


_NUMBER = re.compile(r"[0-9]{1,15}(?:\.[0-9]{1,6})?", re.ASCII)
_TTL = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?) ?(ms|s|m|h|d)?", re.ASCII)
_UNITS_US = {"ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}


def _number(value: object) -> float | None:
    if isinstance(value, str):
        value = value.strip()
        return float(value) if _NUMBER.fullmatch(value) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, int):
        return float(value) if abs(value) < 10**15 else None
    return value if math.isfinite(value) else None


def _within_bounds(time_us: float) -> int | None:
    return max(MIN_US, min(MAX_US, int(time_us))) if 0 <= time_us <= ABSURD_US else None


def _milliseconds_us(value: object) -> int | None:
    number = _number(value)
    return None if number is None else _within_bounds(number * 1_000)


def ttl_us(value: object) -> int | None:
    """A time to live: ``"30m"``, ``"1h"``, or a number of seconds as vLLM sends it. None: not one."""
    if not isinstance(value, str):
        number = _number(value)
        return None if number is None else _within_bounds(number * 1_000_000)
    match = _TTL.fullmatch(value.strip().lower()) if len(value) < 32 else None
    return None if match is None else _within_bounds(float(match[1]) * _UNITS_US[match[2] or "s"])


# --- readers -----------------------------------------------------------------------------------


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _next_header(headers: Headers, body: Body) -> HintClaim:
    """``X-Agent-Next: tool; tool=crawl; expected_ms=9000; after=NAME``."""
    first, *rest = headers.get("x-agent-next", "")[:2048].split(";")
    said = {
        key.strip().lower(): value.strip(' "') for key, _, value in (part.partition("=") for part in rest)
    }
    after = said.get("after") or said.get("after_agent")
    tool = unquote(said.get("tool", ""))
    return HintClaim(first, said.get("expected_ms"), unquote(after) if after else None, tool=tool)


def _final_header(headers: Headers, body: Body) -> HintClaim:
    names = ("x-session-final", "x-dynamo-session-final")
    final = any(headers.get(name, "").strip().lower() in ("true", "1") for name in names)
    return HintClaim(Wait.DONE.value) if final else NOTHING


def _agent_hint(hint: Mapping[str, Any]) -> HintClaim:
    wait = hint.get("next")
    if _wait(wait) is None and "evict" in _edits(hint):
        wait = Wait.DONE.value
    control = _mapping(hint.get("cache_control"))
    ttls = _ttls(control, "ttl")
    return HintClaim(wait, hint.get("expected_ms"), hint.get("after_agent"), ttls, hint.get("tool"))


def _edits(hint: Mapping[str, Any]) -> set[str]:
    """RFC 52113: what is to become of the whole context. Edits of a part of it are left to the policy."""
    edits = _list(_mapping(hint.get("context_management")).get("edits"))[:MAX_EDITS]
    whole = [e for e in map(_mapping, edits) if e.get("block_start") is None and e.get("block_end") is None]
    return {kind for edit in whole if isinstance(kind := edit.get("type"), str)}


def _body_agent_hint(headers: Headers, body: Body) -> HintClaim:
    return _agent_hint(_mapping(body.get("agent_hint")))


def _metadata(headers: Headers, body: Body) -> HintClaim:
    data = _mapping(body.get("metadata"))
    return HintClaim(
        data.get("next"), data.get("expected_ms"), data.get("after_agent"), tool=data.get("tool")
    )


def _cache_options(headers: Headers, body: Body) -> HintClaim:
    return HintClaim(ttls=_ttls(_mapping(body.get("prompt_cache_options")), "ttl"))


def _cache_retention(headers: Headers, body: Body) -> HintClaim:
    return HintClaim(ttls=_ttls(body, "prompt_cache_retention"))  # "in_memory" is no time


def _breakpoints(headers: Headers, body: Body) -> HintClaim:
    marks = (_mapping(place.get("prompt_cache_breakpoint")) for place in _places(body))
    return HintClaim(ttls=tuple(mark.get("ttl", BREAKPOINT_TTL) for mark in marks if mark))


def _cache_control(headers: Headers, body: Body) -> HintClaim:
    """Anthropic's, on a part, a message, a tool or the whole request; also as gateways pass it on."""
    marks = (_mapping(place.get("cache_control")) for place in (body, *_places(body)))
    return HintClaim(ttls=tuple(m.get("ttl", EPHEMERAL_TTL) for m in marks if m.get("type") == "ephemeral"))


def _ttls(place: Mapping[str, Any], key: str) -> tuple[object, ...]:
    return (place[key],) if key in place else ()


MAX_PLACES = 65_536
"""Messages, parts and tools looked at; the body is bounded as well."""


def _places(body: Body) -> Iterator[Mapping[str, Any]]:
    """Where a mark may stand: messages or input items, their parts, tools."""
    return islice(_all_places(body), MAX_PLACES)


def _all_places(body: Body) -> Iterator[Mapping[str, Any]]:
    for name in ("messages", "input", "system", "tools"):
        for item in map(_mapping, _list(body.get(name))):
            yield item
            yield from map(_mapping, _list(item.get("content")))


# Each row has a golden test in tests/server/callers/test_hints.py.
CONVENTIONS: tuple[HintConvention, ...] = (
    HintConvention("x-agent-next", _next_header),
    HintConvention("x-session-final", _final_header),
    HintConvention("agent_hint", _body_agent_hint),
    HintConvention("metadata", _metadata),
    HintConvention("prompt_cache_options", _cache_options),
    HintConvention("prompt_cache_retention", _cache_retention),
    HintConvention("prompt_cache_breakpoint", _breakpoints),
    HintConvention("cache_control", _cache_control),
)

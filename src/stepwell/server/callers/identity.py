"""The caller of a request: its session, its agent and that agent's parent.

The tenant comes from the API key and from nothing else. All the rest is what a client says about
itself: attribution, never authority. Nothing here changes what a request may do or which goes first
(vLLM's ``X-Vllm-Priority``, ``priority``, ``cache_salt`` and their kin are not even looked at).

Products use different headers for the same thing, so the headers stand in one table, one row per
convention. The first row that finds an agent or a session wins; later rows only add a name.
Two habits exist and a row says which it follows:

* a *chain* id names one reasoning chain, which is our agent (vLLM, Dynamo, OpenCode, most gateways);
* a *session* id names the whole run, and an agent id a member of it (Claude Code, Codex, metadata).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import unquote

from stepwell.policy.types import Caller
from stepwell.server.callers.keys import ApiKey

MAX_ID_CHARS = 255
MAX_BAGGAGE_MEMBERS = 64

Headers = Mapping[str, str]
"""Names in lower case."""
Body = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Identity:
    """One request's place in the world.

    ``confidence``: ``stated`` (the client said so), ``derived`` (from tracing), ``hinted`` (a cache
    key or user id), ``none``.
    """

    tenant: str
    session: str = ""
    agent: str = ""
    parent: str | None = None
    name: str | None = None
    source: str = "none"
    confidence: str = "none"

    def caller(self, service_tier: str, role: str, key: str) -> Caller:
        """As policy and ledger know it. ``role``: what kind of agent; ``key``: the id of its API key."""
        return Caller(self.tenant, service_tier, self.session, self.agent, self.parent, role, key)


@dataclass(frozen=True, slots=True)
class Claim:
    """What one convention found, before cleaning."""

    session: object = None
    agent: object = None
    parent: object = None
    name: object = None


Reader = Callable[[Headers, Body], Claim]


@dataclass(frozen=True, slots=True)
class Convention:
    source: str
    confidence: str
    read: Reader


def identify(headers: Headers, body: Body, key: ApiKey) -> Identity:
    """The identity of one request. Pure; never raises, whatever the client sends."""
    found = Identity(_tenant(headers, key))
    name: str | None = None
    for convention in CONVENTIONS:
        claim = convention.read(headers, body)
        name = name or clean(claim.name) or None
        if found.source == "none":
            found = _accept(found, convention, claim)
    return replace(found, name=name)


def _accept(found: Identity, convention: Convention, claim: Claim) -> Identity:
    session, agent = clean(claim.session), clean(claim.agent)
    if not session and not agent:
        return found
    return replace(
        found,
        session=session,
        agent=agent,
        parent=clean(claim.parent) or None,
        source=convention.source,
        confidence=convention.confidence,
    )


def _tenant(headers: Headers, key: ApiKey) -> str:
    project = headers.get("openai-project", "")
    return f"{key.tenant}/{project}" if project and project in key.projects else key.tenant


def clean(value: object) -> str:
    """A client's id as we keep it: text, one line, at most 255 characters.

    A longer one keeps its beginning and gets a digest, so that two long ids stay two.
    """
    if isinstance(value, bool) or not isinstance(value, str | int):
        return ""
    text = value if isinstance(value, str) else _digits(value)
    text = "".join(c for c in text if c.isprintable()).strip()
    if len(text) <= MAX_ID_CHARS:
        return text
    return text[: MAX_ID_CHARS - 17] + "-" + hashlib.sha256(text.encode()).hexdigest()[:16]


def _digits(value: int) -> str:
    # Python refuses to print integers of more than 4,300 digits.
    return str(value) if abs(value) < 10**MAX_ID_CHARS else ""


# --- readers -----------------------------------------------------------------------------------


def chain(agent: str, parent: str = "", name: str = "") -> Reader:
    """A header that names the reasoning chain. The chain above it is the best session we know."""

    def read(headers: Headers, body: Body) -> Claim:
        own, above = headers.get(agent), headers.get(parent)
        if not own:
            return Claim(name=headers.get(name))
        return Claim(session=above or own, agent=own, parent=above, name=headers.get(name))

    return read


def member(session: str, agent: str, parent: str = "", name: str = "", *, has_lead: bool = False) -> Reader:
    """A header for the session, one for the agent in it; without the latter, the session's lead calls.

    ``has_lead``: only agents below the lead carry an agent id, so the lead is the default parent.
    """

    def read(headers: Headers, body: Body) -> Claim:
        run, own, above = headers.get(session), headers.get(agent), headers.get(parent)
        claim = within(run, own, above, headers.get(name))
        return replace(claim, parent=clean(run)) if has_lead and run and own and not above else claim

    return read


def within(session: object, agent: object, parent: object, name: object) -> Claim:
    """An agent id that is unique in its session only (``planner``) becomes unique in the tenant."""
    run, own, above = clean(session), clean(agent), clean(parent)
    full = {one: f"{run}/{one}" if run and one and one != run else one for one in (own, above)}
    return Claim(run or own, full[own] or run, full[above], name)


def only_with(required: str, reader: Reader) -> Reader:
    """A row that counts only when one header is there."""

    def read(headers: Headers, body: Body) -> Claim:
        return reader(headers, body) if headers.get(required) else Claim()

    return read


_VENDOR_SESSION = re.compile(r"^x-[a-z0-9-]{1,64}-session-id$")


def _any_vendor(headers: Headers, body: Body) -> Claim:
    """LiteLLM's rule: any ``x-<vendor>-session-id``, except those that name a parent."""
    for name in sorted(headers):
        if _VENDOR_SESSION.match(name) and "parent" not in name and headers[name]:
            return Claim(
                session=headers[name], agent=headers[name], parent=headers.get("x-parent-session-id")
            )
    return Claim()


def _body_session(headers: Headers, body: Body) -> Claim:
    own, above = body.get("session_id"), body.get("parent_session_id")
    return Claim(session=above or own, agent=own, parent=above)


def _metadata(headers: Headers, body: Body) -> Claim:
    data = _mapping(body.get("metadata"))
    ids = data.get("session_id"), data.get("agent_id"), data.get("parent_agent_id")
    return within(*ids, data.get("agent_name"))


def _agent_hint(headers: Headers, body: Body) -> Claim:
    hint = _mapping(body.get("agent_hint"))
    own, above = hint.get("session_id"), hint.get("parent_session_id")
    return Claim(session=above or own, agent=own, parent=above)


def _conversation(headers: Headers, body: Body) -> Claim:
    value = body.get("conversation")
    own = value.get("id") if isinstance(value, Mapping) else value
    return Claim(session=own, agent=own)


def _baggage(headers: Headers, body: Body) -> Claim:
    """OpenTelemetry's names, as instrumented frameworks send them (W3C baggage)."""
    items = dict(_baggage_items(headers.get("baggage", "")))
    name = items.get("gen_ai.agent.name")
    call = items.get("gen_ai.agent.call.id") or items.get("gen_ai.agent.id")
    session = items.get("gen_ai.conversation.id") or items.get("session.id")
    run = session or _trace_id(headers)
    if run and (call or name):
        return within(run, call or name, None, name)
    return Claim(session, call, None, name)


def _baggage_items(text: str) -> Iterator[tuple[str, str]]:
    for member_text in text[:8192].split(",")[:MAX_BAGGAGE_MEMBERS]:
        key, sep, value = member_text.partition(";")[0].partition("=")
        if sep:
            yield key.strip(), unquote(value.strip())


_TRACEPARENT = re.compile(r"^[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")


def _trace_id(headers: Headers) -> str:
    match = _TRACEPARENT.match(headers.get("traceparent", ""))
    return match[1] if match and match[1].strip("0") else ""


def _traceparent(headers: Headers, body: Body) -> Claim:
    """One trace is one run; which agent called stays open."""
    return Claim(session=_trace_id(headers))


def _field(name: str) -> Reader:
    """A body field that groups requests. It may cover many agents, so it names none."""

    def read(headers: Headers, body: Body) -> Claim:
        return Claim(session=body.get(name))

    return read


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


# Products rename their headers; each row has a golden test in tests/server/callers/test_identity.py.
CONVENTIONS: tuple[Convention, ...] = (
    Convention(
        "x-agent-id",
        "stated",
        only_with("x-agent-id", member("x-session-id", "x-agent-id", "x-parent-agent-id", "x-agent-name")),
    ),
    Convention(
        "x-agent",
        "stated",
        only_with("x-agent", member("x-session-id", "x-agent", "x-parent-agent", "x-agent")),
    ),
    Convention("x-session-id", "stated", chain("x-session-id", "x-parent-session-id", "x-agent-name")),
    Convention("dynamo", "stated", chain("x-dynamo-session-id", "x-dynamo-parent-session-id")),
    Convention(
        "claude-code",
        "stated",
        member(
            "x-claude-code-session-id",
            "x-claude-code-agent-id",
            "x-claude-code-parent-agent-id",
            has_lead=True,
        ),
    ),
    Convention("codex", "stated", member("session-id", "thread-id", name="x-openai-subagent")),
    Convention("session-affinity", "stated", chain("x-session-affinity", "x-parent-session-id")),
    Convention(
        "litellm",
        "stated",
        only_with("x-litellm-agent-id", member("x-litellm-session-id", "x-litellm-agent-id")),
    ),
    Convention("litellm", "stated", chain("x-litellm-session-id", "x-parent-session-id")),
    Convention("litellm", "stated", chain("x-litellm-trace-id", "x-parent-session-id")),
    Convention("vendor-session-id", "stated", _any_vendor),
    Convention("session_id", "stated", _body_session),
    Convention("metadata", "stated", _metadata),
    Convention("agent_hint", "stated", _agent_hint),
    Convention("conversation", "stated", _conversation),
    Convention("baggage", "derived", _baggage),
    Convention("traceparent", "derived", _traceparent),
    Convention("prompt_cache_key", "hinted", _field("prompt_cache_key")),
    Convention("safety_identifier", "hinted", _field("safety_identifier")),
    Convention("user", "hinted", _field("user")),
)

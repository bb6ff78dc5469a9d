"""What kind of request it is: which part serves it follows from that."""

from __future__ import annotations

from enum import StrEnum
from urllib.parse import unquote


class RouteKind(StrEnum):
    """Label of metrics and access log, too."""

    TURN = "turn"
    """A call of the model, or its tokeniser: the router chooses."""
    RESPONSE = "response"
    """A stored response: the node that made it."""
    HOME = "home"
    """Documents, batches, conversations and Gemini's cached contents with the turns on them: the tenant's
    home."""
    AGENT = "agent"
    """One agent: where it lies."""
    LIST = "list"
    """Agents, sessions, models: one list from all nodes."""
    SESSION = "session"
    """One session: where its agents lie; a budget goes to all."""
    EVERY = "every"
    """Operators' requests that every node gets."""
    ANY = "any"
    """What is the same everywhere: the shared books, keys, the page."""
    OWN = "own"
    """The front end's own: health, metrics, the fleet."""


TURNS = frozenset(
    {
        "/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/messages/count_tokens",
        "/v1/responses", "/v1/embeddings", "/v1/rerank", "/tokenize", "/detokenize",
    }
)  # fmt: skip
LISTS = frozenset({"/v1/agents", "/v1/sessions", "/v1/models"})
EVERY = frozenset({"/admin/agents", "/admin/snapshot", "/admin/why"})
TOLD_TO_EVERY = frozenset({"/admin/budgets", "/admin/keys/reload"})
OWN = ("/health", "/metrics", "/admin/fleet")
HOME = (
    "/v1/files", "/v1/vector_stores", "/v1/batches", "/v1/messages/batches", "/v1/conversations",
    "/v1/cachedContents", "/v1beta",
)  # fmt: skip


def kind_of(method: str, path: str) -> RouteKind:
    """Every path has a kind: a node answers for those that are none."""
    method = "GET" if method == "HEAD" else method
    if any(_below(path, one) for one in OWN):
        return RouteKind.OWN
    if any(_below(path, one) for one in HOME) or (method == "POST" and _below(path, "/v1/models")):
        return RouteKind.HOME
    if method == "POST" and path in TURNS:
        return RouteKind.TURN
    if path in LISTS and method == "GET":
        return RouteKind.LIST
    if path in EVERY or (method == "POST" and path in TOLD_TO_EVERY):
        return RouteKind.EVERY
    for prefix, kind in (
        ("/v1/responses/", RouteKind.RESPONSE),
        ("/v1/agents/", RouteKind.AGENT),
        ("/v1/sessions/", RouteKind.SESSION),
    ):
        if path.startswith(prefix):
            return kind
    return RouteKind.ANY


def named_in(path: str) -> str:
    """The id in ``/v1/THINGS/ID``, with what stands behind it cut off where that is a verb of ours."""
    rest = unquote(path.split("/", 3)[3])
    for verb in ("/hint", "/cancel", "/input_items"):
        rest = rest.removesuffix(verb)
    return rest


def _below(path: str, root: str) -> bool:
    return path == root or path.startswith(root + "/")

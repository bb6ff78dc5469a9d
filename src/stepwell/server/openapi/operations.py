"""One row for each route and method: what it takes and what it answers.

What a route is for is said by its function's docstring, and nowhere twice. A test holds this table against
the routes: each one is described, and none that is not there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel

from stepwell.server.admin.budgets import BudgetChange
from stepwell.server.agents.sessions import SessionUpdate
from stepwell.server.batches.messages import MessageBatchRequest
from stepwell.server.batches.routes import BatchRequest
from stepwell.server.chat.tokens import DetokenizeRequest, TokenizeRequest
from stepwell.server.embeddings.request import EmbeddingsRequest, RerankRequest
from stepwell.server.files.prewarm import PrewarmRequest
from stepwell.server.files.search import SearchRequest
from stepwell.server.files.vector_stores.routes import (
    StoreBatchRequest,
    StoreFileRequest,
    StoreFileUpdate,
    StoreRequest,
    StoreSearchRequest,
    StoreUpdate,
)
from stepwell.server.openapi import answers as a
from stepwell.server.openapi import records as r
from stepwell.server.openapi.asked import (
    AgentHint,
    CachedContentRequest,
    CountTokensRequest,
    FileForm,
    GenerateContentRequest,
    LifetimeRequest,
    MessagesRequest,
)
from stepwell.server.page.routes import KeyForm
from stepwell.server.responses.conversations import ConversationRequest, ConversationUpdate, ItemsRequest
from stepwell.server.responses.request import ResponseRequest
from stepwell.server.wire.schema import ChatRequest, CompletionRequest

Json = Mapping[str, Any]
Who = Literal["anyone", "key", "operator"]
STREAM = "text/event-stream"

LIMIT: Json = {"type": "integer", "minimum": 1, "maximum": 100, "default": 20}
TEXT: Json = {"type": "string"}
TIME: Json = {"type": "integer", "minimum": 0, "maximum": 253_402_300_799}
ORDER: Json = {"type": "string", "enum": ["asc", "desc"]}
NAMES: Json = {"type": "array", "items": {"type": "string", "maxLength": 512}, "maxItems": 100}


@dataclass(frozen=True, slots=True)
class Operation:
    """``answer``: the type of a 200, or None where it is no JSON of a fixed shape. ``also``: other media
    types of it. ``fails``: statuses beside those that its kind always has."""

    tag: str
    answer: Any = None
    body: type[BaseModel] | None = None
    who: Who = "key"
    query: Json = field(default_factory=dict)
    also: tuple[str, ...] = ()
    fails: tuple[int, ...] = ()
    optional_body: bool = False
    form: bool = False
    beside: bool = False
    """Whether the body may also say what a client says of itself: ``asked.Beside``."""
    redirects: bool = False


def _page(*names: str, **more: Json) -> Json:
    return {"limit": LIMIT, **dict.fromkeys(names, TEXT), **more}


GENERATES = (404, 413, 408, 429, 503)
FREE: Any = dict[str, Any]
FREE_QUERY: Json = {}


def _organization(**more: Json) -> Json:
    lists = ("project_ids", "api_key_ids", "models", "session_ids", "agent_ids", "parent_agent_ids", "roles")
    return {
        "start_time": {**TIME, "x-required": True},
        "end_time": TIME,
        "bucket_width": {"type": "string", "enum": ["1m", "1h", "1d"], "default": "1d"},
        "limit": {"type": "integer", "minimum": 1, "maximum": 1_440},
        "page": TEXT,
        "timezone": TEXT,
        "tz": TEXT,
        "group_by": NAMES,
        **dict.fromkeys((*lists, "service_tiers"), NAMES),
        **more,
    }


def _gemini(prefix: str) -> Mapping[tuple[str, str], Operation]:
    return {
        ("POST", f"{prefix}/models/{{model}}"): Operation(
            "gemini", a.GeminiAnswer, GenerateContentRequest, also=(STREAM,), fails=GENERATES
        ),
        ("GET", f"{prefix}/cachedContents"): Operation(
            "gemini", r.CachedContents, query={"pageSize": LIMIT, "pageToken": TEXT}
        ),
        ("POST", f"{prefix}/cachedContents"): Operation(
            "gemini", r.CachedContent, CachedContentRequest, fails=GENERATES
        ),
        ("GET", f"{prefix}/cachedContents/{{cached_id}}"): Operation("gemini", r.CachedContent, fails=(404,)),
        ("PATCH", f"{prefix}/cachedContents/{{cached_id}}"): Operation(
            "gemini", r.CachedContent, LifetimeRequest, fails=GENERATES
        ),
        ("DELETE", f"{prefix}/cachedContents/{{cached_id}}"): Operation("gemini", FREE, fails=(404,)),
    }


def _stores() -> Mapping[tuple[str, str], Operation]:
    store, there = "/v1/vector_stores/{store_id}", (404, 429, 503)
    file, batch = store + "/files/{file_id}", store + "/file_batches/{batch_id}"
    pages = _page("after", "before", order=ORDER)

    def of(answer: Any, body: type[BaseModel] | None = None, query: Json = FREE_QUERY) -> Operation:
        return Operation("files", answer, body, query=query, fails=there if body is None else GENERATES)

    return {
        ("GET", "/v1/vector_stores"): of(a.Paged[r.VectorStoreShown], query=pages),
        ("POST", "/v1/vector_stores"): of(r.VectorStoreShown, StoreRequest),
        ("GET", store): of(r.VectorStoreShown),
        ("POST", store): of(r.VectorStoreShown, StoreUpdate),
        ("DELETE", store): of(a.Deleted),
        ("POST", store + "/search"): of(r.StoreHits, StoreSearchRequest),
        ("GET", store + "/files"): of(a.Paged[r.VectorStoreFileShown], query=pages),
        ("POST", store + "/files"): of(r.VectorStoreFileShown, StoreFileRequest),
        ("GET", file): of(r.VectorStoreFileShown),
        ("POST", file): of(r.VectorStoreFileShown, StoreFileUpdate),
        ("DELETE", file): of(a.Deleted),
        ("GET", file + "/content"): of(r.StoreText),
        ("POST", store + "/file_batches"): of(r.VectorStoreBatchShown, StoreBatchRequest),
        ("GET", batch): of(r.VectorStoreBatchShown),
        ("POST", batch + "/cancel"): of(r.VectorStoreBatchShown),
        ("GET", batch + "/files"): of(a.Paged[r.VectorStoreFileShown], query=pages),
    }


OPERATIONS: Mapping[tuple[str, str], Operation] = {
    ("POST", "/v1/chat/completions"): Operation(
        "generate", a.ChatCompletion, ChatRequest, also=(STREAM,), fails=GENERATES, beside=True
    ),
    ("POST", "/v1/completions"): Operation(
        "generate", a.TextCompletion, CompletionRequest, also=(STREAM,), fails=GENERATES, beside=True
    ),
    ("POST", "/v1/responses"): Operation(
        "responses", a.ResponseObject, ResponseRequest, also=(STREAM,), fails=(*GENERATES, 409), beside=True
    ),
    ("GET", "/v1/responses/{response_id}"): Operation(
        "responses",
        a.ResponseObject,
        query={"stream": {"type": "string"}, "starting_after": {"type": "integer"}},
        also=(STREAM,),
        fails=(404, 429),
    ),
    ("DELETE", "/v1/responses/{response_id}"): Operation("responses", a.Deleted, fails=(404,)),
    ("POST", "/v1/responses/{response_id}/cancel"): Operation("responses", a.ResponseObject, fails=(404,)),
    ("GET", "/v1/responses/{response_id}/input_items"): Operation(
        "responses", a.Paged[FREE], query=_page("after", order=ORDER), fails=(404,)
    ),
    ("POST", "/v1/conversations"): Operation(
        "conversations", r.ConversationShown, ConversationRequest, fails=GENERATES
    ),
    ("GET", "/v1/conversations/{conversation_id}"): Operation(
        "conversations", r.ConversationShown, fails=(404,)
    ),
    ("POST", "/v1/conversations/{conversation_id}"): Operation(
        "conversations", r.ConversationShown, ConversationUpdate, fails=GENERATES
    ),
    ("DELETE", "/v1/conversations/{conversation_id}"): Operation(
        "conversations", r.ConversationDeleted, fails=(404,)
    ),
    ("GET", "/v1/conversations/{conversation_id}/items"): Operation(
        "conversations", a.Paged[FREE], query=_page("after", order=ORDER), fails=(404,)
    ),
    ("POST", "/v1/conversations/{conversation_id}/items"): Operation(
        "conversations", a.Paged[FREE], ItemsRequest, fails=(*GENERATES, 409)
    ),
    ("GET", "/v1/conversations/{conversation_id}/items/{item_id}"): Operation(
        "conversations", FREE, fails=(404,)
    ),
    ("DELETE", "/v1/conversations/{conversation_id}/items/{item_id}"): Operation(
        "conversations", r.ConversationShown, fails=(404, 409)
    ),
    ("POST", "/v1/messages"): Operation(
        "anthropic", a.AnthropicMessage, MessagesRequest, also=(STREAM,), fails=GENERATES
    ),
    ("POST", "/v1/messages/count_tokens"): Operation(
        "anthropic", a.TokenCount, CountTokensRequest, fails=GENERATES
    ),
    ("GET", "/v1/messages/batches"): Operation(
        "anthropic", r.MessageBatches, query=_page("after_id"), fails=(404,)
    ),
    ("POST", "/v1/messages/batches"): Operation(
        "anthropic", r.MessageBatch, MessageBatchRequest, fails=GENERATES
    ),
    ("GET", "/v1/messages/batches/{batch_id}"): Operation("anthropic", r.MessageBatch, fails=(404,)),
    ("DELETE", "/v1/messages/batches/{batch_id}"): Operation(
        "anthropic", r.MessageBatchDeleted, fails=(404,)
    ),
    ("POST", "/v1/messages/batches/{batch_id}/cancel"): Operation(
        "anthropic", r.MessageBatch, fails=(404, 503)
    ),
    ("GET", "/v1/messages/batches/{batch_id}/results"): Operation(
        "anthropic", also=("application/x-jsonl",), fails=(404,)
    ),
    **_stores(),
    **_gemini("/v1beta"),
    **_gemini("/v1"),
    ("POST", "/v1/embeddings"): Operation("vectors", a.Embeddings, EmbeddingsRequest, fails=GENERATES),
    ("POST", "/v1/rerank"): Operation("vectors", a.Reranked, RerankRequest, fails=GENERATES),
    ("POST", "/tokenize"): Operation("tokens", a.Tokenized, TokenizeRequest, fails=GENERATES),
    ("POST", "/detokenize"): Operation("tokens", a.Detokenized, DetokenizeRequest, fails=GENERATES),
    ("GET", "/v1/models"): Operation("models", a.Listed[a.Model]),
    ("GET", "/v1/models/{model}"): Operation("models", a.Model, fails=(404,)),
    ("GET", "/v1/agents"): Operation("agents", a.Paged[r.Agent], query=_page("after", "tenant")),
    ("GET", "/v1/agents/{agent_id}"): Operation("agents", r.Agent, query={"tenant": TEXT}, fails=(404,)),
    ("POST", "/v1/agents/{agent_id}/hint"): Operation("agents", r.HintTaken, AgentHint, fails=GENERATES),
    ("GET", "/v1/watch"): Operation("agents", also=(STREAM,), query={"tenant": TEXT}, fails=(429, 503)),
    ("GET", "/v1/sessions"): Operation(
        "agents", a.Paged[r.SessionShown], query=_page("after", "tenant"), fails=(404, 429)
    ),
    ("GET", "/v1/sessions/{session_id}"): Operation(
        "agents", r.SessionShown, query={"tenant": TEXT}, fails=(404, 429)
    ),
    ("POST", "/v1/sessions/{session_id}"): Operation(
        "agents", r.SessionShown, SessionUpdate, query={"tenant": TEXT}, fails=GENERATES
    ),
    ("GET", "/v1/organization/usage/completions"): Operation(
        "money",
        r.UsagePage,
        query=_organization(batch={"type": "string", "enum": ["true", "false"]}),
        fails=(404, 429),
    ),
    ("GET", "/v1/organization/costs"): Operation(
        "money", r.UsagePage, query=_organization(line_items=NAMES), fails=(404, 429)
    ),
    ("GET", "/v1/files"): Operation(
        "files",
        a.Paged[r.File],
        query={
            "limit": {"type": "integer", "minimum": 1, "maximum": 10_000},
            "after": TEXT,
            "order": ORDER,
            "purpose": TEXT,
        },
        fails=(404, 429, 503),
    ),
    ("POST", "/v1/files"): Operation("files", r.File, FileForm, form=True, fails=(*GENERATES, 507)),
    ("POST", "/v1/files/search"): Operation("files", r.SearchResults, SearchRequest, fails=GENERATES),
    ("GET", "/v1/files/{file_id}"): Operation("files", r.File, fails=(404, 503)),
    ("DELETE", "/v1/files/{file_id}"): Operation("files", a.Deleted, fails=(404, 409, 503)),
    ("GET", "/v1/files/{file_id}/content"): Operation(
        "files", also=("application/octet-stream",), fails=(404, 429, 503)
    ),
    ("POST", "/v1/files/{file_id}/prewarm"): Operation(
        "files", r.Prewarmed, PrewarmRequest, optional_body=True, fails=GENERATES
    ),
    ("GET", "/v1/batches"): Operation("batches", a.Paged[r.BatchObject], query=_page("after"), fails=(404,)),
    ("POST", "/v1/batches"): Operation("batches", r.BatchObject, BatchRequest, fails=GENERATES),
    ("GET", "/v1/batches/{batch_id}"): Operation("batches", r.BatchObject, fails=(404,)),
    ("POST", "/v1/batches/{batch_id}/cancel"): Operation("batches", r.BatchObject, fails=(404, 409)),
    ("GET", "/"): Operation("server", also=("text/plain; charset=utf-8",), who="anyone"),
    ("GET", "/health"): Operation("server", r.Health, who="anyone", fails=(503,)),
    ("GET", "/metrics"): Operation("server", also=("text/plain",), who="operator"),
    ("GET", "/openapi.json"): Operation("server", FREE, who="anyone"),
    ("GET", "/docs"): Operation("server", also=("text/html; charset=utf-8",), who="anyone"),
    ("GET", "/page"): Operation("page", also=("text/html; charset=utf-8",), who="anyone"),
    ("GET", "/page/"): Operation("page", who="anyone", redirects=True),
    ("GET", "/page/{path}"): Operation(
        "page",
        also=(
            "text/html; charset=utf-8",
            "text/javascript; charset=utf-8",
            "text/css; charset=utf-8",
            "image/svg+xml",
        ),
        who="anyone",
        fails=(404,),
    ),
    ("POST", "/page/key"): Operation("page", r.PageKey, KeyForm, who="anyone", fails=(401, 403, 408, 413)),
    ("POST", "/page/leave"): Operation("page", r.PageKey, who="anyone", fails=(403,)),
    ("GET", "/admin/agents"): Operation("operators", FREE, who="operator"),
    ("GET", "/admin/snapshot"): Operation("operators", FREE, who="operator"),
    ("GET", "/admin/why"): Operation(
        "operators",
        a.Listed[FREE],
        who="operator",
        query={"of": {"type": "string", "minLength": 1, "maxLength": 1_024, "x-required": True}},
        fails=(404,),
    ),
    ("GET", "/admin/margin"): Operation(
        "operators",
        r.MarginAnswer,
        who="operator",
        query={"period_s": {"type": "integer", "minimum": 1, "maximum": 86_400}},
        fails=(404,),
    ),
    ("GET", "/admin/keys"): Operation("operators", a.Listed[r.KeyShown], who="operator"),
    ("POST", "/admin/keys/reload"): Operation("operators", r.KeysReloaded, who="operator", fails=(404,)),
    ("GET", "/admin/budgets"): Operation(
        "operators",
        a.More[r.BudgetState],
        who="operator",
        query={"limit": {"type": "integer", "minimum": 1, "maximum": 1_000}, "after": TEXT, "tenant": TEXT},
        fails=(404,),
    ),
    ("POST", "/admin/budgets"): Operation(
        "operators", r.BudgetState | r.BudgetGone, BudgetChange, who="operator", fails=(404, 408, 413, 503)
    ),
}

"""What the routes answer about things that are kept: files, batches, agents, sessions, keys, money."""

from __future__ import annotations

from typing import Any, Literal

from stepwell.server.openapi.answers import Answer, ByKvTier, Error, Listed, Usage

JsonNumber = float
"""An amount as JSON writes it; here it is only described, and not reckoned with."""

# --- Anthropic's batches -----------------------------------------------------------------------


class MessageCounts(Answer):
    processing: int
    succeeded: int
    errored: int
    canceled: int
    expired: int


class MessageBatch(Answer):
    """Times are RFC 3339."""

    id: str
    type: Literal["message_batch"]
    processing_status: Literal["in_progress", "canceling", "ended"]
    request_counts: MessageCounts
    created_at: str
    expires_at: str
    ended_at: str | None
    archived_at: None
    cancel_initiated_at: str | None
    results_url: str | None


class MessageBatches(Answer):
    data: list[MessageBatch]
    has_more: bool
    first_id: str | None
    last_id: str | None


class MessageBatchDeleted(Answer):
    id: str
    type: Literal["message_batch_deleted"]


# --- files and batches -------------------------------------------------------------------------


class Prewarmed(Answer):
    object: Literal["file.prewarm"]
    file_id: str
    agent_id: str
    model: str
    retain_s: int
    usage: Usage


class File(Answer):
    """`kind` and `tokens` are those of a document; files of batches have none."""

    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: str
    status_details: str | None
    kind: str = ""
    tokens: int = 0
    prewarm: Prewarmed | Error | None = None


class FoundText(Answer):
    type: Literal["text"]
    text: str


class FoundPassage(Answer):
    file_id: str
    filename: str
    score: float
    start: int
    end: int
    content: list[FoundText]


class SearchResults(Answer):
    object: Literal["file.search_results"]
    search_query: str
    ranking: str
    data: list[FoundPassage]


class StoreFileCounts(Answer):
    in_progress: int
    completed: int
    failed: int
    cancelled: int
    total: int


class VectorStoreShown(Answer):
    id: str
    object: Literal["vector_store"]
    created_at: int
    name: str
    usage_bytes: int
    file_counts: StoreFileCounts
    status: Literal["completed"]
    expires_after: None
    expires_at: None
    last_active_at: int
    metadata: dict[str, str]


class VectorStoreFileShown(Answer):
    id: str
    object: Literal["vector_store.file"]
    created_at: int
    vector_store_id: str
    usage_bytes: int
    status: Literal["completed"]
    last_error: None
    attributes: dict[str, str | float | bool]


class VectorStoreBatchShown(Answer):
    id: str
    object: Literal["vector_store.files_batch"]
    created_at: int
    vector_store_id: str
    status: Literal["completed"]
    file_counts: StoreFileCounts


class StoreHitShown(Answer):
    file_id: str
    filename: str
    score: float
    attributes: dict[str, str | float | bool]
    content: list[FoundText]


class StorePage(Answer):
    has_more: bool
    next_page: None


class StoreHits(StorePage):
    object: Literal["vector_store.search_results.page"]
    search_query: list[str]
    data: list[StoreHitShown]


class StoreText(StorePage):
    object: Literal["vector_store.file_content.page"]
    data: list[FoundText]


class LineError(Answer):
    code: str | None
    message: str
    param: str | None
    line: int | None


class BatchCounts(Answer):
    total: int
    completed: int
    failed: int


class BatchObject(Answer):
    id: str
    object: Literal["batch"]
    endpoint: str
    errors: Listed[LineError] | None
    input_file_id: str | None
    completion_window: str
    status: Literal[
        "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
    ]
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    expires_at: int
    in_progress_at: int | None
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: BatchCounts
    metadata: dict[str, str] | None
    model: str | None


# --- conversations -----------------------------------------------------------------------------


class ConversationShown(Answer):
    id: str
    object: Literal["conversation"]
    created_at: int
    metadata: dict[str, str]


class ConversationDeleted(Answer):
    id: str
    object: Literal["conversation.deleted"]
    deleted: bool


# --- agents and sessions -----------------------------------------------------------------------


class SaidHint(Answer):
    next: str | None
    expected_ms: float | None
    after_agent: str | None
    retain_s: float | None
    tool: str | None


class HintTaken(SaidHint):
    id: str
    object: Literal["agent.hint"]


class AgentKv(ByKvTier):
    gone: int


class Agent(Answer):
    """`tenant` for operators."""

    id: str
    object: Literal["agent"]
    tenant: str = ""
    session_id: str | None
    parent_agent_id: str | None
    role: str | None
    model: str
    service_tier: str
    status: str
    context_tokens: int
    kv_tokens: AgentKv
    turns: int
    declared: SaidHint
    expected_at: float | None
    why: str | None
    last_ttft_ms: float | None


class SpentControl(Answer):
    """In US cents."""

    limit: JsonNumber | None
    consumed: JsonNumber


class SessionShown(Answer):
    """`tenant` for operators."""

    id: str
    object: Literal["session"]
    tenant: str = ""
    status: Literal["in_progress", "budget_reached", "idle"]
    spend_control: SpentControl
    consumed_usd: JsonNumber
    held_usd: JsonNumber | None
    agents: list[str]


# --- operators ---------------------------------------------------------------------------------


class Health(Answer):
    status: Literal["ok", "draining", "failed", "ledger"]
    ledger: Literal["ok", "failing", "lost"] = "ok"


class UsageBucket(Answer):
    """`results` in OpenAI's fields and ours; what was not grouped by is null."""

    object: Literal["bucket"]
    start_time: int
    end_time: int
    results: list[dict[str, Any]]


class UsagePage(Answer):
    object: Literal["page"]
    data: list[UsageBucket]
    has_more: bool
    next_page: str | None


class BudgetState(Answer):
    id: str
    object: Literal["budget"]
    scope: Literal["tenant", "key", "session", "agent"]
    tenant: str
    name: str
    soft_usd: JsonNumber | None
    hard_usd: JsonNumber | None
    spent_usd: JsonNumber
    held_usd: JsonNumber
    status: Literal["ok", "warning", "reached"]


class BudgetGone(Answer):
    object: Literal["budget"]
    scope: Literal["tenant", "key", "session", "agent"]
    tenant: str
    name: str
    deleted: bool


class KeyShown(Answer):
    """Never the key itself."""

    id: str
    name: str | None
    tenant: str
    service_tiers: list[str]
    default_service_tier: str
    operator: bool
    projects: list[str]
    expires: str | None
    expired: bool
    max_concurrent_requests: int | None
    requests_per_minute: int | None
    tokens_per_minute: int | None
    left_this_minute: dict[str, int]


class KeysReloaded(Answer):
    object: Literal["keys.reload"]
    message: str
    keys: int


class MarginLine(Answer):
    tenant: str
    requests: int
    revenue_microusd: int
    cost_microusd: int
    margin_microusd: int


class MarginAnswer(Answer):
    object: Literal["margin"]
    period_s: int
    data: list[MarginLine]
    machine_microusd: dict[str, int]


class PageKey(Answer):
    object: Literal["page.key"]
    tenant: str = ""
    operator: bool = False
    deleted: bool = False


class TotalTokens(Answer):
    totalTokenCount: int


class CachedContent(Answer):
    """Times are RFC 3339."""

    name: str
    model: str
    displayName: str
    createTime: str
    updateTime: str
    expireTime: str
    usageMetadata: TotalTokens


class CachedContents(Answer):
    cachedContents: list[CachedContent]
    nextPageToken: str = ""

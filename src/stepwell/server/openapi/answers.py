"""What the routes answer, as types. The description of the API is made from them, and a test holds each real
answer against its type: no field is missing, and none is there that the type does not name.

Times are Unix seconds unless a name says otherwise; money is in US dollars.
"""

from __future__ import annotations

from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

Item = TypeVar("Item")


class Answer(BaseModel):
    """Fields with a default are there in some answers only."""

    model_config = ConfigDict(protected_namespaces=(), extra="forbid")


class Listed(Answer, Generic[Item]):
    object: Literal["list"]
    data: list[Item]


class More(Listed[Item], Generic[Item]):
    has_more: bool


class Paged(More[Item], Generic[Item]):
    first_id: str | None
    last_id: str | None


# --- errors ------------------------------------------------------------------------------------


class ErrorDetail(Answer):
    message: str
    type: str
    param: str | None
    code: str | None


class Error(Answer):
    """OpenAI's shape, on every route but Anthropic's."""

    error: ErrorDetail


class AnthropicErrorDetail(Answer):
    type: str
    message: str


class AnthropicError(Answer):
    type: Literal["error"]
    error: AnthropicErrorDetail
    request_id: str


# --- usage -------------------------------------------------------------------------------------


class ByKvTier(Answer):
    device: int
    host: int
    disk: int


class PromptDetails(Answer):
    cached_tokens: int
    cached_tokens_by_kv_tier: ByKvTier
    recomputed_tokens: int


class CompletionDetails(Answer):
    reasoning_tokens: int


class CostAndTime(Answer):
    """With a ledger also the cost; `timing` by cause in milliseconds."""

    timing: dict[str, Any] = {}
    cost: float = 0.0
    cost_details: dict[str, Any] = {}


class Usage(CostAndTime):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails


# --- chat and completions ----------------------------------------------------------------------


class TokenChoice(Answer):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TokenChoice):
    top_logprobs: list[TokenChoice]


class ChatLogprobs(Answer):
    content: list[TokenLogprob]
    refusal: None


class CalledFunction(Answer):
    name: str
    arguments: str


class FunctionCalled(Answer):
    id: str
    type: Literal["function"]
    function: CalledFunction


class AnswerMessage(Answer):
    role: Literal["assistant"]
    content: str | None
    refusal: None
    reasoning_content: str = ""
    tool_calls: list[FunctionCalled] = []


class ChatChoice(Answer):
    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls"]


class Head(Answer):
    id: str
    created: int
    model: str
    service_tier: str
    system_fingerprint: str


class ChatCompletion(Head):
    object: Literal["chat.completion"]
    choices: list[ChatChoice]
    usage: Usage


class CompletionLogprobs(Answer):
    """Of a prompt's first token, which nothing comes before, the log-probability is null."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class TextChoice(Answer):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length"]


class TextCompletion(Head):
    object: Literal["text_completion"]
    choices: list[TextChoice]
    usage: Usage


# --- Responses ---------------------------------------------------------------------------------


class ResponsePromptDetails(PromptDetails):
    cache_write_tokens: int


class ResponseUsage(CostAndTime):
    input_tokens: int
    input_tokens_details: ResponsePromptDetails
    output_tokens: int
    output_tokens_details: CompletionDetails
    total_tokens: int


class ResponseObject(Answer):
    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
    background: bool
    conversation: dict[str, str] | None
    error: dict[str, str] | None
    incomplete_details: dict[str, str] | None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: None
    metadata: dict[str, str]
    model: str
    output: list[dict[str, Any]]
    parallel_tool_calls: bool
    previous_response_id: str | None
    prompt_cache_key: str | None
    reasoning: dict[str, str | None]
    safety_identifier: str | None
    service_tier: str
    store: bool
    temperature: float
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float
    truncation: Literal["disabled"]
    usage: ResponseUsage | None
    user: str | None


class Deleted(Answer):
    id: str
    object: str
    deleted: bool


# --- Anthropic's -------------------------------------------------------------------------------


class ThinkingDetails(Answer):
    thinking_tokens: int


class MessageUsage(CostAndTime):
    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int
    output_tokens_details: ThinkingDetails
    service_tier: str


class AnthropicMessage(Answer):
    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[dict[str, Any]]
    stop_reason: Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]
    stop_sequence: str | None
    usage: MessageUsage


class TokenCount(Answer):
    input_tokens: int


# --- models, tokens, vectors -------------------------------------------------------------------


class Model(Answer):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    context_window: int = 0
    end_token_ids: list[int] = []
    state: Literal["loaded", "loading", "leaving", "unloaded"] = "loaded"
    type: Literal["embedding"] = "embedding"


class Tokenized(Answer):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] = []


class Detokenized(Answer):
    prompt: str
    content: str


class VectorUsage(Answer):
    prompt_tokens: int
    total_tokens: int
    cost: float = 0.0


class Embedding(Answer):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class Embeddings(Listed[Embedding]):
    model: str
    usage: VectorUsage


class Ranked(Answer):
    index: int
    relevance_score: float
    document: dict[str, str] = {}


class Reranked(Answer):
    id: str
    object: Literal["list"]
    model: str
    results: list[Ranked]
    usage: VectorUsage


# --- Gemini's ----------------------------------------------------------------------------------


class GoogleErrorDetail(Answer):
    code: int
    message: str
    status: str


class GoogleError(Answer):
    error: GoogleErrorDetail


class Part(Answer):
    text: str


class Content(Answer):
    role: Literal["model"]
    parts: list[Part]


class Candidate(Answer):
    content: Content
    index: int
    finishReason: Literal["STOP", "MAX_TOKENS"]


class UsageMetadata(CostAndTime):
    promptTokenCount: int
    cachedContentTokenCount: int
    candidatesTokenCount: int
    thoughtsTokenCount: int
    totalTokenCount: int


class GeminiAnswer(Answer):
    candidates: list[Candidate]
    modelVersion: str
    responseId: str
    usageMetadata: UsageMetadata

"""What requests may hold that no schema of a route reads: bodies that are read by hand, and what a client
says about itself beside what it asks for."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Asked(BaseModel):
    """A part of a request. Everything with a default may be left out."""

    model_config = ConfigDict(protected_namespaces=())


class AgentHint(Asked):
    """What the agent waits for after this turn."""

    next: Literal["tool", "agent", "child", "person", "done"] | None = None
    expected_ms: float | None = Field(
        None, description="When its next turn is expected, from the end of this one."
    )
    after_agent: str | None = Field(None, description="The agent whose answer it waits for.")
    tool: str | None = Field(None, description="Which tool it waits for: how long each takes is learned.")
    session_id: str | None = None
    parent_session_id: str | None = None
    cache_control: dict[str, Any] | None = Field(
        None, description='`{"ttl": "30m"}`: how long its KV is to be kept.'
    )


class CacheOptions(Asked):
    prewarm: bool | None = Field(None, description="Compute the prompt's KV and answer nothing.")
    ttl: str | None = Field(None, description='How long the KV is to be kept: "30m", "1h".')


class Beside(Asked):
    """What any request that generates may say besides."""

    agent_hint: AgentHint | None = None
    prompt_cache_options: CacheOptions | None = None
    cache_control: dict[str, Any] | None = Field(
        None, description="Anthropic's mark; also on parts and tools."
    )
    session_id: str | None = Field(None, description="Whose turn it is, where no header says so.")
    metadata: dict[str, Any] | None = None


class MessageParam(Asked):
    role: Literal["user", "assistant", "system"]
    content: str | list[dict[str, Any]]


class AnthropicTool(Asked):
    name: str
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    type: str | None = None


class CountTokensRequest(Asked):
    """The fields of Anthropic's that decide the prompt."""

    model: str
    messages: list[MessageParam] = Field(min_length=1)
    system: str | list[dict[str, Any]] | None = None
    tools: list[AnthropicTool] | None = None
    tool_choice: dict[str, Any] | None = None
    thinking: dict[str, Any] | None = None
    output_config: dict[str, Any] | None = None


class MessagesRequest(CountTokensRequest):
    """Anthropic's; unknown fields are passed over."""

    max_tokens: int = Field(ge=1)
    stop_sequences: list[str] | None = None
    stream: bool | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=-1, le=2**31 - 1)
    service_tier: str | None = None
    cache_control: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None


class FileForm(Asked):
    """`multipart/form-data`."""

    file: str = Field(json_schema_extra={"format": "binary"})
    purpose: Literal["assistants", "batch", "evals", "fine-tune", "user_data", "vision"] = "user_data"
    prewarm: Literal["true", "false", "1", "0"] | None = Field(None, description="Compute its KV at once.")
    ttl: str | None = Field(None, description='How long to hold that: "1h".')


class GeminiPart(Asked):
    text: str


class GeminiContent(Asked):
    parts: list[GeminiPart]
    role: Literal["user", "model"] | None = None


class GenerationConfig(Asked):
    """Gemini's, as far as it is known here."""

    temperature: float | None = Field(None, ge=0, le=2)
    topP: float | None = Field(None, ge=0, le=1)
    topK: int | None = Field(None, ge=1, le=2**31 - 1)
    maxOutputTokens: int | None = Field(None, ge=1)
    stopSequences: list[str] | None = None
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)
    responseMimeType: str | None = None
    responseJsonSchema: dict[str, Any] | None = None


class GenerateContentRequest(Asked):
    """Gemini's `generateContent`: texts, behind a cached content where one is named."""

    contents: list[GeminiContent] = Field(min_length=1)
    systemInstruction: GeminiContent | None = None
    cachedContent: str | None = None
    generationConfig: GenerationConfig | None = None


class LifetimeRequest(Asked):
    """One of the two."""

    ttl: str | None = Field(None, description='"3600s"; an hour where nothing is said.')
    expireTime: str | None = Field(None, description="RFC 3339.")


class CachedContentRequest(LifetimeRequest):
    model: str
    contents: list[GeminiContent] = Field(min_length=1)
    systemInstruction: GeminiContent | None = None
    displayName: str | None = None

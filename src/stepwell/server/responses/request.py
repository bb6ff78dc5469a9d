"""What clients may send to ``POST /v1/responses``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from stepwell.server.files.vector_stores.ranking import RankingOptions
from stepwell.server.wire.schema import (
    MAX_ITEMS,
    Choice,
    Function,
    JsonSchema,
    Metadata,
    Reasoning,
    ResponseFormat,
    Sampling,
    Schema,
    template_switches,
)


class ResponseTool(Function):
    """A function."""

    type: Literal["function"]


class FileSearchTool(Schema):
    """A search in documents, made by the server before the answer; see ``hosted_search``."""

    type: Literal["file_search"]
    vector_store_ids: (
        Annotated[list[Annotated[str, Field(max_length=256)]], Field(min_length=1, max_length=64)] | None
    ) = None
    """None: all documents of the tenant."""
    max_num_results: Annotated[int, Field(ge=1, le=50)] | None = None
    filters: dict[str, Any] | None = None
    ranking_options: RankingOptions | None = None


KNOWN_TOOLS = ("function", "file_search")


def known_tools(value: Any) -> Any:
    """Without the hosted tools that do not exist here: a model is not told of what it cannot call. Coding
    agents offer them beside their functions."""
    if not isinstance(value, list):
        return value
    return [tool for tool in value if not _is_other(tool)]


def _is_other(tool: Any) -> bool:
    kind = tool.get("type") if isinstance(tool, dict) else None
    return isinstance(kind, str) and kind not in KNOWN_TOOLS


def _tag(tool: Any) -> str:
    """Which of ``OfferedTool`` a tool is read as. In brackets, so that paths in errors leave it out."""
    kind = tool.get("type") if isinstance(tool, dict) else getattr(tool, "type", None)
    return "<file_search>" if kind == "file_search" else "<function>"


OfferedTool = Annotated[
    Annotated[ResponseTool, Tag("<function>")] | Annotated[FileSearchTool, Tag("<file_search>")],
    Discriminator(_tag),
]


def known_choice(value: Any) -> Any:
    """``tool_choice``; a search is made anyhow, so to demand it demands nothing of the model."""
    if not isinstance(value, dict):
        return value
    if value.get("type") == "file_search":
        return "auto"
    tools = value.get("tools")
    if value.get("type") != "allowed_tools" or not isinstance(tools, list):
        return value
    named = [
        tool for tool in tools if not (isinstance(tool, dict) and tool.get("type", "function") != "function")
    ]
    mode = value.get("mode") if named else "auto"
    return {**value, "mode": mode, "tools": named}


class TextFormat(Schema):
    """Chat's ``response_format``, written flat."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    name: Annotated[str, Field(max_length=256)] | None = None
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None

    @model_validator(mode="after")
    def _has_schema(self) -> TextFormat:
        if self.type == "json_schema" and self.schema_ is None:
            raise PydanticCustomError("value_error", "Type json_schema needs the field schema")
        return self

    def as_response_format(self) -> ResponseFormat:
        schema = JsonSchema.model_validate({"name": self.name, "schema": self.schema_})
        return ResponseFormat(type=self.type, json_schema=schema if self.type == "json_schema" else None)

    def echo(self) -> dict[str, Any]:
        return self.model_dump(by_alias=True, exclude_none=True)


class TextConfig(Schema):
    format: TextFormat | None = None


def id_of_conversation(value: Any) -> Any:
    """An id may stand alone or in an object."""
    return value["id"] if isinstance(value, dict) and "id" in value else value


class ResponseRequest(Sampling):
    """``input`` items are checked by ``response_items``, which knows their kinds."""

    input: str | Annotated[list[dict[str, Any]], Field(max_length=MAX_ITEMS, fail_fast=True)]
    instructions: str | None = None
    previous_response_id: Annotated[str, Field(max_length=256)] | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    text: TextConfig | None = None
    tools: Annotated[
        list[OfferedTool] | None,
        Field(max_length=MAX_ITEMS, fail_fast=True),
        BeforeValidator(known_tools, json_schema_input_type=list[dict[str, Any]] | None),
    ] = None
    tool_choice: Annotated[Choice, BeforeValidator(known_choice)] = None
    parallel_tool_calls: bool | None = None
    include: Annotated[list[str], Field(max_length=64)] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    store: bool | None = None
    background: bool | None = None
    stream: bool | None = None
    metadata: Metadata | None = None
    conversation: Annotated[
        Annotated[str, Field(max_length=256)] | None,
        BeforeValidator(id_of_conversation, json_schema_input_type=str | dict[str, str] | None),
    ] = None
    chat_template_kwargs: Annotated[dict[str, Any], Field(max_length=64)] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    user: Annotated[str, Field(max_length=512)] | None = None
    safety_identifier: Annotated[str, Field(max_length=128)] | None = None
    prompt_cache_key: Annotated[str, Field(max_length=512)] | None = None
    # These would change the answer if they were ignored:
    prompt: Any = None
    generate: bool | None = None

    @property
    def functions(self) -> list[ResponseTool]:
        return [tool for tool in self.tools or () if isinstance(tool, ResponseTool)]

    @property
    def searches(self) -> list[FileSearchTool]:
        """Those that are to be made: none where the choice is no tool, or a function."""
        found = [tool for tool in self.tools or () if isinstance(tool, FileSearchTool)]
        choice = self.tool_choice
        forced = choice is not None and (
            choice.mode == "none" or (choice.mode == "required" and choice.names)
        )
        return [] if forced else found

    @property
    def wants_logprobs(self) -> bool:
        return "message.output_text.logprobs" in (self.include or ())

    @property
    def template_options(self) -> dict[str, Any]:
        wanted = self.reasoning or Reasoning()
        more = self.chat_template_kwargs
        return template_switches(wanted.effort, wanted.enabled, self.thinking_tokens, more)

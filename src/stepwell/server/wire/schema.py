"""What clients may send to the chat and completions routes, as pydantic models.

Field names and literals are OpenAI's (openai-python 3.54 types); ``top_k``, ``min_p``,
``repeat_penalty``, ``grammar`` and ``ignore_eos`` are llama.cpp's and vLLM's. Unknown fields are
ignored, because frameworks send extras; known ones are strict, because ``"temperature": "0.7"`` is a
bug somewhere.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

MAX_ITEMS = 65_536
"""No list in a request is longer, whatever the settings say."""
MAX_PROMPT_TOKENS = 16 * 2**20


class Schema(BaseModel):
    """Strict, forgiving of what it does not know, immutable."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True, protected_namespaces=())


# --- messages ----------------------------------------------------------------------------------

TEXT_PARTS = frozenset({"text", "input_text", "output_text", "refusal", "summary_text", "reasoning_text"})


def join_text(value: Any) -> Any:
    """Content as text: a string, or text parts joined by newlines (as vLLM and llama.cpp join them).

    Raises ``PydanticCustomError`` for images, audio and files: this server reads text.
    """
    if not isinstance(value, list):
        return value
    return "\n".join(_part_text(number, part) for number, part in enumerate(value))


def _part_text(number: int, part: Any) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if isinstance(kind, str) and kind in TEXT_PARTS:
        text = part.get("refusal" if kind == "refusal" else "text")
        if isinstance(text, str):
            return text
        raise PydanticCustomError("string_type", "Part {number} has no text", {"number": number})
    if isinstance(kind, str):
        raise PydanticCustomError(
            "unsupported_part",
            "This server reads text only, and part {number} is of type '{kind}'",
            {"number": number, "kind": kind[:64]},
        )
    raise PydanticCustomError("dict_type", "Part {number} must be an object with a type", {"number": number})


class TextPart(Schema):
    """A part of a message that is text."""

    type: Literal["text", "input_text", "output_text", "summary_text", "reasoning_text"]
    text: str


class RefusalPart(Schema):
    type: Literal["refusal"]
    refusal: str


class NamedFile(Schema):
    file_id: Annotated[str, Field(max_length=256)]


class FilePart(Schema):
    """A document of the library, put there as text. In Responses ``input_file``, with the id beside it."""

    type: Literal["file"]
    file: NamedFile


Written = str | list[TextPart | RefusalPart] | None
Content = Annotated[
    str | None,
    BeforeValidator(join_text, json_schema_input_type=str | list[TextPart | RefusalPart | FilePart] | None),
]
Joined = Annotated[str | None, BeforeValidator(join_text, json_schema_input_type=Written)]
FunctionName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


def no_arguments(value: Any) -> Any:
    """Frameworks send null for the arguments of a call that has none."""
    return "{}" if value is None else value


class FunctionCall(Schema):
    name: Annotated[str, Field(max_length=256)]
    arguments: Annotated[str, BeforeValidator(no_arguments, json_schema_input_type=str | None)] = "{}"


class ToolCall(Schema):
    id: Annotated[str, Field(max_length=256)] = ""
    type: Literal["function"] = "function"
    function: FunctionCall


class Message(Schema):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Content = None
    name: Annotated[str, Field(max_length=256)] | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=1024)] | None = None
    tool_call_id: Annotated[str, Field(max_length=256)] | None = None
    refusal: str | None = None
    # What an earlier turn thought, as this server and others send it:
    reasoning_content: Joined = None
    reasoning: Joined = None

    @model_validator(mode="after")
    def _says_something(self) -> Message:
        if self.role != "assistant" and self.content is None:
            raise PydanticCustomError("value_error", "A {role} message needs content", {"role": self.role})
        return self


# --- tools -------------------------------------------------------------------------------------


class Function(Schema):
    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Schema):
    type: Literal["function"]
    function: Function


class ToolChoice(Schema):
    """``names`` limits which tools may be called; None: all of them."""

    mode: Literal["none", "auto", "required"]
    names: tuple[str, ...] | None = None


def parse_tool_choice(value: Any) -> Any:
    """Every shape that chat and Responses allow, as a ``ToolChoice``."""
    if value is None or isinstance(value, ToolChoice):
        return value
    if isinstance(value, str):
        return {"mode": value}
    if isinstance(value, dict) and value.get("type") == "function":
        return {"mode": "required", "names": (_function_name(value),)}
    if isinstance(value, dict) and value.get("type") == "allowed_tools":
        allowed = value.get("allowed_tools", value)
        tools = allowed.get("tools") if isinstance(allowed, dict) else None
        if isinstance(tools, list):
            return {"mode": allowed.get("mode"), "names": tuple(_function_name(tool) for tool in tools)}
    raise PydanticCustomError(
        "value_error",
        "Expected 'none', 'auto', 'required', a function by name, or allowed_tools",
    )


def _function_name(value: Any) -> Any:
    inner = value.get("function", value) if isinstance(value, dict) else None
    if not isinstance(inner, dict) or not isinstance(inner.get("name"), str):
        raise PydanticCustomError("value_error", "Expected an object that names a function")
    return inner["name"]


Choice = Annotated[
    ToolChoice | None,
    BeforeValidator(
        parse_tool_choice,
        json_schema_input_type=Literal["none", "auto", "required"] | dict[str, Any] | None,
    ),
]


class JsonSchema(Schema):
    name: Annotated[str, Field(max_length=256)] | None = None
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class ResponseFormat(Schema):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    """Of ``json_object``, as llama.cpp's server has it."""

    @model_validator(mode="after")
    def _has_schema(self) -> ResponseFormat:
        if self.type == "json_schema" and self.json_schema is None:
            raise PydanticCustomError("value_error", "Type json_schema needs the field json_schema")
        return self


# --- constraints -------------------------------------------------------------------------------

Choices = Annotated[list[str], Field(min_length=1, max_length=1024)]


class StructuredOutputs(Schema):
    """vLLM's field. One of these is set."""

    json_: Annotated[dict[str, Any] | str | None, Field(alias="json")] = None
    regex: str | None = None
    choice: Choices | None = None
    grammar: str | None = None
    json_object: bool | None = None
    structural_tag: Any = None


# --- sampling ----------------------------------------------------------------------------------


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


StopStrings = Annotated[
    list[Annotated[str, Field(max_length=4096)]] | None,
    Field(max_length=MAX_ITEMS),
    BeforeValidator(_as_list, json_schema_input_type=str | list[str] | None),
]
TokenId = Annotated[int, Field(ge=0, le=2**31 - 1)]
TokenKey = Annotated[str, Field(pattern=r"^[0-9]{1,9}$")]


MAX_BUDGET = 2**31 - 1


class Reasoning(Schema):
    """How an answer is thought about first, as Responses and OpenRouter have it."""

    effort: Annotated[str, Field(max_length=32)] | None = None
    summary: Annotated[str, Field(max_length=32)] | None = None
    enabled: bool | None = None
    max_tokens: Annotated[int, Field(ge=0, le=MAX_BUDGET)] | None = None


class Sampling(Schema):
    """Fields that chat and completions share."""

    model: Annotated[str, Field(min_length=1, max_length=512)]
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=2**31 - 1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    repeat_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    logit_bias: (
        Annotated[dict[TokenKey, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=1024)] | None
    ) = None
    stop: StopStrings = None
    n: Annotated[int, Field(ge=1, le=MAX_ITEMS)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    # Constraints, as OpenAI, llama.cpp's server and vLLM spell them; see ``constraints``.
    response_format: ResponseFormat | None = None
    grammar: str | None = None
    json_schema: dict[str, Any] | bool | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_choice: Choices | None = None
    guided_grammar: str | None = None
    structured_outputs: StructuredOutputs | None = None
    ignore_eos: bool | None = None
    reasoning: Reasoning | None = None
    reasoning_budget: Annotated[int, Field(ge=0, le=MAX_BUDGET)] | None = None
    """Of a chat: tokens of reasoning, after which it is ended; 0: none at all."""
    service_tier: Annotated[str, Field(max_length=64)] | None = None

    @property
    def thinking_tokens(self) -> int | None:
        named = self.reasoning.max_tokens if self.reasoning is not None else None
        return named if self.reasoning_budget is None else self.reasoning_budget


class StreamOptions(Schema):
    include_usage: bool | None = None


class Streamed(Sampling):
    """What chat and completions share about streams."""

    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @model_validator(mode="after")
    def _options_of_a_stream(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise PydanticCustomError("value_error", "'stream_options' needs 'stream': true")
        return self


def template_switches(
    effort: str | None, enabled: bool | None, thinking_tokens: int | None, more: dict[str, Any] | None
) -> dict[str, Any]:
    """The variables that the chat template gets besides the messages. An effort of ``none`` and a budget of
    nothing switch thinking off."""
    if enabled is None and (effort == "none" or thinking_tokens == 0):
        enabled = False
    named = {"enable_thinking": enabled, "reasoning_effort": effort}
    return {**{name: value for name, value in named.items() if value is not None}, **(more or {})}


class ChatRequest(Streamed):
    """``template_options``: the variables that the chat template gets besides the messages."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_ITEMS, fail_fast=True)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_ITEMS, fail_fast=True)] | None = None
    tool_choice: Choice = None
    parallel_tool_calls: bool | None = None
    # Switches of the chat template, as vLLM, SGLang and llama.cpp name them:
    chat_template_kwargs: Annotated[dict[str, Any], Field(max_length=64)] | None = None
    enable_thinking: bool | None = None
    reasoning_effort: Annotated[str, Field(max_length=32)] | None = None
    # Whether a last message of the assistant is the beginning of the answer (vLLM); it is unless one says no:
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None
    # Older or richer spellings that would change the answer if they were ignored:
    functions: Any = None
    modalities: list[str] | None = None

    @property
    def template_options(self) -> dict[str, Any]:
        wanted = self.reasoning or Reasoning()
        effort = self.reasoning_effort or wanted.effort
        enabled = wanted.enabled if self.enable_thinking is None else self.enable_thinking
        return template_switches(effort, enabled, self.thinking_tokens, self.chat_template_kwargs)

    @property
    def prefill(self) -> bool:
        return self.continue_final_message is not False and self.add_generation_prompt is not True


Prompt = str | tuple[int, ...]


def parse_prompts(value: Any) -> Any:
    """A string, strings, token ids, or lists of token ids, as a list of prompts."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not value:
        raise PydanticCustomError(
            "value_error", "Expected a non-empty string, or a list of strings or tokens"
        )
    if all(isinstance(item, str) for item in value):
        return value
    prompts = value if isinstance(value[0], list) else [value]
    return [_token_prompt(prompt) for prompt in prompts]


def _token_prompt(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not value or len(value) > MAX_PROMPT_TOKENS:
        raise PydanticCustomError("value_error", "Expected a non-empty list of token ids")
    if not all(type(token) is int and 0 <= token < 2**31 for token in value):
        raise PydanticCustomError("value_error", "Token ids are integers from 0 on, and not mixed with text")
    return tuple(value)


class CompletionRequest(Streamed):
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    """0: only the prompt is computed, as evaluation harnesses ask together with ``echo`` and ``logprobs``."""
    prompt: Annotated[
        list[Prompt],
        BeforeValidator(parse_prompts, json_schema_input_type=str | list[str] | list[int] | list[list[int]]),
    ]
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool | None = None
    suffix: str | None = None
    best_of: int | None = None

    @property
    def scores_prompt(self) -> bool:
        return bool(self.echo) and self.logprobs is not None


Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
    Field(max_length=16),
]

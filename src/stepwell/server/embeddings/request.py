"""What clients may send to ``/v1/embeddings`` and ``/v1/rerank``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from stepwell.server.wire.schema import MAX_ITEMS, Schema

ServiceTier = Annotated[str, Field(max_length=64)] | None


def as_inputs(value: Any) -> Any:
    """A text, the tokens of one, or a list of either: as a list."""
    if isinstance(value, str) or (isinstance(value, list) and value and all(map(_is_token, value))):
        return [value]
    return value


def _is_token(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def as_text(value: Any) -> Any:
    """A document is a text, or an object with one."""
    if isinstance(value, dict):
        if not isinstance(value.get("text"), str):
            raise PydanticCustomError("string_type", "A document must be a text or an object with a text")
        return value["text"]
    return value


class DocumentObject(Schema):
    text: str


Tokens = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, max_length=MAX_ITEMS)]
OneInput = Annotated[str, Field(min_length=1)] | Tokens
Document = Annotated[
    str, BeforeValidator(as_text, json_schema_input_type=str | DocumentObject), Field(min_length=1)
]


class EmbeddingsRequest(Schema):
    """OpenAI's, and ``truncate_prompt_tokens`` of vLLM."""

    model: str
    input: Annotated[
        list[OneInput],
        BeforeValidator(as_inputs, json_schema_input_type=str | list[str] | list[int] | list[list[int]]),
        Field(min_length=1, max_length=MAX_ITEMS),
    ]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1)] | None = None
    truncate_prompt_tokens: Annotated[int, Field(ge=1)] | None = None
    service_tier: ServiceTier = None


class RerankRequest(Schema):
    model: str
    query: Annotated[str, Field(min_length=1)]
    documents: Annotated[list[Document], Field(min_length=1, max_length=MAX_ITEMS)]
    top_n: Annotated[int, Field(ge=1)] | None = None
    return_documents: bool = False
    service_tier: ServiceTier = None

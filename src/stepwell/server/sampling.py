"""From request fields to ``SamplingParams``, and what may constrain an answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stepwell.engines.base import SamplingParams
from stepwell.server.errors import bad_request, unsupported
from stepwell.server.schema import ResponseFormat, Sampling
from stepwell.server.settings import ServerSettings

SEEDS = 2**32 - 1
"""llama.cpp seeds are 32 bits wide and the last one means 'random'."""


SMALLEST_TOP_P = 1e-6
"""OpenAI allows 0, where only the likeliest token is left; samplers want a share."""


@dataclass(frozen=True, slots=True)
class Constraint:
    """What the answer must look like. At most one of the two is set."""

    json_schema: str | None = None
    grammar: str | None = None


FREE = Constraint()
ANY_OBJECT = Constraint(json_schema="{}")


def constraint_of(
    response_format: ResponseFormat | None, grammar: str | None, settings: ServerSettings
) -> Constraint:
    """The constraint that the request asks for. Raises ``ApiError``."""
    structured = response_format is not None and response_format.type != "text"
    if grammar is not None and structured:
        raise bad_request("Give either grammar or response_format, not both.", param="grammar")
    if grammar is not None:
        if len(grammar.encode()) > settings.max_grammar_bytes:
            raise bad_request(
                f"The grammar is longer than {settings.max_grammar_bytes} bytes.", param="grammar"
            )
        return Constraint(grammar=grammar)
    if not structured or response_format is None:
        return FREE
    if response_format.json_schema is None or response_format.json_schema.schema_ is None:
        return ANY_OBJECT
    return json_constraint(response_format.json_schema.schema_, "response_format", settings)


def json_constraint(schema: Mapping[str, Any], param: str, settings: ServerSettings) -> Constraint:
    """A JSON schema as text. Raises ``ApiError`` when it is too long or points elsewhere."""
    require_local_refs(schema, param)
    text = json.dumps(schema, ensure_ascii=False, separators=(",", ":"))
    if len(text.encode()) > settings.max_grammar_bytes:
        raise bad_request(f"The JSON schema is longer than {settings.max_grammar_bytes} bytes.", param=param)
    return Constraint(json_schema=text)


def require_local_refs(schema: Any, param: str) -> None:
    """Schema compilers fetch what ``$ref`` names: a client must not make the server call a URL."""
    if isinstance(schema, Mapping):
        ref = schema.get("$ref")
        if isinstance(ref, str) and not ref.startswith("#"):
            raise unsupported("A $ref in a JSON schema must point into the same schema.", param=param)
    children = schema.values() if isinstance(schema, Mapping) else schema if isinstance(schema, list) else ()
    for child in children:
        require_local_refs(child, param)


def sampling_params(request: Sampling, constraint: Constraint, logprobs: int | None) -> SamplingParams:
    """Everything that is not given takes OpenAI's default."""
    given = {name: value for name in _SAME_NAME if (value := getattr(request, name)) is not None}
    if request.top_p == 0:
        given["top_p"] = SMALLEST_TOP_P
    bias = tuple((int(token), float(value)) for token, value in (request.logit_bias or {}).items())
    return SamplingParams(
        **given,
        top_k=max(0, request.top_k or 0),
        seed=None if request.seed is None else request.seed % SEEDS,
        logit_bias=bias,
        grammar=constraint.grammar,
        json_schema=constraint.json_schema,
        logprobs=logprobs,
    )


_SAME_NAME = (
    "temperature",
    "top_p",
    "min_p",
    "frequency_penalty",
    "presence_penalty",
    "repeat_penalty",
    "ignore_eos",
)


def stop_strings(request: Sampling, settings: ServerSettings) -> tuple[str, ...]:
    """Raises ``ApiError`` when there are too many."""
    stops = tuple(dict.fromkeys(stop for stop in request.stop or () if stop))
    if len(stops) > settings.max_stop:
        raise bad_request(f"At most {settings.max_stop} stop strings are allowed.", param="stop")
    return stops


def choice_count(request: Sampling, settings: ServerSettings) -> int:
    """Raises ``ApiError`` when ``n`` is larger than allowed."""
    n = request.n or 1
    if n > settings.max_choices:
        raise bad_request(f"n is {n}, but at most {settings.max_choices} choices are allowed.", param="n")
    return n

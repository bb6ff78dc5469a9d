"""From request fields to ``SamplingParams``."""

from __future__ import annotations

from stepwell.engines.base import SamplingParams
from stepwell.server.errors import bad_request
from stepwell.server.generation.constraints import Constraint
from stepwell.server.settings import ServerSettings
from stepwell.server.wire.schema import Sampling

SEEDS = 2**32 - 1
"""llama.cpp seeds are 32 bits wide and the last one means 'random'."""


SMALLEST_TOP_P = 1e-6
"""OpenAI allows 0, where only the likeliest token is left; samplers want a share."""


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
        regex=constraint.regex,
        json_schema=constraint.json_schema,
        calls=constraint.calls,
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

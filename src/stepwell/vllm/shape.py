"""What a request for vLLM may come to, seen from outside: how many answers, and bounds of its tokens.

Nothing is tokenised here. A prompt has at most as many tokens as bytes, and what a template adds; one with
images or sound is bounded by the context. The bounds are what budgets hold until vLLM has counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stepwell.server.errors import bad_request
from stepwell.server.settings import ServerSettings
from stepwell.vllm.rewrite import encoded
from stepwell.vllm.usage import STREAM_OPTIONS

TEMPLATE_TOKENS = 1_024
BESIDE_TEXT = frozenset(
    {"image_url", "image", "video_url", "video", "input_audio", "audio_url", "input_image", "image_pil"}
)
LIMITS = ("max_completion_tokens", "max_output_tokens", "max_tokens")
DEFAULT_LIMIT = {"/v1/chat/completions": "max_completion_tokens", "/v1/responses": "max_output_tokens"}
"""Where vLLM would generate to the end of the context when a client does not say how much."""
COMPLETION_TOKENS = 16
"""vLLM's, and OpenAI's, for ``/v1/completions`` alone."""
WITH_STREAM_OPTIONS = frozenset({"/v1/chat/completions", "/v1/completions"})
MANY_TEXTS = frozenset({"/v1/embeddings", "/v1/rerank"})
"""Each of their texts may fill a context."""
COUNTS_ONLY = frozenset({"/tokenize", "/detokenize", "/v1/messages/count_tokens"})


@dataclass(frozen=True, slots=True)
class RequestShape:
    """Bounds over all prompts and choices."""

    data: bytes
    """The body as it goes on."""
    prompt_tokens: int
    new_tokens: int
    choices: int
    """Of each prompt."""
    answers: int
    """In all."""
    generates: bool
    """False: it only counts, or only cuts a text into tokens."""
    tells_usage: bool
    """The client wants usage at the end of its stream."""


def shape_of(path: str, body: dict[str, Any], context_tokens: int, settings: ServerSettings) -> RequestShape:
    """``body`` is changed: vLLM tells usage as it goes, stores nothing, has a limit. Raises ``ApiError``."""
    _refuse_state(path, body)
    choices, prompts = _choices(body, settings), _prompts(body, settings)
    options = body.get("stream_options") if isinstance(body.get("stream_options"), dict) else {}
    assert isinstance(options, dict)
    if body.get("stream") is True and path in WITH_STREAM_OPTIONS:
        body["stream_options"] = {**options, **STREAM_OPTIONS}
    new_tokens = min(_limit(path, body, settings), context_tokens)
    data = encoded(body)
    prompt_tokens = len(data) + TEMPLATE_TOKENS
    if path not in MANY_TEXTS:
        prompt_tokens = context_tokens if _beyond_text(body) else min(context_tokens, prompt_tokens)
    generates = path not in COUNTS_ONLY
    return RequestShape(
        data,
        prompt_tokens * prompts if generates else 0,
        new_tokens * prompts * choices if generates else 0,
        choices,
        prompts * choices,
        generates,
        options.get("include_usage") is True,
    )


def _limit(path: str, body: dict[str, Any], settings: ServerSettings) -> int:
    """Where several are said, vLLM takes one of them: the largest is a bound."""
    said = [value for name in LIMITS if isinstance(value := body.get(name), int) and value > 0]
    if said:
        return max(said)
    name = DEFAULT_LIMIT.get(path)
    if name is None:
        return COMPLETION_TOKENS
    body[name] = settings.default_max_new_tokens
    return settings.default_max_new_tokens


def _refuse_state(path: str, body: dict[str, Any]) -> None:
    """vLLM would give what it stores to every tenant that knows its id."""
    if path != "/v1/responses":
        return
    for name in ("previous_response_id", "conversation", "background"):
        if body.get(name) is not None and body[name] is not False:
            raise bad_request(
                f"Responses are not stored here: send the whole input, without '{name}'.", param=name
            )
    body["store"] = False


def _prompts(body: dict[str, Any], settings: ServerSettings) -> int:
    prompt = body.get("prompt")
    count = 1
    if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
        count = len(prompt)
    if count > settings.max_prompts:
        raise bad_request(f"At most {settings.max_prompts} prompts in one request.", param="prompt")
    return count


def _choices(body: dict[str, Any], settings: ServerSettings) -> int:
    value = body.get("n")
    if not isinstance(value, int) or value < 1:
        return 1  # or vLLM says what is wrong with it
    if value > settings.max_choices:
        raise bad_request(f"'n' is at most {settings.max_choices}.", param="n")
    return value


def _beyond_text(body: dict[str, Any]) -> bool:
    said = _list(body.get("messages")) + _list(body.get("input"))
    parts = (part for message in said for part in _parts(message))
    kinds = (part.get("type") for part in parts if isinstance(part, dict))
    return any(isinstance(kind, str) and kind in BESIDE_TEXT for kind in kinds)


def _parts(message: Any) -> list[Any]:
    return _list(message.get("content")) if isinstance(message, dict) else []


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []

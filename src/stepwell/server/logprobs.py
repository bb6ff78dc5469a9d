"""Log probabilities in the three shapes that OpenAI's routes use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stepwell.engines.base import TextModel
from stepwell.requests import TokenInfo

NEVER = -9999.0
"""OpenAI's value for 'practically impossible'; JSON has no minus infinity."""


def chat_logprobs(tokens: Sequence[TokenInfo], text_model: TextModel) -> dict[str, Any]:
    """``choices[].logprobs`` of chat."""
    return {"content": token_logprobs(tokens, text_model), "refusal": None}


def token_logprobs(tokens: Sequence[TokenInfo], text_model: TextModel) -> list[dict[str, Any]]:
    """A list of tokens with their alternatives, as chat and Responses have it."""
    return [
        {
            **_entry(info.token, info.logprob, text_model),
            "top_logprobs": [_entry(token, logprob, text_model) for token, logprob in info.top],
        }
        for info in tokens
    ]


def _entry(token: int, logprob: float | None, text_model: TextModel) -> dict[str, Any]:
    data = text_model.token_bytes(token)
    return {"token": _text(data), "logprob": finite(logprob), "bytes": list(data)}


def completion_logprobs(
    tokens: Sequence[TokenInfo], text_model: TextModel, offset: int, top: int
) -> dict[str, Any]:
    """``choices[].logprobs`` of completions. ``offset`` is where the first token begins in the text."""
    texts = [_text(text_model.token_bytes(info.token)) for info in tokens]
    offsets = []
    for text in texts:
        offsets.append(offset)
        offset += len(text)
    return {
        "tokens": texts,
        "token_logprobs": [finite(info.logprob) for info in tokens],
        "top_logprobs": [_alternatives(info, text_model) for info in tokens] if top else None,
        "text_offset": offsets,
    }


def _alternatives(info: TokenInfo, text_model: TextModel) -> dict[str, float]:
    return {_text(text_model.token_bytes(token)): finite(logprob) for token, logprob in info.top}


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def finite(logprob: float | None) -> float:
    return NEVER if logprob is None else max(logprob, NEVER)

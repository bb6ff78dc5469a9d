"""Log probabilities in the three shapes that OpenAI's routes use."""

from __future__ import annotations

import codecs
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stepwell.engines.base import TextModel
from stepwell.loop.requests import TokenInfo

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


class TextOffsets:
    """Where tokens begin in a text that arrives token by token, in characters. A token that holds only a part
    of a character begins where the character does; so no offset is ever past the end of the text."""

    def __init__(self, prompt: str = "") -> None:
        """``prompt``: the text that the first tokens stand for, where there is one. Tokenizers that put a
        space before a text say so in its first token, and in no character of the text."""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._prompt = prompt
        self.chars = 0
        """Of all tokens so far."""

    def next(self, data: bytes) -> int:
        """The offset of a token with these bytes."""
        begins = self.chars
        text = self._decoder.decode(data)
        if text and self._prompt:
            if text.startswith(" ") and not self._prompt.startswith(" "):
                text = text[1:]
            self._prompt = ""
        self.chars += len(text)
        return begins


@dataclass(frozen=True, slots=True)
class PlacedToken:
    """A token and where in the text it begins."""

    info: TokenInfo
    data: bytes
    offset: int


def placed(tokens: Sequence[TokenInfo], text_model: TextModel, offsets: TextOffsets) -> list[PlacedToken]:
    found = []
    for info in tokens:
        data = text_model.token_bytes(info.token)
        found.append(PlacedToken(info, data, offsets.next(data)))
    return found


def shown(tokens: Sequence[PlacedToken], offsets: TextOffsets, text_chars: int) -> list[PlacedToken]:
    """Those of a text that ended with so many characters: what belongs to a stop text is no part of it."""
    whole = offsets.chars <= text_chars
    return [one for one in tokens if whole or one.offset < text_chars]


def completion_logprobs(tokens: Sequence[PlacedToken], text_model: TextModel, top: int) -> dict[str, Any]:
    """``choices[].logprobs`` of completions. The first token of a scored prompt has none: null."""
    infos = [one.info for one in tokens]
    return {
        "tokens": [_name(one.data) for one in tokens],
        "token_logprobs": [None if info.logprob is None else finite(info.logprob) for info in infos],
        "top_logprobs": [_alternatives(info, text_model) for info in infos] if top else None,
        "text_offset": [one.offset for one in tokens],
    }


def _alternatives(info: TokenInfo, text_model: TextModel) -> dict[str, float] | None:
    """Of two tokens with the same bytes the likelier one. The token itself is there too, as OpenAI has it,
    also where it is none of the likeliest."""
    if info.logprob is None:
        return None
    found: dict[str, float] = {}
    for token, logprob in (*info.top, (info.token, info.logprob)):
        name, value = _name(text_model.token_bytes(token)), finite(logprob)
        found[name] = max(value, found.get(name, value))
    return found


def _name(data: bytes) -> str:
    """A token as a key: its text, or OpenAI's ``bytes:\\xe2\\x82`` for one that is a part of a character, so
    that two such tokens stay two."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def finite(logprob: float | None) -> float:
    """JSON has neither infinities nor NaN."""
    if logprob is None or not math.isfinite(logprob):
        return NEVER
    return max(logprob, NEVER)

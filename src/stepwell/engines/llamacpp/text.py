"""The text side of a model: tokens, bytes and characters. Needs the vocabulary only, so any thread."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Any

from stepwell.engines.base import RenderedChat
from stepwell.engines.llamacpp.chat import ChatTemplate, PlainChat
from stepwell.engines.llamacpp.native import NativeModel
from stepwell.engines.llamacpp.tools import parse_tool_calls


class LlamaCppText:
    """See ``TextModel``."""

    def __init__(self, model: NativeModel, name: str, context_tokens: int) -> None:
        self.name = name
        self.context_tokens = context_tokens
        self._model = model
        self._bos = self._special_text(model.bos())
        template = model.chat_template()
        self.has_chat_template = template is not None
        self._chat = (
            ChatTemplate(template, self._bos, self._special_text(model.eos()))
            if template is not None
            else PlainChat()
        )

    def _special_text(self, token: int) -> str:
        return self._model.piece(token, special=True).decode("utf-8", "replace") if token >= 0 else ""

    def tokenize(self, text: str, *, add_bos: bool, parse_special: bool) -> list[int]:
        # Many templates write the BOS token themselves; two of them confuse small models.
        doubled = parse_special and bool(self._bos) and text.startswith(self._bos)
        data = text.encode("utf-8", "replace")
        return self._model.tokenize(data, add_special=add_bos and not doubled, parse_special=parse_special)

    def token_bytes(self, token: int) -> bytes:
        return self._model.piece(token, special=True)

    def detokenizer(self) -> ByteDetokenizer:
        return ByteDetokenizer(self._model)

    def is_end(self, token: int) -> bool:
        return self._model.is_end(token)

    def end_tokens(self) -> Sequence[int]:
        named = (self._model.eos(), self._model.eot())
        return tuple(dict.fromkeys(token for token in named if token >= 0))

    def render_chat(
        self,
        messages: Sequence[dict[str, Any]],
        tools: Sequence[dict[str, Any]] | None = None,
        *,
        add_generation_prompt: bool = True,
    ) -> RenderedChat:
        return self._chat.render(messages, tools, add_generation_prompt=add_generation_prompt)

    def parse_tool_calls(self, text: str) -> tuple[str, list[dict[str, Any]]]:
        return parse_tool_calls(text)


class ByteDetokenizer:
    """Holds bytes back until they are a whole character. Control tokens have no text."""

    def __init__(self, model: NativeModel) -> None:
        self._model = model
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, token: int) -> str:
        return self._decoder.decode(self._model.piece(token, special=False))

    def flush(self) -> str:
        return self._decoder.decode(b"", final=True)

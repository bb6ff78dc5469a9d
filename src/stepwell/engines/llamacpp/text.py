"""The text side of a model: tokens, bytes and characters. Needs the vocabulary only, so any thread."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from stepwell.engines.base import AnswerReader, CallSyntax, RenderedChat, Span
from stepwell.engines.llamacpp.chat import ChatTemplate, PlainChat
from stepwell.engines.llamacpp.chat.call_syntax import call_syntax
from stepwell.engines.llamacpp.chat.formats import ALL_MARKS
from stepwell.engines.llamacpp.chat.json_reader import JsonReader
from stepwell.engines.llamacpp.chat.marks import ControlMarks
from stepwell.engines.llamacpp.chat.reader import MarkReader
from stepwell.engines.llamacpp.native import NativeModel


class LlamaCppText:
    """See ``TextModel``."""

    def __init__(self, model: NativeModel, name: str, context_tokens: int) -> None:
        self.name = name
        self.context_tokens = context_tokens
        self._model = model
        self._bos = self._special_text(model.bos())
        template = model.chat_template()
        self.has_chat_template = template is not None
        self._template = template or ""
        controls = model.controls()
        self._ends = [text for token, text in controls.items() if model.is_end(token)]
        self._marks = {token: text for token, text in controls.items() if text in ALL_MARKS}
        marks = ControlMarks(controls.values(), self._template)
        self._chat = (
            ChatTemplate(template, self._bos, self._special_text(model.eos()), marks)
            if template is not None
            else PlainChat(marks)
        )
        self._anchor = self._plain("\n")
        self._adds_space = model.piece(self._plain("a")[0], special=False).startswith(b" ")

    def _special_text(self, token: int) -> str:
        return self._model.piece(token, special=True).decode("utf-8", "replace") if token >= 0 else ""

    def tokenize(self, text: str, *, add_bos: bool, parse_special: bool) -> list[int]:
        # Many templates write the BOS token themselves; two of them confuse small models.
        doubled = parse_special and bool(self._bos) and text.startswith(self._bos)
        data = text.encode("utf-8", "replace")
        return self._model.tokenize(data, add_special=add_bos and not doubled, parse_special=parse_special)

    def tokenize_chat(self, rendered: RenderedChat) -> list[int]:
        if not rendered.literal:
            return self.tokenize(rendered.text, add_bos=True, parse_special=True)
        tokens: list[int] = []
        for start, end, special in _pieces(len(rendered.text), rendered.literal):
            piece = rendered.text[start:end]
            if start == 0 and special:
                tokens += self.tokenize(piece, add_bos=True, parse_special=True)
            elif start == 0:
                tokens += [*self.tokenize("", add_bos=True, parse_special=True), *self._plain(piece)]
            else:
                tokens += self._continued(piece, special)
        return tokens

    def _plain(self, text: str, special: bool = False) -> list[int]:
        return self._model.tokenize(text.encode("utf-8", "replace"), add_special=False, parse_special=special)

    def _continued(self, text: str, special: bool) -> list[int]:
        """Tokens of a piece in the middle of a text. Some vocabularies put a space before every text."""
        if self._adds_space:
            tokens = self._plain("\n" + text, special)
            if tokens[: len(self._anchor)] == self._anchor:
                return tokens[len(self._anchor) :]
        return self._plain(text, special)

    def token_bytes(self, token: int) -> bytes:
        return self._model.piece(token, special=True)

    def detokenizer(self, marks: bool = False) -> ByteDetokenizer:
        return ByteDetokenizer(self._model, self._marks if marks else {})

    def reader(
        self,
        functions: Mapping[str, Mapping[str, Any]],
        opening: str = "",
        *,
        constrained: bool = False,
    ) -> AnswerReader:
        if constrained:
            return JsonReader(functions)
        return MarkReader(functions, self._template, opening, calls=bool(functions))

    def call_syntax(self) -> CallSyntax | None:
        return self._call_syntax

    @cached_property
    def _call_syntax(self) -> CallSyntax | None:
        return call_syntax(self._chat.render, self._template, self._ends) if self._template else None

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
        options: Mapping[str, Any] | None = None,
    ) -> RenderedChat:
        return self._chat.render(
            messages, tools, add_generation_prompt=add_generation_prompt, options=options
        )


def _pieces(length: int, literal: Sequence[Span]) -> Iterator[tuple[int, int, bool]]:
    """(start, end, whether special tokens are read there) of a text, one after the other."""
    at = 0
    for start, end in literal:
        if at < start:
            yield at, start, True
        yield start, end, False
        at = end
    if at < length:
        yield at, length, True


class ByteDetokenizer:
    """Holds bytes back until they are a whole character. Control tokens have no text, except ``marks``."""

    def __init__(self, model: NativeModel, marks: Mapping[int, str] | None = None) -> None:
        self._model = model
        self._marks = marks or {}
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, token: int) -> str:
        piece = self._model.piece(token, special=token in self._marks)
        return self._decoder.decode(piece)

    def flush(self) -> str:
        return self._decoder.decode(b"", final=True)

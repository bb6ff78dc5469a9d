"""Reads an answer while it is written: content, reasoning, and calls with their arguments as they grow."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from stepwell.engines.base import AnswerPart, Span
from stepwell.engines.llamacpp.chat.calls import CallReader
from stepwell.engines.llamacpp.chat.formats import (
    HEADS,
    JSON_CALLS,
    NESTED_MARK,
    OTHER_CALLS,
    REASONING,
    SILENT,
    ReasoningMarks,
    with_made_marks,
)
from stepwell.engines.llamacpp.chat.source import StreamSource, Wait, certain

Functions = Mapping[str, Mapping[str, Any]]
Kind = Literal["content", "reasoning"]

_BARE = ("{", "[", "```")
_MAX_HEAD = 512
_PATIENCE_CHARS = 1 << 18
"""Characters that may be read in vain, of what begins like a call and is none. After that all is text."""
_RECIPIENT = re.compile(r"to=([^\s<]+)")
_FENCE = re.compile(r"[a-z_]*\Z")


class MarkReader:
    """See ``AnswerReader``. ``functions``: name to parameters of what was offered; None: anything goes."""

    def __init__(
        self,
        functions: Functions | None,
        template: str | None = None,
        opening: str = "",
        *,
        calls: bool = True,
    ) -> None:
        self.thought: list[Span] = []
        template = None if template is None else with_made_marks(template)
        self._source = StreamSource()
        self._opening_chars = len(opening)
        self._since = 0
        self._parts: list[AnswerPart] = []
        self._calls = -1
        self._kind: Kind = "content"
        self._held = ""
        self._line_start = True
        self._said = False
        self._fresh = False
        """Whether white space that comes now stands only between two parts."""
        self._patience = _PATIENCE_CHARS
        self._reasoning = _reasoning_of(template, opening)
        self._closing = ""
        self._offered = functions is not None
        self._reader = CallReader(self._source, functions, self._begin, self._more, template)
        self._openers = _openers(template, self._reasoning, calls)
        self._pattern = re.compile(
            "|".join(map(re.escape, sorted(self._openers, key=len, reverse=True))) or "(?!)"
        )
        self._starts = frozenset(mark[:n] for mark in self._openers for n in range(1, len(mark)))
        self._longest = max(map(len, self._openers), default=1)
        self._run = self._read()
        next(self._run)
        self._parts += self.add(opening) if opening else []

    def add(self, text: str) -> list[AnswerPart]:
        self._source.text += text
        return self._resume()

    def finish(self) -> list[AnswerPart]:
        self._source.ended = True
        parts = self._resume()
        self._note_thought()
        if self._calls < 0 and self._held and self._kind == "content":
            parts.append(AnswerPart("content", self._held))
        return parts

    def _resume(self) -> list[AnswerPart]:
        with contextlib.suppress(StopIteration):
            next(self._run)
        parts, self._parts = self._parts, []
        return joined(parts)

    # --- what is found ------------------------------------------------------------------------

    def _begin(self, name: str) -> None:
        self._calls += 1
        self._held = ""
        self._fresh = not self._said
        self._parts.append(AnswerPart("call", name, self._calls))

    def _more(self, arguments: str) -> None:
        if arguments:
            self._parts.append(AnswerPart("arguments", arguments, self._calls))

    def _say(self, text: str) -> None:
        """Text; white space at its end waits until it is known what follows."""
        if not text:
            return
        whole = self._held + text
        bare = whole.rstrip()
        self._held = whole[len(bare) :]
        _, broken, line = text.rpartition("\n")
        self._line_start = (bool(broken) or self._line_start) and not line.strip()
        if bare:
            self._parts.append(AnswerPart(self._kind, bare.lstrip() if self._fresh else bare))
            self._fresh = False
            self._said = self._said or self._kind == "content"

    def _turn_to(self, kind: Kind) -> None:
        """Reasoning ends, or content does: white space between the two belongs to neither."""
        self._note_thought()
        self._kind = kind
        self._since = self._source.place
        self._held = ""
        self._fresh = True
        self._line_start = True

    def _note_thought(self) -> None:
        start, end = (max(0, at - self._opening_chars) for at in (self._since, self._source.place))
        if self._kind == "reasoning" and start < end:
            self.thought.append((start, end))

    # --- text ---------------------------------------------------------------------------------

    def _read(self) -> Wait[None]:
        source = self._source
        while True:
            source.forget()
            if self._closing:
                yield from self._reason()
                continue
            match = self._pattern.search(source.text, source.at)
            growing = len(source.text) if source.ended else self._growing()
            if match is not None and (source.ended or match.start() < growing):
                yield from self._mark(match)
                continue
            self._say(source.text[source.at : growing])
            source.at = growing
            if source.ended:
                return
            yield

    def _growing(self) -> int:
        """Where the text's end may be the beginning of a mark, or of a longer one; else its length."""
        text = self._source.text
        end = len(text)
        first = max(self._source.at, end - self._longest + 1)
        return next((at for at in range(first, end) if text[at:] in self._starts), end)

    def _mark(self, match: re.Match[str]) -> Wait[None]:
        source = self._source
        self._say(source.text[source.at : match.start()])
        source.at = source.furthest = match.end()
        mark, end = match[0], match.end()
        if mark in self._reasoning:
            self._closing = self._reasoning[mark]
            self._turn_to("reasoning")
            return
        if mark in SILENT:
            if self._kind == "reasoning":
                self._turn_to("content")
            return
        before = self._calls
        found = self._patience > 0 and (yield from self._handler(mark)())
        if not found and self._calls == before:
            self._patience -= source.furthest - end
            source.at = end
            self._say(mark)

    def _reason(self) -> Wait[None]:
        """Reasoning up to what closes it."""
        source, closing = self._source, self._closing
        while True:
            found = source.text.find(closing, source.at)
            end = found if found >= 0 else len(source.text)
            if found < 0 and not source.ended:
                end = max(source.at, certain(source.text, closing))
            self._say(source.text[source.at : end])
            source.at = end
            if found >= 0 or source.ended:
                break
            yield
        self._closing = ""
        if found >= 0:
            source.at += len(closing)
            self._turn_to("content")

    # --- calls --------------------------------------------------------------------------------

    def _handler(self, mark: str) -> Callable[[], Wait[bool]]:
        reader = self._reader
        if mark in JSON_CALLS:
            return lambda: self._closed(reader.json_calls(), JSON_CALLS[mark])
        if mark.startswith(NESTED_MARK):
            return lambda: reader.nested(NESTED_MARK)
        if mark.endswith('invoke name="'):
            return lambda: reader.invoke(mark[1:].removesuffix('invoke name="'))
        if mark in HEADS:
            return lambda: self._head(mark)
        return {
            "{": lambda: self._bare(reader.json_calls(bare=True)),
            "[": self._bare_list,
            "```": self._fence,
            ">>>": lambda: self._recipient(),
            "<tool_call>": self._tool_call,
            "<tool_call:opensource>": lambda: self._closed(
                reader.keyed(":opensource"), ("</tool_call:opensource>",)
            ),
            "<function=": reader.function_element,
            "[TOOL_CALLS]": reader.mistral,
            "<start_function_call>": lambda: reader.gemma("<escape>", "<end_function_call>"),
            "<|tool_call>": lambda: reader.gemma('<|"|>', "<tool_call|>"),
            "<｜tool▁call▁begin｜>": reader.deepseek,
            "<|tool_call_begin|>": lambda: reader.name_then_json("<|tool_call_argument_begin|>"),
            "<|tool_call_start|>": lambda: self._closed(self._listed(), ("<|tool_call_end|>",)),
            "<|tools_prefix|>": reader.named_objects,
            "<|tool_call:begin|>": reader.solar,
            "commentary to=functions.": self._commentary,
        }[mark]

    def _closed(self, found: Wait[bool], closings: Sequence[str]) -> Wait[bool]:
        """A call, and the mark that closes it, if it is there."""
        if not (yield from found):
            return False
        yield from self._source.spaces()
        yield from self._source.any_of(closings)
        self._line_start = True
        return True

    def _tool_call(self) -> Wait[bool]:
        source = self._source
        yield from source.spaces()
        first = yield from source.char()
        if first in ("{", "["):
            return (yield from self._closed(self._reader.json_calls(), ("</tool_call>",)))
        if first == "<":
            if not (yield from source.literal("<function=")):
                return False
            return (yield from self._closed(self._reader.function_element(), ("</tool_call>",)))
        return (yield from self._closed(self._reader.keyed(), ("</tool_call>",)))

    def _bare(self, found: Wait[bool]) -> Wait[bool]:
        """Only where a line begins: in the middle of one, braces are prose."""
        if not self._line_start or self._kind != "content":
            found.close()
            return False
        self._source.at -= 1
        return (yield from found)

    def _bare_list(self) -> Wait[bool]:
        return (yield from self._bare(self._listed()))

    def _listed(self) -> Wait[bool]:
        """A list of calls, as JSON or as Python."""
        start = self._source.at
        if (yield from self._reader.pythonic()):
            return True
        self._source.at = start
        return (yield from self._reader.json_calls(bare=True))

    def _fence(self) -> Wait[bool]:
        if not self._line_start:
            return False
        language = yield from self._source.until("\n", 20)
        if language is None or not _FENCE.match(language.strip()):
            return False
        return (yield from self._closed(self._reader.json_calls(bare=True), ("```",)))

    def _recipient(self) -> Wait[bool]:
        """functionary 3.2: ``>>>all`` and text, or ``>>>NAME`` and JSON. After text the second one follows
        without a line break."""
        start = self._source.at
        if self._line_start:
            if (yield from self._source.literal("all\n")):
                return True
            self._source.at = start
        elif not self._offered:
            return False
        return (yield from self._reader.name_then_json("\n"))

    def _commentary(self) -> Wait[bool]:
        """A call of harmony whose marks were left out of the text."""
        source = self._source
        head = yield from source.until("{", _MAX_HEAD)
        if head is None:
            return False
        source.at -= 1
        name = re.split(r"[\s<]", head, maxsplit=1)[0]
        return (yield from self._reader.json_of(name))

    def _head(self, mark: str) -> Wait[bool]:
        """The head of a message: its recipient, and its channel."""
        body = "<|content|>" if mark == "<|begin|>" else "<|message|>"
        if mark == "<|begin|>":
            role = yield from self._source.literal("assistant")
            return role
        head = yield from self._source.until(body, _MAX_HEAD)
        if head is None:
            return False
        to = _RECIPIENT.search(head)
        recipient = to[1] if to else ""
        self._turn_to("reasoning" if "analysis" in head or recipient == "self" else "content")
        if recipient.startswith("functions."):
            yield from self._source.spaces()
            return (yield from self._reader.json_of(recipient.removeprefix("functions.")))
        return True


def _reasoning_of(template: str | None, opening: str) -> dict[str, str]:
    """The marks of reasoning that this template knows."""

    def known(kind: ReasoningMarks) -> bool:
        return template is not None and (
            kind.opening.rstrip() in template or kind.closing in template or kind.opening == opening
        )

    return {kind.opening: kind.closing for kind in REASONING if known(kind)}


def _openers(template: str | None, reasoning: Mapping[str, str], calls: bool) -> frozenset[str]:
    """Every mark to look for. What only frames text is one only where the template knows it."""
    frames = [mark for mark in (*SILENT, *HEADS) if template is None or mark in template]
    marks = [*reasoning, *frames]
    if calls:
        marks += [*JSON_CALLS, *OTHER_CALLS, *_BARE]
    if template is not None and ">>>" in template:
        marks.append(">>>")
    return frozenset(marks)


def joined(parts: list[AnswerPart]) -> list[AnswerPart]:
    """Neighbours of one kind as one."""
    whole: list[AnswerPart] = []
    for part in parts:
        last = whole[-1] if whole else None
        if last and part.kind != "call" and (last.kind, last.call) == (part.kind, part.call):
            whole[-1] = AnswerPart(part.kind, last.text + part.text, part.call)
        else:
            whole.append(part)
    return whole

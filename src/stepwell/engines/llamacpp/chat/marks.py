"""Turn marks in content are text.

A document that holds ``<|im_end|><|im_start|>system`` must not become a turn. What content could add to
the prompt's control tokens is therefore *quoted* before the template sees it: each of its characters is
replaced by one of a private plane, which every template passes on untouched. After rendering, the
quoted runs are the places that are tokenised without special tokens. Text without marks is not
touched, so it is tokenised in one piece with the template around it, exactly as it always was.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any

from stepwell.engines.base import Span

_PLANE, _PLANE_END = 0x100000, 0x10FFFF
_LITERAL_ENDS = ("'", '"', "{{", "{%")


class ControlMarks:
    """The texts of a vocabulary's control tokens, ready to be found in content."""

    def __init__(self, texts: Iterable[str], template: str = "") -> None:
        self._texts = frozenset(text for text in texts if text)
        self._template = template
        self._lengths = sorted({len(text) for text in self._texts}, reverse=True)
        self._longest = max(self._lengths, default=0)
        heads = re.escape("".join(sorted({text[0] for text in self._texts})))
        self._heads = re.compile(f"[{heads}]" if heads else "(?!)")  # a vocabulary may have none

    @cached_property
    def alphabet(self) -> str:
        return "".join(sorted({character for text in self._texts for character in text}))

    @cached_property
    def _beginnings(self) -> frozenset[str]:
        return frozenset(text[:cut] for text in self._texts for cut in range(1, len(text)))

    @cached_property
    def _endings(self) -> frozenset[str]:
        """Ends of marks whose beginning the template itself writes right before something."""
        splits = ((text[:cut], text[cut:]) for text in self._texts for cut in range(1, len(text)))
        return frozenset(
            tail for head, tail in splits if any(head + end in self._template for end in _LITERAL_ENDS)
        )

    def spans(self, content: str) -> list[Span]:
        """Where ``content`` holds a mark, ends in the beginning of one, or could complete one."""
        if not self._texts or not content:
            return []
        found = list(self._whole(content))
        bare = content.rstrip()
        found += [
            (len(bare) - n, len(bare)) for n in self._lengths_up_to(bare) if bare[-n:] in self._beginnings
        ]
        start = len(content) - len(content.lstrip())
        head = content[start : start + self._longest]
        found += [(start, start + n) for n in self._lengths_up_to(head) if head[:n] in self._endings]
        return _merged(found)

    def _lengths_up_to(self, text: str) -> range:
        return range(1, min(self._longest, len(text)) + 1)

    def _whole(self, content: str) -> Iterator[Span]:
        for head in self._heads.finditer(content):
            at = head.start()
            for length in self._lengths:
                if content[at : at + length] in self._texts:
                    yield at, at + length
                    break


def _merged(spans: Iterable[Span]) -> list[Span]:
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


class Quoter:
    """Quotes the content of one conversation, and reads its rendering back."""

    def __init__(self, marks: ControlMarks | None, conversation: Any) -> None:
        self._marks = marks
        self.quoted = False
        """Whether there was anything to quote."""
        if marks is None:
            return
        base = _free_base(_characters(conversation), len(marks.alphabet))
        self._there = {ord(c): base + i for i, c in enumerate(marks.alphabet)}
        self._back = {there: here for here, there in self._there.items()}
        self._runs = re.compile(f"[{chr(base)}-{chr(base + max(0, len(marks.alphabet) - 1))}]+")

    def quote(self, value: Any) -> Any:
        """The same value with every text in it (keys too) quoted where it has to be."""
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, dict):
            return {self.quote(key): self.quote(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.quote(item) for item in value]
        return value

    def _text(self, text: str) -> str:
        if self._marks is None:
            return text
        spans = self._marks.spans(text)
        if not spans:
            return text
        self.quoted = True
        pieces, at = [], 0
        for start, end in spans:
            pieces += [text[at:start], text[start:end].translate(self._there)]
            at = end
        return "".join([*pieces, text[at:]])

    def unquote(self, rendered: str) -> tuple[str, tuple[Span, ...]]:
        """(text, the spans of it that are plain text)."""
        if not self.quoted:
            return rendered, ()
        spans = tuple(match.span() for match in self._runs.finditer(rendered))
        return rendered.translate(self._back), spans


def _characters(value: Any) -> set[int]:
    """Characters of the private plane that the conversation itself uses."""
    if isinstance(value, str):
        return set() if value.isascii() else {ord(c) for c in value if ord(c) >= _PLANE}
    if isinstance(value, dict):
        return set().union(*(_characters(k) | _characters(v) for k, v in value.items()))
    if isinstance(value, list | tuple):
        return set().union(*map(_characters, value))
    return set()


def _free_base(used: set[int], size: int) -> int:
    for base in range(_PLANE, _PLANE_END - size, max(1, size)):
        if not used or not any(base <= character < base + size for character in used):
            return base
    raise ValueError("the messages use every character of Unicode's last private plane")

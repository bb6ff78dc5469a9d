"""Text that is still being written, for parsers that wait for more of it.

Parsers here are generators: they ``yield`` when what they have does not decide what comes next, and are
resumed when there is more. Since nothing is decided on how much has arrived, an answer is read alike
in one piece and letter by letter.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TypeVar

T = TypeVar("T")
Wait = Generator[None, None, T]


class StreamSource:
    """What has arrived, how far it was read, and whether it is all."""

    def __init__(self) -> None:
        self.text = ""
        self.at = 0
        self.furthest = 0
        """How far a parser has looked, whether or not it kept what it saw."""
        self.ended = False
        self.forgotten = 0
        """Characters that were dropped from the front of ``text``."""

    @property
    def place(self) -> int:
        """How far it was read, counted from the first character that ever came."""
        return self.forgotten + self.at

    def forget(self) -> None:
        """Drop what was read once it is the larger half, so that long answers do not grow the work."""
        if 2 * self.at > len(self.text):
            self.forgotten += self.at
            self.text, self.furthest, self.at = self.text[self.at :], self.furthest - self.at, 0

    def char(self) -> Wait[str]:
        """The next character without reading it; empty at the end."""
        while self.at >= len(self.text):
            if self.ended:
                return ""
            yield
        self.furthest = max(self.furthest, self.at)
        return self.text[self.at]

    def literal(self, wanted: str) -> Wait[bool]:
        """Read ``wanted`` if it comes next."""
        while True:
            have = self.text[self.at : self.at + len(wanted)]
            if have == wanted:
                self.at += len(wanted)
                return True
            if self.ended or not wanted.startswith(have):
                return False
            yield

    def any_of(self, wanted: Sequence[str]) -> Wait[str]:
        """Read the first of ``wanted`` that comes next; empty if none does."""
        for one in wanted:
            if (yield from self.literal(one)):
                return one
        return ""

    def spaces(self) -> Wait[None]:
        while True:
            character = yield from self.char()
            if not character or not character.isspace():
                return
            self.at += 1

    def until(self, ending: str, most: int | None = None) -> Wait[str | None]:
        """The text before ``ending``, which is read too; None if it does not come (within ``most``)."""
        start = search = self.at
        while True:
            found = self.text.find(ending, search)
            if found >= 0 and (most is None or found - start <= most):
                self.at = found + len(ending)
                return self.text[start:found]
            if found >= 0 or self.ended or (most is not None and len(self.text) - start > most + len(ending)):
                return None
            search = max(start, len(self.text) - len(ending) + 1)
            yield


def certain(text: str, mark: str) -> int:
    """Up to where ``text`` cannot be the beginning of ``mark``."""
    for length in range(min(len(mark) - 1, len(text)), 0, -1):
        if text.endswith(mark[:length]):
            return len(text) - length
    return len(text)

"""A text with a name, and how much of one is let in."""

from __future__ import annotations

import re
from dataclasses import dataclass

_HEADING = re.compile(r"^#{1,6}[ \t]+(\S.*)$", re.MULTILINE)
MAX_NAME_CHARS = 255
MIB = 2**20


@dataclass(frozen=True, slots=True)
class Limits:
    """What a document may be at most; defaults for a laptop."""

    max_bytes: int = 64 * MIB
    """Of the file as it comes."""
    max_chars: int = 4_000_000
    """Of its text."""
    max_pages: int = 2_000
    """Pages of a PDF."""
    cut: bool = False
    """Take the beginning of what is too long, and say so in ``note``, instead of refusing it."""


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Document:
    """A text with a name. ``text`` is never blank."""

    name: str
    kind: str
    """``text``, ``markdown``, ``html``, ``pdf``, ``csv`` or ``parquet``."""
    text: str
    note: str = ""
    """What a reader must know about how it was read, such as pages without text."""

    @property
    def headings(self) -> list[str]:
        """Markdown headings in order; empty for other kinds."""
        return [_bare(words) for words in _HEADING.findall(self.text)] if self.kind == "markdown" else []

    @property
    def title(self) -> str:
        """The first heading, or the name."""
        return (self.headings or [self.name])[0][:120]

    @property
    def words(self) -> int:
        return len(self.text.split())


def heading_of(line: str) -> str:
    """The words of a line that is a Markdown heading; empty: it is none."""
    found = _HEADING.fullmatch(line)
    return _bare(found[1]) if found else ""


def _bare(words: str) -> str:
    return words.rstrip(" \t#") or words


def clean_name(name: str) -> str:
    """A name to show and to keep: no folders, nothing that does not print, never empty.

    Browsers and scripts send whole paths; a name never leads anywhere here, contents lie under digests.
    """
    last = re.split(r"[/\\]", name)[-1]
    printable = " ".join("".join(c if c.isprintable() else " " for c in last).split())
    shown = printable.encode("utf-8", "replace").decode()[:MAX_NAME_CHARS].strip()
    return shown if shown.strip(".") else "document"

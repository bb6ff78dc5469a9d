"""Price books and cost books as TOML: where they are found, and a reader that names every mistake.

A book is a preset of this package (``local``, ``openai-gpt-5``, ``h100-rented`` and others) or the path of
a file. Its text is kept as it was read, so that the books of a run can be opened again years later.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal

from stepwell.errors import BadInput
from stepwell.ledger.money import exact

BookKind = Literal["price", "cost"]
MAX_BOOK_BYTES = 1 << 20
ABOUT = ("source", "as_of")
"""Keys that every book may have: where its figures come from, and from which day they are."""

_TTL = re.compile(r"(\d{1,6})([smhd])", re.ASCII)
_TTL_US = {"s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}


def parse_ttl_us(text: str) -> int:
    """Microseconds of a time to live as the APIs write it: ``30m``, ``12h``, ``5m``, ``1h``, ``1d``."""
    match = _TTL.fullmatch(text)
    if match is None or int(match[1]) == 0:
        raise ValueError(f"{text!r} is not a time to live: write it like 30m or 12h")
    return int(match[1]) * _TTL_US[match[2]]


def _presets(kind: BookKind) -> Traversable:
    return resources.files("stepwell.ledger.pricing").joinpath("presets", kind)


def preset_names(kind: BookKind) -> list[str]:
    """The books that come with Stepwell, by name."""
    return sorted(f.name.removesuffix(".toml") for f in _presets(kind).iterdir() if f.name.endswith(".toml"))


def preset_text(kind: BookKind, name: str) -> str:
    """The TOML of a preset, to read or to start a book of one's own from. ``KeyError`` when there is none."""
    if name not in preset_names(kind):
        raise KeyError(name)
    return _presets(kind).joinpath(f"{name}.toml").read_text(encoding="utf-8")


def read_book(kind: BookKind, name_or_path: str | Path) -> tuple[str, str]:
    """The text of a book and what to call it in errors. Raises ``BadInput`` when there is none to read."""
    if (name := str(name_or_path)) in preset_names(kind):
        return preset_text(kind, name), f"{kind} book {name}"
    path = Path(name_or_path)
    if not path.suffix and not path.exists():
        known = preset_names(kind)
        raise BadInput(
            f"there is no {kind} book {name!r}{nearest(name, known)}: "
            f"name a TOML file, or one of {', '.join(known)}"
        )
    try:
        if path.stat().st_size > MAX_BOOK_BYTES:
            raise BadInput(f"{kind} book {path} is larger than {MAX_BOOK_BYTES} bytes")
        return path.read_text(encoding="utf-8"), f"{kind} book {path}"
    except OSError as error:
        raise BadInput(f"{kind} book {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"{kind} book {path} is not text in UTF-8") from error


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a sentence; empty when nothing is close."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f", did you mean {close[0]!r}?" if close else ""


@dataclass(frozen=True, slots=True)
class NumberLimits:
    """What a number in a book may be."""

    most: int
    digits: int = 12
    """After the point, at most."""
    positive: bool = False
    """Whether 0 is refused."""


class TomlTable:
    """A table of a TOML file that knows where it stands. Every error is ``BadInput``: file, key, reason."""

    def __init__(self, content: dict[str, Any], source: str, path: str = "") -> None:
        self._content, self.source, self.path = content, source, path

    @classmethod
    def parse(cls, text: str, source: str) -> TomlTable:
        """Decimals are read as they are written, never through a float."""
        try:
            return cls(tomllib.loads(text, parse_float=Decimal), source)
        except (tomllib.TOMLDecodeError, ArithmeticError, ValueError, RecursionError) as error:
            raise BadInput(f"{source} is not valid TOML: {str(error)[:200]}") from error

    def __contains__(self, key: str) -> bool:
        return key in self._content

    def __iter__(self) -> Iterator[str]:
        return iter(self._content)

    def where(self, key: str) -> str:
        """The key as it is written from the top of the file."""
        return f"{self.path}.{key}" if self.path else key

    def wrong(self, key: str, reason: str) -> BadInput:
        """The error to raise about a key."""
        return BadInput(f"{self.source}: {self.where(key)}: {reason}")

    def only(self, *known: str) -> None:
        """Refuse every key that is not one of these: a misspelt price would otherwise not be charged."""
        for key in self._content:
            if key not in known:
                raise BadInput(f"{self.source}: unknown key {self.where(key)!r}{nearest(key, known)}")

    def needs(self, *keys: str) -> None:
        """Refuse a table without one of these keys."""
        for key in keys:
            if key not in self._content:
                raise self.wrong(key, "is missing")

    def number(self, key: str, limits: NumberLimits, default: Fraction | int | None = None) -> Fraction:
        """A number, exactly as written; without a default it must be there."""
        if key not in self._content:
            if default is None:
                raise self.wrong(key, "is missing")
            return Fraction(default)
        try:
            value = exact(self._content[key])
        except ValueError as error:
            raise self.wrong(key, str(error)) from None
        self._check(key, value, limits)
        return value

    def _check(self, key: str, value: Fraction, limits: NumberLimits) -> None:
        shown = str(self._content[key])
        if value < 0:
            raise self.wrong(key, f"{shown} is negative")
        if limits.positive and value == 0:
            raise self.wrong(key, f"{shown} must be more than 0")
        if value > limits.most:
            raise self.wrong(key, f"{shown} is too large: at most {limits.most}")
        if (value * 10**limits.digits).denominator != 1:
            raise self.wrong(key, f"{shown} has more than {limits.digits} digits after the point")

    def whole(self, key: str, limits: NumberLimits) -> int:
        """A whole number that must be there."""
        value = self.number(key, limits)
        if value.denominator != 1:
            raise self.wrong(key, f"{self._content[key]} must be a whole number")
        return int(value)

    def choice(self, key: str, choices: tuple[str, ...], default: str) -> str:
        """One of a few words."""
        value = self._content.get(key, default)
        if not isinstance(value, str) or value not in choices:
            listed = " or ".join(repr(choice) for choice in choices)
            raise self.wrong(key, f"{str(value)[:40]!r} must be {listed}")
        return value

    def flag(self, key: str) -> bool:
        """true or false; false when it is not there."""
        value = self._content.get(key, False)
        if not isinstance(value, bool):
            raise self.wrong(key, f"{str(value)[:40]!r} must be true or false")
        return value

    def table(self, key: str) -> TomlTable:
        """The table at a key; empty when there is none."""
        value = self._content.get(key, {})
        if not isinstance(value, dict):
            raise self.wrong(key, f"must be a table: write [{self.where(key)}]")
        return TomlTable(value, self.source, self.where(key))

    def with_defaults(self, other: TomlTable, *keys: str) -> TomlTable:
        """This table, with what ``other`` has at ``keys`` where there is nothing here."""
        given = {key: other._content[key] for key in keys if key in other._content}
        return TomlTable({**given, **self._content}, self.source, self.path)

    def with_table(self, key: str, table: TomlTable) -> TomlTable:
        """This table, with another one at ``key``; without it where that is empty."""
        rest = {name: value for name, value in self._content.items() if name != key}
        return TomlTable(
            {**rest, **({key: table._content} if table._content else {})}, self.source, self.path
        )

    def is_table(self, key: str) -> bool:
        """Whether there is a table at the key, not one value."""
        return isinstance(self._content.get(key), dict)

    def about(self) -> tuple[str, str]:
        """``source`` and ``as_of`` of a book; empty when it does not say."""
        for key in ABOUT:
            if not isinstance(self._content.get(key, ""), str):
                raise self.wrong(key, "must be text")
        return self._content.get("source", ""), self._content.get("as_of", "")

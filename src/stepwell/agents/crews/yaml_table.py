"""A YAML document as the table that the same TOML would be.

Plain values are read by the core schema of YAML 1.2: ``no``, ``on``, ``012`` and dates are not turned into
something else. What a short file does not need is refused: tags, keys that stand twice, a second document,
text that grows by aliases. PyYAML gives the events; everything else is here, because its loaders read YAML
1.1, take the last of two keys, and follow aliases without an end.

Source: YAML 1.2.2, chapter 10.3 (https://yaml.org/spec/1.2.2/).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from stepwell.agents.crews.values import exact
from stepwell.errors import BadInput

MAX_DEPTH = 40
MAX_WEIGHT = 4 << 20
"""Values and characters, those that aliases repeat counted again: four times the largest file."""
_TRUTHS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_NOTHING = ("", "~", "null", "Null", "NULL")
_WHOLE = re.compile(r"[-+]?[0-9]{1,4000}|0o[0-7]{1,4000}|0x[0-9a-fA-F]{1,4000}")
_BASES = {"0o": 8, "0x": 16}
_DECIMAL = re.compile(
    r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)


class _Fault(ValueError):
    """One sentence without the file's name."""


def yaml_table(text: str, where: str) -> dict[str, Any]:
    """The table in a YAML document; an empty document is an empty table. Raises ``BadInput``."""
    try:
        value = _Reader(yaml.parse(text, Loader=yaml.SafeLoader)).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = f" (at line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise BadInput(f"{where} is not YAML: {error.problem or error.context}{at}") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise BadInput(f"{where} is not YAML: {error.reason} (at line {line})") from error
    except _Fault as error:
        raise BadInput(f"{where}: {error}") from error
    if not isinstance(value, dict | None):
        raise BadInput(f"{where} is not a table: it begins with keys, such as crew: and roles:")
    return value or {}


@dataclass(slots=True)
class _Reader:
    """Builds values from events. PyYAML's parser keeps its own stack, so only ours bounds the depth."""

    events: Iterator[Any]
    known: dict[str, tuple[Any, int]] = field(default_factory=dict)
    """Per anchor: its value and its weight. One that is not whole yet is not among them."""
    weight: int = 0

    def document(self) -> Any:
        """The value of the only document; None where there is none."""
        value, documents = None, 0
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise _fault(event, "a second document begins: a file holds one")
                value = self._value(next(self.events), 0)
        return value

    def _value(self, event: Any, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise _fault(event, f"more than {MAX_DEPTH} tables and lists stand in one another")
        if isinstance(event, yaml.AliasEvent):
            return self._repeated(event)
        if event.tag is not None:
            raise _fault(event, f"the tag {_short(event.tag)} is not taken: write the plain value")
        before = self.weight
        self._add(event, 1)
        value = self._new(event, depth)
        if event.anchor is not None:
            self.known[event.anchor] = value, self.weight - before
        return value

    def _new(self, event: Any, depth: int) -> Any:
        if isinstance(event, yaml.MappingStartEvent):
            return self._table(depth)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._list(depth)
        self._add(event, len(event.value))
        return _plain(event) if event.style is None else _text(event)

    def _repeated(self, event: Any) -> Any:
        if event.anchor not in self.known:
            raise _fault(event, f"*{_short(event.anchor)} repeats nothing that is whole by then")
        value, weight = self.known[event.anchor]
        self._add(event, weight)
        return value

    def _add(self, event: Any, weight: int) -> None:
        self.weight += weight
        if self.weight > MAX_WEIGHT:
            raise _fault(event, "its aliases make more of it than a short file may come to")

    def _list(self, depth: int) -> list[Any]:
        made = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            made.append(self._value(event, depth + 1))
        return made

    def _table(self, depth: int) -> dict[str, Any]:
        made: dict[str, Any] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            key = self._key(event)
            if key in made:
                raise _fault(event, f"the key {_short(key)} stands there twice")
            made[key] = self._value(next(self.events), depth + 1)
        return made

    def _key(self, event: Any) -> str:
        """Always text, as in TOML: ``no:`` and ``1:`` are names."""
        if not isinstance(event, yaml.ScalarEvent) or event.tag is not None or event.anchor is not None:
            raise _fault(event, "a key is plain text")
        if event.value == "<<" and event.style is None:
            raise _fault(event, "<< is not of YAML 1.2: repeat the keys, or a whole value by its alias")
        self._add(event, 1 + len(event.value))
        return _text(event)


def _plain(event: Any) -> Any:
    text: str = event.value
    if text in _NOTHING:
        return None
    if text in _TRUTHS:
        return _TRUTHS[text]
    if _WHOLE.fullmatch(text):
        return int(text, _BASES.get(text[:2], 10))
    if not _DECIMAL.fullmatch(text):
        return text
    try:
        return exact(text.replace(".inf", "inf").replace(".nan", "nan"))
    except BadInput as error:
        raise _fault(event, str(error)) from error


def _text(event: Any) -> str:
    """With pairs of surrogates joined, as JSON writes them; a half of one cannot be sent."""
    text: str = event.value
    try:
        return text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError as error:
        raise _fault(event, "the text holds half of a character (a lone surrogate)") from error


def _fault(event: Any, sentence: str) -> _Fault:
    mark = event.start_mark
    return _Fault(f"{sentence} (at line {mark.line + 1}, column {mark.column + 1})")


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:40]}...")

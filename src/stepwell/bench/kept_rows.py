"""The parts of a long run, a line of JSON each as they end, so that a run that was stopped can be resumed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from stepwell.errors import BadInput

Key = TypeVar("Key")
Row = TypeVar("Row")


@dataclass(slots=True)
class KeptRows(Generic[Key, Row]):
    """Rows by key, those of an earlier run among them. Without a file nothing is kept."""

    path: Path | None
    read: Callable[[Any], tuple[Key, Row]]
    """Key and row of a line."""
    line: Callable[[Key, Row], object]
    """What stands in the line of a row."""
    known: dict[Key, Row] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises ``BadInput`` for a line that is none of these. A last one that was cut off is left out."""
        if self.path is None or not self.path.exists():
            return
        lines = self.path.read_bytes().splitlines(keepends=True)
        for number, text in enumerate(lines, 1):
            try:
                key, row = self.read(json.loads(text))
            except (ValueError, KeyError, TypeError):
                if number == len(lines) and not text.endswith(b"\n"):
                    break
                raise BadInput(
                    f"{self.path}, line {number}: no row of this bench; name another file"
                ) from None
            self.known[key] = row
        self.path.write_text("".join(self._text(key, row) for key, row in self.known.items()), "utf-8")

    def _text(self, key: Key, row: Row) -> str:
        return json.dumps(self.line(key, row)) + "\n"

    def keep(self, key: Key, row: Row) -> Row:
        self.known[key] = row
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(self._text(key, row))
        return row

"""Read the catalogues. A figure without a mark or a source is an error, so that none can slip in."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from importlib import resources
from typing import Any

from stepwell.errors import BadInput

MARKS = {
    "V": "read in the source",
    "R": "reported by the page",
    "S": "a weaker secondary page",
    "M": "from memory, unconfirmed",
    "D": "arithmetic from the source's figures",
}


@dataclass(frozen=True, slots=True)
class Figure:
    """One number with where it comes from."""

    value: Decimal
    mark: str
    source: str
    date: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One part or one model. Units are in the figures' names."""

    key: str
    name: str
    figures: Mapping[str, Figure]

    def find(self, figure: str) -> Decimal | None:
        found = self.figures.get(figure)
        return None if found is None else found.value

    def get(self, figure: str) -> Decimal:
        """The figure, or one sentence about what the catalogue lacks."""
        found = self.figures.get(figure)
        if found is None:
            raise BadInput(
                f"the catalogue has no {figure} for {self.key}: set it with --what-if {figure}=..."
            )
        return found.value

    def number(self, figure: str, absent: float = 0.0) -> float:
        """For physics; money stays exact."""
        found = self.figures.get(figure)
        return absent if found is None else float(found.value)

    def changed(self, changes: Mapping[str, Decimal]) -> Entry:
        """The same entry with figures set by hand."""
        by_hand = {name: Figure(value, "M", "--what-if", "") for name, value in changes.items()}
        return Entry(self.key, self.name, {**self.figures, **by_hand})

    def as_json(self) -> dict[str, Any]:
        shown = {
            name: {"value": float(f.value), "mark": f.mark, "source": f.source, "date": f.date}
            for name, f in self.figures.items()
        }
        return {"key": self.key, "name": self.name, "figures": shown}


def read_entries(text: str, table: str) -> dict[str, Entry]:
    """The entries of one table. ``ValueError`` names a figure that lacks its mark or source."""
    data = tomllib.loads(text, parse_float=Decimal)
    sources = data["sources"]
    return {
        key: Entry(
            key,
            fields["name"],
            {n: _figure(f"{key}.{n}", v, sources) for n, v in fields.items() if n != "name"},
        )
        for key, fields in data[table].items()
    }


def _figure(where: str, value: Any, sources: Mapping[str, Mapping[str, str]]) -> Figure:
    if not isinstance(value, list) or len(value) != 3:
        raise ValueError(f"{where}: write [value, mark, source]")
    number, mark, source = value
    if mark not in MARKS:
        raise ValueError(f"{where}: the mark {mark!r} is none of {', '.join(MARKS)}")
    named = sources.get(source)
    if named is None or not named.get("text") or not named.get("date"):
        raise ValueError(f"{where}: the source {source!r} is not in [sources] with text and date")
    if isinstance(number, bool) or not isinstance(number, int | Decimal) or number < 0:
        raise ValueError(f"{where}: {number!r} is not a figure")
    return Figure(Decimal(number), mark, named["text"], named["date"])


@cache
def entries(table: str) -> Mapping[str, Entry]:
    """``parts``, ``memory``, ``models``, ``workloads`` or ``prices``, by key."""
    file = f"{table}.toml" if table in ("models", "workloads", "prices") else "hardware.toml"
    return read_entries(resources.files("stepwell.catalogue").joinpath(file).read_text("utf-8"), table)


def entry(table: str, key: str) -> Entry:
    """One entry by its key, without regard to case."""
    known = entries(table)
    found = known.get(key.lower())
    if found is None:
        close = difflib.get_close_matches(key.lower(), known, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]}?" if close else f"there is {', '.join(known)}"
        kind = {"models": "model", "workloads": "workload", "prices": "list price"}.get(table, "hardware")
        raise BadInput(f"the catalogue has no {kind} {key!r}: {hint}")
    return found

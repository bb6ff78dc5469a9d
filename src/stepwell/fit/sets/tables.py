"""The set ``tables``: questions on one table whose answer is a whole number that one SQL statement gives."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from stepwell.fit.tasks import Item, TaskSet

SEED = 20261129
TABLES = 50
ROWS = (24, 40)

Row = tuple[str, str, int, int]
Asked = tuple[str, str, int]
"""The kind of a question, its words, and what is right."""


@dataclass(frozen=True, slots=True)
class TableKind:
    """One sort of table: two columns of text, then two of whole numbers."""

    name: str
    rows: str
    """What a row is one of."""
    part: tuple[str, tuple[str, ...]]
    """The column that questions filter by, and what may stand in it."""
    other: tuple[str, tuple[str, ...]]
    first: tuple[str, int, int]
    """A column of numbers with its least and largest value."""
    second: tuple[str, int, int]


TOWNS = ("Agra", "Bern", "Cork", "Delft", "Essen", "Fez", "Graz", "Hull")
KINDS = (
    TableKind(
        "sales", "sales", ("region", ("north", "south", "east", "west")),
        ("article", ("lamp", "chair", "desk", "shelf", "clock")), ("pieces", 2, 90), ("revenue", 110, 980),
    ),
    TableKind(
        "staff", "people", ("department", ("kitchen", "office", "garage", "garden")),
        ("town", TOWNS), ("hours", 11, 44), ("wage", 1_200, 4_900),
    ),
    TableKind(
        "wells", "wells", ("county", ("Alder", "Birch", "Cedar", "Maple")),
        ("stone", ("granite", "basalt", "marble", "slate")), ("depth", 4, 70), ("litres", 150, 2_600),
    ),
    TableKind(
        "trips", "trips", ("driver", ("Anna", "Ben", "Carla", "Dev")),
        ("town", TOWNS), ("km", 12, 480), ("minutes", 15, 390),
    ),
    TableKind(
        "loans", "loans", ("library", ("Elm", "Oak", "Pine", "Ash")),
        ("language", ("Czech", "Dutch", "Greek", "Hindi", "Welsh")), ("days", 2, 60), ("pages", 70, 940),
    ),
)  # fmt: skip


def tables_set(seed: int = SEED) -> TaskSet:
    """Fifty tables with six questions each, one of every kind."""
    items: list[Item] = []
    for number in range(TABLES):
        kind = KINDS[number % len(KINDS)]
        rng = Random(f"{seed}-{number}")
        rows, asked = _asked(kind, rng)
        table = ((kind.name, _csv(kind, rows)),)
        items += [
            Item(f"tables-{at:03d}-{name}", ask, str(answer), tables=table)
            for at, (name, ask, answer) in enumerate(asked, len(items))
        ]
    return TaskSet("tables", crew="data", single="analyst", grader="number", items=tuple(items))


def _asked(kind: TableKind, rng: Random) -> tuple[list[Row], list[Asked]]:
    """Rows on which no question is answered rightly by a reader that passes over its condition."""
    while True:
        rows = [_row(kind, rng) for _ in range(rng.randint(*ROWS))]
        part, other = rng.sample(kind.part[1], 2)
        asked = list(_questions(kind, rows, part, other, rng.choice(rows)[2]))
        if all(right > 0 and right != careless for *_, right, careless in asked):
            return rows, [(name, ask, right) for name, ask, right, _ in asked]


def _row(kind: TableKind, rng: Random) -> Row:
    part, other = rng.choice(kind.part[1]), rng.choice(kind.other[1])
    return part, other, rng.randint(*kind.first[1:]), rng.randint(*kind.second[1:])


def _questions(
    kind: TableKind, rows: Sequence[Row], part: str, other: str, limit: int
) -> Iterator[tuple[str, str, int, int]]:
    """Kind, words, what is right, and what is found without the question's condition."""
    column, first, second = kind.part[0], kind.first[0], kind.second[0]
    whose = f"{kind.rows} whose {column} is {part}"
    some = [row for row in rows if row[0] == part]
    total, of_all = sum(row[3] for row in some), sum(row[3] for row in rows)
    of_other = sum(row[3] for row in rows if row[0] == other)
    more = len([row for row in rows if row[2] > limit])
    yield "total", f"What is the total {second} of all {whose}?", total, of_all
    yield "count", f"How many {whose} are there?", len(some), len(rows)
    largest = max((row[2] for row in some), default=0)
    yield "largest", f"What is the largest {first} of all {whose}?", largest, max(row[2] for row in rows)
    yield (
        "difference",
        f"By how much is the total {second} of {column} {part} above that of {column} {other}?",
        total - of_other,
        total,
    )
    yield "above", f"How many {kind.rows} have {first} above {limit}?", more, len(rows)
    kinds, of_kinds = len({row[1] for row in some}), len({row[1] for row in rows})
    yield "distinct", f"How many different values of {kind.other[0]} do the {whose} have?", kinds, of_kinds


def _csv(kind: TableKind, rows: Sequence[Row]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([kind.part[0], kind.other[0], kind.first[0], kind.second[0]])
    writer.writerows(rows)
    return out.getvalue()

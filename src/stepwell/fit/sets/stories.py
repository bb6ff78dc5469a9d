"""The word problems of the set ``sums``: kinds, wordings, and calculations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

NAMES = ("Anna", "Ben", "Carla", "Dev", "Ella", "Farid", "Grace", "Hana", "Ivan", "Julia", "Karim", "Lena")
THINGS = (
    "apples", "stones", "coins", "books", "eggs", "stamps", "shells", "pencils", "tickets", "marbles",
    "cards", "flowers", "bottles", "candles", "plates",
)  # fmt: skip
HOLDERS = ("boxes", "bags", "baskets", "crates", "trays", "jars", "rows", "shelves")


@dataclass(frozen=True, slots=True)
class StoryKind:
    """One sort of problem."""

    name: str
    calculation: str
    """Of ``{a}``, ``{b}`` and, where there is one, ``{c}``; Python reads it."""
    draw: Callable[[Random], tuple[int, ...]]
    wordings: tuple[str, ...]
    """``{n}`` and ``{m}`` are people, ``{t}`` things, ``{h}`` what holds them."""


def _gain(rng: Random) -> tuple[int, ...]:
    return rng.randint(11, 89), rng.randint(11, 89)


def _loss(rng: Random) -> tuple[int, ...]:
    a = rng.randint(40, 99)
    return a, rng.randint(11, a - 5)


def _groups(rng: Random) -> tuple[int, ...]:
    return rng.randint(3, 12), rng.randint(3, 19)


def _shared(rng: Random) -> tuple[int, ...]:
    people, each = rng.randint(3, 9), rng.randint(3, 15)
    return people * each, people


def _groups_more(rng: Random) -> tuple[int, ...]:
    return rng.randint(3, 9), rng.randint(3, 12), rng.randint(5, 40)


def _three(rng: Random) -> tuple[int, ...]:
    return rng.randint(11, 60), rng.randint(5, 40), rng.randint(5, 40)


def _change(rng: Random) -> tuple[int, ...]:
    note, count = rng.choice((50, 100, 200)), rng.randint(3, 9)
    return note, count, rng.randint(3, (note - 5) // count)


KINDS: tuple[StoryKind, ...] = (
    StoryKind("gain", "{a} + {b}", _gain, (
        "{n} has {a} {t} and gets {b} more. How many {t} does {n} have now?",
        "There are {a} {t} on the table. {n} puts {b} more {t} on it. How many {t} are on the table?",
        "{n} collected {a} {t} on Monday and {b} {t} on Tuesday. How many {t} did {n} collect in all?",
        "A shop had {a} {t}. Then {b} {t} were delivered. How many {t} does the shop have now?",
        "{n} has {a} {t}. {m} has {b} {t}. How many {t} do they have together?",
    )),
    StoryKind("loss", "{a} - {b}", _loss, (
        "{n} has {a} {t} and gives away {b}. How many {t} are left?",
        "There were {a} {t} in the shop. {b} {t} were sold. How many {t} remain?",
        "{n} had {a} {t} but lost {b} of them. How many {t} does {n} still have?",
        "Of {a} {t}, {b} were broken. How many {t} were not broken?",
        "{n} had {a} {t}. {m} took {b} of them. How many {t} does {n} have now?",
    )),
    StoryKind("groups", "{a} * {b}", _groups, (
        "There are {a} {h} with {b} {t} in each. How many {t} are there in all?",
        "{n} fills {a} {h}. Each holds {b} {t}. How many {t} does {n} need?",
        "{a} children have {b} {t} each. How many {t} do they have together?",
        "One pack has {b} {t}. {n} buys {a} packs. How many {t} does {n} get?",
        "{n} finds {b} {t} every day for {a} days. How many {t} does {n} find?",
    )),
    StoryKind("shared", "{a} / {b}", _shared, (
        "{a} {t} are shared equally among {b} people. How many {t} does each person get?",
        "{n} puts {a} {t} into {b} {h}, the same number in each. How many {t} are in each?",
        "{n} gives {a} {t} to {b} friends in equal parts. How many {t} does each friend get?",
        "{a} {t} are packed in {b} equal {h}. How many {t} does each hold?",
    )),
    StoryKind("groups_more", "{a} * {b} + {c}", _groups_more, (
        "{n} buys {a} bags with {b} {t} in each, and finds {c} more {t}. How many {t} does {n} have?",
        "There are {a} {h} with {b} {t} in each, and {c} {t} on the floor. How many {t} are there in all?",
        "{n} gets {b} {t} on each of {a} days, and then {c} more. How many {t} does {n} have?",
        "{a} friends bring {b} {t} each, and {n} brings {c} {t}. How many {t} do they have together?",
    )),
    StoryKind("two_gains", "{a} + {b} + {c}", _three, (
        "{n} has {a} {t}, gets {b} from {m} and buys {c} more. How many {t} does {n} have now?",
        "{n} found {a} {t} on Monday, {b} on Tuesday and {c} on Friday. How many {t} did {n} find in all?",
        "There are {a} {t} in the first box, {b} in the second and {c} in the third. How many {t} are there?",
        "A shop has {a} red, {b} blue and {c} green {t}. How many {t} does it have in all?",
    )),
    StoryKind("more_than", "{a} + {b}", _gain, (
        "{n} has {a} {t}. {m} has {b} more {t} than {n}. How many {t} does {m} have?",
        "{n} sold {a} {t}, and {m} sold {b} more than {n}. How many {t} did {m} sell?",
        "There are {a} {t} in the box. In the bag are {b} more than in the box. How many are in the bag?",
        "{n} has {a} {t}, which is {b} fewer than {m} has. How many {t} does {m} have?",
    )),
    StoryKind("less_than", "{a} - {b}", _loss, (
        "{n} has {a} {t}. {m} has {b} fewer {t} than {n}. How many {t} does {m} have?",
        "{n} has {a} {t} and {m} has {b} {t}. How many more {t} does {n} have than {m}?",
        "{n} found {a} {t}, and {m} found {b} fewer than {n}. How many {t} did {m} find?",
        "There are {a} {t} in the box and {b} in the bag. How many fewer are in the bag than in the box?",
    )),
    StoryKind("change", "{a} - {b} * {c}", _change, (
        "{n} pays {b} {t} at {c} dollars each with a {a} dollar note. How many dollars does {n} get back?",
        "{n} has {a} dollars and buys {b} {t} for {c} dollars each. How many dollars are left?",
        "{n} had {a} {t} and gave {c} of them to each of {b} friends. How many {t} does {n} still have?",
        "A shop has {a} {t} and sells {b} {h} with {c} {t} in each. How many {t} remain?",
    )),
)  # fmt: skip

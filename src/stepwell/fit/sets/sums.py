"""The set ``sums``: word problems of one and two steps whose answer no wrong calculation gives."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import permutations, product
from random import Random

from stepwell.fit.sets.stories import HOLDERS, KINDS, NAMES, THINGS, StoryKind
from stepwell.fit.tasks import Item, TaskSet

SEED = 20261122
ITEMS = 306
"""As many of each kind."""
GENERIC = (101, 1009, 10007)
"""Numbers on which two calculations agree only if they are the same: the order of a sum does not matter."""


def sums_set(seed: int = SEED) -> TaskSet:
    """The kinds in turn, and the wordings of each in turn."""
    items: list[Item] = []
    asked: set[str] = set()
    for number in range(ITEMS):
        kind = KINDS[number % len(KINDS)]
        rng = Random(f"{seed}-{number}")
        item = _item(number, kind, rng)
        while item.ask in asked:
            item = _item(number, kind, rng)
        asked.add(item.ask)
        items.append(item)
    return TaskSet("sums", crew="calculation", single="solver", grader="number", items=tuple(items))


def _item(number: int, kind: StoryKind, rng: Random) -> Item:
    numbers = kind.draw(rng)
    while value(numbers, kind.calculation) in set(mistakes(numbers, kind.calculation)):
        numbers = kind.draw(rng)
    n, m = rng.sample(NAMES, 2)
    # The wordings take turns within a half, and the halves take turns within a kind.
    wording = kind.wordings[number // len(KINDS) // 2 % len(kind.wordings)]
    given = dict(zip("abc", numbers, strict=False))
    ask = wording.format(n=n, m=m, t=rng.choice(THINGS), h=rng.choice(HOLDERS), **given)
    return Item(f"sums-{number:03d}-{kind.name}", ask=ask, answer=str(value(numbers, kind.calculation)))


def value(numbers: tuple[int, ...], calculation: str) -> Fraction:
    """What a calculation gives; products and quotients first, as everywhere."""
    total, term = Fraction(0), Fraction(numbers[0])
    for operation, number in zip(_operations(calculation), numbers[1:], strict=True):
        if operation in "+-":
            total, term = total + term, Fraction(number if operation == "+" else -number)
        else:
            term = term * number if operation == "*" else term / number
    return total + term


def _operations(calculation: str) -> str:
    return "".join(sign for sign in calculation if sign in "+-*/")


def mistakes(numbers: tuple[int, ...], calculation: str) -> Iterator[Fraction]:
    """What every other calculation gives: other operations, another order, or numbers left out."""
    right = value(GENERIC[: len(numbers)], calculation)
    for many in range(2, len(numbers) + 1):
        for order in permutations(range(len(numbers)), many):
            for operations in map("".join, product("+-*/", repeat=many - 1)):
                if value(tuple(GENERIC[at] for at in order), operations) != right:
                    yield value(tuple(numbers[at] for at in order), operations)
    yield from map(Fraction, numbers)

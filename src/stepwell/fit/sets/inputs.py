"""Arguments to try functions on: edges first, then seeded ones that fall on both sides of what is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random
from typing import Any

Arguments = tuple[Any, ...]
Parameters = tuple[Any, ...]
Inputs = Callable[[Random, Parameters], list[Arguments]]
"""Every call makes new ones: the first ``EDGES`` or fewer are edges, the others look like ordinary use."""

ORDINARY = 10
LETTERS = "abcdeilmnoprstu"
WORDS = (
    "ant", "apple", "bat", "bird", "boat", "cat", "cliff", "dog", "door", "ear", "egg", "fig", "fish", "goat",
    "gate", "hat", "hill", "ice", "ink", "jar", "kite", "lamp", "leaf", "map", "moon", "nest", "nut", "oak",
    "oven", "pan", "pear", "rain", "river", "sand", "ship", "star", "stone", "tea", "tree", "vase", "wind",
    "wolf", "candle", "garden", "window", "bottle", "mountain", "harbour", "feather", "lantern", "umbrella",
)  # fmt: skip


def _near(parameters: Iterable[Any]) -> list[int]:
    """Whole numbers on both sides of the parameters, and their multiples."""
    numbers = [p for p in parameters if isinstance(p, int)]
    around = [p + step for p in numbers for step in (-1, 0, 0, 1)]
    return around + [p * factor for p in numbers for factor in (2, 3)]


def _numbers(rng: Random, parameters: Parameters, low: int) -> list[int]:
    """Three to five numbers, some of them near the parameters."""
    near = [number for number in _near(parameters) if number >= low]
    drawn = [rng.randint(low, 20) for _ in range(rng.randint(1, 3))]
    drawn += [rng.choice(near or [rng.randint(max(low, 0), 30)]) for _ in range(2)]
    rng.shuffle(drawn)
    return drawn


def some_numbers(rng: Random, parameters: Parameters) -> list[Arguments]:
    """Lists of whole numbers that are not empty."""
    edges: list[Arguments] = [([7],), ([-3],), ([0, 0],), ([-8, -2, -5],)]
    edges += [([number],) for number in dict.fromkeys(_near(parameters)[:4])]
    return edges + [(_numbers(rng, parameters, -9),) for _ in range(ORDINARY)]


def numbers(rng: Random, parameters: Parameters) -> list[Arguments]:
    """Lists of whole numbers, the empty one among them."""
    return [([],), *some_numbers(rng, parameters)]


def naturals(rng: Random, parameters: Parameters) -> list[Arguments]:
    """Lists of whole numbers from 0 up, where division of negative ones could be read in two ways."""
    edges: list[Arguments] = [([],), ([0],), ([1],), ([100, 0],)]
    return edges + [(_numbers(rng, parameters, 0),) for _ in range(ORDINARY)]


def number(rng: Random, parameters: Parameters) -> list[Arguments]:
    """One whole number."""
    edges = [0, 1, -1, -12, *dict.fromkeys(_near(parameters))]
    return [(n,) for n in [*edges, *(rng.randint(-30, 60) for _ in range(ORDINARY))]]


def natural(rng: Random, parameters: Parameters) -> list[Arguments]:
    """One whole number from 0 up."""
    return [(abs(n),) for (n,) in number(rng, parameters)]


def small(rng: Random, parameters: Parameters) -> list[Arguments]:
    """One whole number from 0 to 12."""
    return [(n,) for n in [0, 1, 12, *rng.sample(range(2, 12), 8)]]


def _letters(parameters: Parameters) -> str:
    return "".join(p for p in parameters if isinstance(p, str) and p.isalpha())


def _word(rng: Random, extra: str, length: int) -> str:
    return "".join(rng.choice(extra if extra and rng.random() < 0.4 else LETTERS) for _ in range(length))


def text(rng: Random, parameters: Parameters) -> list[Arguments]:
    """Text: empty, one character, what is looked for alone and at both ends, and short words."""
    extra = _letters(parameters)
    sought = [p for p in parameters if isinstance(p, str)]
    edges = [
        "",
        "z",
        *sought,
        *(p * 2 for p in sought),
        *(f"q{p}" for p in sought),
        *(f"{p}q" for p in sought),
    ]
    if not sought:
        edges += [rng.choice(WORDS), "abcdefghijkl"]
    ordinary = [rng.choice(WORDS) for _ in range(3)]
    ordinary += [_word(rng, extra, rng.randint(3, 9)) for _ in range(ORDINARY - 5)]
    ordinary += [
        f"{rng.choice(sought)}{_word(rng, extra, 4)}{rng.choice(sought)}" for _ in range(3) if sought
    ]
    return [(s,) for s in [*edges, *ordinary]]


def marked(rng: Random, parameters: Parameters) -> list[Arguments]:
    """Text in upper, lower and mixed case, some of it the same backwards."""
    edges = ["", "a", "Z", "noon", "ABA", "Level", "no on"]
    ordinary = [rng.choice(WORDS) for _ in range(3)] + [rng.choice(WORDS).upper() for _ in range(3)]
    ordinary += [rng.choice(WORDS).capitalize() for _ in range(2)]
    ordinary += [word + word[::-1] for word in rng.sample(WORDS, 2)]
    rng.shuffle(ordinary)
    return [(s,) for s in [*edges, *ordinary]]


def sentences(rng: Random, parameters: Parameters) -> list[Arguments]:
    """Words with one space between them."""
    edges = ["", rng.choice(WORDS)]
    return [(s,) for s in [*edges, *(" ".join(_words(rng, parameters)) for _ in range(ORDINARY))]]


def _words(rng: Random, parameters: Parameters) -> list[str]:
    """Three to six words, about half of them with what the parameters ask for."""
    sought = tuple(p for p in parameters if isinstance(p, str))
    lengths = [p for p in parameters if isinstance(p, int)]
    fitting = [w for w in WORDS if sought and w.startswith(sought)] or [
        w for w in WORDS if lengths and len(w) > lengths[0]
    ]
    drawn = rng.sample(WORDS, rng.randint(2, 4))
    drawn += rng.sample(fitting, min(len(fitting), rng.randint(1, 2)))
    rng.shuffle(drawn)
    return list(dict.fromkeys(drawn))


def words(rng: Random, parameters: Parameters) -> list[Arguments]:
    """Lists of words."""
    return [([],), ([rng.choice(WORDS)],), *((_words(rng, parameters),) for _ in range(ORDINARY))]


def counts(rng: Random, parameters: Parameters) -> list[Arguments]:
    """Dictionaries from words to whole numbers; what is looked for is a key of most of them."""
    keys = [p for p in parameters if isinstance(p, str) and p.isalpha()]
    drawn: list[Arguments] = [({},), ({"a": -4},)]
    for turn in range(ORDINARY):
        names = rng.sample(WORDS, rng.randint(2, 4)) + (keys if turn % 3 else [])
        rng.shuffle(names)
        drawn.append(({name: rng.choice(_numbers(rng, parameters, -9)) for name in names},))
    return drawn


def _two(one: Inputs) -> Inputs:
    def pairs(rng: Random, parameters: Parameters) -> list[Arguments]:
        left, right = one(rng, parameters), one(rng, parameters)
        rng.shuffle(right)
        return [(*a, *b) for a, b in zip(left, right, strict=False)]

    return pairs


two_numbers = _two(number)
two_lists = _two(numbers)

"""Which regular expressions may take more than linear time: read from their parse trees.

Three forms are refused. A repetition that holds a repetition, where one run of text can be divided among
the rounds in many ways (exponential). Two repetitions in a row that can both take the same text (quadratic).
And a repetition behind which something must follow, in a pattern that is searched for, where the search can
begin again within what the repetition took (quadratic). Bounded repetitions count as one sign.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from re import _constants as c  # type: ignore[attr-defined]
from re import _parser  # type: ignore[attr-defined]
from typing import Any

SIGNS = frozenset([*map(chr, range(128)), *"\x85\xa0é井。０\u2028"])
BOUND = 300
"""Repetitions of more are taken for endless."""
_CATEGORIES = {
    c.CATEGORY_DIGIT: r"\d", c.CATEGORY_NOT_DIGIT: r"\D", c.CATEGORY_SPACE: r"\s",
    c.CATEGORY_NOT_SPACE: r"\S", c.CATEGORY_WORD: r"\w", c.CATEGORY_NOT_WORD: r"\W",
}  # fmt: skip
_REPEATS = (c.MAX_REPEAT, c.MIN_REPEAT)


@dataclass(frozen=True)
class Part:
    """One step of a pattern: the signs that it can take, and its body when it repeats without end."""

    signs: frozenset[str]
    needed: bool = True
    inner: tuple[tuple[Part, ...], ...] = ()

    @property
    def endless(self) -> bool:
        return bool(self.inner)


def faults(pattern: str | bytes, flags: int = 0, *, searched: bool = True) -> list[str]:
    """What is wrong with it, or nothing."""
    text = pattern.decode("latin-1") if isinstance(pattern, bytes) else pattern
    tree = _parser.parse(text, flags & ~re.UNICODE if isinstance(pattern, bytes) else flags)
    every = tree.state.flags
    found = []
    for way in _ways(list(tree), every):
        found += list(_within(way))
        anchored = _anchored(list(tree), every)
        if searched and not anchored:
            found += list(_restarts(way))
    return sorted(set(found))


def _anchored(tree: Sequence[tuple[Any, Any]], flags: int) -> bool:
    if not tree or tree[0][0] is not c.AT:
        return False
    return tree[0][1] is c.AT_BEGINNING_STRING or (tree[0][1] is c.AT_BEGINNING)


def _ways(tree: Sequence[tuple[Any, Any]], flags: int) -> list[tuple[Part, ...]]:
    """All alternatives, each as a row of parts; possessive and atomic ones never go back."""
    ways: list[tuple[Part, ...]] = [()]
    for op, value in tree:
        more = _step(op, value, flags)
        ways = [(*way, *step) for way in ways for step in more][:200]
    return ways


def _step(op: Any, value: Any, flags: int) -> list[tuple[Part, ...]]:
    if op is c.SUBPATTERN:
        return _ways(list(value[3]), flags | value[1])
    if op is c.BRANCH:
        return [way for branch in value[1] for way in _ways(list(branch), flags)]
    if op in _REPEATS:
        return [_repeat(value, flags)]
    if op is c.ASSERT:
        return [()] if value[0] > 0 else _ways(list(value[1]), flags)
    if op is c.AT and value in (c.AT_END, c.AT_END_STRING):
        return [(Part(frozenset()),)]
    if op in (c.AT, c.ASSERT_NOT):
        return [()]
    if op in (c.POSSESSIVE_REPEAT, c.ATOMIC_GROUP):
        return [(Part(frozenset()),)]
    return [(Part(_signs(op, value, flags)),)]


def _repeat(value: Any, flags: int) -> tuple[Part, ...]:
    least, most, body = value
    inner = tuple(_ways(list(body), flags))
    signs = frozenset().union(*(part.signs for way in inner for part in way))
    return (Part(signs, least > 0, inner if most > BOUND else ()),)


def _signs(op: Any, value: Any, flags: int) -> frozenset[str]:
    if op is c.LITERAL:
        found = frozenset(chr(value))
    elif op is c.NOT_LITERAL:
        found = SIGNS - frozenset(chr(value))
    elif op is c.ANY:
        found = SIGNS if flags & re.DOTALL else SIGNS - {"\n"}
    elif op is c.IN:
        found = frozenset().union(*(_member(*one) for one in value))
        found = SIGNS - found if value[0][0] is c.NEGATE else found
    else:
        found = SIGNS
    if flags & re.IGNORECASE:
        found |= {sign.swapcase() for sign in found if len(sign.swapcase()) == 1}
    return found


def _member(op: Any, value: Any) -> frozenset[str]:
    if op is c.LITERAL:
        return frozenset(chr(value))
    if op is c.RANGE:
        return frozenset(sign for sign in SIGNS if value[0] <= ord(sign) <= value[1])
    if op is c.CATEGORY:
        return frozenset(sign for sign in SIGNS if re.match(_CATEGORIES[value], sign))
    return frozenset()


def _within(way: Sequence[Part]) -> Iterator[str]:
    for at, part in enumerate(way):
        if not part.endless:
            continue
        for row in part.inner:
            yield from _within(row)
            for place, own in enumerate(row):
                if own.endless and own.signs & _next([*row[place + 1 :], *row]):
                    yield "a repetition in a repetition"
        for later in range(at + 1, len(way)):
            if way[later].endless and part.signs & way[later].signs:
                yield "two repetitions that take the same text"
            if way[later].needed and not part.signs & way[later].signs:
                break


def _next(row: Sequence[Part]) -> frozenset[str]:
    """What the text can go on with."""
    signs: frozenset[str] = frozenset()
    for part in row:
        signs |= part.signs
        if part.needed:
            break
    return signs


def _restarts(way: Sequence[Part]) -> Iterator[str]:
    for at, part in enumerate(way):
        follows = any(later.needed and not later.endless for later in way[at + 1 :])
        before = [one for one in way[:at] if one.needed]
        if part.endless and follows and all(one.signs & part.signs for one in before):
            yield "a search that begins again within a repetition"

"""Task sets: questions with answers that a program can check, shipped or from a person's own JSONL file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import chain

GRADERS = ("number", "words", "program")


@dataclass(frozen=True, slots=True)
class Item:
    """One question and what is right."""

    id: str
    """Unique in its set. ``functions-017-count_over`` is of the kind ``count_over``."""
    ask: str
    """The question, whole; for code: name, arguments, what it does, and the visible examples."""
    answer: str
    """What is right; for the grader ``program``: the hidden tests (asserts)."""
    passages: tuple[str, ...] = ()
    """What readers read; a single call gets all of them."""
    tests: str = ""
    """Visible tests (asserts) that the crew's check may run."""
    wrong: tuple[str, ...] = ()
    """For the grader ``words``: what must not stand in a right reply (the values of the other passages)."""

    tables: tuple[tuple[str, str], ...] = ()
    """Tables that the crew's tools may ask, each a name and its CSV; a single call gets all of them whole."""

    @property
    def kind(self) -> str:
        """What halves are balanced over: what follows the number in the id, or nothing."""
        found = re.fullmatch(r".+?-\d+-(.+)", self.id)
        return found[1] if found else ""

    @property
    def group(self) -> object:
        """What items of one half share: an agent that has read the passages or tables knows of the others."""
        return (self.passages, self.tables) if self.passages or self.tables else self.id


@dataclass(frozen=True, slots=True)
class TaskSet:
    """Items of one sort, the crew they are for, and how a reply is judged."""

    name: str
    crew: str
    """The crew it is for: ``code``, ``documents``, ``calculation``, ``data``, or a crew's file."""
    single: str
    """The role that answers alone in the single call."""
    grader: str
    """One of ``GRADERS``."""
    items: tuple[Item, ...]

    def halves(self) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
        """Items to fit on, and items held out; the same every time.

        Items that read the same passages or tables stay together. Groups whose items are of the same kinds
        go to the two halves in turn, so both halves have as many of each kind, give or take one group. Where
        every group is of other kinds, all groups go in turn. One group alone cannot be split: nothing is held
        out.
        """
        groups: dict[object, list[Item]] = {}
        for item in self.items:
            groups.setdefault(item.group, []).append(item)
        turns: dict[tuple[str, ...], int] = {}
        fit: list[Item] = []
        held_out: list[Item] = []
        for group in groups.values():
            kinds = tuple(sorted(item.kind for item in group))
            turn = turns[kinds] = turns.get(kinds, -1) + 1
            (held_out if turn % 2 else fit).extend(group)
        if not held_out:
            shared = list(groups.values())
            fit, held_out = (list(chain.from_iterable(shared[at::2])) for at in (0, 1))
        return tuple(fit), tuple(held_out)

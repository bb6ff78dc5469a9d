"""The set ``functions``: small Python functions with visible examples and hidden tests."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

from stepwell.fit.sets.families import FAMILIES
from stepwell.fit.sets.inputs import Arguments
from stepwell.fit.sets.templates import PER_KIND, TEMPLATES, FunctionTemplate
from stepwell.fit.tasks import Item, TaskSet

SEED = 20261122
VISIBLE = 2
EDGES = 5
TELLING = 5

KINDS = (*FAMILIES, *TEMPLATES)


def all_functions() -> tuple[FunctionTemplate, ...]:
    """In the order of the items: one of each kind, then another of each kind, and so on."""
    return tuple(kind[turn] for turn in range(PER_KIND) for kind in KINDS)


def functions_set(seed: int = SEED) -> TaskSet:
    """One item per function; each half of the set has two of each kind."""
    items = tuple(_item(number, function, seed) for number, function in enumerate(all_functions()))
    return TaskSet("functions", crew="code", single="coder", grader="program", items=items)


def _item(number: int, function: FunctionTemplate, seed: int) -> Item:
    rng = Random(f"{seed}-{function.name}-{function.parameters}")
    cases = _cases(function, rng)
    visible = _visible(cases, rng)
    hidden = _hidden([case for case in cases if case not in visible])
    tests = _asserts(function.name, visible)
    asked = f"Write a Python function {function.name}({function.arguments}) that returns {function.returns}."
    return Item(
        f"functions-{number:03d}-{function.kind}",
        ask=f"{asked}\nIt must pass:\n{tests}",
        answer=_asserts(function.name, hidden),
        tests=tests,
    )


def _cases(function: FunctionTemplate, rng: Random) -> list[tuple[Arguments, Any]]:
    """Arguments with the reference's results, each once, edges first."""
    seen: dict[str, tuple[Arguments, Any]] = {}
    for arguments in function.inputs(rng, function.parameters):
        seen.setdefault(repr(arguments), (arguments, function.reference(*arguments)))
    return list(seen.values())


def _visible(cases: list[tuple[Arguments, Any]], rng: Random) -> list[tuple[Arguments, Any]]:
    """Ordinary cases whose results differ as far as they can, so that no constant passes."""
    ordinary = cases[len(cases) // 2 :]
    rng.shuffle(ordinary)
    chosen: list[tuple[Arguments, Any]] = []
    for case in ordinary:
        if all(case[1] != other for _, other in chosen) and case[1] not in (case[0][0], None):
            chosen.append(case)
    spare = [case for case in ordinary + cases if case not in chosen]
    for case in spare:
        if len({repr(result) for _, result in chosen}) < 2 and any(case[1] != r for _, r in chosen):
            chosen.append(case)
    return (chosen + [case for case in spare if case not in chosen])[:VISIBLE]


def _hidden(cases: list[tuple[Arguments, Any]]) -> list[tuple[Arguments, Any]]:
    """Edges, and what a program that does nothing or always the same gets wrong."""
    often = Counter(repr(result) for _, result in cases)
    telling = sorted(cases[EDGES:], key=lambda case: (case[1] == case[0][0], often[repr(case[1])]))
    return cases[:EDGES] + telling[:TELLING]


def _asserts(name: str, cases: list[tuple[Arguments, Any]]) -> str:
    return "\n".join(f"assert {name}({', '.join(map(repr, given))}) == {result!r}" for given, result in cases)

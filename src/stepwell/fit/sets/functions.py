"""The set ``functions``: small Python functions with visible examples and hidden tests."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from stepwell.fit.sets.inputs import Arguments
from stepwell.fit.sets.templates import TEMPLATES, Template
from stepwell.fit.tasks import Item, TaskSet

SEED = 20261122
CHOICES = 4
VISIBLE = 3
HIDDEN = 10
EDGES = 6


def functions(seed: int = SEED) -> TaskSet:
    """Each template with each of its choices; the first quarter of the items has every template once."""
    items = [
        _item(choice * len(TEMPLATES) + index, template, choice, seed)
        for choice in range(CHOICES)
        for index, template in enumerate(TEMPLATES)
    ]
    return TaskSet("functions", crew="code", single="coder", grader="program", items=tuple(items))


def _item(number: int, template: Template, choice: int, seed: int) -> Item:
    parameters = template.parameters(choice)
    rng = Random(f"{seed}-{template.name}-{choice}")
    cases = _cases(template, parameters, rng)
    visible = _visible(cases, rng)
    left = [case for case in cases if case not in visible]
    hidden = left[:EDGES] + left[EDGES:][-(HIDDEN - EDGES) :]
    tests = _asserts(template.name, visible)
    does = template.does.format(*parameters)
    ask = f"Write a Python function {template.name}({template.arguments}) that does this: {does}.\n"
    return Item(
        f"functions-{number:03d}-{template.name}",
        ask=f"{ask}It must pass:\n{tests}",
        answer=_asserts(template.name, hidden),
        tests=tests,
    )


def _cases(template: Template, parameters: Sequence[Any], rng: Random) -> list[tuple[Arguments, Any]]:
    """Arguments with the reference's results, each once, edges first."""
    seen = {}
    for arguments in template.inputs(rng, tuple(parameters)):
        seen.setdefault(repr(arguments), (arguments, template.reference(*parameters, *arguments)))
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


def _asserts(name: str, cases: list[tuple[Arguments, Any]]) -> str:
    return "\n".join(f"assert {name}({', '.join(map(repr, given))}) == {result!r}" for given, result in cases)

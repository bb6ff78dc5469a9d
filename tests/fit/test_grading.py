"""Replies as models write them, and whether they are right."""

from __future__ import annotations

import asyncio

import pytest

from stepwell.agents.tools.coding import program_of
from stepwell.fit.grading import names_only, right
from stepwell.fit.tasks import Item, TaskSet


def a_set(grader: str) -> TaskSet:
    return TaskSet("mine", "code", "coder", grader, ())


def is_right(task_set: TaskSet, item: Item, reply: str) -> bool:
    return asyncio.run(right(task_set, item, reply))


@pytest.mark.parametrize(
    ("reply", "answer", "good"),
    [
        ("12", "12", True),
        ("5 + 7 = 12.", "12", True),
        ("She has $1,250.50 left", "1250.5", True),
        ("12.0", "12", True),
        ("**12**", "12", True),
        ("it is -4", "-4", True),
        ("it is \u22124", "-4", True),
        ("10-4", "4", True),
        ("12 of the 15", "12", False),
        ("112", "12", False),
        ("twelve", "12", False),
        ("x12", "12", False),
        ("", "12", False),
        ("1,2", "2", True),
    ],
)
def test_number(reply: str, answer: str, good: bool) -> None:
    assert is_right(a_set("number"), Item("a", "?", answer), reply) is good


@pytest.mark.parametrize(
    ("reply", "good"),
    [
        ("Jonas Rutora", True),
        ("The mason was  jonas rutora.", True),
        ('{"answer": "Jonas Rutora"}', True),
        ("Rutora", False),
        ("Jonas Rutoras", False),
        ("Rutora Jonas", False),
        ("Jonas Rutora or Anna Kavek", False),
        ("Jonas Rutora, Anna Kavekum", True),
        ("", False),
    ],
)
def test_words_alone_and_nobody_elses(reply: str, good: bool) -> None:
    item = Item("a", "?", "Jonas Rutora", wrong=("Anna Kavek", "Boris Titor"))
    assert is_right(a_set("words"), item, reply) is good


def test_numbers_as_words() -> None:
    assert names_only("it has 2,140 inhabitants", "2140", ("140",))
    assert not names_only("it has 12140 inhabitants", "2140", ())


PROGRAM = "def double(n):\n    return n * 2\n"


@pytest.mark.parametrize(
    ("reply", "program"),
    [
        (PROGRAM, PROGRAM),
        (f"Here it is:\n```python\n{PROGRAM}```\nIt doubles.", PROGRAM),
        (f"Here it is:\n```python\n{PROGRAM}", PROGRAM),
        (f"```\nprint(1)\n```\nand\n```py\n{PROGRAM}```", PROGRAM),
        (f"```python\n{PROGRAM}```\n```python\ndef double(n): 1\n```", PROGRAM),
        (f"Sure!\n\n{PROGRAM}", PROGRAM),
        ("```\nx = 1\n```", "x = 1\n"),
        ("no program", "no program"),
        (f"import math\n{PROGRAM}", f"import math\n{PROGRAM}"),
    ],
)
def test_the_program_of_a_reply(reply: str, program: str) -> None:
    assert program_of(reply) == program


@pytest.mark.parametrize(
    ("reply", "good"),
    [
        (f"```python\n{PROGRAM}```", True),
        ("def double(n):\n    return n + 2\n", False),
        ("def double(n):\n    return 4\n", False),
        ("def double(n", False),
        ("def double(n):\n    raise SystemExit(0)\n", False),
        ("def double(n):\n    while True: pass\n", False),
        ("", False),
        ("x" * 60_000, False),
    ],
)
def test_programs_by_their_hidden_tests(reply: str, good: bool) -> None:
    item = Item("a", "?", "assert double(2) == 4\nassert double(-1) == -2\nassert double(0) == 0")
    assert is_right(a_set("program"), item, reply) is good

"""The shipped sets: certain answers, no duplicates, balanced halves, the same items everywhere."""

from __future__ import annotations

import asyncio
import csv
import hashlib
import re
import sqlite3
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from itertools import permutations, product
from typing import Any

import pytest

from stepwell.fit.grading import names_only, right
from stepwell.fit.jsonl import dump
from stepwell.fit.sets import SHIPPED
from stepwell.fit.sets.facts import facts_set
from stepwell.fit.sets.functions import all_functions, functions_set
from stepwell.fit.sets.stories import KINDS
from stepwell.fit.sets.sums import mistakes, sums_set, value
from stepwell.fit.sets.tables import tables_set
from stepwell.fit.tasks import GRADERS, Item, TaskSet

FUNCTIONS, FACTS, SUMS, TABLES = functions_set(), facts_set(), sums_set(), tables_set()
SETS = {task_set.name: task_set for task_set in (FUNCTIONS, FACTS, SUMS, TABLES)}

every_set = pytest.mark.parametrize("task_set", SETS.values(), ids=SETS)


@every_set
def test_several_hundred_items_each_asked_once(task_set: TaskSet) -> None:
    assert len(task_set.items) >= 300
    assert len({item.id for item in task_set.items}) == len(task_set.items)
    assert len({(item.ask, item.passages, item.tables) for item in task_set.items}) == len(task_set.items)
    assert all(item.ask.strip() and item.answer.strip() and item.kind for item in task_set.items)
    assert task_set.grader in GRADERS


@every_set
def test_the_halves_are_as_large_and_have_the_same_kinds(task_set: TaskSet) -> None:
    fit, held_out = task_set.halves()
    assert Counter(item.kind for item in fit) == Counter(item.kind for item in held_out)


@every_set
def test_the_same_on_every_machine(task_set: TaskSet) -> None:
    """Reports name a set and a seed: other items under the same name would be other measurements."""
    digest = hashlib.sha256("\n".join(dump(task_set)).encode()).hexdigest()
    assert digest[:16] == DIGESTS[task_set.name]


@pytest.mark.parametrize("make", [functions_set, facts_set, sums_set, tables_set])
def test_another_seed_makes_other_items_of_the_same_kinds(make: Callable[[int], TaskSet]) -> None:
    one, other = make(1), make(2)
    assert one == make(1)
    assert one.items != other.items
    assert [item.kind for item in one.items] == [item.kind for item in other.items]


def test_every_set_is_shipped_under_its_name() -> None:
    assert {name: make() for name, make in SHIPPED.items()} == SETS


# -- functions


def passes_all(item: Item, name: str, program: Callable[..., Any], tests: str) -> bool:
    try:
        exec(compile(tests, item.id, "exec"), {name: program})
    except Exception:  # noqa: BLE001 (whatever a program does wrong)
        return False
    return True


pairs = pytest.mark.parametrize(
    ("item", "function"),
    [*zip(FUNCTIONS.items, all_functions(), strict=True)],
    ids=[f.name for f in all_functions()],
)


@pairs
def test_the_reference_passes_and_programs_that_did_not_read_the_task_fail(item: Item, function: Any) -> None:
    assert passes_all(item, function.name, function.reference, item.tests)
    assert passes_all(item, function.name, function.reference, item.answer)
    assert not passes_all(item, function.name, lambda *given: None, item.answer)
    assert not passes_all(item, function.name, lambda *given: given[0], item.answer)
    assert not passes_all(item, function.name, lambda *given: given[0], item.tests)
    visible: dict[str, Any] = {}

    def recorded(*given: Any) -> Any:
        return visible.setdefault(repr(given), function.reference(*given))

    assert passes_all(item, function.name, recorded, item.tests)
    for constant in visible.values():
        assert not passes_all(item, function.name, partial(remembered, {}, constant), item.answer)
        assert not passes_all(item, function.name, partial(remembered, visible, constant), item.answer)


def remembered(visible: dict[str, Any], otherwise: object, *given: Any) -> Any:
    return visible.get(repr(given), otherwise)


@pairs
def test_examples_are_in_the_question_and_hidden_tests_are_others(item: Item, function: Any) -> None:
    visible, hidden = item.tests.splitlines(), item.answer.splitlines()
    assert item.ask.endswith(f"It must pass:\n{item.tests}")
    assert 2 <= len(visible) <= 3
    assert len(hidden) >= 5
    assert not set(visible) & set(hidden)
    assert f"{function.name}({function.arguments}) that returns {function.returns}." in item.ask


def test_at_least_sixty_kinds_and_no_instance_in_both_halves() -> None:
    fit, held_out = FUNCTIONS.halves()
    assert len({item.kind for item in FUNCTIONS.items}) >= 60
    assert not {item.ask.splitlines()[0] for item in fit} & {item.ask.splitlines()[0] for item in held_out}


def test_a_written_program_is_right_by_the_grader() -> None:
    item = FUNCTIONS.items[next(n for n, f in enumerate(all_functions()) if f.name == "sum_even")]
    program = "def sum_even(xs):\n    return sum(x for x in xs if x % 2 == 0)"
    wrong = program.replace("== 0", "== 1")
    replies = [f"Here:\n```python\n{code}\n```\nIt sums." for code in (program, wrong)]
    assert [asyncio.run(right(FUNCTIONS, item, reply)) for reply in replies] == [True, False]


# -- facts


def test_the_answer_stands_in_one_passage_and_no_reply_with_two_values_is_right() -> None:
    for item in FACTS.items:
        assert sum(names_only(passage, item.answer, ()) for passage in item.passages) == 1
        assert all(any(names_only(passage, other, ()) for passage in item.passages) for other in item.wrong)
        assert len(item.wrong) == len(item.passages) - 1
        assert names_only(item.answer, item.answer, item.wrong)
        assert not names_only(" ".join(item.passages), item.answer, item.wrong)
        both = [f"{item.answer} or {other}" for other in item.wrong]
        assert not any(names_only(reply, item.answer, item.wrong) for reply in both)


def test_quoting_the_right_passage_whole_is_right() -> None:
    for item in FACTS.items:
        (passage,) = (one for one in item.passages if names_only(one, item.answer, ()))
        assert names_only(passage, item.answer, item.wrong)


def test_nobody_is_asked_about_twice_in_a_document_and_documents_stay_whole() -> None:
    fit, held_out = FACTS.halves()
    assert not {item.passages for item in fit} & {item.passages for item in held_out}
    documents = Counter(item.passages for item in FACTS.items)
    assert set(documents.values()) == {6}
    assert all(MOST[0] <= len(passages) <= MOST[1] for passages in documents)


# -- sums


def test_answers_are_whole_and_no_wrong_calculation_gives_them() -> None:
    """Read back from the wording, with Python's arithmetic and none of the set's own."""
    calculations = {kind.name: kind.calculation for kind in KINDS}
    for item in SUMS.items:
        numbers = re.findall(r"\d+", item.ask)
        right = re.sub(r"[^-+*/]", "", calculations[item.kind])
        assert int(item.answer) > 0
        assert len(numbers) == len(right) + 1
        assert item.answer not in numbers
        for order in permutations(numbers):
            for signs in product("+-*/", repeat=len(right)):
                given = eval("".join(f"{n}{sign}" for n, sign in zip(order, (*signs, ""), strict=True)))
                assert given != int(item.answer) or sorted(signs) == sorted(right)


def test_a_calculation_is_read_as_arithmetic_reads_it() -> None:
    assert value((50, 3, 7), "{a} - {b} * {c}") == 29
    assert value((3, 7, 5), "{a} * {b} + {c}") == 26
    assert value((96, 8), "{a} / {b}") == 12
    assert value((1, 2, 3), "{a} - {b} - {c}") == -4


def test_mistakes_are_every_other_calculation() -> None:
    assert set(mistakes((12, 4), "+")) == {8, 48, 3, 12, 4, -8, Fraction(1, 3)}
    wrong = set(mistakes((50, 3, 7), "{a} - {b} * {c}"))
    assert 29 not in wrong
    assert {50 - 3 - 7, 50 * 3 - 7, 50 - 3, 3 * 7, 50 + 21, 7 * 50 - 3, 50} <= wrong


def test_every_wording_is_asked_in_both_halves() -> None:
    for half in SUMS.halves():
        for kind in KINDS:
            asked = [item.ask for item in half if item.kind == kind.name]
            assert len(kind.wordings) >= 4
            for wording in kind.wordings:
                last = wording.format(n="*", m="*", t="*", h="*", a="*", b="*", c="*").split("*")[-1]
                assert any(ask.endswith(last) for ask in asked)


# -- tables

STATEMENTS = {
    "total": (r"total (\w+) of all (\w+) whose (\w+) is (\w+)", "SELECT sum({0}) FROM {1} WHERE {2} = '{3}'"),
    "count": (r"many (\w+) whose (\w+) is (\w+)", "SELECT count(*) FROM {0} WHERE {1} = '{2}'"),
    "largest": (
        r"largest (\w+) of all (\w+) whose (\w+) is (\w+)",
        "SELECT max({0}) FROM {1} WHERE {2} = '{3}'",
    ),
    "difference": (
        r"total (\w+) of (\w+) (\w+) above that of \w+ (\w+)",
        "SELECT sum(CASE {1} WHEN '{2}' THEN {0} WHEN '{3}' THEN -{0} ELSE 0 END) FROM t",
    ),
    "above": (r"many (\w+) have (\w+) above (\d+)", "SELECT count(*) FROM {0} WHERE {1} > {2}"),
    "distinct": (
        r"values of (\w+) do the (\w+) whose (\w+) is (\w+)",
        "SELECT count(DISTINCT {0}) FROM {1} WHERE {2} = '{3}'",
    ),
}


def test_one_statement_answers_each_question_and_without_its_condition_does_not() -> None:
    """The question read back as SQL, and asked of another database than crews use."""
    for item in TABLES.items:
        ((_, text),) = item.tables
        head, *rows = csv.reader(text.splitlines())
        pattern, statement = STATEMENTS[item.kind]
        found = re.search(pattern, item.ask)
        assert found, item.ask
        with sqlite3.connect(":memory:") as base:
            base.execute(f"CREATE TABLE t ({head[0]} TEXT, {head[1]} TEXT, {head[2]} INT, {head[3]} INT)")
            base.executemany("INSERT INTO t VALUES (?, ?, ?, ?)", rows)
            words = re.sub(r"FROM \S+", "FROM t", statement.format(*found.groups()))
            (answer,) = base.execute(words).fetchone()
            (careless,) = base.execute(words.partition(" WHERE")[0]).fetchone()
        base.close()
        assert str(answer) == item.answer and answer > 0
        assert careless != answer or item.kind == "difference"


def test_questions_on_one_table_stay_in_one_half() -> None:
    fit, held_out = TABLES.halves()
    assert not {item.tables for item in fit} & {item.tables for item in held_out}


MOST = (6, 7)
DIGESTS = {
    "functions": "12997b57707b6ec9",
    "facts": "d3a6cf5be261e2d3",
    "sums": "ab77f8b32d4ab5cc",
    "tables": "794ec18fa3399e04",
}

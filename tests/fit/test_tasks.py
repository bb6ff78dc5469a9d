"""Task sets: their halves, and JSON lines that come back as they were or are refused in one sentence."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.errors import BadInput
from stepwell.fit import jsonl
from stepwell.fit.jsonl import dump
from stepwell.fit.load import load_tasks
from stepwell.fit.sets import SHIPPED
from stepwell.fit.tasks import GRADERS, Item, TaskSet

FIRST = {"task_set": {"name": "mine", "crew": "documents", "single": "reader", "grader": "words"}}
ITEM = {"id": "a", "ask": "Who?", "answer": "Anna"}


def written(path: Path, *lines: object) -> str:
    path.write_text(
        "".join(f"{x if isinstance(x, str) else json.dumps(x)}\n" for x in lines), encoding="utf-8"
    )
    return str(path)


def with_grader(grader: str) -> dict[str, object]:
    return {"task_set": {**FIRST["task_set"], "grader": grader}}


@pytest.mark.parametrize("name", SHIPPED)
def test_a_dumped_set_is_read_back_as_it_was(name: str, tmp_path: Path) -> None:
    task_set = load_tasks(name)
    assert load_tasks(written(tmp_path / "set.jsonl", *dump(task_set))) == task_set


texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=40).filter(str.strip)


@given(
    st.lists(
        st.builds(
            Item,
            texts,
            texts,
            st.just("Anna"),
            st.lists(texts).map(tuple),
            st.text(max_size=9),
            st.just(("Ben",)),
            st.lists(st.tuples(st.sampled_from("abc"), texts), max_size=3, unique_by=lambda one: one[0]).map(
                tuple
            ),
        ),
        min_size=1,
        max_size=5,
        unique_by=lambda item: item.id,
    )
)
def test_any_text_survives_json_lines(tmp_path_factory: pytest.TempPathFactory, items: list[Item]) -> None:
    task_set = TaskSet("mine", "documents", "reader", "words", tuple(items))
    path = tmp_path_factory.mktemp("sets") / "set.jsonl"
    assert load_tasks(written(path, *dump(task_set))) == task_set


def test_blank_lines_and_a_byte_order_mark_do_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    path.write_text(f"\ufeff{json.dumps(FIRST)}\r\n\r\n{json.dumps(ITEM)}\r\n", encoding="utf-8")
    assert load_tasks(str(path)).items == (Item("a", "Who?", "Anna"),)


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([], "is no task set: its first line is"),
        ([FIRST], "is no task set: its first line is"),
        ([ITEM, ITEM], "line 1: the first line is"),
        ([FIRST, "{"], "line 2: this is not JSON"),
        ([FIRST, "[" * 100_000], "line 2: this is not JSON"),
        ([FIRST, [1]], "line 2: this is not an object in braces"),
        ([{"task_set": {"name": "mine"}}, ITEM], "line 1: 'crew' is missing or empty"),
        ([with_grader("vibes"), ITEM], "'number', 'words', 'program', not 'vibes'"),
        ([FIRST, {"id": "a", "ask": "Who?"}], "line 2: 'answer' is missing or empty"),
        ([FIRST, {**ITEM, "answer": 12}], "line 2: 'answer' is a text in quotes, not 12"),
        ([FIRST, {**ITEM, "anser": "x"}], "line 2: there is no field 'anser'"),
        ([FIRST, {**ITEM, "passages": "x"}], "line 2: 'passages' is a list of texts"),
        ([FIRST, {**ITEM, "passages": ["x", ""]}], "line 2: 'passages 2' is missing or empty"),
        ([FIRST, {**ITEM, "tables": ["x"]}], "line 2: 'tables' is {\"sales\":"),
        ([FIRST, {**ITEM, "tables": {"../x": "a\n1"}}], "line 2: the table '../x' has no name of letters"),
        ([FIRST, {**ITEM, "tables": {"x": 1}}], "line 2: 'table x' is a text in quotes, not 1"),
        ([FIRST, {**ITEM, "answer": "?!"}], "line 2: the answer '?!' has no words"),
        ([FIRST, {**ITEM, "wrong": ["Anna"]}], "line 2: 'Anna' is both the answer and wrong"),
        ([FIRST, ITEM, "", ITEM], "line 4: the id 'a' stands in"),
        ([FIRST, {**ITEM, "ask": "x" * 20_001}], "line 2: 'ask' has 20,001 characters"),
        ([with_grader("number"), ITEM], "line 2: the answer 'Anna' has no number"),
        ([with_grader("program"), {**ITEM, "answer": "assert f("}], "line 2: 'answer' is not Python"),
        ([with_grader("program"), {**ITEM, "answer": "assert f", "tests": "a b"}], "'tests' is not Python"),
        ([with_grader("program"), {**ITEM, "answer": "x = 1"}], "line 2: 'answer' tests nothing"),
    ],
)  # fmt: skip
def test_a_broken_file_is_refused_with_its_line(tmp_path: Path, lines: list[object], says: str) -> None:
    path = written(tmp_path / "set.jsonl", *lines)
    with pytest.raises(BadInput) as error:
        load_tasks(path)
    assert says in str(error.value)
    assert path in str(error.value)
    assert "\n" not in str(error.value)


def test_limits_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "set.jsonl", FIRST, ITEM, {**ITEM, "id": "b"})
    monkeypatch.setattr(jsonl, "MAX_ITEMS", 1)
    with pytest.raises(BadInput, match="has 2 items, and a task set has at most 1"):
        load_tasks(path)
    monkeypatch.setattr(jsonl, "MAX_FILE_BYTES", 10)
    with pytest.raises(BadInput, match="bytes, and a task set has at most 10"):
        load_tasks(path)


def test_what_is_no_file_is_told_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="give one of functions, facts, sums, tables, or a JSONL file"):
        load_tasks(str(tmp_path / "missing.jsonl"))
    with pytest.raises(BadInput, match="give one of"):
        load_tasks(str(tmp_path))
    (tmp_path / "bytes.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="cannot be read as UTF-8 text"):
        load_tasks(str(tmp_path / "bytes.jsonl"))


def test_the_kind_is_what_follows_the_number() -> None:
    names = ("functions-017-count_over", "my-set-3-a-b", "plain", "x-12")
    kinds = [Item(name, "", "").kind for name in names]
    assert kinds == ["count_over", "a-b", "", ""]


items = st.lists(
    st.tuples(st.sampled_from(["x", "y", ""]), st.sampled_from([(), ("one",), ("two",), ("three",)])),
    max_size=30,
).map(lambda pairs: [Item(f"set-{n}-{kind}", "?", "!", read) for n, (kind, read) in enumerate(pairs)])


@given(items)
def test_halves_lose_nothing_and_keep_readers_of_the_same_passages_together(items: list[Item]) -> None:
    fit, held_out = TaskSet("mine", "documents", "reader", GRADERS[1], tuple(items)).halves()
    assert Counter(fit + held_out) == Counter(items)
    assert not {item.passages for item in fit if item.passages} & {item.passages for item in held_out}


@given(st.lists(st.sampled_from("xyz"), max_size=30))
def test_halves_have_as_many_of_each_kind_give_or_take_one(kinds: list[str]) -> None:
    items = tuple(Item(f"set-{n}-{kind}", "?", "!") for n, kind in enumerate(kinds))
    fit, held_out = TaskSet("mine", "calculation", "solver", "number", items).halves()
    for kind in kinds:
        counts = [sum(item.kind == kind for item in half) for half in (fit, held_out)]
        assert abs(counts[0] - counts[1]) <= 1


def _own(count: int, *, kinds: bool, passages: int) -> TaskSet:
    """Items of one kind or of as many as there are, over so many documents (0: none)."""
    items = [
        Item(
            f"mine-{n:03}-{n if kinds else 'same'}",
            f"Who {n}?",
            "Anna",
            (f"P{n % passages}",) if passages else (),
        )
        for n in range(count)
    ]
    return TaskSet("mine", "documents", "reader", "words", tuple(items))


@given(st.integers(2, 40), st.booleans(), st.sampled_from([0, 2, 3]))
def test_whatever_can_be_split_is_split(count: int, kinds: bool, passages: int) -> None:
    tasks = _own(count, kinds=kinds, passages=passages)
    fit, held_out = tasks.halves()
    assert fit
    assert held_out
    assert {one.id for one in (*fit, *held_out)} == {one.id for one in tasks.items}
    shared = {one.passages for one in fit} & {one.passages for one in held_out}
    assert shared <= {()}


def test_items_that_read_the_same_passages_are_not_split() -> None:
    fit, held_out = _own(10, kinds=False, passages=1).halves()
    assert (len(fit), held_out) == (10, ())

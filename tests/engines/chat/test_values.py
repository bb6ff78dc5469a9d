"""JSON as models write it: strict while it streams, wherever the text is cut."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("llama_cpp")

from stepwell.engines.llamacpp.chat.reader import MarkReader
from stepwell.engines.llamacpp.chat.values import as_object, from_text

FUNCTIONS: dict[str, dict[str, Any]] = {"f": {}}


def arguments(written: str, cuts: Sequence[int] = ()) -> str:
    """What a client gets for a call whose arguments are written so, in pieces of these lengths."""
    answer = f'<tool_call>{{"name": "f", "arguments": {written}}}</tool_call>'
    return said(answer, cuts)


def said(answer: str, cuts: Sequence[int] = ()) -> str:
    reader, at, parts = MarkReader(FUNCTIONS), 0, []
    for length in (*cuts, len(answer)):
        parts += reader.add(answer[at : at + length])
        at += length
    parts += reader.finish()
    assert sum(part.kind == "call" for part in parts) == 1
    return "".join(part.text for part in parts if part.kind == "arguments")


def strict(text: str) -> Any:
    """As the strictest client reads it."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    value = json.loads(text, parse_constant=refuse)
    json.dumps(value, allow_nan=False)
    return value


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("null", {}),
        ('{"a": null}', {"a": None}),
        ('{"a": NaN, "b": -Infinity, "c": [Infinity, nan]}', {"a": None, "b": None, "c": [None, None]}),
        ('{"a": 1e999, "b": -1.5e400, "c": 1e-999}', {"a": None, "b": None, "c": 0.0}),
        ('{"a": None, "b": True, "c": False, "d": undefined}', {"a": None, "b": True, "c": False, "d": None}),
        ('{"a": +5, "b": .5, "c": 5., "d": -.25}', {"a": 5, "b": 0.5, "c": 5, "d": -0.25}),
        ('{"a": 007, "b": 0x1F, "c": 2026-11-29}', {"a": "007", "b": "0x1F", "c": "2026-11-29"}),
        ("{city: Rome, days: 3}", {"city": "Rome", "days": 3}),
        ("{'a': 'it\\'s \"so\"'}", {"a": 'it\'s "so"'}),
        ('{"a": "it\'s"}', {"a": "it's"}),
        ('{"a": [1, 2, ], "b": {"c": 1, },}', {"a": [1, 2], "b": {"c": 1}}),
        ('{"a": [1, 2}}', {"a": [1, 2]}),
        ('{"a": 123456789012345678901234567890}', {"a": 123456789012345678901234567890}),
        ("[1e999]", {"arguments": [None]}),
        ("NaN", {}),
        ('"{\\"a\\": 1e999}"', {"a": None}),
    ],
)
def test_arguments_are_strict_json(written: str, meant: Any) -> None:
    assert strict(arguments(written)) == meant


def test_what_is_right_stays_as_it_was_written() -> None:
    text = '{"a" : 1.50, "b":[true ,null] , "c": "\\u00e9\\n",\n "d": {}, "e": [ ]}'
    assert arguments(text) == text


@pytest.mark.parametrize("written", ['{"a" 1}', '{"a": 1 "b": 2}', '{"a": $}'])
def test_what_one_token_does_not_mend_is_passed_as_text(written: str) -> None:
    assert written[:4] in arguments(written)


def test_values_without_quotes() -> None:
    assert from_text("1e999", None) == from_text("NaN", None) == "null"
    assert from_text("1e999", {"type": "string"}) == '"1e999"'
    assert strict(as_object("1e999")) == {}
    assert strict(said("<start_function_call>call:f{a:1e999,b:NaN}<end_function_call>")) == {
        "a": None,
        "b": None,
    }


LOOSE = st.recursive(
    st.sampled_from(
        ("1", "-2.5", "1e999", "NaN", "None", "true", '"x"', "'y z'", "word", "+7", ".5", '"a\tb"')
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]"),
        st.lists(inner, min_size=1, max_size=3).map(lambda items: f"[{' , '.join(items)},]"),
        st.lists(st.tuples(st.sampled_from(('"k"', "'k'", "k")), inner), max_size=3).map(
            lambda members: "{" + ",".join(f"{key}: {value}" for key, value in members) + "}"
        ),
    ),
    max_leaves=8,
)


@given(LOOSE, st.lists(st.integers(1, 40), max_size=6))
@settings(deadline=None, max_examples=60)
def test_whatever_is_written_loosely_is_strict_wherever_it_is_cut(value: str, cuts: list[int]) -> None:
    written = f'{{"v": {value}}}'
    whole = arguments(written)
    assert set(strict(whole)) == {"v"}
    assert arguments(written, cuts) == whole

"""Input items of the Responses API: what a history may hold, whoever made it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.server.errors import ApiError
from stepwell.server.responses.items import as_messages, input_items


@given(st.text(st.characters(codec="utf-8")), st.text(st.characters(codec="utf-8")))
def test_a_custom_call_and_its_output_stay_in_the_history(said: str, output: str) -> None:
    part = {"type": "output_text", "text": "x"}
    items = input_items(
        [
            {"type": "custom_tool_call", "call_id": "c1", "name": "patch", "input": said},
            {"type": "function_call", "call_id": "c2", "name": "f", "arguments": "{}"},
            {"type": "custom_tool_call_output", "call_id": "c1", "output": output},
            {
                "type": "function_call_output",
                "call_id": "c2",
                "output": [part],
            },
        ]
    )
    assert input_items(items) == items  # as they are kept, they may be sent again
    turn, first, second = as_messages(items)
    calls = [call["function"] for call in turn["tool_calls"]]
    assert [call["name"] for call in calls] == ["patch", "f"]
    assert json.loads(calls[0]["arguments"]) == {"input": said}
    assert [(m["role"], m["content"], m["tool_call_id"]) for m in (first, second)] == [
        ("tool", output, "c1"),
        ("tool", "x", "c2"),
    ]


@pytest.mark.parametrize(
    ("item", "param"),
    [
        ({"type": "custom_tool_call", "call_id": "c", "name": "patch"}, "input[0].input"),
        ({"type": "custom_tool_call_output", "output": "x"}, "input[0].call_id"),
        ({"type": "image_generation_call"}, "input[0].type"),
    ],
)
def test_what_is_wrong_with_an_item_is_named(item: dict[str, str], param: str) -> None:
    with pytest.raises(ApiError) as caught:
        input_items([item])
    assert caught.value.param == param

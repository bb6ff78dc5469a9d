"""A function becomes a tool; a tool's call comes to an end, whatever the function does."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import threading
from typing import Annotated, Any, Literal

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from stepwell.agents.tools import Tool, ToolError, ToolResult, from_function, run_tool, tool
from stepwell.errors import BadInput


def run(made: Tool, arguments: Any) -> ToolResult:
    return asyncio.run(run_tool(made, arguments))


def weather(city: str, days: int = 3, unit: Literal["C", "F"] = "C") -> dict[str, Any]:
    """Tells the weather
    of a city.

    More for people.

    Args:
        city: its name
        days (int): how many to look ahead

    Returns: whatever
    """
    return {"city": city, "days": days, "unit": unit}


def test_the_model_is_told_name_description_and_schema() -> None:
    made = tool(weather)
    assert (made.name, made.description) == ("weather", "Tells the weather of a city.")
    assert made.parameters == {
        "type": "object",
        "additionalProperties": False,
        "required": ["city"],
        "properties": {
            "city": {"type": "string", "description": "its name"},
            "days": {"type": "integer", "default": 3, "description": "how many to look ahead"},
            "unit": {"enum": ["C", "F"], "type": "string", "default": "C"},
        },
    }


def test_arguments_are_given_by_name_and_defaults_hold() -> None:
    answer = run(tool(weather), {"city": "Ulm", "days": "5"})
    assert (answer.ok, json.loads(answer.text)) == (True, {"city": "Ulm", "days": 5, "unit": "C"})
    assert answer.seconds >= 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({}, "argument city is missing"),
        ({"city": "Ulm", "days": "many"}, "argument days: input should be a valid integer.*'many'"),
        ({"city": "Ulm", "unit": "K"}, "argument unit: input should be 'C' or 'F', not 'K'"),
        ({"city": "Ulm", "place": 1}, "there is no argument place"),
        ("{city: Ulm}", "not valid JSON"),
        ("[1]", "one JSON object"),
        ("[" * 100_000, "not valid JSON"),
        (None, "one JSON object"),
    ],
)
def test_a_wrong_argument_is_one_sentence_that_names_it(arguments: Any, says: str) -> None:
    answer = run(tool(weather), arguments)
    assert not answer.ok
    assert "\n" not in answer.text
    assert re.search(says, answer.text), answer.text


class Point(BaseModel):
    x: int
    title: str = "here"


def test_nested_values_and_odd_names_arrive_as_declared() -> None:
    def place(schema: Point, model_json: list[int], title: Annotated[int, Field(ge=1)]) -> str:
        """Places."""
        return f"{type(schema).__name__} {schema.x} {schema.title} {model_json} {title}"

    made = tool(place)
    arguments = {"schema": {"x": 1}, "model_json": ["2"], "title": 3}
    assert run(made, arguments).text == "Point 1 here [2] 3"
    assert set(made.parameters["properties"]) == {"schema", "model_json", "title"}
    assert set(made.parameters["$defs"]["Point"]["properties"]) == {"x", "title"}
    assert "schema.x" in run(made, {**arguments, "schema": {"x": "?"}}).text


@given(st.dictionaries(st.text(max_size=5), st.none() | st.integers() | st.text(max_size=5), max_size=3))
def test_what_the_schema_takes_the_function_gets(arguments: dict[str, Any]) -> None:
    def take(a: int | None, b: str = "") -> str:
        """Takes."""
        return "taken"

    made = tool(take)
    try:
        jsonschema.validate(arguments, dict(made.parameters))
    except jsonschema.ValidationError:
        return
    assert run(made, arguments) == ToolResult("taken", True, pytest.approx(0, abs=60))


def no_docstring(a: int) -> int:
    return a


def no_annotation(a) -> None:  # type: ignore[no-untyped-def]
    """Says what it does."""


def any_number(*many: int) -> None:
    """Says what it does."""


def not_json(a: threading.Thread) -> None:
    """Says what it does."""


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (no_docstring, "docstring"),
        (no_annotation, "annotate a"),
        (any_number, "by name"),
        (not_json, "type that JSON cannot hold"),
    ],
)
def test_a_function_that_cannot_be_told_of_is_refused(function: Any, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        tool(function)


def test_a_name_that_no_model_could_call_is_refused() -> None:
    with pytest.raises(BadInput, match="at most 64 letters"):
        from_function(weather, name="weather now")


@pytest.mark.parametrize(
    "error", [ValueError("no\nrain"), SystemExit(3), KeyboardInterrupt(), MemoryError(), StopIteration("no")]
)
@pytest.mark.parametrize("is_async", [True, False])
def test_whatever_is_raised_is_one_sentence(error: BaseException, is_async: bool) -> None:
    def rain() -> str:
        """Rains."""
        raise error

    async def rain_later() -> str:
        """Rains."""
        raise error

    answer = run(tool(rain_later if is_async else rain), {})
    assert not answer.ok
    assert type(error).__name__ in answer.text
    assert "\n" not in answer.text


def test_a_tool_error_is_told_as_it_is() -> None:
    def refuse() -> str:
        """Refuses."""
        raise ToolError("the shelf is empty")

    assert run(tool(refuse), {}) == ToolResult(
        "refuse failed: the shelf is empty", False, pytest.approx(0, abs=60)
    )


def test_a_function_that_hangs_is_given_up_and_the_process_can_end() -> None:
    released = threading.Event()

    def hang() -> None:
        """Hangs."""
        released.wait(60)

    async def stubborn() -> None:
        """Does not let itself be cancelled."""
        while not released.is_set():
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                continue

    async def both() -> list[ToolResult]:
        made = [from_function(one, timeout_s=0.05) for one in (hang, stubborn)]
        outcomes = [await run_tool(one, {}) for one in made]
        released.set()
        return outcomes

    for answer in asyncio.run(both()):
        assert not answer.ok
        assert "did not answer within 0.05 s and was given up" in answer.text


def test_cancelling_the_caller_cancels_the_call() -> None:
    seen: list[str] = []
    started = asyncio.Event()

    async def wait() -> None:
        """Waits."""
        started.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    async def main() -> None:
        task = asyncio.ensure_future(run_tool(tool(wait), {}))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert seen == ["cancelled"]


def test_sync_functions_do_not_hold_up_the_loop() -> None:
    gate = threading.Event()

    def wait_for_the_loop() -> str:
        """Waits until the loop has gone on."""
        return "went on" if gate.wait(30) else "was held up"

    async def main() -> str:
        call = asyncio.ensure_future(run_tool(tool(wait_for_the_loop), {}))
        await asyncio.sleep(0)
        gate.set()
        return (await call).text

    assert asyncio.run(main()) == "went on"


def test_a_long_answer_is_cut_and_says_so() -> None:
    def long() -> str:
        """Long."""
        return "x" * 1_000

    answer = run(from_function(long, max_answer_chars=10), {})
    assert answer.ok
    assert answer.text == "x" * 10 + "\n(cut: 1,000 characters in all)"


def test_an_answer_can_always_be_sent() -> None:
    def odd() -> str:
        """Half a character."""
        return "a\ud800b"

    def thing() -> object:
        """No JSON."""
        return {"at": sys}

    run(tool(odd), {}).text.encode()
    assert "module" in run(tool(thing), {}).text

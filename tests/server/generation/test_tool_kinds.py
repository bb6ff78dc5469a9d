"""Which tool an answer calls: by name, and a shell by its program; never a word of the arguments."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.server.generation.tool_kinds import tool_kind


def shell(line: object) -> str:
    return tool_kind([("Bash", json.dumps({"command": line}))])


def test_a_tool_goes_by_its_name_and_the_last_call_counts() -> None:
    assert tool_kind([]) == ""
    assert tool_kind([("lookup", '{"query": "wells"}')]) == "lookup"
    assert tool_kind([("lookup", "{}"), ("crawl", "{}")]) == "crawl"


def test_a_shell_goes_by_the_program_that_it_runs() -> None:
    tests = shell("pytest -q tests/policy")
    assert tests.startswith("Bash~")
    assert tests == shell("CI=1 time .venv/bin/pytest --lf") == shell(["pytest", "-x"])
    assert tests != shell("ls -la")


@pytest.mark.parametrize("arguments", ["", "{", "[1]", '"ls"', '{"command": 7}', '{"command": ""}', "null"])
def test_arguments_that_name_no_program_leave_the_tool_its_name(arguments: str) -> None:
    assert tool_kind([("Bash", arguments)]) == "Bash"


@settings(deadline=None)
@given(st.text(), st.text(), st.text(min_size=5, alphabet="ghijkl"))
def test_no_word_of_the_arguments_is_in_the_kind(name: str, arguments: str, secret: str) -> None:
    tool_kind([(name, arguments)])
    assert secret not in tool_kind([("Bash", json.dumps({"cmd": f"{secret} --token {secret}"}))])

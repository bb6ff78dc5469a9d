"""Regular expressions over what others wrote take linear time."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.regexes import faults

SOURCE = Path(__file__).parent.parent / "src" / "stepwell"
_SEARCHES = {"search", "findall", "finditer", "sub", "subn", "split"}


OWN = (
    "bench",
    "commands",
    "dashboards",
    "demo",
    "fit",
    "ledger/stores/postgres.py",
    "simulate",
    "basics/units.py",
)
"""Where texts are our own or those of who started the program. Everywhere else are texts of strangers,
answers of models among them."""


def files() -> list[Path]:
    return [
        file
        for file in sorted(SOURCE.rglob("*.py"))
        if not file.relative_to(SOURCE).as_posix().startswith(OWN)
        and re.search(r"\bre\.", file.read_text("utf-8"))
    ]


def patterns(file: Path) -> Iterator[tuple[str, re.Pattern[str] | re.Pattern[bytes], bool]]:
    """Name, pattern, and whether it is searched for: those of the module, and those written into calls."""
    name = "stepwell." + ".".join(file.relative_to(SOURCE).with_suffix("").parts)
    module = importlib.import_module(name.removesuffix(".__init__"))
    text = file.read_text("utf-8")
    for key, value in vars(module).items():
        if isinstance(value, re.Pattern):
            searched = re.search(rf"\b{key}\b(?!\.(?:full)?match\b)(?!\s*=\s)", text) is not None
            yield f"{name}.{key}", value, searched
    for node in ast.walk(ast.parse(text)):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and ast.unparse(node.func.value) == "re"
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            searched = node.func.attr in _SEARCHES
            if node.func.attr != "compile":
                yield f"{name}:{node.lineno}", re.compile(node.args[0].value), searched


@pytest.mark.parametrize("file", files(), ids=lambda file: file.relative_to(SOURCE).as_posix())
def test_no_pattern_goes_back_over_what_it_read(file: Path) -> None:
    found = {
        name: why
        for name, one, searched in patterns(file)
        if (why := faults(one.pattern, one.flags, searched=searched))
    }
    assert not found


@pytest.mark.parametrize(
    ("pattern", "searched"),
    [
        (r"\s*(?:<!--.*?-->\s*)*<html", False),
        (r"<[a-z][^>]*>", True),
        (r"^#{1,6}[ \t]+(.+?)[ \t#]*$", False),
        (r"(a+)+$", False),
        (r"(a|aa)+b", True),
        (r"(\w+\s?)*:", False),
        (r".*,.*,", False),
        (r"\s+$", True),
        (r"x*y*x*z", False),
    ],
)
def test_what_is_refused(pattern: str, searched: bool) -> None:
    assert faults(pattern, searched=searched)


@pytest.mark.parametrize(
    "pattern",
    [
        r"\w+",
        r"[a-z]+(?:,[0-9]+)*",
        r"\n[ \t]*\n\s*",
        r"(?<=[.!?])[)\]]*\s+",
        r"<(/?)([a-z][a-z0-9]{0,30})",
        r"a(?>b*)c",
        r"x*+y",
    ],
)
def test_what_is_linear(pattern: str) -> None:
    assert not faults(pattern)

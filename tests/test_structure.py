"""The structure of the package, executed: no module imports itself by way of others."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection
from pathlib import Path

import grimp
import pytest

import stepwell

SOURCE = Path(__file__).resolve().parent.parent / "src"
NAMED_AS_THE_WIRE_NAMES_THEM = ("server/openapi/", "server/wire/schema.py", "agents/events.py")
"""Schemas of ``/openapi.json`` and events of a session's file: what others read has its own names."""

WITH_TWO_MEANINGS = {"Limits", "Stepwell"}
"""Public classes that share their name with another. A name here may go, none may come. ``Stepwell`` is what
users of each integration import, ``Limits`` what tools and documents are given."""


def imports() -> dict[str, set[str]]:
    """Which module imports which, inside functions too; imports for a type checker are never executed."""
    graph = grimp.build_graph("stepwell", cache_dir=None, exclude_type_checking_imports=True)
    return {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}


def reached(start: str, imported: dict[str, set[str]]) -> set[str]:
    """Every module that ``start`` imports, directly or by way of others."""
    seen: set[str] = set()
    left = [start]
    while left:
        for module in imported[left.pop()] - seen:
            seen.add(module)
            left.append(module)
    return seen


def test_no_module_imports_itself_by_way_of_others() -> None:
    imported = imports()
    assert {module for module in imported if module in reached(module, imported)} == set()


def test_a_circle_is_found() -> None:
    assert "a" in reached("a", {"a": {"b"}, "b": {"c"}, "c": {"a"}})
    assert "a" not in reached("a", {"a": {"b", "c"}, "b": {"c"}, "c": set()})


def test_the_package_says_which_rooms_there_are() -> None:
    """Each once, in the first thing that a reader of the package opens."""
    table = re.findall(r"^    \w[a-z ]* {2,}(.+)$", stepwell.__doc__ or "", re.MULTILINE)
    named = [name for line in table for name in line.split(", ")]
    places = [path for path in (SOURCE / "stepwell").iterdir() if path.is_dir() or path.suffix == ".py"]
    assert sorted(named) == sorted(path.stem for path in places if not path.stem.startswith("__"))


def circle_of_parts(package: str, modules: Collection[str], imported: dict[str, set[str]]) -> set[str]:
    """The direct parts of a package that import themselves by way of others, each with all that is in it."""
    depth = package.count(".") + 2
    part = {m: ".".join(m.split(".")[:depth]) for m in modules if m.startswith(f"{package}.")}
    between: dict[str, set[str]] = {name: set() for name in part.values()}
    for module, name in part.items():
        between[name] |= {part[other] for other in imported[module] if other in part} - {name}
    return {name for name in between if name in reached(name, between)}


def test_no_part_of_a_package_imports_itself_by_way_of_others() -> None:
    imported = imports()
    packages = {module.rpartition(".")[0] for module in imported if "." in module}
    assert {one for one in packages if circle_of_parts(one, imported, imported)} == set()


def test_a_circle_of_parts_is_found() -> None:
    imported = {"p.a.one": {"p.b"}, "p.b": {"p.a.two"}, "p.a.two": set[str](), "p.c": {"p.b"}}
    assert circle_of_parts("p", imported, imported) == {"p.a", "p.b"}


TOUR = SOURCE.parent / "docs" / "tour.md"
STOP = re.compile(r"\[`([\w.]+)`\]\(([^)#]+)\)")
STOPS = [(match[1], match[2]) for match in STOP.finditer(TOUR.read_text("utf-8").replace("\n", " "))]


@pytest.mark.parametrize(("name", "file"), STOPS)
def test_every_stop_of_the_tour_exists(name: str, file: str) -> None:
    path = TOUR.parent / file
    assert path.exists(), f"the tour leads to {file}, which is not there"
    if path.is_dir() or path.name == name:
        return
    scope: list[ast.stmt] = ast.parse(path.read_text("utf-8")).body
    for part in name.split("."):
        found = [node for node in scope if getattr(node, "name", "") == part]
        assert found, f"the tour names {name}, which {file} does not have"
        scope = getattr(found[0], "body", [])


def test_the_tour_has_stops() -> None:
    assert len(STOPS) > 20


def test_a_public_class_has_one_meaning_in_the_package() -> None:
    """A reader who meets ``Run`` should not have to ask which of seven it is."""
    places: dict[str, list[str]] = {}
    for path in sorted((SOURCE / "stepwell").rglob("*.py")):
        where = path.relative_to(SOURCE / "stepwell").as_posix()
        if where.startswith(NAMED_AS_THE_WIRE_NAMES_THEM):
            continue
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(where)
    twice = {name for name, found in places.items() if len(found) > 1}
    assert twice <= WITH_TWO_MEANINGS, "give one of them another name"
    assert twice >= WITH_TWO_MEANINGS, "a name that is no longer used twice leaves the list"

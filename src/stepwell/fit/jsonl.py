"""Task sets as JSON lines: the set's own line first, then one line an item."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from stepwell.errors import BadInput
from stepwell.fit.grading import last_number, words_of
from stepwell.fit.tasks import GRADERS, Item, TaskSet

MAX_FILE_BYTES = 64 << 20
MAX_ITEMS = 10_000
MAX_PASSAGES = 200
MAX_TEXT_CHARS = 20_000
"""Of each text in an item."""
MAX_NAME_CHARS = 100
MAX_TABLES = 16

SET_FIELDS = ("name", "crew", "single", "grader")
LISTS = ("passages", "wrong")
TABLES = "tables"
TEXTS = tuple(field.name for field in fields(Item) if field.name not in (*LISTS, TABLES))
NEEDED = ("id", "ask", "answer")
_TABLE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}")


def dump(task_set: TaskSet) -> Iterator[str]:
    """The set as lines of JSON without their ends, which ``read_tasks`` reads back as it was."""
    yield json.dumps({"task_set": {name: getattr(task_set, name) for name in SET_FIELDS}}, ensure_ascii=False)
    for item in task_set.items:
        filled = {name: value for name, value in asdict(item).items() if value or name in NEEDED}
        filled |= {TABLES: dict(item.tables)} if item.tables else {}
        yield json.dumps(filled, ensure_ascii=False)


def read_tasks(path: Path) -> TaskSet:
    """The set in a file; ``BadInput`` names the file, the line and what is wrong with it."""
    lines = [(f"{path}, line {number}", line) for number, line in enumerate(_lines(path), 1) if line.strip()]
    if len(lines) < 2:
        raise BadInput(
            f'{path} is no task set: its first line is {{"task_set": ...}}, each other line an item'
        )
    if len(lines) > MAX_ITEMS + 1:
        raise BadInput(f"{path} has {len(lines) - 1:,} items, and a task set has at most {MAX_ITEMS:,}")
    about = _about(_object(*lines[0]), lines[0][0])
    items = tuple(_item(_object(where, line), where, about["grader"]) for where, line in lines[1:])
    seen: dict[str, str] = {}
    for item, (where, _) in zip(items, lines[1:], strict=True):
        if item.id in seen:
            raise BadInput(f"{where}: the id {item.id!r} stands in {seen[item.id]} already")
        seen[item.id] = where
    return TaskSet(**about, items=items)


def _lines(path: Path) -> list[str]:
    try:
        if (size := path.stat().st_size) > MAX_FILE_BYTES:
            raise BadInput(f"{path} has {size:,} bytes, and a task set has at most {MAX_FILE_BYTES:,}")
        return path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"the task set {path} cannot be read as UTF-8 text: {error}") from error


def _object(where: str, line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{where}: this is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise BadInput(f"{where}: this is not an object in braces, but {line.strip()[:40]!r}")
    return value


def _about(first: dict[str, Any], where: str) -> dict[str, str]:
    about = first.get("task_set")
    if not isinstance(about, dict) or len(first) > 1:
        raise BadInput(f'{where}: the first line is {{"task_set": {{...}}}} with {_list(SET_FIELDS)}')
    _known(about, SET_FIELDS, where)
    for name in SET_FIELDS:
        _check(about.get(name, ""), name, where, MAX_NAME_CHARS, needed=True)
    if about["grader"] not in GRADERS:
        raise BadInput(f"{where}: the grader is one of {_list(GRADERS)}, not {about['grader']!r}")
    return about


def _item(line: dict[str, Any], where: str, grader: str) -> Item:
    _known(line, (*TEXTS, *LISTS, TABLES), where)
    for name in TEXTS:
        most = MAX_NAME_CHARS if name == "id" else MAX_TEXT_CHARS
        _check(line.get(name, ""), name, where, most, needed=name in NEEDED)
    for name in LISTS:
        _check_list(line.get(name, []), name, where)
    values: dict[str, Any] = {name: tuple(line[name]) if name in LISTS else line[name] for name in line}
    item = Item(**values | {TABLES: _tables(line.get(TABLES, {}), where)})
    _check_answer(item, where, grader)
    return item


def _known(given: dict[str, Any], names: tuple[str, ...], where: str) -> None:
    for name in given:
        if name not in names:
            raise BadInput(f"{where}: there is no field {name[:40]!r}; there are {_list(names)}")


def _check(value: object, name: str, where: str, most: int, *, needed: bool) -> None:
    if not isinstance(value, str):
        raise BadInput(f"{where}: {name!r} is a text in quotes, not {json.dumps(value)[:40]}")
    if needed and not value.strip():
        raise BadInput(f"{where}: {name!r} is missing or empty")
    if len(value) > most:
        raise BadInput(f"{where}: {name!r} has {len(value):,} characters, and at most {most:,} are read")


def _check_list(value: object, name: str, where: str) -> None:
    if not isinstance(value, list):
        raise BadInput(f"{where}: {name!r} is a list of texts")
    if len(value) > MAX_PASSAGES:
        raise BadInput(f"{where}: {name!r} has {len(value):,} entries, and at most {MAX_PASSAGES:,} are read")
    for number, text in enumerate(value, 1):
        _check(text, f"{name} {number}", where, MAX_TEXT_CHARS, needed=True)


def _tables(value: object, where: str) -> tuple[tuple[str, str], ...]:
    """Names and their CSV; a name becomes that of a file."""
    if not isinstance(value, dict) or len(value) > MAX_TABLES:
        raise BadInput(
            f'{where}: \'tables\' is {{"sales": "month,revenue\\n..."}}, at most {MAX_TABLES} of them'
        )
    for name, text in value.items():
        if not _TABLE_NAME.fullmatch(name):
            raise BadInput(
                f"{where}: the table {name[:40]!r} has no name of letters, digits and _, at most 40"
            )
        _check(text, f"table {name}", where, MAX_TEXT_CHARS, needed=True)
    return tuple(value.items())


def _check_answer(item: Item, where: str, grader: str) -> None:
    """An answer that no reply could ever be right by is a mistake in the file, not in the model."""
    if grader == "number" and last_number(item.answer) is None:
        raise BadInput(f"{where}: the answer {item.answer[:40]!r} has no number, and the grader is 'number'")
    if grader == "words" and not words_of(item.answer):
        raise BadInput(f"{where}: the answer {item.answer[:40]!r} has no words, and the grader is 'words'")
    if grader == "words" and item.answer in item.wrong:
        raise BadInput(f"{where}: {item.answer[:40]!r} is both the answer and wrong")
    if grader == "program":
        if not _tests(item.answer, "answer", where):
            raise BadInput(f"{where}: 'answer' tests nothing: hidden tests are asserts or functions test_...")
        _tests(item.tests, "tests", where)


def _tests(tests: str, name: str, where: str) -> list[ast.stmt]:
    """The statements in it that the sandbox takes for tests."""
    try:
        body = ast.parse(tests).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise BadInput(f"{where}: {name!r} is not Python ({error})") from error
    functions = ast.FunctionDef | ast.AsyncFunctionDef
    return [
        node
        for node in body
        if isinstance(node, ast.Assert) or (isinstance(node, functions) and node.name.startswith("test"))
    ]


def _list(names: tuple[str, ...]) -> str:
    return ", ".join(repr(name) for name in names)

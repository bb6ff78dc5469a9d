"""Write the compatibility table of docs/api.md: client by feature, from the tests that drive the clients.

.venv/bin/python scripts/compatibility.py            # runs the tests of the table, writes what they showed
.venv/bin/python scripts/compatibility.py --check    # runs nothing: is it that of green tests and the pins?

Which test shows what stands in tests/clients/compatibility.toml. The suite runs the same tests, so a table
that passes the check is green where the suite is.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
FEATURES = ROOT / "tests" / "clients" / "compatibility.toml"
PAGE = ROOT / "docs" / "api.md"
BEGIN, END = "<!-- compatibility: scripts/compatibility.py -->\n", "<!-- end of compatibility -->\n"

CLIENTS = {
    "openai": ("openai",),
    "anthropic": ("anthropic",),
    "google-genai": ("google-genai",),
    "openai-agents": ("openai-agents",),
    "langchain": ("langgraph", "langchain-openai"),
    "pydantic-ai": ("pydantic-ai-slim",),
    "smolagents": ("smolagents",),
}
"""Columns, and the packages whose versions head them."""


def features() -> list[dict[str, Any]]:
    return list(tomllib.loads(FEATURES.read_text(encoding="utf-8"))["feature"])


def tests(rows: list[dict[str, Any]]) -> list[str]:
    """Each test once, in order."""
    return list(dict.fromkeys(test for row in rows for client in CLIENTS for test in row.get(client, ())))


def missing(rows: list[dict[str, Any]]) -> list[str]:
    """Tests of the table that are nowhere."""
    return [
        test
        for test in tests(rows)
        if not re.search(
            rf"^(?:async )?def {test.partition('::')[2]}\(",
            (ROOT / test.partition("::")[0]).read_text(encoding="utf-8"),
            re.M,
        )
    ]


def versions() -> Mapping[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==", 1) for line in lines if "==" in line and not line.startswith("#"))


def failed(rows: list[dict[str, Any]]) -> set[str]:
    """Run them; those that did not pass, parametrised ones by their function, and those that did not run."""
    wanted = tests(rows)
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", f"--junit-xml={report}", *wanted]
        subprocess.run(command, cwd=ROOT, check=False)
        cases = list(ElementTree.parse(report).iter("testcase"))
    passed = {_id(case) for case in cases}
    bad = {
        _id(case)
        for case in cases
        if any(case.find(kind) is not None for kind in ("failure", "error", "skipped"))
    }
    return bad | (set(wanted) - passed)


def _id(case: ElementTree.Element) -> str:
    path = case.get("classname", "").replace(".", "/") + ".py"
    return f"{path}::{case.get('name', '').partition('[')[0]}"


def table(rows: list[dict[str, Any]], bad: set[str]) -> Iterator[str]:
    pins = versions()
    heads = [" + ".join(f"{name} {pins[name]}" for name in names) for names in CLIENTS.values()]
    yield f"| | {' | '.join(heads)} | what differs |"
    yield "|---|" + "---|" * (len(CLIENTS) + 1)
    for row in rows:
        cells = [_cell(row.get(client, ()), bad) for client in CLIENTS]
        yield f"| {row['name']} | {' | '.join(cells)} | {row.get('differs', '')} |"


def _cell(shown_by: list[str], bad: set[str]) -> str:
    if not shown_by:
        return ""
    return "**fails**" if bad & set(shown_by) else "yes"


def with_table(text: str, rows: list[dict[str, Any]], bad: set[str]) -> str:
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return head + BEGIN + "\n".join(table(rows, bad)) + "\n" + END + tail


def main() -> int:
    rows, text = features(), PAGE.read_text(encoding="utf-8")
    if gone := missing(rows):
        sys.stderr.write(f"no such test: {', '.join(gone)}\n")
        return 1
    if sys.argv[1:] == ["--check"]:
        fresh = with_table(text, rows, set()) == text
        sys.stderr.write("" if fresh else "docs/api.md is not up to date: run scripts/compatibility.py\n")
        return 0 if fresh else 1
    bad = failed(rows)
    PAGE.write_text(with_table(text, rows, bad), encoding="utf-8")
    sys.stdout.write(f"docs/api.md: {len(rows)} features, {len(tests(rows))} tests, {len(bad)} not green\n")
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())

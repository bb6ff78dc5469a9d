"""``stepwell library`` on a directory and on a server: the same verbs, the same lines."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.server.libraries import library_node

from stepwell import cli

Run = Callable[..., tuple[int, Any]]


@pytest.fixture(params=["directory", "server"])
def run(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Runs a verb; gives the exit code and the JSON."""
    for name in ("OPENAI_API_KEY", "STEPWELL_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    result = tmp_path / "result.json"

    def do(place: list[str]) -> Run:
        def command(*tokens: str) -> tuple[int, Any]:
            result.unlink(missing_ok=True)
            code = cli.run(["library", *tokens, *place, "--json", str(result)])
            return code, json.loads(result.read_text()) if result.exists() else None

        return command

    if request.param == "directory":
        yield do(["--dir", str(tmp_path / "library")])
        return
    with library_node(tmp_path / "library") as server:
        yield do(["--server", server.base_url])


def test_add_list_search_and_remove(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, empty = tmp_path / "well [1].md", tmp_path / "empty.txt"
    good.write_text("# Wells\n\nThe gate is made of teak.\n")
    empty.write_text("")
    code, result = run("add", str(good), str(empty), str(tmp_path / "none.txt"))
    assert (code, result["failed"]) == (1, 2)
    said = capsys.readouterr()
    assert "1 of 3 documents added; 2 could not be added." in said.out
    assert "empty: there is nothing to read" in said.err
    file_id = result["files"][0]["id"]
    code, listed = run("list")
    assert (code, [file["id"] for file in listed["files"]]) == (0, [file_id])
    assert "well [1].md" in capsys.readouterr().out
    code, found = run("search", "what is the gate made of", "--file", file_id)
    assert (code, found["data"][0]["content"][0]["text"]) == (0, "# Wells\n\nThe gate is made of teak.\n")
    assert "teak" in capsys.readouterr().out
    assert run("rm", file_id)[0] == 0
    assert run("rm", file_id)[0] == 1
    assert "no file" in capsys.readouterr().err
    assert run("list")[1] == {"files": []}


@pytest.mark.parametrize(
    ("tokens", "sentence"),
    [
        (["add", "--server", "nowhere"], "is no URL"),
        (["list", "--server", "http://127.0.0.1:9"], "cannot be asked"),
        (["list", "--server", "http://127.0.0.1:9", "--dir", "x"], "for a library here"),
        (["search", "  "], "at least one word"),
        (["search", "x", "--results", "0"], "between 1 and 50"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    tokens: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    if tokens[0] == "add":
        (tmp_path / "a.txt").write_text("text")
        tokens = ["add", "a.txt", *tokens[1:]]
    assert cli.run(["library", *tokens]) in (1, 2)
    said = capsys.readouterr().err
    assert sentence in said
    assert "Traceback" not in said

from __future__ import annotations

import errno
import json
import os
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from stepwell import __version__, cli
from stepwell.errors import BadInput, StepwellError


def stand_in(monkeypatch: pytest.MonkeyPatch, command: Callable[[], object]) -> None:
    """``command`` is what ``stepwell doctor`` runs."""
    module = ModuleType("stepwell.stand_in_for_tests")
    module.command = command  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(cli, "TOP", (cli.Command("doctor", "stand_in_for_tests:command", "A stand-in."),))


@pytest.mark.parametrize(
    ("tokens", "sentence"),
    [
        (["bnch"], "stepwell has no command 'bnch': did you mean 'bench'?"),
        (["bench", "crsh"], "stepwell bench has no command 'crsh': did you mean 'crash'?"),
        (["disk", "xyz"], "stepwell disk has no command 'xyz': there are clear, stat, verify"),
    ],
)
def test_an_unknown_command_is_one_sentence(
    capsys: pytest.CaptureFixture[str], tokens: list[str], sentence: str
) -> None:
    assert cli.run(tokens) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"stepwell: {sentence}\n")


@pytest.mark.parametrize("tokens", [["--help"], ["bench", "--help"], ["disk", "--help"], []])
def test_help_lists_what_there_is(capsys: pytest.CaptureFixture[str], tokens: list[str]) -> None:
    assert cli.run(tokens) == 0
    shown = capsys.readouterr().out
    commands = cli.TOP if not tokens or tokens == ["--help"] else cli.GROUPS[tokens[0]][1]
    assert all(command.name in shown for command in commands)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (False, None),
        ("", None),
        ((), None),
        ([], None),
        (None, None),
        (0, "0"),
        (True, "True"),
        ((1, 8), "1 8"),
    ],
)
def test_help_leaves_out_defaults_that_say_nothing(value: object, told: str | None) -> None:
    assert cli._told_default(value) == told


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out == f"{__version__}\n"


def test_wrong_flags_are_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["serve", "--device-kv-tokens", "many"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "--device-kv-tokens" in err
    assert "stepwell serve --help" in err
    assert cli.run(["serve", "--nope"]) == 2
    assert "--nope" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"), [(BadInput("no such thing"), 2), (StepwellError("the disk is locked"), 1)]
)
def test_expected_errors_are_said_and_not_thrown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: StepwellError, code: int
) -> None:
    def command() -> None:
        raise error

    stand_in(monkeypatch, command)
    assert cli.run(["doctor"]) == code
    assert capsys.readouterr().err == f"stepwell: {error}\n"


def small_database() -> None:
    db = sqlite3.connect(":memory:")
    db.execute("PRAGMA max_page_count=2")
    db.execute("CREATE TABLE lines (text)")
    db.execute("INSERT INTO lines VALUES (?)", ["x" * 100_000])


def full_file() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("command", "why"),
    [(full_file, "No space left on device"), (small_database, "database or disk is full")],
)
def test_a_full_disk_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: Callable[[], object],
    why: str,
) -> None:
    stand_in(monkeypatch, command)
    assert cli.run(["doctor"]) == 1
    assert capsys.readouterr().err == f"stepwell: {why}; make room, then run the same again\n"


def test_interrupting_is_quiet(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> None:
        raise KeyboardInterrupt

    stand_in(monkeypatch, command)
    assert cli.run(["doctor"]) == 130
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (3, 3), (True, 0), ("text", 0)])
def test_a_command_may_return_its_exit_code(
    monkeypatch: pytest.MonkeyPatch, returned: object, code: int
) -> None:
    stand_in(monkeypatch, lambda: returned)
    assert cli.run(["doctor"]) == code


def test_a_fault_of_ours_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def command() -> None:
        raise ModuleNotFoundError("No module named 'stepwell.typo'", name="stepwell.typo")

    stand_in(monkeypatch, command)
    with pytest.raises(ModuleNotFoundError):
        cli.run(["doctor"])


def test_version_as_json_says_what_a_report_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--version", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["stepwell"] == __version__
    assert {"python", "platform", "starlette"} <= set(said)


def test_completion_knows_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    assert "serve" in script
    assert cli.run(["completion", "tcsh"]) == 2


@pytest.mark.parametrize(
    "words",
    [
        ["plan", "contract", "nowhere.toml"],
        ["plan", "contract", "."],
        ["plan", "price", "h200", "--constants=nowhere.json"],
        ["plan", "storage", "10", "--json", "nowhere/figures.json"],
        ["calibrate", "nowhere.csv"],
        ["calibrate", "nowhere.csv.gz"],
        ["replay", "nowhere.jsonl"],
        ["replay", "nowhere.jsonl", "--policy", "lru"],
        ["simulate", "nowhere.jsonl"],
        ["trace", "nowhere.jsonl"],
        ["deploy", "nowhere.toml"],
    ],
)
def test_a_file_that_was_named_and_is_not_there_is_wrong_input(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.run(words) == 2
    err = capsys.readouterr().err.strip()
    assert err.startswith("stepwell: ") and err.count("\n") == 0


def test_a_file_that_nobody_named_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails() -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "/gone")

    stand_in(monkeypatch, fails)
    assert cli.run(["doctor"]) == 1
    assert "/gone: No such file" in capsys.readouterr().err

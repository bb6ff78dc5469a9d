"""A result that cannot be written is said before the work and not after it, by every command."""

from __future__ import annotations

import inspect
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import pytest
from cyclopts import Parameter

from stepwell.cli import GROUPS, TOP, Command, run
from stepwell.console.options import writable

COMMANDS = [*TOP, *(one for _, commands in GROUPS.values() for one in commands)]


def parameters(command: Command) -> dict[str, Any]:
    module, _, name = command.where.partition(":")
    return inspect.get_annotations(getattr(import_module(module), name), eval_str=True)


def written(annotation: Any) -> Parameter | None:
    """The parameter of an option that names a file for a command's result."""
    for one in get_args(annotation):
        if (
            isinstance(one, Parameter)
            and one.name == ("--json",)
            and Path in get_args(get_args(annotation)[0])
        ):
            return one
    return None


@pytest.mark.parametrize("command", COMMANDS, ids=lambda one: one.where)
def test_every_file_of_results_is_tried_before_the_work(command: Command) -> None:
    for annotation in parameters(command).values():
        parameter = written(annotation)
        assert parameter is None or parameter.validator == (writable,)


@pytest.mark.parametrize("flag", ["--json", "--html"])
@pytest.mark.parametrize(
    ("file", "says"),
    [("absent/x{}", "does not exist"), ("folder{}", "is a directory"), ("kept{}/x{}", "does not exist")],
)
def test_a_place_where_nothing_can_be_written_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str, file: str, says: str
) -> None:
    ending = {"--json": ".json", "--html": ".html"}[flag]
    (tmp_path / f"folder{ending}").mkdir()
    (tmp_path / f"kept{ending}").write_text("from before")

    assert run(["study", "speed", flag, str(tmp_path / file.replace("{}", ending))]) == 2

    said = capsys.readouterr()
    assert says in said.err and "Traceback" not in said.err and said.out == ""
    assert (tmp_path / f"kept{ending}").read_text() == "from before"


def test_trying_leaves_a_file_as_it_was_and_none_where_none_was(tmp_path: Path) -> None:
    kept = tmp_path / "kept.json"
    kept.write_text("from before")
    for file in (kept, tmp_path / "new.json", Path("-"), None):
        writable(None, file)
    assert kept.read_text() == "from before"
    assert list(tmp_path.iterdir()) == [kept]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("demo --nope", '"--nope" for DOCUMENT. it looks like an option'),
        ("demo --document notes.md", '"--document" for DOCUMENT. it looks like an option'),
        ("ledger export --nope", "it looks like an option"),
        ("bench postings --json --quick", '"--quick" for --json. it looks like an option'),
        ("serve one two", "'one', 'two': more than this command takes"),
        ("doctor --nope", "Unknown option: --nope"),
    ],
)
def test_a_mistyped_option_is_no_file(
    words: str,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(words.split()) == 2
    assert says in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []

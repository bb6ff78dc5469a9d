"""What all measurements share: options, arms in turn, exit codes, children, clocks, tables of figures."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import signal
import time
from pathlib import Path

import pytest

import stepwell.bench
from stepwell.bench.child import Child
from stepwell.bench.clocks import resident_bytes, thread_cpu_s, timed_calls
from stepwell.bench.harness import BenchRun, bench, in_turn, none_of, numbers_of, scratch, words_of
from stepwell.cli import BENCHES
from stepwell.console.output import facts, sheet
from stepwell.console.progress import ticker
from stepwell.console.report import Verdict
from stepwell.errors import BadInput, StepwellError

MOST_FILES = 16
"""Of a room, with its ``__init__``: a reader finds a measurement by its subject and then by its name."""


@bench("trial", fails=True)
def trial(run: BenchRun, *, limit: float = 1.0, code: int | None = None) -> int | None:
    """A measurement of nothing. Example: stepwell bench trial"""
    run.settings = {"limit": limit, "quick": run.quick}
    run.samples = [{"name": "one", "s": 0.5}, {"name": "other", "s": None}]
    run.verdicts = [Verdict("the one", 0.5, limit, " s")]
    run.show(sheet("Samples", {"": "{name}", "s": "{s:.2f}"}, run.samples), "[said] as it is")
    run.when_written.append(lambda: print("written"))
    return code


def test_a_measurement_is_a_command_with_the_options_of_all() -> None:
    assert list(inspect.signature(trial).parameters) == ["limit", "code", "quick", "json_file"]
    assert inspect.getdoc(trial) == "A measurement of nothing. Example: stepwell bench trial"


@pytest.mark.parametrize("module", [module for module, _ in BENCHES])
def test_every_measurement_is_made_by_the_harness(module: str) -> None:
    main = importlib.import_module(module).main
    assert list(inspect.signature(main).parameters)[-2:] == ["quick", "json_file"]
    assert next(iter(inspect.signature(main.__wrapped__).parameters)) == "run"


def test_a_room_is_seen_at_a_glance() -> None:
    root = Path(stepwell.bench.__file__).parent
    folders = [root, *(one for one in root.iterdir() if one.is_dir())]
    assert {one.name for one in folders if len([*one.glob("*.py")]) > MOST_FILES} == set()


def test_it_prints_judges_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "t.json"
    assert trial(quick=True, json_file=file) == 0
    said, written = capsys.readouterr().out, json.loads(file.read_text("utf-8"))
    assert "0.50" in said and "[said] as it is" in said and said.endswith("targets reached.\nwritten\n")
    assert written["bench"] == "trial" and written["settings"] == {"limit": 1.0, "quick": True}
    assert written["tables"][0]["rows"] == [["one", "0.50"], ["other", "-"]]


def test_a_missed_target_is_exit_code_1_unless_the_measurement_says_another() -> None:
    assert (trial(limit=0.1), trial(limit=0.1, code=0), trial(code=3)) == (1, 0, 3)


def test_arms_take_turns_in_being_first() -> None:
    with ticker() as progress:
        order = list(in_turn(3, ("a", "b"), progress))
    assert order == [(0, "a"), (0, "b"), (1, "b"), (1, "a"), (2, "a"), (2, "b")]


def test_words_and_numbers_of_the_command_line() -> None:
    assert words_of("--of", " a,b ,", ("a", "b")) == ("a", "b")
    assert numbers_of("--n", "8, 64", "things", 1, 64) == (8, 64)
    for text in ("", "c", "a,c"):
        with pytest.raises(BadInput, match=r"--of '[c]?': there is a, b"):
            words_of("--of", text, ("a", "b"))
    for text in ("", "0", "65", "-1", "²", "1e3", "9" * 5_000):
        with pytest.raises(BadInput, match="things are whole numbers from 1 to 64"):
            numbers_of("--n", text, "things", 1, 64)


def test_what_must_never_happen_has_a_verdict_each() -> None:
    found = none_of({"a": 0, "b": 2}, {"a": "none of a", "b": "none of b"})
    assert [verdict.reached for verdict in found] == [True, False]


def test_a_scratch_directory_is_gone_afterwards(tmp_path: Path) -> None:
    with scratch("x", tmp_path) as place:
        (place / "file").write_text("x")
        assert list(tmp_path.iterdir()) == [place]
    assert list(tmp_path.iterdir()) == []


def test_a_table_of_one_thing_has_attributes_and_keys() -> None:
    made = facts(
        "x",
        {"a": "{bench} {missing[0]}", "b": "{settings}"},
        {"bench": "b", "missing": [1], "settings": None},
    )
    assert [list(column.cells) for column in made.columns] == [["a", "b"], ["b 1", "-"]]
    with pytest.raises(AttributeError):
        facts("x", {"a": "{nothing}"}, object())


# --- children ---------------------------------------------------------------------------------

CHILD = "tests.bench.spoken"


def test_a_child_says_lines_until_it_is_killed() -> None:
    with Child(CHILD, "3", hears=True) as child:
        child.expect("ready")
        child.tell("more")
        assert [child.line() for _ in range(3)] == ['{"n": 0}', '{"n": 1}', '{"n": 2}']
        assert not child.ended
        child.tell("half")
        assert child.kill() == -signal.SIGKILL
        assert [one for one in child.json_lines() if one != {"n": 9}] == [], "a cut line was not said"


def test_a_child_that_fails_is_one_sentence_with_its_complaint() -> None:
    with Child(CHILD, "x") as child, pytest.raises(StepwellError, match=r"spoken .*: ValueError"):
        child.expect("ready")


def test_a_child_that_was_hung_up_on_ends_by_itself() -> None:
    with Child(CHILD, "1", hears=True) as child:
        child.expect("ready")
        child.hang_up()
        assert child.wait(60) == 0
        with pytest.raises(StepwellError, match="said nothing more"):
            child.line()


# --- clocks -----------------------------------------------------------------------------------


class Worker:
    """Has a method to be timed."""

    def work(self, amount: int) -> int:
        return sum(range(amount))


def test_calls_are_timed_and_left_as_they_were() -> None:
    ticks = iter(range(100))
    one = Worker()
    with timed_calls([(Worker, "work", "class")], lambda: next(ticks)) as spent:
        assert one.work(3) == 3
    with timed_calls([(one, "work", "object")], lambda: next(ticks)) as of_one:
        assert (one.work(3), Worker().work(2)) == (3, 1)
    assert (dict(spent), dict(of_one)) == ({"class": 1}, {"object": 1})
    assert vars(one) == {} and Worker.work.__qualname__ == "Worker.work"


def test_threads_and_memory_are_measured() -> None:
    clock = thread_cpu_s("MainThread")
    before = clock()
    sum(range(300_000))
    assert clock() > before and time.process_time() > 0
    held = resident_bytes()
    assert held > 0 and os.getpid() > 0

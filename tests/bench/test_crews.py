"""What the bench of crews counts, and that a runtime that is killed goes on to the same end."""

from __future__ import annotations

import asyncio
import inspect
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stepwell.bench.crews import busy, crew_script, crews
from stepwell.bench.crews.crew_child import toolbox
from stepwell.bench.crews.crew_kills import Killed, kill_runs
from stepwell.bench.crews.crew_shapes import SHAPES, CrewSize, Ran, run_shape
from stepwell.console.report import Report

INSIDE = [shape for shape in SHAPES if shape.inside]
SIZE = CrewSize(agents=10, concurrent=4)
KILLED = Killed(0.5, survived=False, same=True, notes_lost=1, notes_twice=0, asked_again=2)
TURNS = {
    "waves, inside": 2 * 10 + 1,
    "planned, inside": 2 * 10 + 3 * 2,  # two plans, drafts and verdicts
    "verbs, inside": 2 * 8 + 2 * 2 + 1,  # batches of four: as many as may work at once
}


@pytest.mark.parametrize("shape", INSIDE, ids=[shape.name for shape in INSIDE])
def test_every_shape_takes_the_turns_that_it_says(shape: Any, tmp_path: Path) -> None:
    ran = run_shape(shape, SIZE, "http://inside", tmp_path / "x.db")
    assert ran.result is not None
    assert len(ran.ends_us) == ran.result.turns == TURNS[shape.name]
    assert ran.ends_us == sorted(ran.ends_us)
    assert sum(ran.between_us) == ran.ends_us[-1] <= ran.busy_us <= ran.wall_us
    assert ran.commits > ran.result.turns


def test_what_is_waited_for_or_done_elsewhere_is_not_counted() -> None:
    watch = busy.BusyWatch()
    watch.run(asyncio.sleep(0.01))
    assert watch.selector.waited_ns > 0
    watch.began_ns -= 10**12
    counted = watch.busy_us()
    assert counted >= 10**9
    watch.elsewhere_ns += 10**12
    assert watch.busy_us() < counted
    before = watch.elsewhere_ns
    with watch.elsewhere():
        sum(range(100_000))
    assert watch.elsewhere_ns - before >= watch.elsewhere_cpu_ns // 2 > 0


def test_time_is_counted_where_the_innermost_known_code_is() -> None:
    frame = inspect.currentframe()
    assert busy.place_of(frame) == busy.REST
    code = compile("import inspect\nfound = inspect.currentframe()", "/x/httpx2/_client.py", "exec")
    scope: dict[str, Any] = {}
    exec(code, scope)  # a frame with the name of another file
    assert busy.place_of(scope["found"]) == "HTTP"


def test_a_kill_at_any_moment_changes_nothing(tmp_path: Path) -> None:
    """A real process, a real SIGKILL, a real server; moments drawn by seed."""
    found = kill_runs(3, 20_261_122, tmp_path)
    there = [one for one in found if not one.survived]
    assert there
    assert all(one.same and one.notes_twice == 0 for one in there), found
    # At most what was under way is lost: four workers, a planner's turn, and the call or turn of each.
    assert all(one.asked_again <= 5 and one.notes_lost <= 4 for one in there), found


def test_a_session_that_came_to_another_end_is_a_target_missed() -> None:
    assert [one.reached for one in crews.kill_verdicts([KILLED])] == [True, True]
    assert [one.reached for one in crews.kill_verdicts([replace(KILLED, same=False)])] == [False, True]
    assert [one.reached for one in crews.kill_verdicts([replace(KILLED, notes_twice=1)])] == [True, False]
    none = crews.kill_verdicts([replace(KILLED, survived=True, same=False)])
    assert [one.reached for one in none] == [None, None]


def test_overhead_is_all_busy_time_by_turns_and_a_busy_machine_is_said() -> None:
    slow = Ran(
        "slow", busy_us=90_000, cpu_us=30_000, wall_us=100_000, ends_us=[10_000 * n for n in range(1, 10)]
    )
    report = Report("crews", {})
    crews.fill(report, SIZE, [[slow]], Counter(HTTP=3, SQLite=1), [])
    assert [(one.measured, one.reached) for one in report.verdicts[:1]] == [(10.0, False)]
    assert report.results["places"] == {"HTTP": 0.75, "SQLite": 0.25}
    assert "slow: busy for more than" in report.notes[0]
    assert crews.middle([slow, replace_busy(slow, 1), replace_busy(slow, 95_000)]) is slow


def replace_busy(ran: Ran, busy_us: int) -> Ran:
    return replace(ran, busy_us=busy_us)


def test_the_script_depends_on_what_was_asked_and_on_nothing_that_a_crash_changes() -> None:
    asked = [{"role": "system", "content": "x"}, {"role": "user", "content": "Part 1."}]
    first = crew_script.answer("worker", "worker-1", asked, 1, 5)
    assert first["tool_calls"][0]["function"]["name"] == "note"
    answers = {
        crew_script.answer("worker", "worker-1", [*asked, first, {"role": "tool", "content": text}], 1, 5)[
            "content"
        ]
        for text in ("noted", "The outcome of this call is not known.")
    }
    assert len(answers) == 1


def test_the_killed_crews_tool_is_one_that_must_not_be_called_twice(tmp_path: Path) -> None:
    (tool,) = toolbox(tmp_path / "notes")(["note"])
    assert not tool.idempotent

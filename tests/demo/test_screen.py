"""The live screen shows every agent and stays inside the window; pipes get plain lines."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from stepwell.demo.board import AgentStatus, RunBoard
from stepwell.demo.record import AgentSample, DemoRun, Sample
from stepwell.demo.screen import LiveScreen, PlainScreen, kv_bar, make_screen, state_words
from tests.demo.fake import CUSTOMERS, fake_run


def console(width: int = 120, height: int = 50, *, terminal: bool = True) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    made = Console(file=out, width=width, height=height, force_terminal=terminal, color_system=None)
    return made, out


def busy_board(run: DemoRun, sample: Sample) -> RunBoard:
    board = RunBoard(turns=run.turns[:12])
    for agent, seen in sample.agents.items():
        busy = seen.state != "idle"
        board.statuses[agent] = AgentStatus(agent, agent.split("/")[1], "reads page 1", 1, 0.25, 700, busy)
    return board


def rendered(width: int, height: int, rehearsed: int = 69) -> list[str]:
    run = fake_run()
    sample = run.samples[100]
    screen_console, out = console(width, height)
    screen = LiveScreen(screen_console, CUSTOMERS, run.agents)
    screen.begin(run, busy_board(run, sample), rehearsed)
    assert screen._live is not None
    screen._live.stop()
    out.seek(0)
    out.truncate()
    screen_console.print(screen.render(sample))
    return out.getvalue().split("\n")[:-1]


def test_every_agent_has_a_row() -> None:
    text = "\n".join(rendered(120, 50))
    assert [text.count(role) for role in ("planner", "reader-3", "verifier-1", "writer-1")] == [3, 3, 3, 3]
    assert all(f"{customer.name} {customer.service_tier}" in text for customer in CUSTOMERS)
    assert "turn 12 of 69" in text


def test_more_turns_than_were_rehearsed_are_no_twelve_of_nine() -> None:
    assert "turn 12, 9 were rehearsed" in "\n".join(rendered(120, 50, rehearsed=9))


@pytest.mark.parametrize(("width", "height"), [(120, 50), (100, 30), (80, 24), (60, 15)])
def test_it_stays_inside_the_window(width: int, height: int) -> None:
    lines = rendered(width, height)
    assert len(lines) < height
    assert max(len(line) for line in lines) <= width


def test_a_small_window_says_how_many_are_hidden_and_keeps_those_at_work() -> None:
    run = fake_run()
    at_work = sum(seen.state != "idle" for seen in run.samples[100].agents.values())
    lines = rendered(100, 20)
    rows = [line for line in lines if "reads page 1" in line]
    assert sum("reads page 1: " in line for line in rows) == min(at_work, len(rows))
    assert f"{21 - len(rows)} more wait" in lines[-1]


def test_a_bar_has_a_cell_for_every_place_with_tokens() -> None:
    assert kv_bar(AgentSample("idle", 1000, 500, 250, 249), 1000, 8).plain == "████▓▓▒▒·"
    assert kv_bar(AgentSample("idle", 0, 0, 0, 0), 1000).plain == ""
    assert kv_bar(None, 1000).plain == ""


def test_states_say_what_crew_and_server_know() -> None:
    status = AgentStatus("almond/lead", "lead", "plans", busy=True)
    assert state_words(status, None).plain == "plans: queued"
    assert state_words(status, AgentSample("loading", 9, 9, 0, 0)).plain == "plans: loading"
    status.busy = False
    assert state_words(status, AgentSample("idle", 9, 9, 0, 0)).plain == "plans"


def test_without_a_terminal_there_are_plain_lines_now_and_then() -> None:
    run = fake_run()
    made, out = console(terminal=False)
    screen = make_screen(made, CUSTOMERS, run.agents)
    assert isinstance(screen, PlainScreen)
    screen.begin(run, busy_board(run, run.samples[0]), 69)
    for sample in run.samples:
        screen.show(sample)
    screen.end(completed=True)
    lines = out.getvalue().splitlines()
    assert lines[0] == "With KV tiers:"
    assert 8 <= len(lines) <= 14
    assert "turn 12 of 69" in lines[3]
    assert "KV device" in lines[3]
    assert lines[-1].endswith("done, 12 turns")
    assert "\x1b" not in out.getvalue()


def test_tiers_that_are_off_say_so() -> None:
    run = fake_run(tiering=False)
    made, out = console(terminal=False)
    screen = PlainScreen(made)
    screen.begin(run, RunBoard(), 69)
    screen.show(run.samples[5])
    assert "host off, disk off" in out.getvalue()


def test_live_redraws_and_ends_with_a_line() -> None:
    run = fake_run()
    made, out = console()
    screen = LiveScreen(made, CUSTOMERS, run.agents)
    screen.begin(run, busy_board(run, run.samples[100]), 69)
    screen.show(run.samples[100])
    screen.show(run.samples[101])
    screen.end(completed=False)
    assert "With KV tiers: stopped after 40.0 s." in out.getvalue()

"""The live tree: one row an agent, who is at work is never left out for who has ended, nothing is markup."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from stepwell.agents import events
from stepwell.commands.run.view import FRAME_ROWS, AgentLine, RunView, plainly, shown_agents, watched


def make_view(width: int = 100, height: int = 24) -> RunView:
    console = Console(width=width, height=height, file=io.StringIO(), force_terminal=True, color_system=None)
    return RunView(console, "wells")


def drawn(view: RunView) -> list[str]:
    with view.console.capture() as shown:
        view.console.print(view)
    return shown.get().splitlines()


def spawn(
    view: RunView, agent: str, parent: str | None, task: str = "Question: Why?\nYour part: measure."
) -> None:
    for event in (events.Spawned(agent, parent, "role"), events.Assigned(agent, agent, task)):
        view._learn(event)


def test_a_row_says_who_does_what_and_what_it_took() -> None:
    view = make_view()
    spawn(view, "lead", None, "Why?")
    spawn(view, "lead.helper-1", "lead")
    view._learn(events.TurnBegan("lead.helper-1", 1))
    view._learn(events.TurnEnded("lead.helper-1", 1, events.TurnUsage(500, 0, 0, 58, 69), 5))
    view._learn(events.CallBegan("lead.helper-1", "sql", {}))
    assert drawn(view) == [
        "wells: 0 s, 2 agents, 1 turn, 558 tokens, 0.000069 USD",
        "└── lead  begins  Why?",
        "    └── helper-1  calls sql  1 turn, 558 tokens, 0.000069 USD  Your part: measure.",
    ]


@pytest.mark.parametrize("width", [40, 48, 80, 200])
def test_every_agent_is_one_row_however_wide_the_terminal_is(width: int) -> None:
    view = make_view(width)
    spawn(view, "lead", None, "[bold]Why?[/nonsense] " * 40)
    above = "lead"
    for number in range(6):
        above, parent = f"{above}.a-role-with-a-rather-long-name-{number}", above
        spawn(view, above, parent)
    rows = drawn(view)
    assert len(rows) == 8
    assert all(len(row) <= width for row in rows)
    assert width < 80 or "[bold]Why?[/nonsense]" in rows[1]


def test_sixty_agents_fit_and_those_at_work_come_first() -> None:
    view = make_view(height=20)
    spawn(view, "lead", None)
    for number in range(60):
        spawn(view, f"helper-{number}", "lead")
        if number % 10:
            view._learn(events.Ended(f"helper-{number}", "completed", "Done."))
    rows = drawn(view)
    assert len(rows) <= 20
    assert all(any(f" helper-{number}  begins" in row for row in rows) for number in range(0, 60, 10))
    hidden = 61 - (len(rows) - 2)
    assert rows[-1] == f"└── and {hidden} that have ended, 0 at work"
    view.ended = True
    assert len(drawn(view)) == 62


@given(st.lists(st.tuples(st.integers(0, 30), st.booleans()), max_size=30), st.integers(3, 40))
def test_whoever_is_shown_hangs_under_those_above_it(tree: list[tuple[int, bool]], room: int) -> None:
    lines: dict[str, AgentLine] = {"0": AgentLine("0", None)}
    for number, (parent, at_work) in enumerate(tree, start=1):
        lines[str(number)] = AgentLine(str(number), str(parent % number), at_work=at_work)
    shown = shown_agents(lines, room)
    assert len(shown) <= room
    assert all(lines[name].parent in {None, *shown} for name in shown)
    assert shown == set(lines) or len(lines) > room


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (
            '{"ok": true, "score": 10, "reason": "It stands there."}',
            "ok: yes, score: 10, reason: It stands there.",
        ),
        ('{"done": false, "steps": [{"id": "s1"}]}', "a plan of 1 step"),
        ('{"done": true, "steps": []}', "no more steps"),
        ("[1]", "[1]"),
        ("A queen.", "A queen."),
    ],
)
def test_answers_in_json_are_told_plainly(answer: str, told: str) -> None:
    assert plainly(answer) == told


def test_where_nobody_looks_events_are_lines_and_a_failed_call_is_one() -> None:
    console = Console(file=(file := io.StringIO()), width=40)
    with watched(console) as view:
        for event in (
            events.Assigned("lead", "ask", "Why?"),
            events.CallBegan("lead", "sql", {}),
            events.CallEnded("lead", "sql", 5, ok=False),
            events.Ended("lead", "completed", "[red]Because.[/]"),
        ):
            view(event)
    said = file.getvalue().splitlines()
    assert said == [
        "lead was asked: Why?",
        "lead calls sql",
        "lead was told that sql failed",
        "lead completed: [red]Because.[/]",
    ]
    assert FRAME_ROWS >= 3  # the plan, the head, the row that says how many are left out

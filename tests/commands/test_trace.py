"""``run --trace``, ``--dry-run``, ``--watch`` and ``stepwell trace``: what a developer of crews looks at."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tests.agents.scripted import calls
from tests.agents.served import served

from stepwell import cli
from stepwell.agents.tracing import read_trace
from stepwell.commands.run.watch import run_on_change
from stepwell.errors import BadInput

CREW = """
[crew]
name = "pair"
[roles.lead]
instructions = "You lead: INSTRUCTION."
tools = ["calculator"]
may_spawn = ["helper"]
[roles.helper]
instructions = "You help."
description = "helps"
"""
CANARIES = ("INSTRUCTION", "QUESTION", "SUBTASK", "HELPED", "ANSWER", "6007 * 7001", "42055007")


def lead(body: dict[str, Any]) -> Any:
    """Spawns a helper, calculates, waits for the helper, answers."""
    if "You help" in str(body["messages"][0]["content"]):
        return "HELPED"
    turn = 1 + sum(1 for one in body["messages"] if one["role"] == "assistant")
    script = [
        calls(("spawn_agent", {"role": "helper", "task": "SUBTASK"})),
        calls(("calculator", {"expression": "6007 * 7001"})),
        calls(("wait_agent", {})),
    ]
    return script[turn - 1] if turn <= len(script) else "ANSWER"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pair.toml").write_text(CREW)
    return tmp_path


def traced(*flags: str) -> list[dict[str, Any]]:
    """The bodies that a run asked the server, with its trace in ``trace.jsonl``."""
    with served(lead, cost=0.000012) as server:
        tokens = ["run", "pair.toml", "--ask", "QUESTION", "--server", server.url, "--trace", "trace.jsonl"]
        assert cli.run([*tokens, *flags]) == 0
    return server.bodies


LONG = [f"word{number:03}" for number in range(120)]


def test_a_trace_holds_every_prompt_as_it_was_asked(home: Path) -> None:
    bodies = traced()
    trace = read_trace((home / "trace.jsonl").read_text().splitlines())
    asked = []
    for agent in trace.agents.values():
        prompt: list[Any] = []
        for step in agent.turns:
            prompt += step.details["messages"]
            asked.append({"messages": list(prompt), **step.details["request"]})
    wanted = [{key: value for key, value in body.items() if key != "model"} for body in bodies]
    told = [{key: value for key, value in body.items() if key != "agent_hint"} for body in wanted]
    assert sorted(map(json.dumps, map(_sorted, asked))) == sorted(map(json.dumps, map(_sorted, told)))
    calculated = [step for step in trace.agents["lead"].steps if step.name == "calculator"]
    assert [step.details["result"] for step in calculated] == ["42055007"]
    assert (trace.status, trace.usage.cost_microusd) == ("completed", 5 * 12)
    assert (trace.head["crew"], trace.head["ask"], trace.head["resumed"]) == ("pair", "QUESTION", False)


def _sorted(body: dict[str, Any]) -> dict[str, Any]:
    return dict(sorted(body.items()))


def test_a_trace_without_texts_quotes_nobody(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    traced("--no-trace-text")
    text = (home / "trace.jsonl").read_text()
    assert not [canary for canary in CANARIES if canary in text]
    assert len(read_trace(text.splitlines()).agents["lead"].turns) == 4
    assert cli.run(["trace", "trace.jsonl", "--text"]) == 0
    assert "characters)" in capsys.readouterr().out


def test_the_tree_has_time_and_cost_beside_each_step(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    traced()
    capsys.readouterr()
    flags = ["--perfetto", "perfetto.json", "--json", "trace.json"]
    assert cli.run(["trace", "trace.jsonl", *flags]) == 0
    shown = capsys.readouterr().out
    order = [
        "pair crew-",
        "lead  completed",
        "turn 1",
        "spawn_agent",
        "calculator",
        "gave: 42055007",
        "helper-1",
        "ANSWER",
    ]
    places = [shown.index(one) for one in order[:6]]
    assert places == sorted(places)
    assert all(one in shown for one in order)
    assert "prompt 9 (cached 0), answer 3, 0.000012 USD" in shown
    last = shown.strip().splitlines()[-1]
    assert last.startswith("trace: completed after ")
    assert "2 agents, 5 turns, prompt 45 (cached 0), answer 15, 0.000060 USD. Written: perfetto.json." in last
    figures = json.loads((home / "trace.json").read_text())
    assert [one["turns"] for one in figures["agents"]] == [4, 1]
    events = json.loads((home / "perfetto.json").read_text())["traceEvents"]
    tracks = {one["tid"]: one["args"]["name"] for one in events if one["name"] == "thread_name"}
    assert tracks == {1: "lead", 2: "helper-1"}
    spans = [one for one in events if one["ph"] == "X"]
    assert len(spans) == 5 + 3
    assert all(one["dur"] >= 0 and one["ts"] >= 0 for one in spans)


def test_no_text_is_cut_however_narrow_the_terminal_is(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    traced()
    lines = (home / "trace.jsonl").read_text().replace("42055007", " ".join(LONG))
    (home / "trace.jsonl").write_text(lines)
    capsys.readouterr()
    for terminal in ({}, {"TTY_COMPATIBLE": "1", "COLUMNS": "44"}):
        for name, value in terminal.items():
            monkeypatch.setenv(name, value)
        assert cli.run(["trace", "trace.jsonl", "--text"]) == 0
        shown = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
        assert [word for word in LONG if word not in shown] == []
        assert "0.000012 USD" in " ".join(shown.replace("│", " ").split())


PLANNED = """
{"event": "trace", "at_us": 0, "crew": "data"}
{"event": "spawned", "at_us": 1, "agent": "planner", "parent": null, "role": "planner"}
{"event": "planned", "at_us": 2, "agent": "planner", "round_number": 1, "steps": ["s1 analyst: Which?"]}
{"event": "planned", "at_us": 3, "agent": "planner", "round_number": 2, "steps": {"chars": 40}}
{"event": "finished", "at_us": 9, "status": "completed", "text": "May."}
"""


def test_a_planner_shows_its_plans_and_ends_with_its_session(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "trace.jsonl").write_text(PLANNED.strip())
    assert cli.run(["trace", "trace.jsonl"]) == 0
    shown = capsys.readouterr().out
    assert "planner  completed" in shown and "under way" not in shown
    assert "plans, round 1: s1 analyst: Which?" in shown and "plans, round 2" in shown


def test_a_trace_that_was_cut_by_a_crash_is_read_as_far_as_it_goes(home: Path) -> None:
    traced()
    whole = (home / "trace.jsonl").read_text()
    for cut in range(len(whole.splitlines()[0]) + 2, len(whole), 97):
        trace = read_trace(whole[:cut].splitlines())
        assert trace.status == ""


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "has no events"),
        ("no json\n{}\n", "line 1: it is not JSON"),
        ('{"other": 1}\n', "line 1: it is no event"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_is_no_trace_is_refused(
    home: Path, capsys: pytest.CaptureFixture[str], content: str | None, sentence: str
) -> None:
    if content is not None:
        (home / "bad.jsonl").write_text(content)
    assert cli.run(["trace", "bad.jsonl"]) == 2
    assert sentence in " ".join(capsys.readouterr().err.split())


def test_a_dry_run_prints_what_each_role_is_asked_first(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["run", "pair.toml", "--ask", "QUESTION", "--dry-run", "--json", "dry.json"]) == 0
    shown = capsys.readouterr()
    for part in ("=== lead: ", "You lead: INSTRUCTION.", "[user]\nQUESTION", "[tool] ", "=== helper: "):
        assert part in shown.out
    assert shown.err.endswith("nothing was asked.\n")
    dry = json.loads((home / "dry.json").read_text())["requests"]
    asked = traced()
    for role, body in (("lead", asked[0]), ("helper", asked[-1])):
        system = next(one for one in asked if one["messages"][0] == dry[role]["messages"][0])
        assert system["max_tokens"] == body["max_tokens"]
    assert dry["lead"]["messages"] == asked[0]["messages"]
    assert dry["lead"]["tools"] == asked[0]["tools"]


def test_a_planner_is_asked_in_a_dry_run_as_it_is_in_a_run(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "wells.md").write_text("# Wells\n\nThe queen paid for the well.\n")
    assert cli.run(["run", "documents", "wells.md", "--ask", "Who paid?", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "Question: Who paid?\nPlan the first steps." in shown
    assert "Sentences:\n1. The queen paid for the well." in shown
    with served(lambda body: "1") as server:
        cli.run(["run", "documents", "wells.md", "--ask", "Who paid?", "--server", server.url])
    assert server.bodies[0]["messages"][-1]["content"] in shown


def test_the_general_flash_says_what_it_changes(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["run", "pair.toml", "--ask", "Why?", "--dry-run", "--profile"]
    assert cli.run([*asked, "flash"]) == 0
    said = capsys.readouterr().err
    assert (
        "The crew pair has no profile flash of its own; the general one applies: no planner, critic or judge"
        in said
    )
    assert "2 USD per million intermediate tokens against 0.0005 USD for a right answer" in said
    assert cli.run([*asked, "pro"]) == 0
    assert "general one" not in capsys.readouterr().err


def test_a_watched_crew_runs_again_when_its_file_changes(tmp_path: Path) -> None:
    file = tmp_path / "crew.toml"
    file.write_text("one")
    seen: list[str] = []
    changes = iter([lambda: file.write_text("broken!"), lambda: None, lambda: file.write_text("three")])

    def work() -> int:
        seen.append(file.read_text())
        if seen[-1] == "broken!":
            raise BadInput("line 1 is wrong")
        return len(seen)

    def sleep(seconds: float) -> None:
        change = next(changes, None)
        if change is None:
            raise KeyboardInterrupt
        change()

    out = io.StringIO()
    assert run_on_change([file], work, Console(file=out, width=200), sleep) == 3
    assert seen == ["one", "broken!", "three"]
    assert "stepwell: line 1 is wrong" in out.getvalue()
    assert out.getvalue().count("Watching crew.toml") == 3


def test_a_crew_that_ships_is_not_watched(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["run", "documents", "--ask", "Why?", "--watch"]) == 2
    assert "--watch waits for changes of a crew's file" in capsys.readouterr().err

"""Every kind of bad input of a crew through ``stepwell run`` as a whole: one clear outcome, limits kept,
nothing lost, and no traceback."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from stepwell import cli
from stepwell.agents.client import Client
from tests.agents.scripted import calls
from tests.agents.served import Answer, served

LEAD = '[roles.lead]\ninstructions = "You lead."\n'
ENDLESS = """
[crew]
name = "endless"
[crew.limits]
depth = 2
agents = 6
concurrent = 4
turns_per_agent = 4
[roles.lead]
instructions = "You spawn."
may_spawn = ["lead"]
"""
OWN_TOOLS = '''
import time

def hang() -> str:
    """Never answers."""
    time.sleep(3600)
    return "late"

def leave() -> str:
    """Ends the program."""
    raise SystemExit(3)

def fail() -> str:
    """Raises."""
    raise KeyError("shelf")
'''
MADE_QUICK = """
from dataclasses import replace
from own import fail, hang, leave
from stepwell.agents.tools import from_function

quick = from_function(hang, timeout_s=0.2)
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    return tmp_path


class Ran:
    """One run of the command: its exit code, what it said, its figures, and the session that is left."""

    def __init__(
        self,
        home: Path,
        capsys: pytest.CaptureFixture[str],
        crew: str,
        answer: Answer,
        *flags: str,
        **options: Any,
    ) -> None:
        (home / "crew.toml").write_text(crew)
        figures = home / "figures.json"
        with served(answer, **options) as server:
            asked = [] if "--resume" in flags else ["--ask", "Why?"]
            tokens = ["run", str(home / "crew.toml"), *asked, "--server", server.url, "--json", str(figures)]
            self.code = cli.run([*tokens, *flags])
        shown = capsys.readouterr()
        self.out, self.said, self.server = shown.out, shown.err, server
        self.figures = json.loads(figures.read_text()) if figures.exists() else {}
        assert "Traceback" not in self.said
        kept = home / "data" / "stepwell" / "sessions"
        self.kept = sorted(path.name for path in kept.iterdir()) if kept.exists() else []

    def require_kept(self) -> None:
        """What was done can be gone on with, and the last line says how."""
        assert Path(self.figures["session_file"]).is_file()
        assert self.said.rstrip().endswith(f"--resume {self.figures['session_file']} instead of --ask.")

    def flags_to_go_on(self) -> list[str]:
        """As the last line says."""
        last = self.said.rstrip().splitlines()[-1]
        return last.partition("run the same with ")[2].removesuffix(" instead of --ask.").split()


def test_a_crew_that_spawns_for_ever_keeps_its_limits(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spawn = calls(*[("spawn_agent", {"role": "lead", "task": "more"})] * 3)
    ran = Ran(home, capsys, ENDLESS, lambda _: spawn, cost=0.0001)
    assert (ran.code, ran.out) == (1, "")
    assert "Not completed (turn_limit): lead has had its 4 turns and no answer." in ran.said
    assert ran.figures["agents"] <= 7
    assert ran.figures["turns"] <= 7 * 4
    ran.require_kept()


def test_a_crew_that_spawns_for_ever_keeps_its_budget(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spawn = calls(*[("spawn_agent", {"role": "lead", "task": "more"})] * 3)
    ran = Ran(home, capsys, ENDLESS, lambda _: spawn, "--budget", "0.0003", cost=0.0001)
    assert ran.code == 1
    assert "Not completed (budget_reached)" in ran.said
    # Turns under way when the budget ends are kept and paid for: one of each agent at work, at most.
    assert 300 <= ran.figures["cost_microusd"] <= 300 + 5 * 100
    assert ran.figures["turns"] * 100 == ran.figures["cost_microusd"]
    ran.require_kept()


@pytest.mark.parametrize(
    ("tool", "told"),
    [
        (
            "quick.py:quick",
            "hang failed: it did not answer within 0.2 s and was given up. It may be tried once more.",
        ),
        ("own.py:leave", "leave failed: the tool raised SystemExit"),
        ("own.py:fail", "fail is broken: KeyError: 'shelf'"),
    ],
)
def test_a_tool_that_hangs_or_raises_is_told_and_the_session_goes_on(
    home: Path, tool: str, told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(home)
    (home / "own.py").write_text(OWN_TOOLS)
    (home / "quick.py").write_text(MADE_QUICK)

    def answer(body: dict[str, Any]) -> Any:
        name = body["tools"][0]["function"]["name"]
        return calls((name, {})) if body["messages"][-1]["role"] == "user" else "Done without it."

    ran = Ran(home, capsys, f'{LEAD}tools = ["python:{tool}"]\n', answer)
    assert (ran.code, ran.out, ran.kept) == (0, "Done without it.\n", [])
    assert ran.server.said("tool") == [told]


def test_a_tool_that_is_called_for_ever_ends_with_the_turns(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = calls(("calculator", {"expression": "1 / 0"}))
    crew = f'[crew.limits]\nturns_per_agent = 3\n{LEAD}tools = ["calculator"]\n'
    ran = Ran(home, capsys, f'[crew]\nname = "loop"\n{crew}', lambda _: again)
    assert (ran.code, ran.figures["status"], ran.figures["turns"]) == (1, "turn_limit", 3)


LOOKS = f'[crew]\nname = "looks"\n[crew.limits]\nturns_per_agent = 3\n{LEAD}tools = ["calculator"]\n'


def looks(body: dict[str, Any]) -> Any:
    """A calculation in each of five turns, then the answer."""
    turn = 1 + sum(1 for message in body["messages"] if message["role"] == "assistant")
    return calls(("calculator", {"expression": f"{turn} + 1"})) if turn <= 5 else "Five times."


def test_a_session_that_had_its_turns_goes_on_with_more_of_them(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = Ran(home, capsys, LOOKS, looks)
    assert (ran.code, ran.figures["status"], ran.figures["turns"]) == (1, "turn_limit", 3)
    flags = ran.flags_to_go_on()
    assert flags == ["--limit", "turns_per_agent=6", "--resume", ran.figures["session_file"]]
    same = Ran(home, capsys, LOOKS, looks, *flags[2:])
    assert (same.code, same.figures["turns"]) == (1, 3)
    assert same.flags_to_go_on() == flags
    more = Ran(home, capsys, LOOKS, looks, *flags)
    assert (more.code, more.out, more.figures["turns"]) == (0, "Five times.\n", 6)


def test_a_session_that_spent_its_tokens_says_what_to_raise(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = Ran(home, capsys, LOOKS, looks, "--limit", "tokens=20", "--limit", "turns_per_agent=9")
    assert ran.figures["status"] == "token_limit"
    assert ran.flags_to_go_on()[:2] == ["--limit", "tokens=40"]


def test_a_session_that_cannot_go_on_says_so(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    again = calls(("calculator", {"expression": "6 * 7"}))
    ran = Ran(home, capsys, f'[crew]\nname = "loop"\n{LEAD}tools = ["calculator"]\n', lambda _: again)
    assert (ran.code, ran.figures["status"]) == (1, "repeated_call")
    assert "they gave: 42." in ran.said
    assert ran.said.rstrip().endswith("it would end the same way again: ask anew with --ask.")


@pytest.mark.parametrize("wrong", ["turns=3", "tokens", "tokens=many", "tokens=-1", "budget_usd=1"])
def test_a_limit_that_is_none_is_refused(home: Path, capsys: pytest.CaptureFixture[str], wrong: str) -> None:
    ran = Ran(home, capsys, LOOKS, looks, "--limit", wrong)
    assert ran.code == 2
    assert "--limit" in ran.said


def test_a_model_that_never_emits_valid_output(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    crew = f'{LEAD}output = "json"\n[roles.lead.schema]\ntype = "object"\nrequired = ["ok"]\n'
    ran = Ran(home, capsys, crew, lambda _: "I would rather talk.")
    assert (ran.code, ran.out, ran.figures["turns"]) == (1, "", 2)
    assert "Not completed (invalid_output): lead gave no valid answer, and none when asked again" in ran.said


@pytest.mark.parametrize("crew", ["documents", "code", "data"])
def test_the_crews_that_ship_end_with_a_model_that_only_babbles(
    home: Path, crew: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A planner that never plans, workers that never call: still one outcome, within the limits."""
    (home / "sales.csv").write_text("month,revenue\n2026-01,10\n")
    (home / "wells.md").write_text("# Wells\n\nThe queen paid for the well.\n")
    files = {"documents": ["wells.md"], "data": ["sales.csv"]}.get(crew, [])
    with served(lambda _: "Babble.") as server:
        paths = [str(home / name) for name in files]
        code = cli.run(["run", crew, *paths, "--ask", "Why?", "--server", server.url])
    shown = capsys.readouterr()
    assert "Traceback" not in shown.err
    assert code in (0, 1)
    assert code == 0 or "Not completed (" in shown.err
    assert len(server.bodies) <= 60


def test_a_server_that_goes_away_pauses_and_what_was_done_is_kept(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stepwell.launch.crew_servers.Client", partial(Client, sleep=_no_sleep))
    first = calls(("calculator", {"expression": "6 * 7"}))
    crew = f'{LEAD}tools = ["calculator"]\n'
    answer = lambda body: first if body["messages"][-1]["role"] == "user" else None  # noqa: E731
    ran = Ran(home, capsys, crew, answer)
    assert (ran.code, ran.out, ran.figures["status"]) == (1, "", "server_unreachable")
    ran.require_kept()
    assert ran.figures["turns"] == 1
    again = Ran(
        home,
        capsys,
        crew,
        lambda body: body["messages"][-1]["content"],
        "--resume",
        ran.figures["session_file"],
    )
    assert (again.code, again.out) == (0, "42\n")
    assert len(again.server.bodies) == 1  # the first turn is not asked again


async def _no_sleep(seconds: float) -> None:
    """Waits between attempts are no part of this test."""


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("empty.md", b"", "is empty"),
        ("blank.txt", b" \n\t\n", "is empty"),
        ("broken.pdf", b"%PDF-1.7\nthis is no PDF\n%%EOF", "PDF"),
        ("picture.pdf", b"\x89PNG\r\n\x1a\n" + bytes(64), ""),
    ],
)
def test_a_file_that_cannot_be_read_is_one_sentence_before_anything_is_loaded(
    home: Path, name: str, content: bytes, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / name).write_bytes(content)
    assert cli.run(["run", "documents", str(home / name), "--ask", "Why?"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("stepwell: ")
    assert name in said
    assert sentence in said


def test_an_empty_table_is_one_sentence_or_no_rows(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("duckdb")
    (home / "empty.csv").write_bytes(b"")

    def answer(body: dict[str, Any]) -> Any:
        return calls(("tables", {})) if body["messages"][-1]["role"] == "user" else "Nothing there."

    (home / "crew.toml").write_text(f'{LEAD}tools = ["tables"]\n')
    with served(answer) as server:
        flags = ["--ask", "Why?", "--server", server.url]
        code = cli.run(["run", str(home / "crew.toml"), str(home / "empty.csv"), *flags])
    shown = capsys.readouterr()
    assert "Traceback" not in shown.err
    assert (code, shown.out) == (0, "Nothing there.\n") or (code == 2 and "empty" in shown.err)

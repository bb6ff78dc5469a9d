"""``stepwell profile`` as a person meets it: servers, files, progress, figures, exit codes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tests.agents.served import Served, served

from stepwell import cli
from stepwell.agents.crews.profile import load_profile
from stepwell.commands.profile.view import Plain, watched
from stepwell.fit.evaluate import ItemsProgressed
from stepwell.fit.tasks import Item

CREW = """
[crew]
name = "quiz"
drop = ["writer"]
[crew.limits]
rounds = 1
[roles.planner]
may_spawn = ["critic", "solver"]
[roles.critic]
[roles.solver]
instructions = "You answer."
samples = 3
[profiles.flash]
drop = ["planner"]
wave = 1
[profiles.flash.penalty]
token_price_usd_per_million = 2.0
answer_value_usd = 0.0005
"""
SET = {"task_set": {"name": "mine", "crew": "quiz", "single": "solver", "grader": "number"}}


def answer(body: dict[str, Any]) -> str:
    """A solver that is right when it is not alone in its wave of samples, a planner that gives up."""
    said = " ".join(str(message["content"]) for message in body["messages"])
    if "You plan" in said:
        steps = [{"id": "s1", "role": "solver", "task": "Solve it.", "needs": []}]
        return json.dumps({"done": False, "steps": steps})
    number = int(re.findall(r"Question (\d+)", said)[0])
    is_right = number % 2 or body["temperature"] > 0
    return f"It is {number + 100 if is_right else 5}."


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Turns of tests are not remembered among the person's own."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quiz.toml").write_text(CREW)
    items = [Item(f"mine-{n:02}", f"Question {n}: which number?", str(n + 100)) for n in range(24)]
    lines = [SET, *({"id": one.id, "ask": one.ask, "answer": one.answer} for one in items)]
    (tmp_path / "mine.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return tmp_path


@pytest.fixture
def server() -> Iterator[Served]:
    with served(answer, cost=0.000012) as made:
        yield made


def fit(server: Served, *flags: str) -> int:
    return cli.run(["profile", "fit", "quiz.toml", "--tasks", "mine.jsonl", "--server", server.url, *flags])


def compare(server: Served, *flags: str) -> int:
    return cli.run(
        ["profile", "compare", "quiz.toml", "--tasks", "mine.jsonl", "--server", server.url, *flags]
    )


def test_a_fit_writes_a_profile_that_a_run_uses(
    home: Path, server: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit(server, "--out", "out", "--json", "out.json") == 0
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert lines[-1].startswith("fit: the cheapest with an accuracy of ")
    assert lines[-1].endswith("dropped: the planner, the critic.") or lines[-1].endswith(
        "dropped: the critic, the planner."
    )
    assert "pro: 12 of 12 items, 12 right, 48 turns" in shown.err
    assert {path.name for path in (home / "out").iterdir()} == {
        "fitted.toml",
        "report.md",
        "frontier.svg",
        "report.json",
    }
    data = json.loads((home / "out.json").read_text())
    assert [one["label"] for one in data["held_out"]] == ["single", "flash", "pro", "fitted"]
    assert data["turns_remembered"] > 0
    assert sorted(load_profile(home / "out" / "fitted.toml").drop) == ["critic", "planner"]
    before = len(server.bodies)
    run = ["run", "quiz.toml", "--server", server.url, "--profile", "out/fitted.toml"]
    assert cli.run([*run, "--ask", "Question 3: which number?"]) == 0
    assert capsys.readouterr().out == "It is 103.\n"
    assert not any("You plan" in str(body["messages"]) for body in server.bodies[before:])


def test_a_second_fit_asks_nothing_and_says_so(server: Served, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit(server) == 0
    first, asked = capsys.readouterr().out, len(server.bodies)
    assert fit(server) == 0
    again = capsys.readouterr().out
    assert len(server.bodies) == asked
    assert re.search(r"Turns: 0 asked, \d+ remembered\.", again)
    assert re.sub(r"Turns: .*\n", "", again) == re.sub(r"Turns: .*\n", "", first)
    assert Path("fitted-quiz-mine/fitted.toml").is_file()


def test_without_memory_it_asks_again(server: Served, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(server, "--profiles", "single", "--no-memo") == 0
    assert compare(server, "--profiles", "single", "--no-memo") == 0
    assert len(server.bodies) == 24
    assert "0 remembered" in capsys.readouterr().out
    assert not list(Path("data").rglob("*.db"))


def test_a_target_that_is_missed_is_exit_code_1(server: Served, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit(server, "--cost", "0.000001") == 1
    assert "not reached by any candidate; this is the nearest" in capsys.readouterr().out


def test_profiles_are_compared_with_their_aims(server: Served, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(server, "--penalty-off", "--json", "-") == 0
    shown = capsys.readouterr()
    data = json.loads(shown.out)
    labels = [one["label"] for one in data["profiles"]]
    assert labels == ["single", "flash", "flash without penalty", "pro"]
    assert (data["half"], data["profiles"][0]["accuracy"], data["profiles"][3]["accuracy"]) == (
        "held-out", 1.0, 1.0,
    )  # fmt: skip
    assert data["machine"]["cores"] > 0
    assert "pro over the single call: 0.0 points" in shown.err
    assert "target at least 15 points: NOT reached" in shown.err
    assert "flash: intermediate tokens that its penalty saves" in shown.err
    assert re.search(r"compare: \d of 3 aims reached; \d+ turns asked, \d+ remembered\.", shown.err)


def test_a_few_items_of_one_half_are_taken_from_all_over(server: Served) -> None:
    assert compare(server, "--profiles", "single", "--items", "3", "--half", "fit") == 0
    asked = [int(re.findall(r"Question (\d+)", str(body["messages"]))[0]) for body in server.bodies]
    assert sorted(asked) == [0, 8, 16]


def test_two_models_of_one_server_are_tried(server: Served, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit(server, "--model", "small", "--model", "large", "--items", "4") == 0
    assert {body["model"] for body in server.bodies} == {"small", "large"}
    assert load_profile(Path("fitted-quiz-mine/fitted.toml")).model == "small"


def test_each_model_may_have_a_server_and_the_fit_names_the_models_of_roles(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with served(answer, 0.0001, "large-1b") as large, served(answer, 0.000001, "small-100m") as small:
        at = ["--server", f"large={large.url}", "--server", f"small={small.url}", "--items", "4"]
        assert cli.run(["profile", "fit", "quiz.toml", "--tasks", "mine.jsonl", *at, "--json", "o.json"]) == 0
        assert {body["model"] for body in large.bodies} == {"large-1b"}
        assert {body["model"] for body in small.bodies} == {"small-100m"}
    fitted = load_profile(Path("fitted-quiz-mine/fitted.toml"))
    assert fitted.model == "small"
    steps = {one["part"] for one in json.loads(Path("o.json").read_text())["steps"]}
    assert "the model of all" in steps
    assert (
        f"large-1b, small-100m at {large.url}, {small.url}" in Path("fitted-quiz-mine/report.md").read_text()
    )


def test_a_model_that_a_profile_gives_to_a_role_is_asked_for_before_anything_runs(
    server: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("two.yaml").write_text('profile: {roles: {solver: {model: "tiny"}}}')
    at = ["--tasks", "mine.jsonl", "--profiles", "two.yaml", "--server", f"large={server.url}"]
    assert cli.run(["profile", "compare", "quiz.toml", *at]) == 2
    assert capsys.readouterr().err == (
        "stepwell: the role solver in the profile two asks for the model 'tiny', which no server has: "
        "there is large; give one more, as in --server tiny=URL\n"
    )
    assert not server.bodies
    with served(answer, model="tiny-1m") as tiny:
        assert cli.run(["profile", "compare", "quiz.toml", *at, "--server", f"tiny={tiny.url}"]) == 0
    assert {body["model"] for body in tiny.bodies} == {"tiny-1m"}
    assert server.bodies
    assert not any("You answer" in str(body["messages"]) for body in server.bodies)


def test_without_a_server_it_brings_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STEPWELL_ENGINE_KIND", "null")
    flags = ["--profiles", "single,flash", "--items", "2", "--json", "out.json"]
    assert cli.run(["profile", "compare", "quiz.toml", "--tasks", "mine.jsonl", *flags]) == 0
    data = json.loads(Path("out.json").read_text())
    assert data["served"] == "null by Stepwell itself"
    assert all(one["cost_per_item_usd"] is not None for one in data["profiles"])
    assert "null is served at http://127.0.0.1:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("tokens", "sentence"),
    [
        (["fit", "quiz.toml", "--tasks", "nothing"], "'nothing' is no task set"),
        (["fit", "nobody", "--tasks", "sums"], "crew 'nobody' is not there"),
        (
            ["fit", "quiz.toml", "--tasks", "mine.jsonl", "--accuracy", "70"],
            "--accuracy 70 is no share of one",
        ),
        (["fit", "quiz.toml", "--tasks", "mine.jsonl", "--cost", "much"], "--cost much is no amount"),
        (
            ["fit", "quiz.toml", "--tasks", "mine.jsonl", "--cost", "1", "--accuracy", "0.5"],
            "--accuracy and --cost are both given",
        ),
        (
            ["fit", "quiz.toml", "--tasks", "facts"],
            "answered by the role reader, which the crew quiz does not",
        ),
        (["compare", "quiz.toml", "--tasks", "mine.jsonl", "--profiles", ","], "--profiles is empty"),
        (["compare", "quiz.toml", "--tasks", "mine.jsonl", "--profiles", "flahs"], "profile 'flahs' is not"),
        (["show", "quiz.toml", "--profile", "nothing.toml"], "profile nothing.toml cannot be read"),
        (["tasks", "nothing"], "'nothing' is no task set"),
        (
            ["compare", "quiz.toml", "--tasks", "mine.jsonl", "--memo", "quiz.toml"],
            "remembered turns quiz.toml",
        ),
        (
            ["fit", "quiz.toml", "--tasks", "mine.jsonl", "--memo", "quiz.toml/memo.db"],
            "--memo quiz.toml/memo.db",
        ),
        (["fit", "quiz.toml", "--tasks", "mine.jsonl", *["--model", "m"] * 9], "at most 8 models are tried"),
    ],
)
def test_wrong_input_is_one_sentence(
    tokens: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    at = ["--server", "http://127.0.0.1:9"] if tokens[0] in ("fit", "compare") else []
    assert cli.run(["profile", *tokens, *at]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("stepwell: ")
    assert sentence in shown
    assert shown.count("\n") == 1


def test_a_cost_is_no_target_where_nobody_says_what_turns_cost(capsys: pytest.CaptureFixture[str]) -> None:
    with served(answer) as free:
        assert fit(free, "--cost", "0.001", "--items", "2") == 2
    assert "the server does not say what turns cost: use --accuracy" in capsys.readouterr().err


def test_a_server_that_is_not_there_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("stepwell.agents.client.FIRST_WAIT_MS", 8)
    flags = ["--tasks", "mine.jsonl", "--server", "http://127.0.0.1:9"]
    assert cli.run(["profile", "compare", "quiz.toml", *flags]) == 1
    assert "stepwell: the server http://127.0.0.1:9 does not answer" in capsys.readouterr().err


def test_what_is_stopped_by_hand_goes_on(home: Path) -> None:
    """Ctrl-C after a few turns; the same command then asks only what is missing."""
    process: list[subprocess.Popen[str]] = []

    def slow(body: dict[str, Any]) -> str:
        if len(made.bodies) == 5 and not process[0].poll():
            os.kill(process[0].pid, signal.SIGINT)
        return answer(body)

    with served(slow, cost=0.00001) as made:
        flags = ["--tasks", "mine.jsonl", "--server", made.url, "--profiles", "single", "--at-once", "1"]
        command = [sys.executable, "-m", "stepwell", "profile", "compare", "quiz.toml", *flags]
        process.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=home))
        _, said = process[0].communicate(timeout=60)
        assert process[0].returncode == 130
        assert "the same command goes on" in said
        stopped = len(made.bodies)
        assert stopped < 12
        process[0] = subprocess.Popen(["true"])
        process[0].wait()
        assert cli.run(["profile", "compare", "quiz.toml", *flags]) == 0
        assert 12 <= len(made.bodies) <= 13  # the turn under way when it was stopped may be asked again


def test_a_profile_is_shown_as_it_is_and_as_what_it_makes(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["profile", "show", "quiz.toml", "--json", "out.json"]) == 0
    shown = capsys.readouterr().out
    assert 'drop = ["planner"]' in shown
    assert "solver: samples 3" in shown
    assert shown.endswith("flash: 2 roles of quiz are left; dropped: planner.\n")
    data = json.loads(Path("out.json").read_text())
    assert list(data["roles"]) == ["critic", "solver"]


def test_a_task_set_is_written_as_it_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["profile", "tasks", "mine.jsonl", "--half", "held-out", "--items", "2"]) == 0
    shown = capsys.readouterr()
    lines = [json.loads(line) for line in shown.out.splitlines()]
    assert lines[0] == SET
    assert [line["id"] for line in lines[1:]] == ["mine-01", "mine-13"]
    assert shown.err == "mine: 24 items for the crew quiz, 12 to fit on and 12 held out; graded by number.\n"


def test_a_run_with_a_server_of_its_own_serves_the_model_of_its_profile(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STEPWELL_ENGINE_KIND", "null")
    (home / "tiny.toml").write_text(
        '[profile]\ncrew = "quiz"\nmodel = "gemma3"\ndrop = ["planner", "critic"]\n'
    )
    assert cli.run(["run", "quiz.toml", "--profile", "tiny.toml", "--ask", "Which number?"]) == 0
    assert "does not exist" not in capsys.readouterr().err


def test_on_a_terminal_there_is_a_bar_and_a_line_for_each_that_has_ended() -> None:
    file = StringIO()
    with watched(Console(file=file, force_terminal=True, width=100)) as heard:
        for _ in range(2):  # the same profile on either half
            for done, turns in ((0, 0), (0, 1), (1, 1), (1, 2), (2, 2)):
                heard(ItemsProgressed("pro", done, 2, done, turns))
    assert file.getvalue().count("pro: 2 of 2 right, 2 turns") == 2


def test_a_long_wait_is_told_in_a_log_too(monkeypatch: pytest.MonkeyPatch) -> None:
    file = StringIO()
    heard = Plain(Console(file=file, width=100), said_s=0.0)
    clock = iter(range(0, 100, 6))
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    for turns in range(5):
        heard(ItemsProgressed("pro", 0, 2, 0, turns))
    heard(ItemsProgressed("pro", 2, 2, 1, 9))
    heard(ItemsProgressed("pro", 2, 2, 1, 9))
    assert file.getvalue().splitlines() == [
        "pro: 0 of 2 items, 0 right, 2 turns",
        "pro: 0 of 2 items, 0 right, 4 turns",
        "pro: 2 of 2 items, 1 right, 9 turns",
    ]


@pytest.mark.parametrize("command", ["fit", "compare"])
@pytest.mark.parametrize(
    ("count", "why"),
    [(10, "its 10 items read the same passages, and such items stay together"), (1, "it has one item")],
)
def test_a_set_that_cannot_be_split_is_refused_before_anything_is_asked(
    home: Path, server: Served, capsys: pytest.CaptureFixture[str], command: str, count: int, why: str
) -> None:
    items = [{"id": f"m-{n}", "ask": f"{n}?", "answer": "1", "passages": ["A well."]} for n in range(count)]
    (home / "one.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in (SET, *items)))
    assert cli.run(["profile", command, "quiz.toml", "--tasks", "one.jsonl", "--server", server.url]) == 2
    said = capsys.readouterr().err
    assert why in " ".join(said.split())
    assert "profile compare --half all" in " ".join(said.split())
    assert server.bodies == []


def test_all_items_of_a_set_that_cannot_be_split_can_be_compared(home: Path, server: Served) -> None:
    items = [{"id": f"m-{n}", "ask": f"Question {n}?", "answer": "1", "passages": ["A."]} for n in range(3)]
    (home / "one.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in (SET, *items)))
    wanted = ["--tasks", "one.jsonl", "--profiles", "single", "--half", "all", "--no-memo"]
    assert cli.run(["profile", "compare", "quiz.toml", *wanted, "--server", server.url]) == 0

"""``stepwell run`` with a model per role: several servers that are given, or several of its own."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tests.agents.served import Served, served

from stepwell import cli
from stepwell.agents.crews.files import parse_crew
from stepwell.agents.crews.profile import apply, find_profile
from stepwell.basics.this_machine import usable_cores
from stepwell.engines.models import base_model_note
from stepwell.errors import BadInput
from stepwell.launch.crew_servers import Given, addresses, models_of, own_settings
from stepwell.settings.file import load

CREW = """
[crew]
name = "pair"
entry = "planner"
[crew.limits]
rounds = 1
[roles.planner]
may_spawn = ["solver"]
[roles.solver]
instructions = "You solve."
model = "small"
[roles.judge]
model = "unused"
[roles.writer]
[profiles.flash]
drop = ["judge"]
[profiles.flash.roles.writer]
model = "small"
[profiles.lean]
drop = ["judge", "writer"]
model = "small"
"""
PLAN = {"done": False, "steps": [{"id": "s1", "role": "solver", "task": "Solve.", "needs": []}]}


def answer(body: dict[str, Any]) -> str:
    said = str(body["messages"][0]["content"])
    return json.dumps(PLAN) if said.startswith("You plan") else f"{said[:9]} on {body['model']}"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pair.toml").write_text(CREW.replace('[roles.judge]\nmodel = "unused"\n', "").replace(
        'drop = ["judge"]\n', ""))  # fmt: skip
    return tmp_path


@pytest.fixture
def large() -> Iterator[Served]:
    with served(answer, 0.01, "large-1b") as made:
        yield made


@pytest.fixture
def small() -> Iterator[Served]:
    with served(answer, 0.001, "small-100m") as made:
        yield made


def run(*flags: str) -> int:
    return cli.run(["run", "pair.toml", *flags])


def at(large: Served, small: Served) -> list[str]:
    return ["--server", f"large={large.url}", "--server", f"small={small.url}", "--model", "large"]


def test_each_role_is_asked_at_its_models_server_and_costs_add_up(
    large: Served, small: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*at(large, small), "--ask", "Why?") == 0
    shown = capsys.readouterr()
    assert shown.out == "You write on large-1b\n"
    assert [body["model"] for body in large.bodies] == ["large-1b"] * 2
    assert [body["model"] for body in small.bodies] == ["small-100m"]
    assert "0.021000 USD" in shown.err or "0.021 USD" in shown.err


def test_a_profile_gives_one_role_another_model(large: Served, small: Served) -> None:
    assert run(*at(large, small), "--ask", "Why?", "--profile", "flash") == 0
    assert (len(large.bodies), len(small.bodies)) == (1, 2)


def test_one_url_takes_all_by_the_names_of_the_crew(small: Served) -> None:
    assert run("--server", small.url, "--ask", "Why?") == 0
    assert [body["model"] for body in small.bodies] == ["small-100m", "small", "small-100m"]


def test_one_url_takes_what_the_others_do_not_have(large: Served, small: Served) -> None:
    assert run("--server", large.url, "--server", f"small={small.url}", "--ask", "Why?") == 0
    assert [body["model"] for body in large.bodies] == ["large-1b"] * 2
    assert [body["model"] for body in small.bodies] == ["small-100m"]


def test_what_is_stopped_goes_on_at_the_same_servers(
    large: Served, small: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*at(large, small), "--ask", "Why?", "--budget", "0.0105") == 1
    kept = re.search(r"--resume (\S+)", capsys.readouterr().err)
    assert kept
    assert (len(large.bodies), len(small.bodies)) == (1, 1)
    flags = ["--resume", kept[1], "--budget", "1"]
    assert run(*at(large, small), *flags, "--profile", "flash") == 2
    sentence = (
        "stepwell: the agents of the role writer in this session are on the model 'large', not 'small': "
        "resume it with the same crew, profile and --model\n"
    )
    assert capsys.readouterr().err.endswith(sentence)
    assert run(*at(large, small), "--resume", kept[1], "--budget", "1") == 0
    assert capsys.readouterr().out == "You write on large-1b\n"
    assert (len(large.bodies), len(small.bodies)) == (2, 1)


@pytest.mark.parametrize(
    ("servers", "sentence"),
    [
        (
            ["large=http://127.0.0.1:9"],
            "the role solver asks for the model 'small', which no server has: there is large; "
            "give one more, as in --server small=URL",
        ),
        (
            ["large=http://127.0.0.1:9", "small=http://127.0.0.1:9"],
            "the role planner names no model, and --server gives several: say which, as in --model NAME, of "
            "large, small",
        ),
        (
            ["127.0.0.1:8000"],
            "--server 127.0.0.1:8000 is no URL such as http://127.0.0.1:8000, nor MODEL=URL",
        ),
        (
            ["http://a", "http://b"],
            "--server gives 2 servers without a model: say which has which, as MODEL=URL",
        ),
        (
            ["m=http://a", "m=http://b"],
            "--server gives the model m two servers: one has to be enough",
        ),
    ],
)
def test_servers_that_do_not_fit_are_one_sentence_before_anything_runs(
    servers: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--ask", "Why?", *(flag for url in servers for flag in ("--server", url))) == 2
    assert capsys.readouterr().err == f"stepwell: {sentence}\n"


def test_a_server_with_one_model_has_it_by_whatever_name(large: Served) -> None:
    """And roles that name none are on it too, where no other server is given."""
    assert run("--server", f"small={large.url}", "--ask", "Why?") == 0
    assert {body["model"] for body in large.bodies} == {"large-1b"}


def test_servers_of_its_own_one_for_each_model(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STEPWELL_ENGINE_KIND", "null")
    Path("pair.toml").write_text(
        '[roles.lead]\nmay_spawn = ["aide"]\ninstructions = "Lead."\nmax_tokens = 4\n'
        '[roles.aide]\nmodel = "gemma3"\ninstructions = "Help."\n'
    )
    assert run("--ask", "Why?", "--json", "out.json") == 0
    said = capsys.readouterr().err
    line = next(line for line in said.splitlines() if line.startswith("2 models, a server for each: "))
    assert line.startswith("2 models, a server for each: smollm2, gemma3; each has ")
    assert "KV of 4,096 tokens on the device, 512 MiB in host memory and 2,048 MiB on disk." in line
    assert said.count("null is served at http://127.0.0.1:") == 2
    assert json.loads(Path("out.json").read_text())["cost_microusd"] is not None


def test_a_model_that_is_not_there_is_said_before_one_is_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--ask", "Why?") == 2
    sentence = "the role solver: model 'small' is neither one of smollm2, gemma3 nor a file that exists"
    assert capsys.readouterr().err == f"stepwell: {sentence}\n"


def test_several_servers_share_what_one_would_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPWELL_ENGINE_KIND", "null")
    whole = load()
    assert own_settings({"smollm2": "--model"}) == {"smollm2": whole}
    assert "does not follow instructions" in base_model_note("gemma3")
    assert base_model_note("smollm2") == ""
    two = own_settings({"smollm2": "--model", "gemma3": "the role judge"})
    cores = usable_cores()
    for model, own in two.items():
        assert own.engine.model == model
        assert own.engine.threads == max(1, cores // 2)
        assert own.engine.device_kv_tokens == whole.engine.device_kv_tokens // 2
        assert (own.kv.host_kv, own.kv.disk_kv) == (whole.kv.host_kv // 2, whole.kv.disk_kv // 2)
        assert own == replace(whole, engine=own.engine, kv=own.kv)
    eight = own_settings({f"m{n}": "--model" for n in range(8)})
    assert eight["m7"].engine.device_kv_tokens == 2_048
    with pytest.raises(BadInput, match="9 models are asked for: at most 8 run at once"):
        own_settings({f"m{n}": "--model" for n in range(9)})


def test_a_crew_may_name_a_model_of_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has a server of its own here, with its own settings and without the other ones."""
    config = tmp_path / "stepwell.toml"
    config.write_text(
        '[engine]\nmodel = "smollm2"\ndevice_kv_tokens = 65_536\n'
        '[[models]]\nname = "coder"\nmodel = "gemma3"\ncontext_tokens = 1024\n'
    )
    monkeypatch.setenv("STEPWELL_CONFIG", str(config))
    made = own_settings({"smollm2": "--model", "coder": "the role judge"})
    assert [one.engine.model for one in made.values()] == ["smollm2", "gemma3"]
    assert made["coder"].engine.name == "coder" and made["coder"].engine.context_tokens == 1_024
    assert all(one.models == () and one.engine.device_kv_tokens == 32_768 for one in made.values())


def test_only_roles_that_take_turns_need_a_model() -> None:
    made = parse_crew(CREW)
    assert models_of(made, "large") == {
        "large": "the role planner",
        "small": "the role solver",
        "unused": "the role judge",
    }
    assert set(models_of(apply(made, find_profile(made, "flash")), "large")) == {"large", "small"}
    assert models_of(apply(made, find_profile(made, "lean")), "") == {"small": "the role planner"}


def test_a_server_that_is_given_is_where_it_is_said_to_be(tmp_path: Path) -> None:
    given = Given.of(["x=y=https://h/v1?a=b", "http://rest"], "key")
    assert given.named == {"x=y": "https://h/v1?a=b"}
    assert (given.first, given.models, given.api_key) == ("http://rest", ("", "x=y"), "key")
    with addresses(given, {"x=y": "", "z": ""}, tmp_path, Console()) as made:
        assert [(one.model, one.url, one.own) for one in made] == [
            ("x=y", "https://h/v1?a=b", True),
            ("z", "http://rest", False),
        ]
    assert not Given.of([])
    assert Given.of(["m=http://h"]).default() == "m"

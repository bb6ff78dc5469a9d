"""The planner crew: the model chooses plan and inputs, the command answers, and no figure is the model's."""

from __future__ import annotations

import asyncio
import json
import re
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import pytest
from tests.agents.served import served

from stepwell import cli
from stepwell.agents.crews.files import find_crew
from stepwell.agents.tools import Workspace, build_tools, run_tool
from stepwell.commands.plan_choice import Choice
from stepwell.commands.plan_storage import FIGURES
from stepwell.economics.changes import decimals
from stepwell.economics.contract_file import changed, parse_changes, plan_of, read_plan

CREW = Path(__file__).resolve().parents[2] / "examples" / "crews" / "planner.toml"
NUMBER = re.compile(r"\d[\d,.]*")
ASKED = {"plan": "storage", "of": "100000", "inputs": ["video_minutes=x2"]}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def told(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.run(["plan", *words, "--json", "-"]) == 0
    return str(json.loads(capsys.readouterr().out)["answer"])


def test_every_figure_of_the_answer_is_a_plans(capsys: pytest.CaptureFixture[str]) -> None:
    """What a model writes beside the schema is not there; a person can type the command again."""
    with served(lambda body: json.dumps(ASKED)) as server:
        words = ["run", str(CREW), "--ask", "What if people watch twice?", "--server", server.url]
        assert cli.run(words) == 0
    answer = capsys.readouterr().out
    before = told(["storage", "100000"], capsys)
    after = told(["storage", "100000", "--what-if", "video_minutes=x2"], capsys)
    assert before in answer and after in answer and before != after
    assert "By: stepwell plan storage 100000 --what-if video_minutes=x2" in answer
    rest = answer.replace(before, "").replace(after, "").replace("100000", "").replace("video_minutes=x2", "")
    assert not NUMBER.search(rest)


def test_every_input_that_the_grammar_lets_a_model_write_is_one_that_the_plans_have() -> None:
    """So a small model may choose wrongly, and cannot ask for what there is not."""
    role = find_crew(str(CREW)).roles["forecaster"]
    assert role.schema is not None
    parts, users, contracts = ([*_words(kind)] for kind in cast("Any", role.schema)["anyOf"])
    Choice(what_if=[f"{name}=0.5" for name in parts]).case("h200")
    assert set(users) <= set(FIGURES)
    plan = read_plan(CREW.parents[1] / "plans" / "tokens-100mw.toml")
    for name in contracts:
        plan_of(changed(plan, {name: 0 if name.endswith("growth") else 1}), name)


def _words(kind: Any) -> list[str]:
    """The names that a pattern spells out: ``^(a|b[.](c|d))=``."""
    text = kind["properties"]["inputs"]["items"]["pattern"]
    return _spelt(text[1 : text.index("=")].replace("[.]", "."))


def _spelt(text: str) -> list[str]:
    inner = re.search(r"\(([^()]*)\)", text)
    if inner is None:
        return text.split("|")
    before, after = text[: inner.start()], text[inner.end() :]
    head = before[max(before.rfind("|"), before.rfind("(")) + 1 :]
    spelt = "|".join(f"{head}{one}" for one in inner[1].split("|"))
    return _spelt(before[: len(before) - len(head)] + spelt + after)


def ask(**arguments: Any) -> Any:
    crew = find_crew(str(CREW))
    workspace = Workspace(Path.cwd(), folder=CREW.parent)
    (tool,) = build_tools([crew.roles["forecaster"].finish], workspace)
    return asyncio.run(run_tool(tool, ASKED | arguments))


def test_a_plan_that_cannot_be_is_the_commands_own_sentence() -> None:
    result = ask(inputs=["video_minute=1"])
    assert not result.ok and "did you mean video_minutes?" in result.text


def test_without_inputs_a_plan_is_told_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    result = ask(inputs=[])
    assert result.ok and told(["storage", "100000"], capsys) in result.text and "With" not in result.text


def test_the_crews_examples_are_calls_that_its_schema_takes_and_plans_have() -> None:
    """Each input that an example shows is one that its plan knows."""
    role = find_crew(str(CREW)).roles["forecaster"]
    assert role.schema is not None
    kinds: Any = role.schema["anyOf"]
    for example in role.examples:
        call = json.loads(example.answer)
        (taken,) = [
            kind["properties"] for kind in kinds if call["plan"] in kind["properties"]["plan"]["enum"]
        ]
        assert call["of"] in taken["of"].get("enum", ()) or re.match(taken["of"]["pattern"], call["of"])
        assert all(re.match(taken["inputs"]["items"]["pattern"], one) for one in call["inputs"])
        if call["plan"] == "storage":
            decimals(call["inputs"], {key: Decimal(str(value)) for key, value in FIGURES.items()})
        elif call["plan"] == "contract":
            raw = read_plan(CREW.parents[1] / "plans" / f"{call['of']}.toml")
            plan_of(changed(raw, parse_changes(call["inputs"])), "example")
        else:
            for part in call["of"].split(","):
                Choice(what_if=call["inputs"]).case(part)

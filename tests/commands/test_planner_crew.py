"""The planner crew: the model chooses plan and inputs, the command answers, and no figure is the model's."""

from __future__ import annotations

import asyncio
import json
import re
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.agents.served import served

from stepwell import cli
from stepwell.agents.crews.files import find_crew
from stepwell.agents.tools import Workspace, build_tools, run_tool
from stepwell.commands.plan.choice import Choice
from stepwell.commands.plan.storage import FIGURES
from stepwell.economics.changes import decimals
from stepwell.economics.contract_file import changed, parse_changes, plan_of, read_plan

QUESTIONS: dict[str, list[tuple[str, str, list[str]]]] = {
    "What if disks cost twice as much?": [
        ("capacity", "h200", ["ssd.usd_gb=x2"]), ("price", "h200", ["ssd.usd_gb=x2"]),
    ],
    "What is the margin on B200 if answers are twice as long?": [("price", "b200", ["output_tokens=x2"])],
    "How many H200 machines do I need if DRAM is 20% cheaper?": [
        ("capacity", "h200", ["dram.usd_gb=x0.8"]),
    ],
    "Which is cheaper, H100 or B200, if prompts are three times as long?": [
        ("hardware", "h100,b200", ["input_tokens=x3"]),
    ],
    "How many disks do 3 million users need who watch 5 minutes of video?": [
        ("storage", "3000000", ["video_minutes=5"]),
    ],
    "What happens to the 300 billion contract if all sites are six months late?": [
        ("contract", "compute-300bn", ["sites.delay_months=+6"]),
    ],
    "What does the token data centre earn when agents use twice the tokens?": [
        ("contract", "tokens-100mw", ["customer.served.amplification=x2"]),
    ],
    "What is my margin when an H200 hour costs 2.50 dollars?": [("price", "h200", ["usd_hour_rent=2.5"])],
    "What if disks are half as dear and prompts twice as long on h200?": [
        ("capacity", "h200", ["ssd.usd_gb=x0.5", "input_tokens=x2"]),
        ("price", "h200", ["ssd.usd_gb=x0.5", "input_tokens=x2"]),
    ],
    "What if utilisation of the compute contract falls to 60%?": [
        ("contract", "compute-300bn", ["customer.utilisation=0.6"]),
    ],
    "Drives for 500000 users who keep images for 730 days?": [("storage", "500000", ["image_days=730"])],
    "What if the token price of the 100 MW data centre falls by 20%?": [
        ("contract", "tokens-100mw", ["customer.served.price_factor=x0.8"]),
    ],
    "What does a million tokens cost on a B300?": [("price", "b300", [])],
    "What will happen?": [("capacity", "h200", []), ("price", "h200", [])],
    "What if 3 of 7 fail?": [],
    "Suppose electricity for the big build costs 40% more, what changes?": [
        ("contract", "compute-300bn", ["power.grid_usd_per_mwh=x1.4"]),
    ],
    "If solid state drives stand twice the writes a day, does serving on H100 get cheaper?": [
        ("capacity", "h100", ["ssd.dwpd=x2"]), ("price", "h100", ["ssd.dwpd=x2"]),
    ],
    "2 million people keep 50 pictures each: how many drives is that?": [
        ("storage", "2000000", ["images=50"]),
    ],
    "Suppose a B300 rents at $3.50 an hour; is there still profit at list price?": [
        ("price", "b300", ["usd_hour_rent=3.5"]),
    ],
    "Contexts grow by half. How many TPUs would it take?": [
        ("capacity", "tpu-v6e", ["input_tokens=x1.5"]),
    ],
    "What if only 70 percent of the 100 MW hall is in use?": [
        ("contract", "tokens-100mw", ["customer.utilisation=0.7"]),
    ],
    "Compare GB200 with MI300X when replies get 25% shorter": [
        ("hardware", "gb200,mi300x", ["output_tokens=x0.75"]),
    ],
    "How would the present value move if servers were a tenth cheaper in the 300 billion deal?": [
        ("contract", "compute-300bn", ["capex.0.usd_per_mw=x0.9"]),
    ],
    "What would 250k customers need if clips run 12 minutes at 8 Mbit/s?": [
        ("storage", "250000", ["video_minutes=12", "video_mbit_s=8"]),
    ],
    "Host memory becomes 1.7 times as expensive: how many replicas of h200?": [
        ("capacity", "h200", ["dram.usd_gb=x1.7"]),
    ],
    "Our landlord raises the hourly rent of the GB300 to 6.20 dollars. What does that do to profit?": [
        ("price", "gb300", ["usd_hour_rent=6.2"]),
    ],
    "Would flash drives at a fifth less make MI300X boxes worthwhile?": [
        ("capacity", "mi300x", ["ssd.usd_gb=x0.8"]), ("price", "mi300x", ["ssd.usd_gb=x0.8"]),
    ],
    "How large must storage be for 40,000 users with libraries of 900 MB and 20 sessions a day?": [
        ("storage", "40000", ["library_mb=900", "sessions=20"]),
    ],
    "Assume half of the customers renew in the large contract.": [
        ("contract", "compute-300bn", ["customer.renewal_probability=0.5"]),
    ],
    "What if agents burn 4x the tokens in the hundred megawatt site?": [
        ("contract", "tokens-100mw", ["customer.served.amplification=x4"]),
    ],
    "H200 versus TPU v6e with outputs a third longer: which costs less?": [
        ("hardware", "h200,tpu-v6e", ["output_tokens=x1.3333"]),
    ],
    "If device memory bandwidth rises by 15%, how many B200 machines are needed?": [
        ("capacity", "b200", ["hbm_tb_s=x1.15"]),
    ],
    "Campuses slip by two quarters: where is the low of cash?": [
        ("contract", "compute-300bn", ["sites.delay_months=+6"]),
    ],
    "Which discount rate breaks it? Try 14% in the compute contract.": [
        ("contract", "compute-300bn", ["discount_rate=0.14"]),
    ],
    "12 million users import 3 GB each, how many SSDs?": [
        ("storage", "12000000", ["import_gb=3"]),
    ],
    "Is a B200 still worth it when SSD prices triple?": [
        ("capacity", "b200", ["ssd.usd_gb=x3"]), ("price", "b200", ["ssd.usd_gb=x3"]),
    ],
    "The grid asks for 95 dollars a megawatt hour: does the 300 bn deal survive?": [
        ("contract", "compute-300bn", ["power.grid_usd_per_mwh=95"]),
    ],
    "How many boxes of MI300X with device memory a quarter larger?": [
        ("capacity", "mi300x", ["hbm_gb=x1.25"]),
    ],
    "We expect 750 thousand users, 8 images each per day, kept 90 days.": [
        ("storage", "750000", ["images=8", "image_days=90"]),
    ],
    "Sites three months behind and take-or-pay at 50 percent in the compute contract": [
        ("contract", "compute-300bn", ["sites.delay_months=+3", "customer.take_or_pay_share=0.5"]),
    ],
    "If I rent H100s at 1.9 dollars per hour, what is left as profit?": [
        ("price", "h100", ["usd_hour_rent=1.9"]),
    ],
    "Does B300 beat GB300 once inputs are 40% longer?": [
        ("hardware", "b300,gb300", ["input_tokens=x1.4"]),
    ],
    "Token price down 30% in the 100 MW hall": [
        ("contract", "tokens-100mw", ["customer.served.price_factor=x0.7"]),
    ],
    "Suppose replies were five times longer and RAM half the price on TPU v6e: how many replicas?": [
        ("capacity", "tpu-v6e", ["output_tokens=x5", "dram.usd_gb=x0.5"]),
    ],
    "What will an H200 earn when an hour of it costs a fifth less?": [
        ("price", "h200", ["usd_hour_rent=x0.8"]),
    ],
}  # fmt: skip
"""A question, and the readings that are left to the model. None: its words do not say enough."""
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


def narrowed(question: str) -> Any:
    workspace = Workspace(Path.cwd(), folder=CREW.parent)
    (tool,) = build_tools([find_crew(str(CREW)).roles["forecaster"].narrow], workspace)
    result = asyncio.run(run_tool(tool, {"question": question}))
    assert result.ok
    return json.loads(result.text)


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_leaves_the_model_only_what_it_names(question: str) -> None:
    found = [
        (
            way["properties"]["plan"]["enum"],
            way["properties"]["of"]["enum"],
            way["properties"]["inputs"]["enum"],
        )
        for way in narrowed(question).get("anyOf", [])
    ]
    assert found == [([plan], [of], [inputs]) for plan, of, inputs in QUESTIONS[question]]


def test_what_is_left_fits_the_grammar_and_is_an_input_of_its_plan() -> None:
    """So the narrow schema lets nothing through that the whole one would not."""
    role = find_crew(str(CREW)).roles["forecaster"]
    assert role.schema is not None
    for question, readings in QUESTIONS.items():
        for plan, of, inputs in readings:
            (kind,) = [
                one["properties"]
                for one in cast("Any", role.schema)["anyOf"]
                if plan in one["properties"]["plan"]["enum"]
            ]
            assert of in kind["of"].get("enum", ()) or re.match(kind["of"]["pattern"], of), question
            assert all(re.match(kind["inputs"]["items"]["pattern"], one) for one in inputs), question


@given(st.text(max_size=200))
def test_no_question_breaks_it(question: str) -> None:
    assert narrowed(question).get("anyOf") != []


def test_the_grammar_of_a_turn_is_the_narrow_one_and_a_wrong_answer_is_sent_back(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A model that writes another part than the question names is asked again, and then it is refused."""
    asked: list[Any] = []

    def says(body: Any) -> str:
        asked.append(body["response_format"]["json_schema"]["schema"])
        return json.dumps(
            {"plan": "storage", "of": "7" if len(asked) == 1 else "5000", "inputs": ["images=x2"]}
        )

    with served(says) as server:
        words = ["run", str(CREW), "--ask", "Twice the images for 5,000 users?", "--server", server.url]
        assert cli.run(words) == 0
    assert "stepwell plan storage 5000 --what-if images=x2" in capsys.readouterr().out
    assert len(asked) == 2 and asked[0]["anyOf"][0]["properties"]["of"] == {"enum": ["5000"]}

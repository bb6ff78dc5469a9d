"""``stepwell plan`` as a newcomer types it: the answer, JSON, a page, and one sentence for bad input."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from stepwell.cli import run

PLAN = Path(__file__).parents[2] / "examples" / "plans" / "compute-300bn.toml"
TOKENS = PLAN.with_name("tokens-100mw.toml")

WHOLE = [
    ("capacity", ("h200,b200",)),
    ("price", ("h200",)),
    ("storage", ("1000000",)),
    ("hardware", ("h200,b200",)),
    ("contract", (str(PLAN), "--draws", "5")),
    ("price", ("h200", "--workload", "chat", "--list-price", "gpt-5", "--flash", "llama-3.1-8b")),
    ("hardware", ("h100,h200", "--workload", "chat", "--train-tokens", "1e12")),
    ("contract", (str(TOKENS), "--draws", "2")),
]


@pytest.mark.parametrize(("command", "words"), WHOLE)
def test_a_plan_from_end_to_end(
    command: str, words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, figures = tmp_path / "plan.html", tmp_path / "plan.json"
    assert run(["plan", command, *words, "--html", str(page), "--json", str(figures)]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"{command}: ")
    assert len(json.loads(figures.read_text())["answer"]) > 20
    text = page.read_text()
    assert "<table" in text
    assert not re.search(r"""(?:src|href)=["']https?:""", text.replace("xlink:", "")), "the page is whole"


@pytest.mark.parametrize(("command", "words"), WHOLE)
def test_figures_on_standard_output_are_json_alone(
    command: str, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["plan", command, *words, "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)


def _figures(words: tuple[str, ...], file: Path) -> Any:
    assert run(["plan", *words, "--json", str(file)]) == 0
    return json.loads(file.read_text())


@pytest.mark.parametrize(
    ("words", "change"),
    [
        (("capacity", "h200"), "ssd.usd_gb=5"),
        (("price", "h200"), "usd_hour_rent=99"),
        (("storage", "1000"), "video_minutes=100"),
        (("hardware", "h200"), "hbm_tb_s=1"),
        (("contract", str(PLAN), "--draws", "0"), "customer.utilisation=0.5"),
    ],
)
def test_what_if_changes_the_answer(words: tuple[str, ...], change: str, tmp_path: Path) -> None:
    before = _figures(words, tmp_path / "before.json")
    after = _figures((*words, "--what-if", change), tmp_path / "after.json")
    assert before != after


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("capacity", "h2000"), "did you mean h200"),
        (("capacity", "h200,"), "no hardware ''"),
        (("capacity", "h200", "--tpot-ms", "1"), "binds"),
        (("capacity", "h200", "--chips", "1", "--model", "llama-3.1-405b"), "HBM binds"),
        (("capacity", "h200", "--model", "gpt-9"), "no model 'gpt-9'"),
        (("capacity", "h200", "--workload", "x"), "there is agentic, conversation, chat"),
        (("capacity", "h200", "--chips", "0"), "--chips 0"),
        (("capacity", "h200", "--turns-per-s", "nan"), "--turns-per-s"),
        (("capacity", "h200", "--what-if", "ssd.usd_gb=-1"), "at or above zero"),
        (("capacity", "h200", "--what-if", "hbm_tb_s=0"), "above zero"),
        (("capacity", "h200", "--what-if", "nonsense=1"), "there is no such input"),
        (("capacity", "h200", "--what-if", "ssd.usdgb=1"), "did you mean ssd.usd_gb"),
        (("capacity", "tpu-v7", "--what-if", "usd_hour_rent=x2"), "no figure to change"),
        (("capacity", "h200", "--what-if", "ssd.usd_gb=xx"), "is not a number"),
        (("capacity", "h200", "--constants", "nowhere.toml"), "nowhere.toml: No such file"),
        (("price", "h200", "--list-price", "1/2"), "input/cached/output"),
        (("price", "h200", "--list-price", "a/b/c"), "not a number"),
        (("price", "h200", "--utilisation", "0"), "--utilisation 0"),
        (("price", "h200", "--price-factor", "-1"), "--price-factor"),
        (("price", "h200", "--list-price", "gpt5"), "did you mean gpt-5"),
        (("price", "h200", "--flash", "lama"), "no model 'lama'"),
        (("price", "h200", "--flash", "llama-3.1-8b", "--flash-turns", "0"), "--flash-turns 0"),
        (("price", "h200", "--flash", "llama-3.1-8b", "--flash-right", "2"), "share from 0 to 1"),
        (("price", "h200", "--flash", "llama-3.1-8b", "--profiles", "nowhere.json"), "nowhere.json"),
        (("price", "h200", "--flash", "llama-3.1-8b", "--profiles", str(PLAN)), "no output of"),
        (("hardware", "h200", "--train-tokens", "-1"), "--train-tokens -1"),
        (("hardware", "h200", "--train-tokens", "1e12", "--mfu", "2"), "--mfu 2"),
        (("hardware", "h200", "--train-tokens", "1e12", "--train-model", "gpt-9"), "no model"),
        (("contract", str(TOKENS), "--what-if", "customer.served.part=h2000"), "did you mean h200"),
        (("storage", "0"), "users must be above zero"),
        (("storage", "10", "--copies", "0"), "--copies 1 to 10"),
        (("storage", "10", "--what-if", "video_minutes=-1"), "at or above zero"),
        (("hardware", "h100,nope"), "no hardware 'nope'"),
        (("contract", "nowhere.toml"), "nowhere.toml: No such file"),
        (("contract", str(PLAN), "--draws", "-1"), "--draws -1"),
        (("contract", str(PLAN), "--solve", "nope"), "sets no such number"),
        (("contract", str(PLAN), "--solve", "customer.utilization"), "did you mean customer.utilisation?"),
        (("contract", str(PLAN), "--what-if", "customer.nope=1"), "unknown key"),
        (("contract", str(PLAN), "--what-if", "customer.utilisation"), "KEY=VALUE"),
    ],
)
def test_bad_input_is_one_sentence(
    words: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["plan", *words]) == 2
    error = capsys.readouterr().err.strip()
    assert says in " ".join(error.split())
    assert "Traceback" not in error


def test_a_file_that_is_no_toml_names_the_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "plan.toml"
    broken.write_text("[project]\nname = \n")
    assert run(["plan", "contract", str(broken)]) == 2
    assert "line 2" in capsys.readouterr().err


def test_a_part_that_cannot_do_the_work_is_told_beside_those_that_can(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["plan", "hardware", "h100,h200", "--chips", "1", "--tpot-ms", "200"]) == 0
    out = capsys.readouterr().out
    assert "not possible: " in out and "HBM binds" in " ".join(out.split())


EXAMPLE = re.compile(r"``stepwell (plan [^` ]+ [^`]+)``")


@pytest.mark.parametrize("module", ["capacity", "price", "storage", "hardware", "contract"])
def test_the_examples_of_the_help_run(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = Path(__file__).parents[2] / "src" / "stepwell" / "commands" / "plan" / f"{module}.py"
    examples = EXAMPLE.findall(" ".join(code.read_text().split()))
    assert examples
    (tmp_path / "examples").symlink_to(PLAN.parents[1])
    monkeypatch.chdir(tmp_path)
    for example in examples:
        assert run(shlex.split(example)) == 0, example


def test_flash_takes_its_shares_from_profiles_that_were_measured(tmp_path: Path) -> None:
    profiles = tmp_path / "compared.json"
    tokens = {"intermediate_tokens_per_item": 90.0, "visible_tokens_per_item": 10.0}
    pro = {"label": "pro", "accuracy": 0.8, "turns_per_item": 10.0} | tokens
    flash = (
        {"label": "flash", "accuracy": 0.6, "turns_per_item": 4.0}
        | tokens
        | {"visible_tokens_per_item": -58.0}
    )
    profiles.write_text(json.dumps({"profiles": [pro, flash]}))
    words = ("price", "h200", "--workload", "chat", "--flash", "llama-3.1-8b", "--profiles", str(profiles))
    rows = _figures(words, tmp_path / "f.json")["flash"]
    first, last = rows[0], rows[-1]
    assert (first["turns"], first["right"], last["turns"], last["right"]) == ("10.0", "80.0%", "4.0", "60.0%")
    assert float(last["tokens/turn"]) == round(0.8 * float(first["tokens/turn"]))  # 8 of 10 a turn


def test_a_plan_of_ones_own_begins_with_one_that_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "my.toml"
    assert run(["plan", "contract", str(file), "--new"]) == 0
    assert str(file) in capsys.readouterr().out
    before = _figures(("contract", str(file), "--draws", "3"), tmp_path / "f.json")
    assert before["answer"] and before["tornado"]
    text = file.read_text()
    served = re.sub("^# ", "", text[text.index("# [customer.served]") : text.index("[[sites]]")], flags=re.M)
    for comment in ("prepayment_usd", "gas_share", "gas_usd_per_mwh", "late_usd_per_mw_month"):
        text = text.replace(f"# {comment}", comment)
    # What stands there as a comment is right as well.
    text = text.replace("usd_per_mw_year = 12_000_000", "").replace("[[sites]]", f"{served}[[sites]]", 1)
    text = text.replace('"customer.usd_per_mw_year" =', '"customer.served.price_factor" =')
    text = text.replace("[9_000_000, 12_000_000, 13_500_000]", "[0.5, 1, 1.2]")
    file.write_text(text)
    after = _figures(("contract", str(file), "--draws", "3"), tmp_path / "f.json")
    assert after["answer"] != before["answer"]
    assert run(["plan", "contract", str(file), "--new"]) == 2
    assert "is there already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "absolute", "relative"),
    [
        (("capacity", "h200", "--workload", "chat"), "ssd.usd_gb=0.72", "ssd.usd_gb=x2"),
        (("storage", "1000"), "kv_days=3", "kv_days=+2"),
    ],
)
def test_a_what_if_may_be_relative_to_what_is_known(
    words: tuple[str, ...], absolute: str, relative: str, tmp_path: Path
) -> None:
    one, other = (
        _figures((*words, "--what-if", change), tmp_path / "f.json") for change in (absolute, relative)
    )
    for figures in (one, other):
        figures.pop("inputs")
    assert one == other


def test_draws_of_another_plan_say_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "my.toml"
    assert run(["plan", "contract", str(file), "--new"]) == 0
    words = ["plan", "contract", str(file), "--draws", "3"]
    assert run(words) == 0 and "mind:" not in capsys.readouterr().out
    assert run([*words, "--what-if", "customer.usd_per_mw_year=1000000"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "mind: customer.usd_per_mw_year is 1,000,000 in the plan and is drawn from 9,000,000" in said
    assert "it never breaks even" in said

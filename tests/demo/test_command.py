"""The whole demo on the null engine: a real server, real HTTP, real KV tiers; only the model is missing."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from stepwell import cli
from stepwell.basics.clock import Clock
from stepwell.demo import command, plan
from stepwell.demo.command import Options, customers_for, run_demo
from stepwell.demo.expected import EXAMPLE, GENERAL
from stepwell.demo.figures import read_json
from stepwell.engines.null import NullConfig, NullEngine, NullText
from stepwell.errors import BadInput, StepwellError
from stepwell.launch import assemble
from stepwell.settings.file import Settings

TURNS = 2 * (2 + 3 + 2)
"""Of a crew: a plan and a verdict that are 1 are sent back once; three readers point at once."""


@pytest.fixture
def quick_null(monkeypatch: pytest.MonkeyPatch) -> None:
    """The null engine without the time it would take. It says 1, which is the number of a sentence.

    One token is far below the full-length answers that the tiers are sized by, so at the demo's own share
    the device would hold nearly all of it: it gets less here, and without tiers a third is computed again.
    """

    def engine(
        settings: Settings, clock: Clock | None = None, progress: object = None
    ) -> tuple[NullEngine, NullText]:
        blocks = settings.engine.device_kv_tokens // 64
        made = NullEngine(
            NullConfig(
                device_blocks=blocks,
                token_bytes=1024,
                max_sequences=32,
                prefill_us_per_token=100,
                answer=b"1",
            ),
            clock,
        )
        return made, NullText(made.info)

    monkeypatch.setattr(assemble, "load_engine", engine)
    monkeypatch.setattr(command, "QUICK_PATIENCE", 0.01)
    monkeypatch.setattr(plan, "DEVICE_SHARE", 0.15)
    monkeypatch.setattr(plan, "SPARE_BLOCKS", 1)


@pytest.mark.usefixtures("quick_null")
def test_the_demo_from_end_to_end(tmp_path: Path) -> None:
    out = io.StringIO()
    options = Options(html=tmp_path / "page.html", json=tmp_path / "figures.json", quick=True, engine="null")
    assert run_demo(None, options, Console(file=out, width=132, color_system=None)) == 0

    figures = read_json((tmp_path / "figures.json").read_bytes())
    with_tiers, without = figures.runs
    assert (with_tiers.tiering, without.tiering) == (True, False)
    assert figures.agents == 15
    assert with_tiers.total.turns == without.total.turns == 3 * TURNS
    assert {row.service_tier: row.turns for row in with_tiers.service_tiers} == {
        "priority": TURNS,
        "default": TURNS,
        "flex": TURNS,
    }
    assert set(with_tiers.lanes) == {turn.agent for turn in with_tiers.turns}
    assert with_tiers.counters["requests_finished"] == 3 * TURNS
    given = [answer for tenant in ("almond", "birch", "cedar") for answer in with_tiers.answers[tenant]]
    assert [answer.right for answer in given] == [True] * 6
    assert all(answer.text in answer.passage and answer.heading for answer in given)

    cached = with_tiers.total.cached_tokens
    assert cached["device"] > 0
    assert cached["host"] + cached["disk"] > 0
    assert without.total.cached_tokens["host"] + without.total.cached_tokens["disk"] == 0
    assert with_tiers.total.recomputed_tokens < without.total.recomputed_tokens
    assert with_tiers.counters["recomputed_tokens"] == with_tiers.total.recomputed_tokens
    assert with_tiers.peak_bytes["device"] <= with_tiers.capacity.limit_bytes("device")

    page = (tmp_path / "page.html").read_text()
    assert all(f'data-agent="{agent}"' in page for agent in with_tiers.lanes)
    assert "6 of 6 right" in out.getvalue()
    assert "6 of 6 answers are the same without KV tiers" in out.getvalue()
    last = out.getvalue().strip().splitlines()[-1]
    assert last.startswith("Total time")
    assert figures.result[1:] in last


@pytest.mark.usefixtures("quick_null")
def test_a_document_from_a_pipe_and_one_question_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"Water is deep in the old well. " * 300)))
    monkeypatch.chdir(tmp_path)
    tokens = ["demo", "-", "--ask", "How?", "--quick", "--no-compare", "--engine", "null", "--json", "f.json"]
    assert cli.run(tokens) == 0
    figures = read_json(Path("f.json").read_bytes())
    assert [customer.questions for customer in figures.customers] == [("How?", GENERAL[0])] * 3
    assert len(figures.runs) == 1
    assert figures.document.name == "standard input"
    said = capsys.readouterr().out
    assert "The picture: stepwell-demo.html" in said
    assert "turn 0 of 30" in said
    assert Path("stepwell-demo.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("none.md", "document none.md does not exist"),
        ("empty.md", "is empty"),
        ("binary.bin", "is not text"),
        ("--html none/page.html", "the directory none does not exist"),
        ("--json .", "is a directory"),
        ("--model none.gguf", "neither one of smollm2, gemma3 nor a file"),
        ("--ask a --ask b --ask c --ask d", "3 customers"),
        ("--nonsense", "nonsense"),
    ],
)
def test_bad_input_is_one_sentence(
    arguments: str,
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.md").touch()
    Path("binary.bin").write_bytes(b"\0\1\2")
    assert cli.run(["demo", *arguments.split()]) == 2
    said = capsys.readouterr().err.strip()
    assert sentence in said
    assert "\n" not in said
    assert "Traceback" not in said


def test_questions() -> None:
    shipped = list(EXAMPLE)
    assert [one.questions for one in customers_for(Options())] == [
        (question, *shipped[3:]) for question in shipped[:3]
    ]
    assert [one.questions for one in customers_for(Options(quick=True), is_example=False)] == [
        GENERAL[:2]
    ] * 3
    asked = customers_for(Options(questions=("one?", " two?")))
    assert [one.questions[0] for one in asked] == ["one?", "two?", "two?"]
    assert {len(one.questions) for one in asked} == {3}
    for bad in ("  ", "x" * 2_000):
        with pytest.raises(BadInput, match="--ask"):
            customers_for(Options(questions=(bad,)))


def test_a_base_model_is_not_offered() -> None:
    with pytest.raises(BadInput, match="does not follow instructions"):
        run_demo(None, Options(model="gemma3"), Console(file=io.StringIO()))


def test_a_full_disk_is_found_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(StepwellError, match="--disk-dir"):
        command.require_space(2**62, tmp_path)


STOPPED = """
import os, signal, sys
from pathlib import Path
from stepwell import cli
from stepwell.demo.screen import PlainScreen
def begin(*given, real=PlainScreen.begin):
    real(*given)
    print([path.name for path in Path(sys.argv[1]).iterdir()], flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
PlainScreen.begin = begin
places = ["--disk-dir", sys.argv[1], "--html", sys.argv[1] + "/page.html"]
sys.exit(cli.run(["demo", "--quick", "--engine", "null", *places]))
"""


def test_being_told_to_stop_leaves_nothing_on_disk(tmp_path: Path) -> None:
    """Told in the middle of its work, in the program itself, so that it is always the same moment."""
    command_line = [sys.executable, "-c", STOPPED, str(tmp_path)]
    done = subprocess.run(command_line, capture_output=True, text=True, check=False)
    assert (done.returncode, "With KV tiers:" in done.stdout) == (130, True), done.stderr
    assert re.search(r"\['stepwell-demo-[^']+'\]", done.stdout), done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.model
def test_the_demo_on_a_real_model(
    tmp_path: Path, smollm2_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SmolLM2 answers questions that ship rightly, each with the passage it rests on."""
    monkeypatch.setattr(command, "QUICK_PATIENCE", 0.1)
    monkeypatch.setattr(command, "CUSTOMERS", command.CUSTOMERS[:1])
    html, figures_file = tmp_path / "page.html", tmp_path / "figures.json"
    options = Options(html=html, json=figures_file, quick=True, compare=False, model=str(smollm2_path))
    assert run_demo(None, options, Console(file=io.StringIO(), width=132)) == 0
    (run,) = read_json(figures_file.read_bytes()).runs
    given = run.answers["almond"]
    assert [answer.right for answer in given] == [True, True]
    assert all(answer.text in answer.passage for answer in given)
    assert run.total.turns >= 10
    assert run.total.recompute_tax < 0.2

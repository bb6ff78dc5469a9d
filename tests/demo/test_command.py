"""The whole demo on the null engine: a real server, real HTTP, real KV tiers; only the model is missing."""

from __future__ import annotations

import asyncio
import io
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from stepwell import assemble, cli
from stepwell.clock import Clock
from stepwell.demo import command
from stepwell.demo.client import Caller, CallFailed, HttpApi
from stepwell.demo.command import GENERAL_QUESTION, Options, customers_for, run_demo
from stepwell.demo.crew import QUICK
from stepwell.demo.expected import EXAMPLE
from stepwell.demo.figures import read_json
from stepwell.demo.node import serving
from stepwell.engines.null import NullConfig, NullEngine, NullText
from stepwell.errors import BadInput, StepwellError
from stepwell.settings import Settings

TINY = replace(QUICK, readers=2, pages=1, page_tokens=160, opening_tokens=16, note_tokens=8, patience=0.01)


@pytest.fixture
def quick_null(monkeypatch: pytest.MonkeyPatch) -> None:
    """The null engine without the time it would take, and crews that say little."""

    def engine(
        settings: Settings, clock: Clock | None = None, progress: object = None
    ) -> tuple[NullEngine, NullText]:
        blocks = settings.engine.device_kv_tokens // 64
        made = NullEngine(
            NullConfig(device_blocks=blocks, token_bytes=1024, max_sequences=32, prefill_us_per_token=100),
            clock,
        )
        return made, NullText(made.info)

    monkeypatch.setattr(assemble, "load_engine", engine)
    monkeypatch.setattr(command, "QUICK", TINY)


@pytest.mark.usefixtures("quick_null")
def test_the_demo_from_end_to_end(tmp_path: Path) -> None:
    out = io.StringIO()
    options = Options(html=tmp_path / "page.html", json=tmp_path / "figures.json", quick=True, engine="null")
    assert run_demo(options, Console(file=out, width=132, color_system=None)) == 0

    figures = read_json((tmp_path / "figures.json").read_bytes())
    with_tiers, without = figures.runs
    assert (with_tiers.tiering, without.tiering) == (True, False)
    assert figures.agents == 15
    assert with_tiers.total.turns == without.total.turns == 39
    assert {row.service_tier: row.turns for row in with_tiers.service_tiers} == {
        "priority": 13,
        "default": 13,
        "flex": 13,
    }
    assert set(with_tiers.lanes) == {turn.agent for turn in with_tiers.turns}
    assert with_tiers.counters["requests_finished"] == 39
    assert all(with_tiers.answers[tenant] for tenant in ("almond", "birch", "cedar"))

    cached = with_tiers.total.cached_tokens
    assert cached["device"] > 0
    assert cached["host"] + cached["disk"] > 0
    assert without.total.cached_tokens["host"] + without.total.cached_tokens["disk"] == 0
    assert with_tiers.total.recomputed_tokens < without.total.recomputed_tokens
    assert with_tiers.counters["recomputed_tokens"] == with_tiers.total.recomputed_tokens
    assert with_tiers.peak_bytes["device"] <= with_tiers.capacity.limit_bytes("device")

    page = (tmp_path / "page.html").read_text()
    assert all(f'data-agent="{agent}"' in page for agent in with_tiers.lanes)
    assert "3 of 3 right" in out.getvalue()  # the null engine says no number: the nearest sentence stands
    last = out.getvalue().strip().splitlines()[-1]
    assert last.startswith("Total time")
    assert figures.result[1:] in last


@pytest.mark.usefixtures("quick_null")
def test_a_document_from_a_pipe_and_one_question_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"Water is deep. " * 300)))
    monkeypatch.chdir(tmp_path)
    tokens = ["demo", "-", "--ask", "How?", "--quick", "--no-compare", "--engine", "null", "--json", "f.json"]
    assert cli.run(tokens) == 0
    figures = read_json(Path("f.json").read_bytes())
    assert [customer.question for customer in figures.customers] == ["How?"] * 3
    assert len(figures.runs) == 1
    assert figures.document.name == "standard input"
    assert figures.document.used_tokens < figures.document.total_tokens
    said = capsys.readouterr().out
    assert "each crew reads" in said
    assert "The picture: stepwell-demo.html" in said
    assert "turn 0 of 39" in said
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
    assert [customer.question for customer in customers_for(Options())] == list(EXAMPLE)[:3]
    assert {customer.question for customer in customers_for(Options(document="x.md"))} == {GENERAL_QUESTION}
    asked = customers_for(Options(questions=("one?", "two?")))
    assert [customer.question for customer in asked] == ["one?", "two?", "two?"]
    for bad in ("  ", "x" * 2_000):
        with pytest.raises(BadInput, match="--ask"):
            customers_for(Options(questions=(bad,)))


def test_a_full_disk_is_found_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(StepwellError, match="--disk-dir"):
        command.require_space(2**62, tmp_path)


def test_a_result_that_cannot_be_written_is_found_before_the_work(tmp_path: Path) -> None:
    kept = tmp_path / "kept.html"
    kept.write_text("from before")
    command.require_writable(kept)
    command.require_writable(tmp_path / "new.html")
    assert kept.read_text() == "from before"
    assert not (tmp_path / "new.html").exists()


def test_being_told_to_stop_leaves_nothing_on_disk(tmp_path: Path) -> None:
    command_line = [sys.executable, "-m", "stepwell", "demo", "--engine", "null", "--disk-dir", str(tmp_path)]
    command_line += ["--html", str(tmp_path / "page.html")]
    process = subprocess.Popen(command_line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    with process.stdout as lines:
        assert any("With KV tiers:" in line for line in lines)
        assert [path.name.startswith("stepwell-demo-") for path in tmp_path.iterdir()] == [True]
        process.send_signal(signal.SIGTERM)
        lines.read()
    assert process.wait() == 130
    assert list(tmp_path.iterdir()) == []


# --- the client against a server that misbehaves -------------------------------------------------

CALLER = Caller("sk-1", "flex", "cedar/lead", "lead")
USAGE = '{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":1}}'


def misbehaving() -> Starlette:
    seen = {"calls": 0}

    async def chat(request: Request) -> Response:
        seen["calls"] += 1
        wanted = (await request.json())["messages"][-1]["content"]
        if wanted == "busy" and seen["calls"] < 3:
            return JSONResponse({"error": {"message": "full"}}, 429, headers={"retry-after-ms": "1"})
        if wanted == "refused":
            return JSONResponse({"error": {"message": "not for you"}}, 403)
        lines = {
            "busy": ['{"choices":[{"delta":{"content":"yes"}}]}', USAGE, "[DONE]"],
            "lost": ['{"error":{"message":"the engine failed"}}'],
            "cut": ['{"choices":[{"delta":{"content":"ye"}}]}'],
        }[wanted]
        return StreamingResponse((f"data: {line}\n\n" for line in lines), media_type="text/event-stream")

    return Starlette(routes=[Route("/v1/chat/completions", chat, methods=["POST"])])


async def ask(url: str, question: str) -> tuple[str, int]:
    api = HttpApi(url, "any", chat=True)
    try:
        reply = await api.turn([{"role": "user", "content": question}], 8, CALLER)
    finally:
        await api.close()
    assert reply.first_token_s is not None
    assert reply.start_s <= reply.first_token_s <= reply.end_s
    assert reply.usage["prompt_tokens"] == 3
    return reply.text, reply.retries


def test_a_full_queue_is_waited_for_and_failures_are_said() -> None:
    with serving(misbehaving()) as url:
        assert asyncio.run(ask(url, "busy")) == ("yes", 2)
        for question, sentence in (
            ("refused", "cedar/lead: HTTP 403: not for you"),
            ("lost", "the engine failed"),
            ("cut", "broke off"),
        ):
            with pytest.raises(CallFailed, match=sentence):
                asyncio.run(ask(url, question))


@pytest.mark.model
def test_the_demo_on_a_real_model(
    tmp_path: Path, smollm2_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small crews on SmolLM2: all three KV tiers are used, every crew ends with an answer."""
    shape = replace(QUICK, readers=2, page_tokens=64, opening_tokens=16, note_tokens=6, answer_tokens=8)
    monkeypatch.setattr(command, "QUICK", replace(shape, patience=0.1))
    html, figures_file = tmp_path / "page.html", tmp_path / "figures.json"
    options = Options(html=html, json=figures_file, quick=True, compare=False, model=str(smollm2_path))
    assert run_demo(options, Console(file=io.StringIO(), width=132)) == 0
    (run,) = read_json(figures_file.read_bytes()).runs
    assert run.total.turns == 39
    assert all(run.answers.values())
    assert min(run.peak_bytes.values()) > 0
    assert run.total.recompute_tax < 0.2

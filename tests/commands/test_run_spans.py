"""``stepwell run --otel``: spans reach a collector over OTLP, and nothing about them ends a run."""

from __future__ import annotations

import base64
import json
import sys
from datetime import datetime
from pathlib import Path

import pytest
from tests.agents.served import served

from stepwell import cli
from stepwell.commands.run.trace_otlp import KEYS

pytest.importorskip("opentelemetry.exporter.otlp.proto.http")

from tests.otlp import attributes, receiver

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_TRACES_EXPORTER", "OTEL_SDK_DISABLED", "TRACEPARENT"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "alone.toml").write_text('[crew]\nname = "alone"\n[roles.lead]\ninstructions = "You lead."\n')
    return tmp_path


@pytest.mark.parametrize("texts", [True, False])
def test_a_trace_file_is_sent_as_the_spans_that_the_run_had(
    home: Path, texts: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    file = home / "trace.jsonl"
    assert run(home, "--trace", str(file), *([] if texts else ["--no-trace-text"])) == 0
    with receiver() as got:
        assert cli.run(["trace", str(file), "--otlp", got.url, "--otlp-header", "x-team=wells"]) == 0
        spans = got.spans
    assert "Sent: 2 spans to http://127.0.0.1" in capsys.readouterr().out
    by_name = {span.name.partition(" ")[0]: span for span in spans}
    agent, chat = by_name["invoke_agent"], by_name["chat"]
    assert chat.parent_span_id == agent.span_id and chat.trace_id == agent.trace_id
    assert agent.start_time_unix_nano <= chat.start_time_unix_nano <= chat.end_time_unix_nano
    assert chat.end_time_unix_nano <= agent.end_time_unix_nano
    began = datetime.fromisoformat(json.loads(file.read_text().splitlines()[0])["began"])
    assert agent.start_time_unix_nano == int(began.timestamp() * 1e3) * 1_000_000
    assert attributes(chat)["gen_ai.usage.input_tokens"] == 9
    said = "Who?" in str(spans) and "A queen." in str(spans)
    assert said is texts


def test_langfuse_gets_its_keys_as_basic_authentication(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = home / "trace.jsonl"
    assert run(home, "--trace", str(file)) == 0
    wanted = "Basic " + base64.b64encode(b"pub:sec").decode()
    with receiver(wanted=wanted) as got:
        flags = ["trace", str(file), "--otlp", f"{got.url}/api/public/otel"]
        for name in KEYS:
            monkeypatch.delenv(name, raising=False)
        assert cli.run(flags) == 2
        assert "LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY" in capsys.readouterr().err
        for name in KEYS:
            monkeypatch.setenv(name, "wrong")
        assert cli.run(flags) == 1
        assert "are its keys right?" in capsys.readouterr().err
        for name in KEYS:
            monkeypatch.setenv(name, name.lower()[9:12])
        got.resources.clear()
        assert cli.run(flags) == 0
        spans = got.spans
    assert got.headers[-1]["path"] == "/api/public/otel/v1/traces"
    assert got.headers[-1]["authorization"] == wanted
    assert got.headers[-1]["x-langfuse-ingestion-version"] == "4"
    assert got.headers[-1]["content-type"] == "application/x-protobuf"
    by_name = {span.name: attributes(span) for span in spans}
    chat, agent = by_name["chat one"], by_name["invoke_agent lead"]
    assert chat["gen_ai.operation.name"] == "chat"
    assert agent["gen_ai.operation.name"] == "invoke_agent"
    for span in (chat, agent):
        assert span["session.id"].startswith("crew-")
        assert span["langfuse.trace.name"] == "alone"
        assert span["output.value"] == "A queen."
    assert "Who?" in chat["input.value"]
    assert chat["gen_ai.request.model"] == "one"
    assert chat["gen_ai.usage.input_tokens"] == 9


@pytest.mark.parametrize(
    ("flags", "said", "code"),
    [
        (["--otlp", "nowhere"], "is no URL", 2),
        (["--otlp-header", "a=b"], "give its URL", 2),
        (["--otlp", "http://127.0.0.1:9", "--otlp-header", "a"], "write NAME=VALUE", 2),
    ],
)
def test_what_cannot_be_sent_is_one_sentence(
    home: Path, flags: list[str], said: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    file = home / "trace.jsonl"
    file.write_text('{"event": "trace", "at_us": 0, "began": "2026-11-29T10:00:00+00:00"}\n')
    assert cli.run(["trace", str(file), *flags]) == code
    assert said in capsys.readouterr().err


def test_a_collector_that_refuses_is_one_sentence(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = home / "trace.jsonl"
    assert run(home, "--trace", str(file)) == 0
    capsys.readouterr()
    with receiver(status=401) as got:
        assert cli.run(["trace", str(file), "--otlp", got.url]) == 1
    assert "did not take spans 1 and on" in capsys.readouterr().err


def run(home: Path, *flags: str, answer: str = "A queen.") -> int:
    with served(lambda _: answer) as server:
        return cli.run(["run", str(home / "alone.toml"), "--ask", "Who?", "--server", server.url, *flags])


@pytest.mark.parametrize("flags", [[], ["--otel"]])
def test_spans_reach_the_collector_that_the_environment_names(
    home: Path, flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACEPARENT", f"00-{TRACE_ID}-b7ad6b7169203331-01")
    with receiver() as got:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", got.url)
        assert run(home, *flags) == 0
    spans = got.spans
    assert sorted(span.name for span in spans) == ["chat one", "invoke_agent lead"]
    assert {span.trace_id.hex() for span in spans} == {TRACE_ID}
    assert attributes(got.resources[0].resource)["service.name"] == "stepwell"


def test_nothing_is_sent_where_nobody_asks(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with receiver() as got:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", got.url)
        monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
        assert run(home) == 0
    assert got.headers == []


def test_a_collector_that_is_not_there_is_a_line_and_the_answer_stands(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    assert run(home) == 0
    shown = capsys.readouterr()
    assert shown.out == "A queen.\n"
    assert [line[:15] for line in shown.err.splitlines()].count("OpenTelemetry: ") == 1
    assert "Traceback" not in shown.err


def test_spans_on_the_terminal_leave_the_answer_alone(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    assert run(home) == 0
    shown = capsys.readouterr()
    assert shown.out == "A queen.\n"
    assert '"name": "invoke_agent lead"' in shown.err


def test_an_exporter_that_nobody_knows_is_one_sentence(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "pigeon")
    assert run(home) == 2
    assert "stepwell: there is no OpenTelemetry exporter 'pigeon': there is otlp, " in capsys.readouterr().err


def test_without_the_package_the_flag_is_an_error_and_the_environment_a_line(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    assert run(home, "--otel") == 1
    assert "OpenTelemetry needs the extra 'otel'" in capsys.readouterr().err
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    assert run(home) == 0
    shown = capsys.readouterr()
    assert shown.out == "A queen.\n"
    assert "No spans: OpenTelemetry needs the extra 'otel'" in shown.err

"""``stepwell serve`` as a person meets it: a process, its lines, its exit codes."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stepwell import cli
from stepwell.engines.models import NAMED_MODELS
from stepwell.engines.null import NullEngine
from stepwell.launch import serve
from stepwell.launch.serve import with_model_names
from stepwell.loop.driver import Driver
from stepwell.settings.file import load

WITHOUT_SETTINGS = {name: value for name, value in os.environ.items() if not name.startswith("STEPWELL_")}


@contextmanager
def served(
    *flags: str, engine: str = "null", **variables: str
) -> Iterator[tuple[subprocess.Popen[str], str, list[str]]]:
    """A server: the process, its URL, and what it said so far. ``variables``: of its environment."""
    command = [sys.executable, "-m", "stepwell", "serve", "--engine", engine, "--port", "0", *flags]
    env = {**WITHOUT_SETTINGS, **variables}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env)
    assert process.stderr is not None
    said: list[str] = []
    try:
        for line in process.stderr:
            said.append(line.rstrip())
            if "Ctrl-C stops" in line:
                break
        url = re.search(r"http://\S+(?=/v1)", "\n".join(said))
        assert url, said
        yield process, url[0], said
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def ask(url: str) -> dict[str, object]:
    body = {"model": "null", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
    with urllib.request.urlopen(f"{url}/v1/models") as answer:
        body["model"] = json.load(answer)["data"][0]["id"]
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:
        found: dict[str, object] = json.load(answer)
    return found


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_it_says_what_it_holds_serves_and_stops_when_told(tmp_path: Path, stop: signal.Signals) -> None:
    flags = (
        "--disk-dir",
        str(tmp_path / "kv"),
        "--device-kv-tokens",
        "4096",
        "--host-kv",
        "64MiB",
        "--disk-kv",
        "1GB",
    )
    with served(*flags) as (process, url, said):
        shown = "\n".join(said)
        assert re.search(r"device +4,096 tokens +4 agents of 1,000 tokens", shown)
        assert re.search(r"host +64 MiB +[\d,]+ agents", shown)
        assert "no API keys" in shown
        assert ask(url)["object"] == "chat.completion"
        process.send_signal(stop)
        assert process.wait(60) == 0


def test_a_recording_and_a_settings_file_are_used(tmp_path: Path) -> None:
    config = tmp_path / "stepwell.toml"
    config.write_text(
        '[kv]\nhost_kv = 0\ndisk_kv = 0\n[[keys]]\nkey = "sk-a"\ntenant = "a"\n', encoding="utf-8"
    )
    recording = tmp_path / "run.jsonl"
    with served("--config", str(config), "--record", str(recording)) as (process, _, said):
        shown = "\n".join(said)
        assert re.search(r"host +off", shown)
        assert "API keys required" in shown
        process.terminate()
        assert process.wait(60) == 0
    assert json.loads(recording.read_text("utf-8").splitlines()[0])["format"] == "stepwell-recording"


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--port", "99999"], "--port 99999 is not a port"),
        (["--host", "0.0.0.0"], "without API keys only loopback is served"),
        (["--policy", "magic"], "unknown policy 'magic'"),
        (["--engine", "vllm"], "vLLM is not installed"),
        (["--engine", "magic"], "engine.kind"),
        (["--host-kv", "2G"], "--host-kv: kv.host_kv: '2G' is not a size"),
        (["--host-kv", "900TiB"], "--host-kv 900 TiB is more than this machine's memory holds"),
        (["--disk-kv", "900PiB"], "--disk-kv 900 PiB is more than the disk under"),
        (["--model", "nowhere.gguf", "--engine", "llamacpp"], "neither one of smollm2, gemma3 nor a file"),
        (["--config", "nowhere.toml"], "nowhere.toml cannot be read"),
        (["--keys-file", "nowhere.toml"], "nowhere.toml cannot be read"),
        (["--device-kv-tokens", "-5"], "--device-kv-tokens: engine.device_kv_tokens: -5 is wrong"),
    ],
)
def test_wrong_input_is_one_sentence_and_exit_code_2(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    flags: list[str],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    engine = [] if "--engine" in flags else ["--engine", "null"]
    port = [] if "--port" in flags else ["--port", "0"]
    assert cli.run(["serve", "--disk-dir", str(tmp_path), *engine, *port, *flags]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("stepwell: ")
    assert sentence in last


def test_a_port_in_use_is_one_sentence(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert cli.run(["serve", "--engine", "null", "--port", port, "--disk-dir", str(tmp_path)]) == 1
    assert f"port {port}" in capsys.readouterr().err.splitlines()[-1]


def test_a_recording_that_cannot_be_written_is_one_sentence(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    record = str(tmp_path / "absent" / "run.jsonl")
    tokens = [
        "serve",
        "--engine",
        "null",
        "--port",
        "0",
        "--disk-dir",
        str(tmp_path / "kv"),
        "--record",
        record,
    ]
    assert cli.run(tokens) in {1, 2}
    assert record in capsys.readouterr().err.splitlines()[-1]


ASKED = re.compile(r"""model=["']([^"']+)["']|"model": ?"([^"]+)\"""")
STARTED = re.compile(r"stepwell serve(?! --engine vllm)[^`\n]*--model ([A-Za-z0-9_.-]+)")


def test_the_servers_that_the_docs_start_know_the_models_that_the_docs_ask_for() -> None:
    root = Path(__file__).parents[2]
    texts = [path.read_text() for path in (root / "README.md", *sorted((root / "docs").glob("*.md")))]
    started = {name for text in texts for name in STARTED.findall(text)}
    assert started
    assert started <= set(NAMED_MODELS)
    known: set[str] = set()
    for name in NAMED_MODELS:
        settings = load(None, {"engine.model": name}, {})
        known |= {PACKAGED[name], *with_model_names(settings).server.model_aliases}
    asked = {name for text in texts for found in ASKED.findall(text) for name in found if name}
    assert asked
    assert asked <= known


PACKAGED = {"smollm2": "smollm2-135m-instruct", "gemma3": "gemma3-270m"}
"""What the packaged files are called by themselves."""


def test_what_would_hold_up_everybody_is_made_before_anything_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    monkeypatch.setattr(NullEngine, "prepare", lambda self: done.append("prepared"))

    def run_server(driver: Driver, *given: object, **more: object) -> None:
        done.append("listening")
        driver.stop(1.0)

    monkeypatch.setattr(serve, "run_server", run_server)
    wanted = {"engine.kind": "null", "kv.disk_kv": "0", "library.quota": "0", "batches.quota": "0"}
    serve.run(load(None, {**wanted, "ledger.path": str(tmp_path / "ledger.db")}, {}))
    assert done == ["prepared", "listening"]

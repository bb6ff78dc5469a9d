"""``stepwell run`` as a person meets it: answer, closing line, exit codes, files, going on."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from stepwell import cli
from stepwell.agents.crews.files import find_crew, shipped_crews
from stepwell.agents.passages import reader_of
from stepwell.launch.assemble import build
from stepwell.launch.crew_servers import embedded_settings
from stepwell.library.documents import Document
from stepwell.library.load import load_document
from stepwell.settings.file import load

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
PATIENCE_S = 60.0
ALONE = '[crew]\nname = "alone"\n[roles.lead]\ninstructions = "You lead."\nmax_tokens = 4\n'


class OneModel(BaseHTTPRequestHandler):
    """An OpenAI-compatible server that knows nothing of agents; ``hold`` keeps it from answering."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1
    hold: threading.Event
    asked: threading.Event

    def do_GET(self) -> None:
        self._send(200, {"data": [{"id": "one"}]} if self.path == "/v1/models" else {})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        if not self.path.endswith("/chat/completions"):
            return self._send(404, {})
        self.asked.set()
        self.hold.wait(PATIENCE_S)
        choice = {"message": {"role": "assistant", "content": "A queen."}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 9, "completion_tokens": 3, "cost": 0.000021}
        return self._send(200, {"choices": [choice], "usage": usage})

    def _send(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        try:
            self.wfile.write(data)
        except OSError:
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody reads it."""


@pytest.fixture
def handler() -> type[OneModel]:
    made = type("Handler", (OneModel,), {"hold": threading.Event(), "asked": threading.Event()})
    made.hold.set()
    return made


@pytest.fixture
def url(handler: type[OneModel]) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            handler.hold.set()
            server.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sessions of tests are kept out of the person's own."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    (tmp_path / "alone.toml").write_text(ALONE)
    return tmp_path


def sessions(home: Path) -> list[str]:
    return sorted(path.name for path in (home / "data" / "stepwell" / "sessions").iterdir())


def test_the_answer_goes_to_stdout_and_all_else_to_stderr(
    home: Path, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    figures, trace = home / "out.json", home / "trace.jsonl"
    flags = ["--ask", "Who?", "--server", url, "--json", str(figures), "--trace", str(trace)]
    assert cli.run(["run", str(home / "alone.toml"), *flags]) == 0
    shown = capsys.readouterr()
    assert json.loads(figures.read_text())["session_file"] is None  # it went away with the answer
    assert shown.out == "A queen.\n"
    assert "lead was asked: Who?\nlead completed: A queen.\n" in shown.err
    closing = r"1 agent, 1 turn, 9 prompt tokens, 3 visible and 0 intermediate answer tokens"
    assert re.search(closing + r", 0\.000021 USD, \d+\.\d s\n\Z", shown.err)
    told = json.loads(figures.read_text())
    assert (told["answer"], told["cost_microusd"], told["crew"]) == ("A queen.", 21, "alone")
    lines = [json.loads(line) for line in trace.read_text().splitlines()]
    kinds = [line["event"] for line in lines]
    assert kinds == [
        *("trace", "began", "spawned", "appended", "assigned", "turn_began", "appended", "turn_ended"),
        *("ended", "waiting", "finished"),
    ]
    assert lines[7]["usage"]["prompt_tokens"] == 9
    assert lines[3]["messages"][1] == {"role": "user", "content": "Who?"}
    assert lines[0]["crew"] == "alone"
    assert sessions(home) == []  # nothing to go on with


FULL = Path("/dev/full")
on_full_disk = pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")


@on_full_disk
def test_a_full_disk_under_the_trace_ends_the_trace_and_not_the_crew(
    home: Path, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--ask", "Who?", "--server", url, "--trace", str(FULL)]
    assert cli.run(["run", str(home / "alone.toml"), *flags]) == 1
    shown = capsys.readouterr()
    assert shown.out == "A queen.\n"
    last = "stepwell: --trace /dev/full is not whole: No space left on device; make room for the next one\n"
    assert shown.err.endswith(last)
    assert sessions(home) == []


@on_full_disk
def test_a_full_disk_under_the_figures_keeps_answer_and_session(
    home: Path, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--ask", "Who?", "--server", url, "--json", str(FULL)]
    assert cli.run(["run", str(home / "alone.toml"), *flags]) == 2
    shown = capsys.readouterr()
    assert shown.out == "A queen.\n"
    assert shown.err.endswith("stepwell: /dev/full cannot be written: No space left on device\n")
    assert len(sessions(home)) == 1


def test_what_is_stopped_is_kept_and_goes_on(home: Path, url: str, handler: type[OneModel]) -> None:
    handler.hold.clear()
    command = [sys.executable, "-m", "stepwell", "run", str(home / "alone.toml"), "--server", url]
    process = subprocess.Popen([*command, "--ask", "Who?"], stderr=subprocess.PIPE, text=True)
    try:
        assert handler.asked.wait(PATIENCE_S)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
    assert process.returncode == 130
    kept = re.search(
        r"The session is kept; to go on, run the same with --resume (\S+) instead of --ask\.", said
    )
    assert kept, said
    handler.hold.set()
    done = subprocess.run(
        [*command, "--resume", kept[1]], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert (done.returncode, done.stdout) == (0, "A queen.\n")


def test_the_last_line_on_a_terminal_says_how_to_go_on(home: Path, url: str, handler: type[OneModel]) -> None:
    """Below the tree, not above it."""
    handler.hold.clear()
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "stepwell", "run", str(home / "alone.toml"), "--server", url]
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "300", "LINES": "24"}
    process = subprocess.Popen(
        [*command, "--ask", "Who?"], stderr=theirs, stdout=subprocess.DEVNULL, env=environment
    )
    os.close(theirs)
    try:
        assert handler.asked.wait(PATIENCE_S)
        process.send_signal(signal.SIGINT)
        said = _everything(ours)
        assert process.wait(PATIENCE_S) == 130
    finally:
        process.kill()
        os.close(ours)
    last = said.rstrip().splitlines()[-1]
    assert re.search(r"The session is kept; .* --resume \S+ instead of --ask\.$", last), said


def _everything(file: int) -> str:
    """What a terminal shows until whoever writes to it is gone."""
    said = b""
    while True:
        try:
            data = os.read(file, 65_536)
        except OSError:  # the other end is closed
            return said.decode()
        if not data:
            return said.decode()
        said += data


def test_a_spent_budget_says_how_to_go_on(home: Path, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--server", url, "--budget"]
    assert cli.run(["run", str(home / "alone.toml"), "--ask", "Who?", *flags, "0"]) == 1
    said = capsys.readouterr().err
    assert "Not completed (budget_reached): the session is paused: its budget of 0 USD is spent;" in said
    path = str(home / "data" / "stepwell" / "sessions" / sessions(home)[0])
    assert cli.run(["run", str(home / "alone.toml"), "--resume", path, *flags, "0.5"]) == 0
    assert capsys.readouterr().out == "A queen.\n"


@pytest.mark.parametrize(
    ("tokens", "sentence"),
    [
        (["documents"], 'there is no question: give one, as in --ask "What does it say about wells?"'),
        (["documnts", "--ask", "x"], "crew 'documnts' is not there: did you mean 'documents'?"),
        (["nowhere.toml", "--ask", "x"], "crew nowhere.toml cannot be read: No such file or directory"),
        (
            ["documents", "--ask", "x", "--budget", "much"],
            "--budget much is no amount: write dollars, like 0.02",
        ),
        (["documents", "--resume", "nothing.db"], "--resume nothing.db: there is no such session"),
        (["documents", "no.md", "--ask", "x"], "document no.md does not exist"),
        (["data", "no.csv", "--ask", "x"], "no.csv does not exist: name a CSV, Parquet or DuckDB file"),
    ],
)
def test_wrong_input_is_one_sentence_before_anything_is_loaded(
    tokens: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["run", *tokens]) == 2
    assert capsys.readouterr().err == f"stepwell: {sentence}\n"


def test_a_server_that_is_not_there_is_one_sentence(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("stepwell.agents.client.FIRST_WAIT_MS", 8)
    flags = ["--ask", "Who?", "--server", "http://127.0.0.1:9"]
    assert cli.run(["run", str(home / "alone.toml"), *flags]) == 1
    assert "stepwell: the server http://127.0.0.1:9 does not answer: ConnectError" in capsys.readouterr().err


def test_without_a_server_it_brings_its_own(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STEPWELL_ENGINE_KIND", "null")
    figures = home / "out.json"
    assert (
        cli.run(["run", str(home / "alone.toml"), "--ask", "Who?", "--budget", "1", "--json", str(figures)])
        == 0
    )
    told = json.loads(figures.read_text())
    assert (told["status"], told["visible_tokens"]) == ("completed", 4)
    assert told["cost_microusd"] is not None  # it keeps books of its own
    assert "null is served at http://127.0.0.1:" in capsys.readouterr().err


def test_its_own_server_keeps_nothing_and_knows_no_keys(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPWELL_ENGINE_KIND", "null")
    settings = embedded_settings(load(), home)
    assert (settings.keys, settings.record) == ((), None)
    assert settings.kv.disk_dir.is_relative_to(home)
    build(replace(settings, kv=replace(settings.kv, host_kv=0, disk_kv=0))).stop(0.0)


def test_readers_are_given_what_is_nearest_and_the_next_when_asked_again() -> None:
    read = reader_of([load_document(str(EXAMPLES / "stepwells.md"))])
    question = "Which parasite did British officers find in the water?"
    first, second = read(question, 0), read(question, 1)
    assert "parasite" in first or "worm" in first
    assert first != second
    assert all(len(page.split()) <= 440 for page in (first, second))
    assert read(question, 8) == first  # round again


def test_readers_of_several_documents_are_told_which_and_an_unknown_word_begins_at_the_beginning() -> None:
    wells = Document("wells.md", "markdown", "The queen paid for the well.")
    songs = Document("songs.txt", "text", "Nobody sang in winter.")
    read = reader_of([wells, songs])
    assert read("Who paid?", 0) == "[wells.md]\nThe queen paid for the well."
    assert (
        read("Zxqv?", 0) == "[wells.md]\nThe queen paid for the well.\n\n[songs.txt]\nNobody sang in winter."
    )


def test_the_examples_are_the_crews_that_ship() -> None:
    """But for those with tools of their own: they are files to start from, and need the folder. That of the
    weekly review has its own command."""
    examples = sorted((EXAMPLES / "crews").glob("*.toml"))
    names = [path.stem for path in examples if not path.with_suffix(".py").exists()]
    alone = [name for name in names if name != "review"]
    assert alone == shipped_crews()
    assert all(
        find_crew(str(EXAMPLES / "crews" / f"{name}.toml")) == find_crew(name) for name in shipped_crews()
    )

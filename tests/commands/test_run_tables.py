"""``stepwell run`` over a warehouse and over documents of the library, with a model that follows a script."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ibis", reason="the extra 'warehouse' is not installed")

from tests.agents.tools.warehouses import Shop, running_shop

from stepwell import cli

CREW = """
[crew]
name = "alone"
[roles.lead]
instructions = "You lead."
tools = ["tables", "sql"]
"""


class Scripted(BaseHTTPRequestHandler):
    """Calls tables, then every question in turn, then answers with what it was told last."""

    questions: list[str]
    asked: list[bytes]

    def do_GET(self) -> None:
        self._send(200, {"data": [{"id": "one"}]} if self.path == "/v1/models" else {})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.asked.append(body)
        if not self.path.endswith("/chat/completions"):
            return self._send(404, {})
        messages = json.loads(body)["messages"]
        turn = sum(1 for message in messages if message["role"] == "assistant")
        calls = [("tables", {}), *(("sql", {"query": question}) for question in self.questions)]
        if turn < len(calls):
            message = {"role": "assistant", "content": None, "tool_calls": [called(turn, *calls[turn])]}
        else:
            message = {"role": "assistant", "content": str(messages[-1]["content"])}
        usage = {"prompt_tokens": 9, "completion_tokens": 3}
        finish = "tool_calls" if turn < len(calls) else "stop"
        return self._send(200, {"choices": [{"message": message, "finish_reason": finish}], "usage": usage})

    def _send(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody reads it."""


def called(number: int, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {"id": f"call_{number}", "type": "function", "function": function}


@pytest.fixture
def handler() -> type[Scripted]:
    return type("Handler", (Scripted,), {"questions": [], "asked": []})


@pytest.fixture
def url(handler: type[Scripted]) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def shop() -> Iterator[Shop]:
    with running_shop() as running:
        yield running


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    for name in ("OPENAI_API_KEY", "STEPWELL_WAREHOUSE", "STEPWELL_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "alone.toml").write_text(CREW)
    return tmp_path


def test_agents_ask_a_warehouse_and_its_password_is_nowhere(
    shop: Shop, home: Path, url: str, handler: type[Scripted], capsys: pytest.CaptureFixture[str]
) -> None:
    handler.questions = [
        "SELECT nope FROM orders",
        "SELECT * FROM hidden",
        'SELECT sum(n) AS s FROM "Big Table"',
    ]
    trace, figures, session = home / "trace.jsonl", home / "out.json", home / "data"
    flags = ["--ask", "How many?", "--server", url, "--trace", str(trace), "--json", str(figures)]
    assert cli.run(["run", str(home / "alone.toml"), "--warehouse", shop.url, *flags]) == 0
    shown = capsys.readouterr()
    assert "| 500000500000 |" in shown.out
    prompts = b"\n".join(handler.asked).decode()
    assert "orders (id bigint" in prompts
    assert "PostgreSQL says: column" in prompts
    kept = [path.read_bytes().decode("utf-8", "replace") for path in session.rglob("*") if path.is_file()]
    for text in (shown.out, shown.err, prompts, trace.read_text(), figures.read_text(), *kept):
        assert "hunter2" not in text


def test_a_warehouse_that_is_away_is_told_to_the_agents(
    home: Path,
    url: str,
    handler: type[Scripted],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    handler.questions = ["SELECT 1 FROM orders"]
    monkeypatch.setenv("STEPWELL_WAREHOUSE", "postgresql://reader:hunter2@127.0.0.1:1/shop")
    assert cli.run(["run", str(home / "alone.toml"), "--ask", "How many?", "--server", url]) == 0
    shown = capsys.readouterr()
    assert "postgresql://127.0.0.1:1/shop cannot be asked" in shown.out
    assert "hunter2" not in shown.out + shown.err + b"".join(handler.asked).decode()


def test_an_imported_table_is_asked_from_the_library(
    shop: Shop,
    home: Path,
    url: str,
    handler: type[Scripted],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.run(["library", "import", shop.url, "--table", "orders"]) == 0
    handler.questions = ["SELECT count(*) AS n, max(Amount) AS most FROM orders"]
    flags = ["--library", "orders.parquet", "--ask", "How many?", "--server", url]
    assert cli.run(["run", str(home / "alone.toml"), *flags]) == 0
    shown = capsys.readouterr()
    assert "| 101 | 150.00 |" in shown.out
    assert f"{url} keeps no documents: orders.parquet comes from the library here, not attached." in shown.err
    assert cli.run(["run", str(home / "alone.toml"), "--library", "nothing.csv", *flags[2:]]) == 2
    assert "there is no document nothing.csv in the library" in capsys.readouterr().err


def test_a_crew_without_sql_has_no_use_for_a_warehouse(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--warehouse", "postgresql://host/db", "--ask", "How many?", "--server", url]
    assert cli.run(["run", "documents", *flags]) == 2
    assert "no role that asks tables of a warehouse" in capsys.readouterr().err


def test_a_url_of_another_kind_is_refused_at_once(
    home: Path, url: str, handler: type[Scripted], capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--warehouse", "mysql://u:hunter2@host/db", "--ask", "How many?", "--server", url]
    assert cli.run(["run", str(home / "alone.toml"), *flags]) == 2
    shown = capsys.readouterr().err
    assert "mysql:// is no warehouse" in shown
    assert "hunter2" not in shown
    assert handler.asked == []

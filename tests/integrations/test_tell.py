"""Telling never breaks or slows a program: servers that are away, know no hints, or are slow."""

from __future__ import annotations

import importlib
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from stepwell.errors import BadInput, StepwellError
from stepwell.integrations import _tell, session
from stepwell.integrations._tell import SessionAgent, Teller, caller
from tests.server.fakes import PATIENCE_S, until

WHO = SessionAgent("run-42", "lead", "lead")


class Listener(BaseHTTPRequestHandler):
    """Answers hints as a test wants, and remembers them."""

    status, body, heard, release = 200, b"{}", list[tuple[str, Any]](), threading.Event()

    def do_POST(self) -> None:
        said = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.heard.append((self.path, said))
        assert self.release.wait(PATIENCE_S)
        self.send_response(self.status)
        self.send_header("content-length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody reads it."""


@contextmanager
def listening(status: int = 200, body: bytes = b"{}", held: bool = False) -> Iterator[tuple[Teller, Any]]:
    fields = {"status": status, "body": body, "heard": [], "release": threading.Event()}
    kind = type("Listener", (Listener,), fields)
    if not held:
        kind.release.set()
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield Teller(f"http://127.0.0.1:{server.server_port}/v1"), kind
        finally:
            kind.release.set()
            server.shutdown()


def test_a_hint_goes_to_its_agent() -> None:
    with listening() as (teller, heard):
        teller.waits(SessionAgent("a b/c", "ä", "x"), "child", after=WHO)
        assert teller.flush(PATIENCE_S)
    assert heard.heard == [("/v1/agents/a%20b%2Fc/_/hint", {"next": "child", "after_agent": "lead"})]


def test_only_the_newest_hint_is_sent_and_a_turn_takes_it_back() -> None:
    with listening(held=True) as (teller, heard):
        teller.waits(WHO, "tool")
        until(lambda: heard.heard)  # on its way: what follows has to wait
        teller.waits(WHO, "child")
        teller.waits(WHO, "person")
        other = SessionAgent("run-42", "other", "other")
        teller.waits(other, "tool")
        teller.turn(other)
        heard.release.set()
        assert teller.flush(PATIENCE_S)
    assert [said["next"] for _, said in heard.heard] == ["tool", "person"]


@pytest.mark.parametrize(("status", "body"), [(404, b"no such page"), (405, b""), (401, b"")])
def test_a_server_that_knows_no_hints_is_asked_once(status: int, body: bytes) -> None:
    with listening(status, body) as (teller, heard):
        for _ in range(3):
            teller.waits(WHO, "tool")
            assert teller.flush(PATIENCE_S)
    assert len(heard.heard) == 1


def test_an_agent_that_the_server_has_forgotten_stops_nothing() -> None:
    with listening(404, b'{"error": {"code": "agent_not_found"}}') as (teller, heard):
        for _ in range(3):
            teller.waits(WHO, "tool")
            assert teller.flush(PATIENCE_S)
    assert len(heard.heard) == 3


def test_a_server_that_is_away_is_left_alone_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    real = Teller._tell
    monkeypatch.setattr(
        Teller, "_tell", lambda self, http, path, hint: tried.append(path) or real(self, http, path, hint)
    )
    teller = Teller("http://127.0.0.1:9/v1")  # nothing listens to the discard port
    for _ in range(3):
        teller.waits(WHO, "tool")
        assert teller.flush(PATIENCE_S)
    assert len(tried) == 1
    assert teller.turn(WHO)["X-Session-ID"] == "run-42"


def test_the_thread_ends_when_there_is_nothing_to_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_tell, "IDLE_S", 0.01)
    with listening() as (teller, heard):
        for count in (1, 2):
            teller.waits(WHO, "tool")
            assert teller.flush(PATIENCE_S)
            until(lambda: teller._thread is None)
            assert len(heard.heard) == count


def test_of_several_tools_at_once_the_longest_is_expected() -> None:
    with listening() as (teller, heard):
        teller.expect("slow", 9_000)
        teller.expect("quick", 10)
        for tool in ("slow", "quick"):
            teller.began(WHO, tool, tool)
            assert teller.flush(PATIENCE_S)
        teller.turn(WHO)
        teller.began(WHO, "quick", 1)
        assert teller.flush(PATIENCE_S)
    assert [said["expected_ms"] for _, said in heard.heard] == [9_000, 9_000, 10]


def test_who_waits_for_a_person_is_not_done() -> None:
    with listening() as (teller, heard):
        teller.waits(WHO, "person")
        teller.ends(WHO)
        assert teller.flush(PATIENCE_S)
    assert {said["next"] for _, said in heard.heard} == {"person"}


def test_names() -> None:
    root = caller("lead", "talk-7")
    assert (root.session, root.agent, root.parent) == ("talk-7", "lead", None)
    child = caller("reader", "0123456789abcdef", root)
    assert (child.session, child.agent, child.parent) == ("talk-7", "reader-456789abcdef", "lead")
    assert caller("lead", "talk-7", taken=[root]) != root
    with session("run-42"):
        assert caller("lead", "x") == SessionAgent("run-42", "lead-x", "lead", None)
    headers = SessionAgent("a\r\nX-Evil: 1", "x" * 300, "n", "p").headers()
    assert headers["X-Session-ID"] == "a__X-Evil: 1"
    assert len(headers["X-Agent-ID"]) == 255


def test_what_cannot_be_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(BadInput, match="pass base_url or set OPENAI_BASE_URL"):
        Teller()
    with pytest.raises(BadInput, match="done or person"):
        Teller("http://127.0.0.1:9", end="never")


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("openai_agents", "agents"),
        ("pydantic_ai", "pydantic_ai"),
        ("langgraph", "langgraph"),
        ("smolagents", "smolagents"),
    ],
)
def test_a_missing_package_is_one_sentence(module: str, absent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == absent]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, absent, None)
    monkeypatch.delitem(sys.modules, f"stepwell.integrations.{module}", raising=False)
    with pytest.raises(
        StepwellError, match=r"^Stepwell's integration with \S.* needs it: pip install \S+"
    ) as caught:
        importlib.import_module(f"stepwell.integrations.{module}")
    assert isinstance(caught.value, ImportError)

"""``/admin/why``, ``usage.timing`` and ``stepwell why`` on a whole server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stepwell import cli
from stepwell.server.callers.keys import KeyEntry, KeyRing
from tests.server.fakes import null_driver, null_node, serving
from tests.server.wire import CHAT, ROUTES, error_of, events, get, post


@pytest.mark.parametrize("route", ROUTES)
def test_usage_says_where_the_time_went(route: str) -> None:
    with null_node() as node:
        usage = post(node, route, ROUTES[route]).json()["usage"]
        streamed = post(
            node, route, ROUTES[route] | {"stream": True, "stream_options": {"include_usage": True}}
        )
    timing = usage["timing"]
    assert sum(timing["causes_ms"].values()) == pytest.approx(timing["total_ms"])
    assert timing["waited_ms"] <= timing["total_ms"]
    assert "causes_ms" in json.dumps(events(streamed)[-2:])


def test_the_command_explains_a_request_an_agent_and_a_session(capsys: pytest.CaptureFixture[str]) -> None:
    with null_node() as node:
        headers = {"x-request-id": "req-7", "x-session-id": "run", "x-agent-id": "planner"}
        post(node, "/v1/chat/completions", CHAT, **headers)
        for what in ("req-7", "run/planner", "run"):
            assert cli.run(["why", what, "--server", node.base_url]) == 0
            out = capsys.readouterr().out
            assert "of agent run/planner (local, default)" in out
            assert "its prompt was computed" in out
            assert out.splitlines()[-1].startswith("1 request: ")
        assert cli.run(["why", "run", "--json", "--server", node.base_url + "/v1"]) == 0
        (story,) = json.loads(capsys.readouterr().out)["data"]
        assert story["request_id"] == "req-7" and story["finish"] in ("stop", "length")
        assert cli.run(["why", "nobody", "--server", node.base_url]) == 1
        assert "No request, agent or session of that name" in capsys.readouterr().err
    assert cli.run(["why", "run", "--server", "http://127.0.0.1:9"]) == 1
    assert capsys.readouterr().err.startswith("stepwell: no answer from http://127.0.0.1:9")


def test_it_is_for_operators_as_it_names_other_customers() -> None:
    keys = KeyRing([KeyEntry("acme", key="user"), KeyEntry("house", key="boss", operator=True)])
    with null_node(keys=keys) as node:
        assert get(node, "/admin/why?of=x", authorization="Bearer user").status_code == 403
        assert error_of(get(node, "/admin/why?of=x", authorization="Bearer boss"))["code"] == "why_unknown"
        assert get(node, "/admin/why", authorization="Bearer boss").status_code == 400


def test_a_recording_explains_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run.jsonl"
    driver = null_driver(record=file)
    driver.start()
    with serving(driver, driver.text) as node:
        post(node, "/v1/chat/completions", CHAT, **{"x-agent-id": "planner"})
        live = get(node, "/admin/why?of=planner").json()["data"][0]
    driver.stop(5.0)
    assert cli.run(["why", "planner", "--recording", str(file), "--json"]) == 0
    (story,) = json.loads(capsys.readouterr().out)["data"]
    assert [span["cause"] for span in story["spans"]] == [
        span["cause"] for span in live["spans"] if span["cause"] != "arrival"
    ]
    assert cli.run(["why", "nobody", "--recording", str(file)]) == 2

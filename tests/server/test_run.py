"""Starting and ending the whole thing: signals, deadlines, ports that are taken."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx2
import pytest

from stepwell.errors import BadInput, StepwellError
from stepwell.loop.requests import Preempted
from stepwell.server.run import listen, serve
from stepwell.server.settings import ServerSettings
from tests.server.fakes import HOLD, INFO, PATIENCE_S, FakeDriver, FakeText, says, serving, until
from tests.server.wire import CHAT, RESPONSE, ROUTES, error_of, events, get, http, post

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import sys
sys.path.insert(0, {root!r})
from stepwell.server.run import serve
from stepwell.server.settings import ServerSettings
from tests.server.fakes import FakeDriver, FakeText, HOLD, INFO
driver = FakeDriver(lambda prompt, generation: ("begun", HOLD, "done"))
ready = lambda base_url: print(base_url, flush=True)
if {release}:
    ready = lambda base_url, say=ready: (say(base_url), driver.release.set())
serve(driver, FakeText(INFO), ServerSettings(port=0, drain_s={drain_s}), on_ready=ready)
print("stopped with", driver.stopped_with, flush=True)
"""


def start(drain_s: float, *, release: bool = False) -> tuple[subprocess.Popen[str], str]:
    code = PROGRAM.format(root=str(ROOT), drain_s=drain_s, release=release)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_an_idle_server_and_stops_the_driver(number: signal.Signals) -> None:
    process, base_url = start(30.0, release=True)
    try:
        assert httpx2.get(base_url + "/health", trust_env=False).status_code == 200
        process.send_signal(number)
        out, _ = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
    assert (process.returncode, out.strip()) == (0, "stopped with 30.0")


def test_requests_in_flight_are_told_at_the_deadline() -> None:
    process, base_url = start(0.2)
    try:
        with (
            httpx2.Client(base_url=base_url, trust_env=False, timeout=PATIENCE_S) as client,
            client.stream("POST", "/v1/chat/completions", json=CHAT | {"stream": True}) as response,
        ):
            lines = response.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)
            rest = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
        process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
    assert process.returncode == 0
    assert rest[-1]["error"]["code"] == "server_overloaded"


def test_requests_in_flight_finish_while_the_server_drains() -> None:
    driver = FakeDriver(says("begun", HOLD, " and done"))
    with (
        serving(driver) as server,
        http(server) as client,
        client.stream("POST", "/v1/completions", json={"model": "tiny", "prompt": "x", "stream": True}) as r,
    ):
        lines = r.iter_lines()
        next(lines)
        server._server.should_exit = True
        until(lambda: server.service.draining)
        driver.release.set()
        text = "".join(json.loads(li[6:])["choices"][0]["text"] for li in lines if li.startswith("data: {"))
    assert text.endswith(" and done")


def test_a_draining_server_takes_nothing_new() -> None:
    with serving(FakeDriver(says("x"))) as server:
        server.service.draining = True
        assert get(server, "/health").status_code == 503
        for path, body in ROUTES.items():
            refused = post(server, path, body)
            assert (refused.status_code, error_of(refused)["code"]) == (503, "server_overloaded")
            assert int(refused.headers["retry-after-ms"]) > 0


def test_whole_answers_are_told_too() -> None:
    driver = FakeDriver(says("x", Preempted(), HOLD))
    found: list[Any] = []
    with serving(driver, settings=ServerSettings(port=0, drain_s=0.1)) as server:
        caller = threading.Thread(target=lambda: found.append(post(server, "/v1/chat/completions", CHAT)))
        caller.start()
        driver.wait_until_running()
    caller.join(PATIENCE_S)
    assert (found[0].status_code, error_of(found[0])["code"]) == (503, "server_overloaded")


def test_background_responses_are_stopped_at_the_end() -> None:
    driver = FakeDriver(says("x", HOLD))
    with serving(driver) as server:
        post(server, "/v1/responses", RESPONSE | {"background": True})
    driver.wait_until_idle()
    assert driver.cancelled == {0}


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        driver = FakeDriver(says())
        with pytest.raises(StepwellError, match=f"port {port}"):
            serve(driver, FakeText(INFO), ServerSettings(port=port))
    assert driver.stopped_with is not None


def test_hosts_that_do_not_exist_or_need_keys() -> None:
    with pytest.raises(StepwellError, match=r"cannot listen on no\.such\.host\.invalid"):
        listen("no.such.host.invalid", 0)
    with pytest.raises(BadInput, match="without API keys"):
        serve(FakeDriver(says()), FakeText(INFO), ServerSettings(host="0.0.0.0"))


@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="this machine has no IPv6")
def test_ipv6_loopback() -> None:
    with serving(FakeDriver(says("x")), settings=ServerSettings(host="::1", port=0)) as server:
        assert server.base_url.startswith("http://[::1]:")
        assert events(post(server, "/v1/completions", {"model": "tiny", "prompt": "x", "stream": True}))

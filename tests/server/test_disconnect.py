"""Clients that go away, over real sockets: the driver is told, and nothing is left behind."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest

from stepwell.loop.requests import Delta, Finished, Generation, Sink, TokenInfo
from stepwell.server.run import BackgroundServer
from stepwell.server.settings import ServerSettings
from tests.server.fakes import HOLD, PATIENCE_S, FakeDriver, null_driver, says, serving, until
from tests.server.wire import CHAT, RESPONSE, ROUTES, TEXT


def connect(server: BackgroundServer, path: str, body: Any) -> socket.socket:
    host, port = server.base_url.removeprefix("http://").split(":")
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-length: {len(data)}\r\n\r\n"
    connection = socket.create_connection((host, int(port)), PATIENCE_S)
    connection.sendall(head.encode() + data)
    return connection


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("admitted", [False, True])
def test_a_client_that_leaves_stops_the_work(path: str, stream: bool, admitted: bool) -> None:
    driver = FakeDriver(says("begun", HOLD, "never") if admitted else says(HOLD, "never"))
    with serving(driver) as server:
        connection = connect(server, path, {**ROUTES[path], "stream": stream})
        if stream and admitted:
            assert b"200 OK" in connection.recv(64)
        driver.wait_until_running()
        connection.close()
        driver.wait_until_idle()
    assert driver.cancelled == {0}
    assert server.service.gate.inside == server.service.bridge.live == 0
    assert 'code="499"' in server.service.metrics.text().decode() or stream


def test_a_background_response_outlives_its_client() -> None:
    driver = FakeDriver(says("begun", HOLD, " and done"))
    with serving(driver) as server:
        connection = connect(server, "/v1/responses", RESPONSE | {"background": True, "stream": True})
        assert b"200 OK" in connection.recv(64)
        connection.close()
        driver.release.set()
        driver.wait_until_idle()
    assert driver.cancelled == set()


def test_half_a_body_and_gone() -> None:
    driver = FakeDriver(says("x"))
    with serving(driver) as server:
        host, port = server.base_url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), PATIENCE_S) as connection:
            connection.sendall(
                b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{"
            )
    assert driver.submitted == []
    assert server.service.gate.inside == 0


def test_a_request_that_does_not_arrive() -> None:
    settings = ServerSettings(port=0, body_timeout_s=0.05)
    with serving(FakeDriver(says("x")), settings=settings) as server:
        host, port = server.base_url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), PATIENCE_S) as connection:
            connection.sendall(
                b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\n{"
            )
            answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 408")
    assert b'"request_timeout"' in answer


def test_a_client_that_does_not_read_loses_its_place() -> None:
    class Talkative(FakeDriver):
        def _say(self, text: str, made: int, generation: Generation, sink: Sink) -> tuple[int, bool]:
            sink(Delta(text, (TokenInfo(97),)))
            return made + 1, False

    driver = Talkative(says("begun", *["x" * 2**20] * 24, HOLD))
    with serving(driver, settings=ServerSettings(port=0, send_timeout_s=0.1)) as server:
        connection = connect(server, "/v1/completions", TEXT | {"stream": True})
        driver.wait_until_running()
        driver.wait_until_idle()
        connection.close()
    assert driver.cancelled == {0}
    assert server.service.gate.inside == server.service.bridge.live == 0


def test_the_real_driver_stops_within_a_step() -> None:
    """The driver is stepped by hand, so that 'within a step' is a count and not a time."""
    driver = null_driver()
    endings: list[Finished] = []
    with serving(driver, driver.text) as server:
        service = server.service
        service.bridge._observe = lambda generation, output: (
            endings.append(output) if isinstance(output, Finished) else None
        )
        connection = connect(server, "/v1/chat/completions", CHAT | {"max_tokens": 1_000})
        until(lambda: (driver.step(), driver.snapshot().running)[1])
        connection.close()
        until(lambda: not service.bridge.live)
        driver.step()
        driver.step()
        assert driver.snapshot().running == 0
        assert driver.snapshot().counters["requests_cancelled"] == 1
    driver.stop(1.0)

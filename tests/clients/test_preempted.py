"""A stream that is taken off the device: comments, then the rest, and not a byte of it different."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest

from stepwell.engines.null import NullConfig
from stepwell.loop.driver import Driver
from stepwell.server.run import BackgroundServer
from stepwell.server.settings import ServerSettings
from tests.server.fakes import MODEL, PATIENCE_S, null_driver, serving

openai = pytest.importorskip("openai")

# Two agents fit side by side at first; grown up, together they need twice what there is.
CONFIG = NullConfig(model=MODEL, block_tokens=16, device_blocks=16, decode_us_per_step=1_000)
SETTINGS = ServerSettings(port=0, drain_s=5.0, keep_alive_s=0.005)
LENGTH = 200
LATER = "I came later, and I wait."
OPTIONS = {"model": MODEL, "stream": True, "extra_body": {"ignore_eos": True}}


class Tee(httpx2.HTTPTransport):
    """Keeps what went over the wire, comments included: the SDK drops them."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = bytearray()

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        response = super().handle_request(request)
        assert isinstance(response.stream, httpx2.SyncByteStream)
        response.stream = Copied(response.stream, self.seen)
        return response


class Copied(httpx2.SyncByteStream):
    def __init__(self, stream: httpx2.SyncByteStream, seen: bytearray) -> None:
        self._stream, self._seen = stream, seen

    def __iter__(self) -> Iterator[bytes]:
        for data in self._stream:
            self._seen += data
            yield data

    def close(self) -> None:
        self._stream.close()


def chat(api: Any, text: str) -> Iterator[str]:
    message = [{"role": "user", "content": text}]
    for part in api.chat.completions.create(
        messages=message, max_completion_tokens=LENGTH, seed=1, **OPTIONS
    ):
        yield part.choices[0].delta.content or ""


def completion(api: Any, text: str) -> Iterator[str]:
    for part in api.completions.create(prompt=text, max_tokens=LENGTH, seed=1, **OPTIONS):
        yield part.choices[0].text


def response(api: Any, text: str) -> Iterator[str]:
    options = {**OPTIONS, "extra_body": {**OPTIONS["extra_body"], "seed": 1}}
    for event in api.responses.create(input=text, max_output_tokens=LENGTH, **options):
        if event.type == "response.output_text.delta":
            yield event.delta


@contextmanager
def client(server: BackgroundServer, wire: Tee) -> Iterator[Any]:
    with httpx2.Client(transport=wire, timeout=PATIENCE_S, trust_env=False) as http:
        yield openai.OpenAI(base_url=server.base_url + "/v1", api_key="none", max_retries=0, http_client=http)


Ask = Callable[[Any, str], Iterator[str]]


def side_by_side(server: BackgroundServer, ask: Ask) -> tuple[str, bytes]:
    """The younger of two streams: its text, and its bytes."""
    started = threading.Event()

    def older() -> None:
        with client(server, Tee()) as api:
            for _ in ask(api, "I was here first and I stay."):
                started.set()

    thread = threading.Thread(target=older)
    thread.start()
    assert started.wait(PATIENCE_S)
    wire = Tee()
    with client(server, wire) as api:
        text = "".join(ask(api, LATER))
    thread.join(PATIENCE_S)
    return text, bytes(wire.seen)


@contextmanager
def node() -> Iterator[tuple[BackgroundServer, Driver]]:
    driver = null_driver(CONFIG)
    driver.start()
    try:
        with serving(driver, driver.text, settings=SETTINGS) as server:
            yield server, driver
    finally:
        driver.stop(5.0)


@pytest.mark.parametrize("ask", [chat, completion, response])
def test_a_preempted_stream_is_commented_and_goes_on_where_it_was(ask: Ask) -> None:
    with node() as (server, driver):
        for _ in range(5):  # on a busy machine the older one may be done before the younger one comes
            text, wire = side_by_side(server, ask)
            preemptions = driver.snapshot().counters["preemptions"]
            if preemptions:
                break
    with node() as (server, _), client(server, Tee()) as api:
        alone = "".join(ask(api, LATER))
    assert preemptions >= 1
    before, comment, after = wire.partition(b"\n\n: preempted\n\n")
    assert comment, "nothing said that it was preempted"
    assert b"data: " in before
    # Then there was silence for as long as the older one needed, and it was filled.
    waiting, _, rest = after.partition(b"data: ")
    assert waiting.count(b": keep-alive\n\n") >= 1
    assert rest
    assert text == alone
    assert len(text) > 0

"""Running the application: uvicorn in the foreground until SIGTERM, or in a thread for tests and demos.

Going down, in order: nothing new is taken (503, and so says ``/health``), in-flight requests finish; after
``drain_s`` those left are told (an error event in their stream, or 503); then the driver stops and keeps on
disk what is worth keeping.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import FrameType, TracebackType
from typing import Any, cast

import uvicorn
from starlette.applications import Starlette

from stepwell.engines.base import TextModel
from stepwell.errors import BadInput, StepwellError
from stepwell.loop.port import LoopPort
from stepwell.loop.requests import Rejected
from stepwell.policy.contracts import DEFAULT_CONTRACTS, Contract
from stepwell.server.app import create_app
from stepwell.server.backends.books import Books
from stepwell.server.backends.library import ServedLibrary
from stepwell.server.backends.vectors import ServedEmbeddings
from stepwell.server.batches.runner import ServedBatches
from stepwell.server.callers.hosts import is_loopback
from stepwell.server.callers.key_reload import KeyReload
from stepwell.server.callers.keys import KeyRing
from stepwell.server.limits.connections import ACCEPT_BURST, Connections, GuardedProtocol, connection_limit
from stepwell.server.service import OfferedModel, Service
from stepwell.server.settings import ServerSettings
from stepwell.server.telemetry.otel import Telemetry

log = logging.getLogger("stepwell.server")

SHUTTING_DOWN = Rejected("server_overloaded", "The server is shutting down; please try again.", 1_000)
TELL_S = 5.0
"""How long the answer 'you will not be finished' may take to be sent."""
START_S = 30.0
DRAIN_LOOK_S = 0.02
BACKLOG = 2_048
"""Connections that the kernel keeps while we have not looked."""

OnReady = Callable[[str], None]


def serve(
    driver: LoopPort,
    text_model: TextModel,
    settings: ServerSettings,
    keys: KeyRing | None = None,
    books: Books | None = None,
    library: ServedLibrary | None = None,
    reload_keys: KeyReload | None = None,
    *,
    batches: ServedBatches | None = None,
    vectors: ServedEmbeddings | None = None,
    telemetry: Telemetry | None = None,
    contracts: Sequence[Contract] = DEFAULT_CONTRACTS,
    offered: Sequence[OfferedModel] = (),
    on_ready: OnReady = lambda base_url: None,
) -> None:
    """Serve until SIGTERM or Ctrl-C, then drain and stop ``driver``, which is running already.

    ``on_ready`` is told the base URL once connections are accepted. Raises ``BadInput`` for a host that
    needs API keys, ``StepwellError`` when the port cannot be had.
    """
    keys = keys or KeyRing()
    require_keys_beyond_loopback(settings.host, keys)
    try:
        listener = listen(settings.host, settings.port)
        app = create_app(
            *(driver, text_model, settings, keys, books, library, contracts, reload_keys),
            batches=batches,
            vectors=vectors,
            telemetry=telemetry,
            offered=offered,
        )
        server = GracefulServer(app, settings)
        server.on_ready = lambda: on_ready(base_url(listener))
        server.run(sockets=[listener])
    finally:
        driver.stop(settings.drain_s)


def require_keys_beyond_loopback(host: str, keys: KeyRing) -> None:
    """Raises ``BadInput`` when every program on the network could use the machine."""
    if not keys.required and not is_loopback(host):
        raise BadInput(
            f"without API keys only loopback is served, and {host} is not: add [[keys]] to the settings "
            "or listen on 127.0.0.1"
        )


def listen(host: str, port: int) -> socket.socket:
    """A bound socket. Raises ``StepwellError`` with one sentence."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, proto)
    except OSError as error:
        raise StepwellError(f"cannot listen on {host}: {error.strerror}") from error
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise StepwellError(
            f"cannot listen on {host} port {port}: {error.strerror}; choose another with --port"
        ) from error
    return listener


def base_url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class GracefulServer(uvicorn.Server):
    """uvicorn, with requests told at a deadline instead of cut, and signals that end ``run`` only."""

    def __init__(self, app: Starlette, settings: ServerSettings) -> None:
        self.connections = Connections(settings, connection_limit(settings))
        config = uvicorn.Config(
            app,
            http=cast("Any", partial(GuardedProtocol, self.connections)),
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="on",
            backlog=ACCEPT_BURST,
            timeout_graceful_shutdown=int(settings.drain_s + TELL_S),
        )
        super().__init__(config)
        self.on_ready: Callable[[], None] = lambda: None
        self._settings = settings
        self._service: Service = app.state.service

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(
                BACKLOG
            )  # asyncio takes one number for what waits and for what it accepts at once
        if self.started:
            self.on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._service.draining = True
        deadline = asyncio.get_running_loop().call_later(self._settings.drain_s, self._tell)
        try:
            await self._drained()
            await super().shutdown(sockets)
        finally:
            deadline.cancel()

    async def _drained(self) -> None:
        """Until what is under way has ended, with the door still open: ``/health`` answers 503 meanwhile, and
        so does whatever wants something new. ``_tell`` bounds it; a second signal ends it."""
        while self._service.bridge.live and not self.force_exit:
            await asyncio.sleep(DRAIN_LOOK_S)

    def _tell(self) -> None:
        log.warning("%d requests did not finish in time and are told so", self._service.bridge.live)
        self._service.bridge.abort_all(SHUTTING_DOWN)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn raises a caught signal again at its end, which would kill us before the driver has
        put anything on disk."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        wanted = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in wanted}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal drains; the second does not wait any longer."""
        if self.should_exit:
            self.force_exit = True
        self.should_exit = True


class BackgroundServer:
    """The server in a thread, for tests, demos and benchmarks in one process::

        with BackgroundServer(driver, text_model, ServerSettings(port=0)) as server:
            client = OpenAI(base_url=server.base_url + "/v1", api_key="any")

    Starts and stops HTTP only; the driver is the caller's.
    """

    def __init__(
        self,
        driver: LoopPort,
        text_model: TextModel,
        settings: ServerSettings | None = None,
        keys: KeyRing | None = None,
        books: Books | None = None,
        library: ServedLibrary | None = None,
        contracts: Sequence[Contract] = DEFAULT_CONTRACTS,
        reload_keys: KeyReload | None = None,
        *,
        batches: ServedBatches | None = None,
        vectors: ServedEmbeddings | None = None,
        telemetry: Telemetry | None = None,
        offered: Sequence[OfferedModel] = (),
    ) -> None:
        self._settings = settings or ServerSettings(port=0)
        self._keys = keys or KeyRing()
        require_keys_beyond_loopback(self._settings.host, self._keys)
        self.app = create_app(
            *(driver, text_model, self._settings, self._keys, books, library, contracts, reload_keys),
            batches=batches,
            vectors=vectors,
            telemetry=telemetry,
            offered=offered,
        )
        self.service: Service = self.app.state.service
        self._server = GracefulServer(self.app, self._settings)
        self._ready = threading.Event()
        self._server.on_ready = self._ready.set
        self.base_url = ""

    def __enter__(self) -> BackgroundServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Returns when connections are accepted. Raises ``StepwellError`` when that does not happen."""
        listener = listen(self._settings.host, self._settings.port)
        self.base_url = base_url(listener)
        self._thread = threading.Thread(
            target=self._server.run, args=([listener],), name="stepwell-http", daemon=True
        )
        self._thread.start()
        if not self._ready.wait(START_S):
            raise StepwellError(f"the server did not start within {START_S:.0f} s")

    def stop(self) -> None:
        """Drain and end; idempotent."""
        self._server.should_exit = True
        self._thread.join(self._settings.drain_s + 2 * TELL_S)

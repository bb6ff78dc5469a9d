"""The engine's KV events, followed over ZeroMQ by a thread of the front end, for as long as this serves."""

from __future__ import annotations

import json
import logging
import threading
import time
from pathlib import Path
from typing import Any

import msgspec

from stepwell.loop.rarely import Rarely
from stepwell.vllm.kv_events import InOrder, Numbered
from stepwell.vllm.kv_places import KvPlaces

log = logging.getLogger("stepwell.vllm")
LOOK_MS = 200
REPLAY_S = 5.0
BUFFER_STEPS = 100_000
"""Messages that the engine keeps for a reader that has missed one."""
END = (-1).to_bytes(8, "big", signed=True)


class KvFeed:
    """``places`` is what it has heard. Sockets are files in ``folder``, which is ours alone."""

    def __init__(self, folder: Path) -> None:
        self.places = KvPlaces()
        self._events, self._replays = f"ipc://{folder / 'kv-events'}", f"ipc://{folder / 'kv-replay'}"
        self._order = InOrder(self.places, self._replay)
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._complain = Rarely(log)

    def flags(self) -> list[str]:
        """For vLLM's command line."""
        config = {
            "enable_kv_cache_events": True,
            "publisher": "zmq",
            "endpoint": self._events,
            "replay_endpoint": self._replays,
            "buffer_steps": BUFFER_STEPS,
        }
        return ["--kv-events-config", json.dumps(config)]

    def open(self) -> None:
        """Before the engine starts, so that little is missed."""
        self._thread = threading.Thread(target=self._run, name="stepwell-kv-events", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        import zmq  # vLLM brings it

        with zmq.Context.instance().socket(zmq.SUB) as socket:
            socket.setsockopt(zmq.LINGER, 0)
            socket.setsockopt(zmq.RCVHWM, BUFFER_STEPS)
            socket.setsockopt(zmq.SUBSCRIBE, b"")
            socket.connect(self._events)
            while not self._stopped.is_set():
                if socket.poll(LOOK_MS):
                    self._take(socket.recv_multipart())

    def _take(self, frames: list[bytes]) -> None:
        try:
            _, number, message = frames
            self._order.take(int.from_bytes(number, "big"), message)
        except (ValueError, msgspec.DecodeError) as error:
            now_us = time.monotonic_ns() // 1_000
            self._complain.warning(now_us, "a KV event of vLLM cannot be read", error)

    def _replay(self, first: int) -> list[Numbered]:
        """What the engine still has from there on; nothing where it does not answer in time."""
        import zmq

        found: list[Numbered] = []
        deadline_s = time.monotonic() + REPLAY_S
        with zmq.Context.instance().socket(zmq.DEALER) as socket:
            socket.setsockopt(zmq.LINGER, 0)
            socket.connect(self._replays)
            socket.send_multipart([b"", first.to_bytes(8, "big")])
            while (left_s := deadline_s - time.monotonic()) > 0 and not self._stopped.is_set():
                if not socket.poll(min(LOOK_MS, left_s * 1_000)):
                    continue
                answer: list[Any] = socket.recv_multipart()
                if len(answer) != 4 or answer[2] == END:
                    break
                found.append((int.from_bytes(answer[2], "big"), answer[3]))
        return found

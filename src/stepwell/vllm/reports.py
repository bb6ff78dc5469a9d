"""What vLLM's engine tells of itself (``engine_meter.py``), heard by the front end for its books."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stepwell.errors import StepwellError
from stepwell.ledger.metering.told import EngineReport, ToldAmount
from stepwell.ledger.types import Account, Resource
from stepwell.policy.types import Caller

log = logging.getLogger("stepwell.vllm")
MOST_BYTES = 1 << 20
BUFFER_BYTES = 4 << 20
"""What may lie there while the event loop is busy; the engine keeps what does not fit."""


class EngineReports:
    """The socket. Lives in the event loop."""

    def __init__(self, path: Path, heard: Callable[[EngineReport], None]) -> None:
        """``path``: in a directory of ours, short enough for a socket's name (108 bytes)."""
        self.path, self._heard = path, heard
        self._socket: socket.socket | None = None

    def open(self) -> None:
        """Raises ``StepwellError``."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        self._socket.setblocking(False)
        try:
            self._socket.bind(str(self.path))
        except OSError as error:  # a name longer than a socket's, mostly
            raise StepwellError(f"vLLM cannot report to {self.path} ({error}): shorten TMPDIR") from error
        self.path.chmod(0o600)
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self.read)

    def read(self) -> None:
        """Everything that has come."""
        while self._socket is not None:
            try:
                data = self._socket.recv(MOST_BYTES)
            except BlockingIOError:
                return
            try:
                report = parsed(data)
            except (ValueError, TypeError, KeyError):
                log.warning("the engine has sent a report that is none; it is passed over")
                continue
            self._heard(report)

    def close(self) -> None:
        """What has come until now is heard."""
        if self._socket is None:
            return
        self.read()
        asyncio.get_running_loop().remove_reader(self._socket.fileno())
        self._socket.close()
        self._socket = None
        self.path.unlink(missing_ok=True)


def parsed(data: bytes) -> EngineReport:
    """One datagram. Raises ``ValueError``, ``TypeError`` or ``KeyError`` for what is none."""
    said = json.loads(data)
    used = [_told(row) for row in said["rows"]]
    return EngineReport(used, {Resource(name): _amount(n) for name, n in said.get("rest", {}).items()})


def _told(row: list[Any]) -> ToldAmount:
    resource, amount, request, tenant, tier, session, agent, parent, role, key = row
    caller = Caller(tenant, tier, session, agent, parent, role, key)
    return ToldAmount(Resource(resource), _amount(amount), Account.of(caller), int(request))


def _amount(value: Any) -> int:
    if not isinstance(value, int) or value < 0:
        raise ValueError(f"{value!r} is no amount")
    return value

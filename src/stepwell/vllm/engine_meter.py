"""What vLLM's engine has used for each owner: counted where it happens, told to the front end every second.

Scheduler, host policy, manager and disk tier of one engine count into one ``EngineMeter``, which a thread
sends as datagrams to the socket that the front end names (``STEPWELL_VLLM_REPORT``). What could not be sent
is told with the next report, so that a front end that is slow loses nothing; an engine that is killed loses
its last second. Without the variable nothing is counted.

A row is an owner's part: an owner is the caller that a request carries, and the front end's number of the
request where it is under way. What is left of the engine's own totals is ``rest``.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from stepwell.ledger.metering.metered import split
from stepwell.ledger.types import Resource
from stepwell.policy.types import Caller
from stepwell.vllm.owner import caller_of, request_of

log = logging.getLogger("stepwell.vllm")
VARIABLE = "STEPWELL_VLLM_REPORT"
EVERY_S = 1.0
LAST_S = 2.0
DATAGRAM_BYTES = 60_000
"""Of the rows in one datagram. Linux takes some 200 kB, and what is larger could never be sent. A row is less
than 20 kB: names have up to 255 characters, whatever these are."""


class Owner(NamedTuple):
    """The user of something. ``request`` 0: between two requests."""

    caller: Caller
    request: int = 0


def owner_of(params: Mapping[str, Any] | None) -> Owner:
    return Owner(caller_of(params), request_of(params))


class EngineMeter:
    """Amounts since the last report. Thread-safe."""

    def __init__(self, now_us: Callable[[], int]) -> None:
        self._now_us = now_us
        self._lock = threading.Lock()
        self._used: dict[tuple[Resource, Owner], int] = {}
        self._rest: dict[Resource, int] = {}
        self._held: dict[Resource, dict[Owner, int]] = {}
        self._room: dict[Resource, int] = {}
        self._since_us: dict[Resource, int] = {}

    def used(self, resource: Resource, owner: Owner, amount: int) -> None:
        with self._lock:
            self._add(resource, owner, amount)

    def running(self, weights: Mapping[Owner, int]) -> None:
        """The owners whose step runs from now on, and the part of each; empty: none runs."""
        self.hold_all(Resource.COMPUTE, weights)

    def room(self, resource: Resource, size_bytes: int) -> None:
        """How much a KV tier has from now on."""
        with self._lock:
            self._pass(resource)
            self._room[resource] = size_bytes

    def hold(self, resource: Resource, owner: Owner, change_bytes: int) -> None:
        """An owner holds so much more, or less, of a KV tier from now on."""
        with self._lock:
            self._pass(resource)
            held = self._held.setdefault(resource, {})
            held[owner] = held.get(owner, 0) + change_bytes
            if held[owner] <= 0:
                del held[owner]

    def hold_all(self, resource: Resource, held: Mapping[Owner, int]) -> None:
        """What each owner holds of a KV tier from now on; no other holds anything."""
        with self._lock:
            self._pass(resource)
            self._held[resource] = dict(held)

    def _pass(self, resource: Resource) -> None:
        """Count what was held until now."""
        now_us = self._now_us()
        passed_us = now_us - self._since_us.get(resource, now_us)
        self._since_us[resource] = now_us
        held = self._held.get(resource, {})
        if resource is Resource.COMPUTE:  # a microsecond is split where a byte is held
            for owner, part_us in (
                zip(held, split(passed_us, list(held.values())), strict=True) if held else ()
            ):
                self._add(resource, owner, part_us)
            return
        left_bytes = self._room.get(resource, 0)
        for owner, size_bytes in held.items():
            self._add(resource, owner, size_bytes * passed_us)
            left_bytes -= size_bytes
        self._rest[resource] = self._rest.get(resource, 0) + max(0, left_bytes) * passed_us

    def _add(self, resource: Resource, owner: Owner, amount: int) -> None:
        self._used[resource, owner] = self._used.get((resource, owner), 0) + amount

    def take(self) -> list[bytes]:
        """Everything until now, as datagrams."""
        with self._lock:
            for resource in list(self._since_us):
                self._pass(resource)
            used, self._used = self._used, {}
            rest, self._rest = self._rest, {}
        rows = [_row(resource, owner, amount) for (resource, owner), amount in used.items() if amount]
        left = {resource.value: amount for resource, amount in rest.items() if amount}
        *full, last = _parts(rows)
        told = [f'{{"rows":[{part}]}}' for part in full]
        told.append(f'{{"rows":[{last}],"rest":{json.dumps(left)}}}')
        return [one.encode() for one in told]


def _parts(rows: Iterable[str]) -> list[str]:
    """Rows side by side, as many as a datagram takes; one part at least."""
    parts: list[list[str]] = [[]]
    size = 0
    for row in rows:
        size += len(row) + 1
        if size > DATAGRAM_BYTES and parts[-1]:
            parts.append([])
            size = len(row) + 1
        parts[-1].append(row)
    return [",".join(part) for part in parts]


def _row(resource: Resource, owner: Owner, amount: int) -> str:
    """In ASCII, so that a character is a byte."""
    caller = owner.caller
    row = [
        *(resource.value, amount, owner.request, caller.tenant, caller.service_tier, caller.session),
        *(caller.agent, caller.parent_agent, caller.role, caller.key),
    ]
    return json.dumps(row, separators=(",", ":"))


class Reporter:
    """Sends what a meter has counted, from a thread of its own."""

    MOST_UNSENT = 1_000

    def __init__(self, meter: EngineMeter, path: str, *, every_s: float = EVERY_S) -> None:
        self._meter, self._path, self._every_s = meter, path, every_s
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._unsent: list[bytes] = []
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stepwell-report", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopped.wait(self._every_s):
            self.send()

    def send(self) -> None:
        """As far as the other side takes it now."""
        self._unsent += self._meter.take()
        while self._unsent:
            try:
                self._socket.sendto(self._unsent[0], self._path)
            except OSError:  # full, or the front end is away: later
                break
            del self._unsent[0]
        if len(self._unsent) > self.MOST_UNSENT:
            log.warning("the front end takes no reports: %d are dropped", len(self._unsent))
            self._unsent.clear()

    def close(self) -> None:
        self._stopped.set()
        self._thread.join()
        self._socket.settimeout(LAST_S)  # there is no later report: wait for room
        self.send()
        self._socket.close()


@dataclass(slots=True)
class _Process:
    """One engine is in a process, and its parts do not know one another."""

    meter: EngineMeter | None = None
    reporter: Reporter | None = None


_HERE = _Process()


def engine_meter() -> EngineMeter | None:
    """This process's meter, which reports from the first call on; None: it is not asked for."""
    path = os.environ.get(VARIABLE)
    if _HERE.meter is None and path:
        _HERE.meter = EngineMeter(lambda: time.monotonic_ns() // 1000)
        _HERE.reporter = Reporter(_HERE.meter, path)
    return _HERE.meter


def stop_reporting() -> None:
    """The engine ends: the front end gets what it has not been told yet."""
    if _HERE.reporter is not None:
        _HERE.reporter.close()
    _HERE.meter = _HERE.reporter = None


def merged(owners: Iterable[tuple[Owner, int]]) -> dict[Owner, int]:
    """Weights by owner."""
    found: dict[Owner, int] = {}
    for owner, weight in owners:
        found[owner] = found.get(owner, 0) + weight
    return found

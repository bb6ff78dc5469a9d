"""The books of an engine against its own counters: what moved and what is held comes to the same."""

from __future__ import annotations

import itertools
import socket
import time
from collections import Counter
from pathlib import Path

import pytest

from stepwell.ledger.metering.told import EngineReport
from stepwell.ledger.types import Resource
from stepwell.policy.types import Caller
from stepwell.vllm.engine_meter import VARIABLE, stop_reporting
from stepwell.vllm.owner import params_of
from stepwell.vllm.reports import MOST_BYTES, parsed
from stepwell.vllm.step_meter import StepMeter
from tests.vllm.engine import Engine, engine, offloading

AGENTS = [Caller("acme", "default", "crew", f"agent-{n}", key="key_1") for n in range(6)]
SCHEDULER = "stepwell.vllm.scheduler.StepwellScheduler"


def work(one: Engine, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, float]]:
    """Agents take turns in too little room. When the device's use changed, and to what, by vLLM's word."""
    uses: list[tuple[int, float]] = []
    hold = StepMeter._hold

    def noted(self: StepMeter) -> None:
        hold(self)
        uses.append((time.monotonic_ns() // 1000, self._scheduler.kv_cache_manager.usage))

    monkeypatch.setattr(StepMeter, "_hold", noted)
    for turn in range(3):
        for number, caller in enumerate(AGENTS):
            text = f"Agent {number} reads its own long document about stepwells in the west. " * 3
            one.turn(text + f"Turn {turn}.", tokens=6, request=10 * turn + number + 1, **params_of(caller))
    return uses


def heard(listener: socket.socket) -> list[EngineReport]:
    reports = []
    while True:
        try:
            reports.append(parsed(listener.recv(MOST_BYTES)))
        except BlockingIOError:
            return reports


def test_bytes_moved_and_held_are_those_of_the_engines_own_counters(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        listener.bind(str(tmp_path / "told"))
        listener.setblocking(False)
        monkeypatch.setenv(VARIABLE, str(tmp_path / "told"))
        host = {"eviction_policy": "StepwellHost", "cache_policy_module_path": "stepwell.vllm.host"}
        extra = offloading(tmp_path / "kv", host_chunks=24, **host)
        with engine(tiny_model, extra, scheduler_cls=SCHEDULER, scheduling_policy="priority") as one:
            uses = work(one, monkeypatch)
            counted = {
                Resource.STORED: one.metric("vllm:kv_offload_store_bytes"),
                Resource.LOADED: one.metric("vllm:kv_offload_load_bytes"),
                Resource.READ: one.metric("vllm:kv_offload_disk_read_blocks") * 16_384,
            }
        stop_reporting()
        reports = heard(listener)
    agents, rest = Counter[Resource](), Counter[Resource]()
    for report in reports:
        rest.update(report.rest)
        for told in report.used:
            assert told.account.tenant == "acme"
            assert told.resource is Resource.DISK or told.account.agent.startswith("agent-")
            agents[told.resource] += told.amount
    for resource, size in counted.items():
        assert size > 0, f"{resource}: nothing moved"
        assert agents[resource] == pytest.approx(size, rel=0.01), resource
        assert not rest[resource]
    room = 20 * 16_384
    spans = itertools.pairwise(uses)
    in_use = sum(usage * (room - 16_384) * (until - since) for (since, usage), (until, _) in spans)
    assert agents[Resource.DEVICE] == pytest.approx(in_use, rel=0.01)
    assert rest[Resource.DEVICE] > 0
    assert min(agents[Resource.HOST], agents[Resource.DISK]) > 0
    assert agents[Resource.COMPUTE] <= uses[-1][0] - uses[0][0] + 1_000

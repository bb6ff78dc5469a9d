"""The flags of a simulated fleet: which hardware, how many, how turns come, what breaks."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from stepwell.catalogue.load import Entry, entry
from stepwell.economics.cases import KV_BYTES, WEIGHT_BYTES
from stepwell.economics.changes import with_changes
from stepwell.economics.constants import load_constants
from stepwell.economics.replica import ReplicaModel, fitted_replica, replica_model
from stepwell.economics.roofline import Serving
from stepwell.errors import BadInput
from stepwell.fleet.routers import ROUTERS
from stepwell.ledger.pricing.costs import CostBook, MemoryPrice, Rates, room_bytes
from stepwell.ledger.pricing.prices import load_price_book
from stepwell.policy.config import PolicyConfig
from stepwell.policy.eviction import EVICTION_POLICIES
from stepwell.simulate.cluster import Fault, ReplicaSite
from stepwell.simulate.machine_file import FittedMachine, read_machine

_FAULT = re.compile(r"(lost|slow-disk):(\d+)@(\d+(?:\.\d+)?)\+(\d+(?:\.\d+)?)(?:x(\d+))?$")
_MOST_REPLICAS = 4096


@Parameter(name="*")
@dataclass(frozen=True)
class Hardware:
    """Machines."""

    part: str = "h200"
    """Hardware of 'stepwell catalogue hardware'."""
    model: str = "llama-3.1-70b"
    """A model of 'stepwell catalogue models'."""
    chips: int = 4
    """Parts of one replica, in tensor parallel."""
    weights: Literal["bf16", "fp8", "fp4"] = "fp8"
    """Precision of the weights."""
    kv: Literal["bf16", "fp8"] = "bf16"
    """Precision of the KV."""
    engine: str = "all"
    """The engine whose constants are used: all, vllm, trtllm or sglang."""
    constants: Path | None = None
    """Constants of 'stepwell calibrate --out' instead of those that ship."""
    machine: Path | None = None
    """A machine of 'stepwell calibrate RUN --out' instead of part, model and chips; --part prices it."""
    replicas: int = 4
    """How many replicas."""
    router: Literal["kv-affine", "least-loaded", "round-robin"] = "kv-affine"
    """Which replica a turn goes to; the fleet's own code."""
    dram_gb: float = 500.0
    """Host memory for KV of one replica."""
    drives: float = 2.0
    """Disks of one replica; 0: none."""
    ssd: str = "ssd-1dwpd"
    """The disks: a memory of 'stepwell catalogue hardware'."""
    policy: str = "stepwell"
    """The eviction policy, as 'stepwell serve --policy' has it."""
    step_tokens: int = 8192
    """Most tokens of one batch."""
    max_running: int = 256
    """Most turns that run at once on a replica."""
    prices: str = "openai-gpt-5"
    """What customers pay: a price book, as 'stepwell serve' takes it; 'none' keeps no books."""
    fault: Annotated[list[str], Parameter(consume_multiple=True)] = field(default_factory=list)
    """What breaks: lost:REPLICA@AT+FOR or slow-disk:REPLICA@AT+FORxTIMES, in seconds."""
    what_if: Annotated[list[str], Parameter(consume_multiple=True)] = field(default_factory=list)
    """Figures of the part to set, as KEY=VALUE; of memory as dram.usd_gb, ssd.read_gb_s."""

    def as_inputs(self) -> dict[str, object]:
        shown: dict[str, object] = {n: getattr(self, n) for n in self.__dataclass_fields__}
        shown["fault"], shown["what_if"] = (
            ", ".join(self.fault) or "none",
            ", ".join(self.what_if) or "nothing",
        )
        return shown


@dataclass(frozen=True, slots=True)
class Built:
    """A fleet that can be run, and what it costs."""

    site: ReplicaSite
    replica: ReplicaModel
    rates: Rates
    usd_hour: Fraction
    """One replica, without wear."""
    faults: tuple[Fault, ...]
    figures: dict[str, Entry]


def build(hardware: Hardware, unit_tokens: int, block_tokens: int, input_tokens: float) -> Built:
    """``BadInput``: one sentence about what cannot be."""
    _check(hardware)
    figures = {
        "part": entry("parts", hardware.part),
        "dram": entry("memory", "dram"),
        "ssd": entry("memory", hardware.ssd),
    }
    figures = with_changes(figures, hardware.what_if)
    serving = Serving(
        entry("models", hardware.model), figures["part"], hardware.chips, WEIGHT_BYTES[hardware.weights],
        KV_BYTES[hardware.kv], 1, input_tokens, 1.0,
    )  # fmt: skip
    constants = tuple(load_constants(hardware.engine, hardware.constants))
    if hardware.machine is None:
        replica = replica_model(
            serving, constants, block_tokens, hardware.dram_gb, figures["ssd"], hardware.drives
        )
    else:
        machine = read_machine(hardware.machine)
        replica, hardware = fitted_replica(machine, block_tokens), _limited(hardware, machine)
    config = _config(hardware, replica, unit_tokens, block_tokens)
    book = _costs(figures, hardware.chips)
    room = room_bytes(config)
    prices = None if hardware.prices == "none" else load_price_book(hardware.prices)
    site = ReplicaSite(config, replica.model, prices, hardware.model, told_costs=True)
    usd_hour = book.hourly_usd(room)
    return Built(site, replica, book.rates(room), usd_hour, _faults(hardware), figures)


def _limited(hardware: Hardware, machine: FittedMachine) -> Hardware:
    """With no larger batches and no more running turns than the machine had in its run."""
    step_tokens = min(hardware.step_tokens, machine.step_tokens)
    return replace(
        hardware, step_tokens=step_tokens, max_running=min(hardware.max_running, machine.max_running)
    )


def _check(hardware: Hardware) -> None:
    for name, value, low, high in (
        ("--replicas", hardware.replicas, 1, _MOST_REPLICAS),
        ("--chips", hardware.chips, 1, 1024),
        ("--dram-gb", hardware.dram_gb, 0, 1e6),
        ("--drives", hardware.drives, 0, 10_000),
        ("--step-tokens", hardware.step_tokens, 16, 1 << 20),
        ("--max-running", hardware.max_running, 1, 100_000),
    ):
        if not low <= value <= high:
            raise BadInput(f"{name} {value:g}: give {low:g} to {high:g}")
    if hardware.router not in ROUTERS:
        raise BadInput(f"--router {hardware.router}: there is {', '.join(ROUTERS)}")
    if hardware.policy not in EVICTION_POLICIES:
        raise BadInput(f"--policy {hardware.policy}: there is {', '.join(EVICTION_POLICIES)}")


def _config(hardware: Hardware, replica: ReplicaModel, unit_tokens: int, block_tokens: int) -> PolicyConfig:
    return PolicyConfig(
        block_tokens=block_tokens,
        unit_tokens=unit_tokens,
        device_blocks=replica.room.device,
        block_bytes=replica.block_bytes,
        token_bytes=replica.model.token_bytes,
        host_bytes=replica.room.host * replica.block_bytes,
        disk_bytes=replica.room.disk * replica.block_bytes,
        context_tokens=replica.room.device * block_tokens,
        max_running=hardware.max_running,
        max_waiting=1_000_000,
        step_tokens=hardware.step_tokens,
        eviction=hardware.policy,
    )


def _costs(figures: dict[str, Entry], chips: int) -> CostBook:
    """The cost book of one replica from the catalogue's figures; disks pay half by room and half by wear."""
    part, dram, ssd = figures["part"], figures["dram"], figures["ssd"]
    usd_hour = part.find("usd_hour_rent") or part.get("usd_hour_tco")
    years = Fraction(ssd.get("life_years"))
    usd_gb = Fraction(ssd.get("usd_gb"))
    wear = usd_gb / 2 / (Fraction(ssd.get("dwpd")) * 365 * years)
    host = MemoryPrice(Fraction(dram.get("usd_gb")), Fraction(dram.get("life_years")))
    return CostBook(Fraction(usd_hour) * chips, Fraction(3, 10), host, MemoryPrice(usd_gb / 2, years, wear))


def _faults(hardware: Hardware) -> tuple[Fault, ...]:
    found = []
    for text in hardware.fault:
        match = _FAULT.match(text)
        if match is None:
            raise BadInput(
                f"--fault {text}: give lost:REPLICA@AT+FOR or slow-disk:REPLICA@AT+FORxTIMES, in seconds"
            )
        kind, replica, at_s, for_s, factor = match.groups()
        if int(replica) >= hardware.replicas:
            raise BadInput(f"--fault {text}: replicas are numbered 0 to {hardware.replicas - 1}")
        name: Literal["lost", "slow-disk"] = "lost" if kind == "lost" else "slow-disk"
        found.append(
            Fault(name, int(replica), int(float(at_s) * 1e6), int(float(for_s) * 1e6), int(factor or 10))
        )
    return tuple(found)

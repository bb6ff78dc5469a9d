"""``stepwell bench neighbours``: what a paying customer feels of a flood of those who did not pay.

One server after the other. First the ``priority`` tenant's turns alone, then turns of the same sizes
under a flood of ``flex`` agents at ten times what the machine can serve. The same against our own LRU,
which knows no service tiers, and against llama.cpp's own server.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import httpx2
from cyclopts import Parameter

from stepwell.basics.this_machine import usable_cores
from stepwell.bench.client import complete
from stepwell.bench.harness import (
    NULL_MODEL,
    BenchRun,
    ModelOption,
    ThreadsOption,
    bench,
    require_real,
    words_of,
)
from stepwell.bench.server.flood import (
    MOST_ARRIVALS_PER_S,
    FloodTarget,
    Neighbours,
    paid_turns,
    served_target,
)
from stepwell.bench.server.neighbours_report import (
    FLEX,
    NeighboursOutcome,
    cut_short,
    samples,
    tables,
    verdicts,
)
from stepwell.bench.server.neighbours_sessions import measure_siblings
from stepwell.bench.servers import ServerArm, llama_server, our_server, running
from stepwell.bench.workload import Pressure, unrelated
from stepwell.console.options import (
    OptionalPositive,
    Positive,
    size_bytes,
)
from stepwell.console.progress import Ticker
from stepwell.engines.models import resolve_model
from stepwell.errors import StepwellError
from stepwell.policy.contracts import RESOURCES, WHOLE, Contract, Shares
from stepwell.policy.eviction import EVICTION_POLICIES

PEER = "llama.cpp"
PEER_PARALLEL = 4
NULL_TOKENS_PER_WORD = 5
PAID_KEY, FLOOD_KEY = "sk-bench-priority", "sk-bench-flex"
PAID = "priority"
POLICIES = tuple(sorted(EVICTION_POLICIES.keys() - {"oracle"}))
CONTRACTS = (
    Contract(
        PAID, weight=16, guaranteed=Shares(step_tokens=850, device=500), borrowable=0,
        ttft_target_us=1_000_000, tpot_target_us=18_000, max_wait_us=10_000_000,
    ),
    Contract("default", weight=4, guaranteed=Shares(step_tokens=50), max_wait_us=30_000_000),
    Contract("flex", weight=1, guaranteed=Shares(step_tokens=100), max_wait_us=60_000_000),
)  # fmt: skip
"""What an operator who sells latency would write: most of a step and half of the device are kept for some who
may come and not lent, so that an arrival does not wait for a long step of others."""
FULL = Neighbours()
QUICK = Neighbours(
    agents=2, turns=2, opening_words=40, turn_words=10, output_tokens=8, think_s=(0.05, 0.1), flood_agents=4,
    flood_outstanding=8, flood_words=30, flood_turn_words=10, flood_output_tokens=4, settle_s=0.3,
    flood_s=10.0, drain_s=30.0, long_words=300,
)  # fmt: skip


@bench("neighbours")
def main(
    run: BenchRun,
    *,
    model: ModelOption = "smollm2",
    policies: str = "stepwell,lru",
    peer: Annotated[bool, Parameter(negative="--no-peer")] = True,
    device_kv_tokens: Positive = 6_144,
    host_kv: str = "1GiB",
    threads: ThreadsOption = None,
    turns: OptionalPositive = None,
    part: Literal["both", "flood", "sessions"] = "both",
) -> None:
    """Measure what a paying customer feels of a flood of others, on a real model over HTTP.

    A short turn beside a prompt of 6,000 tokens of another session of its own tenant; then a priority
    tenant's agents take their turns alone, and under a flood of flex agents at ten times what the machine
    can serve: our policy, our LRU, llama.cpp's own server. About eight minutes.

    Example: ``stepwell bench neighbours --part sessions --policies stepwell --no-peer``

    Parameters
    ----------
    policies
        Our server's policies to measure, comma separated.
    peer
        Also measure llama.cpp's own server (package xllamacpp), with the same memory.
    device_kv_tokens
        Device KV of every server.
    host_kv
        Host KV of our server, and cache of llama.cpp's.
    turns
        Measured turns of each paying agent, alone and under the flood (default: 5).
    part
        Only the sessions of one tenant, or only the flood.
    """
    size_bytes("--host-kv", host_kv)
    work = QUICK if run.quick else FULL
    if model == NULL_MODEL:  # a byte is a token there
        work = replace(work, long_words=work.long_words // NULL_TOKENS_PER_WORD)
    if turns is not None:
        work = replace(work, turns=turns, flood_s=work.flood_s * max(1.0, turns / work.turns))
    named, with_peer = words_of("--policies", policies, POLICIES), peer and model != NULL_MODEL
    plan = NeighboursPlan(model, named, with_peer, device_kv_tokens, host_kv, threads or usable_cores(), part)
    require_real(model)
    outcomes = measure(plan, work, CONTRACTS, run.progress)
    contracts = [asdict(contract) for contract in CONTRACTS]
    run.settings = {"workload": asdict(work), **asdict(plan), "contracts": contracts}
    run.results = {"servers": [outcome.as_json() for outcome in outcomes]}
    run.samples = [sample for outcome in outcomes for sample in samples(outcome)]
    run.notes = [f"{o.name}: {o.error}" for o in outcomes if o.error] + list(cut_short(outcomes, work))
    run.verdicts = verdicts(outcomes, CONTRACTS)
    run.show(*tables(outcomes, CONTRACTS))


@dataclass(frozen=True, slots=True)
class NeighboursPlan:
    """Which servers, and what each is given."""

    model: str
    policies: tuple[str, ...]
    peer: bool
    device_kv_tokens: int
    host_kv: str
    threads: int
    part: str = "both"
    """``flood`` and ``sessions`` leave the other out."""

    def ours(self, policy: str, config: Path, directory: Path) -> ServerArm:
        return our_server(
            policy, self.model, device_kv_tokens=self.device_kv_tokens, host_kv=self.host_kv, disk_kv="0",
            disk_dir=directory / "disk", threads=self.threads, more={"policy": policy, "config": config},
        )  # fmt: skip

    def peers(self) -> list[ServerArm]:
        if not self.peer:
            return []
        cache_mib = size_bytes("--host-kv", self.host_kv) >> 20
        return [
            llama_server(
                PEER, resolve_model(self.model).path, device_kv_tokens=self.device_kv_tokens,
                parallel=PEER_PARALLEL, cache_ram_mib=cache_mib, threads=self.threads, binary=None,
                tuned=False,
            )
        ]  # fmt: skip


def settings_file(contracts: Sequence[Contract]) -> str:
    """The TOML of a server that keeps these contracts, with one key for each side."""
    lines = []
    for contract in contracts:
        lines += [f"[service_tiers.{contract.name}]", f"weight = {contract.weight}"]
        lines += [f"{part} = {_shares(contract, part)}" for part in ("guaranteed", "cap")]
        lines += [f"borrowable = {contract.borrowable / WHOLE}", f"max_wait_s = {contract.max_wait_us / 1e6}"]
        targets = {"ttft_target_ms": contract.ttft_target_us, "tpot_target_ms": contract.tpot_target_us}
        lines += [f"{name} = {target / 1e3}" for name, target in targets.items() if target is not None]
    for key, service_tier in ((PAID_KEY, PAID), (FLOOD_KEY, FLEX)):
        lines += ["[[keys]]", f"key = {json.dumps(key)}", f"tenant = {json.dumps('bench-' + service_tier)}"]
        lines += [f"service_tiers = [{json.dumps(service_tier)}]"]
    return "\n".join(lines) + "\n"


def _shares(contract: Contract, part: str) -> str:
    shares = getattr(contract, part)
    return "{ " + ", ".join(f"{name} = {getattr(shares, name) / WHOLE}" for name in RESOURCES) + " }"


# --- measuring --------------------------------------------------------------------------------


def measure(
    plan: NeighboursPlan, work: Neighbours, contracts: Sequence[Contract], progress: Ticker
) -> list[NeighboursOutcome]:
    """One server after the other, each alone on the machine."""
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="stepwell-neighbours-") as directory:
        config = Path(directory) / "neighbours.toml"
        config.write_text(settings_file(contracts), encoding="utf-8")
        arms = [plan.ours(policy, config, Path(directory) / policy) for policy in plan.policies]
        for arm in [*arms, *plan.peers()]:
            outcome = NeighboursOutcome(arm.name, plan.part)
            outcomes.append(outcome)
            try:
                with _served(arm) as target:
                    measure_server(target, outcome, work, progress)
            except (StepwellError, httpx2.HTTPError) as error:
                outcome.error = f"{type(error).__name__}: {error}"
    return outcomes


@contextmanager
def _served(arm: ServerArm) -> Iterator[FloodTarget]:
    keys = (PAID_KEY, FLOOD_KEY) if arm.is_ours else (None, None)
    with running(arm):
        yield served_target(arm.base_url, *keys)


def measure_server(
    target: FloodTarget, outcome: NeighboursOutcome, work: Neighbours, progress: Ticker
) -> None:
    """Both parts on a server that is ready, or the one that was asked for."""
    outcome.flood_turn_s = _turn_s(target, work)
    arrivals_per_s = work.times / outcome.flood_turn_s
    if outcome.has_sessions:
        progress.phase(f"{outcome.name}: a short turn beside a long prompt of its own tenant")
        outcome.siblings = measure_siblings(target, work)
    if outcome.has_flood:
        _measure_flood(target, outcome, work, arrivals_per_s, progress)


def _measure_flood(
    target: FloodTarget, outcome: NeighboursOutcome, work: Neighbours, arrivals_per_s: float, progress: Ticker
) -> None:
    """The paying tenant's turns alone, then under the flood."""
    turns, rate = work.agents * work.turns, min(arrivals_per_s, MOST_ARRIVALS_PER_S)
    progress.phase(f"{outcome.name}: the priority tenant alone", turns)
    alone = paid_turns(target, work, "alone", done=progress.advance)
    outcome.alone, outcome.alone_s = alone.turns, alone.seconds
    progress.phase(f"{outcome.name}: under a flood, {arrivals_per_s:.1f} arrivals a second", turns)
    flooded = paid_turns(target, work, "flooded", rate, progress.advance)
    outcome.flooded, outcome.flooded_s, outcome.flood = flooded.turns, flooded.seconds, flooded.flood
    outcome.lost, outcome.held_back, outcome.arrivals_per_s = flooded.lost, flooded.held_back, rate
    for sample in (*alone.openings, *flooded.openings):
        if sample.error:
            raise StepwellError(f"an agent's first turn failed: {sample.error}")


def _turn_s(target: FloodTarget, work: Neighbours) -> float:
    """How long one of the flood's turns takes alone: so many the machine could serve one after the other."""
    prompt = unrelated(Pressure(document_words=2 * work.flood_words, seed=work.seed))
    with target.client(target.paid_key) as http:
        complete(http, target.model, "Warm-up", 4, "warm-up")
        sample = complete(http, target.model, prompt, work.flood_output_tokens, "probe")
    if sample.error:
        raise StepwellError(f"the probe failed: {sample.error}")
    return max(sample.e2e_s, 0.001)

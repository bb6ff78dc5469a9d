"""``stepwell bench fleet``: crews on several nodes, one of which is killed; and three rules on the same work.

Every arm has a key of its own, so that no KV is left to it by the arm before. The nodes stay from arm to arm,
the front end is another one each time and takes them over.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Literal

import httpx2
from cyclopts import Parameter

from stepwell.bench.clocks import process_cpu_ns
from stepwell.bench.fleet.load import FleetCrews, LoadRun, Work, burst
from stepwell.bench.fleet.nodes import FleetFiles, FrontProcess, front, stop_nodes
from stepwell.bench.harness import NULL_MODEL, BenchRun, bench
from stepwell.console.options import Positive
from stepwell.console.output import sheet
from stepwell.console.progress import Ticker
from stepwell.console.report import Verdict
from stepwell.ledger.reading.queries import Period
from stepwell.ledger.reading.statements import statement
from stepwell.ledger.reading.verify import verify
from stepwell.ledger.stores.open import open_store

KILLED = "killed"
ARMS = {
    "kv-affine": "kv-affine",
    KILLED: "kv-affine",
    "least-loaded": "least-loaded",
    "round-robin": "round-robin",
}
"""Arm and its rule; the second one loses a node in the middle."""
COLUMNS = {
    "arm": "{arm}",
    "total": "{total_s:.1f} s",
    "agent, median": "{agent_s_median:.1f} s",
    "agent, most": "{agent_s_max:.1f} s",
    "tries": "{tries:,}",
    "turns": "{turns:,}",
    "computed": "{computed_prompt_tokens:,}",
    "tax": "{recompute_tax:.0%}",
}
BURST, AT_ONCE = 400, 32
STREAMS_PER_S = 500.0


@dataclass(slots=True)
class FleetArm:
    """What one arm came to."""

    name: str
    load: LoadRun
    document_tokens: int
    killed: str | None = None

    @property
    def tax(self) -> float:
        """Prompt tokens that had been computed before, over all that were computed."""
        new = self.load.new_tokens(self.document_tokens)
        return max(0.0, 1 - new / self.load.computed) if self.load.computed else 0.0

    def as_json(self) -> dict[str, Any]:
        agents = self.load.agents
        return {
            "arm": self.name,
            "killed": self.killed,
            "total_s": self.load.took_s,
            "agent_s_median": median([one.took_s for one in agents]),
            "agent_s_max": max(one.took_s for one in agents),
            "turns": self.load.turns,
            "tries": sum(one.tries for one in agents),
            "broken_streams": sum(one.broken for one in agents),
            "computed_prompt_tokens": self.load.computed,
            "recompute_tax": self.tax,
            "answers": self.load.answers(),
            "failed_agents": sum(len(one.texts) < max(len(o.texts) for o in agents) for one in agents),
        }


@dataclass(slots=True)
class FleetBooks:
    """What the shared ledger says."""

    differences: int
    charged: Mapping[str, int]
    """Charged requests by tenant."""
    microusd: Mapping[str, int]


@bench("fleet")
def main(
    run: BenchRun,
    *,
    model: str = NULL_MODEL,
    engine: Literal["llamacpp", "vllm"] = "llamacpp",
    vllm_args: Annotated[str, Parameter(allow_leading_hyphen=True)] = "",
    rules: Literal["all", "kv-affine"] = "all",
    nodes: Positive = 2,
    crews: Positive = 6,
    turns: Positive = 4,
    device_kv_tokens: Positive = 8_192,
) -> None:
    """Kill one of several nodes under crews of agents, and compare the rules that choose a node.

    Six crews of four agents; each crew shares a document. All of it runs through 'stepwell deploy' with one
    ledger.

    Example: ``stepwell bench fleet --quick``

    With vLLM, after ``make test-vllm``:

        .venv-vllm/bin/stepwell bench fleet --engine vllm --model models/tiny --rules kv-affine --quick

    Parameters
    ----------
    model
        null, smollm2, gemma3, the path of a GGUF file; with vLLM a folder that it loads.
    engine
        What the nodes compute with.
    vllm_args
        Flags of vLLM itself, in one word; the model has a chat template, or one is named here.
    rules
        All rules that choose a node, or the one that is used, with and without a kill.
    nodes
        Nodes that are started on this machine.
    crews
        Crews of four agents.
    turns
        Turns of each agent.
    device_kv_tokens
        Room for KV on each node's device.
    """
    kind = "null" if model == NULL_MODEL else engine
    served = Path(model).resolve().name if kind == "vllm" else model
    names = tuple(ARMS) if rules == "all" else ("kv-affine", KILLED)
    work = Work(served, crews=crews, turns=min(turns, 3) if run.quick else turns)
    run.settings = {
        "model": served, "engine": kind, "nodes": nodes, "crews": crews, "agents": crews * 4,
        "turns": work.turns, "device_kv_tokens": device_kv_tokens,
    }  # fmt: skip
    # Nodes are started in a folder of their own.
    named = str(Path(model).resolve()) if kind == "vllm" else model
    with tempfile.TemporaryDirectory(prefix="stepwell-fleet-") as folder:
        place = FleetFiles(Path(folder), named, nodes, device_kv_tokens, names, kind, vllm_args)
        try:
            arms, per_core, wall = _run(place, work, run.progress)
        finally:
            stop_nodes(place)
        books = read_books(place.ledger)
    _fill(run, arms, books, per_core, wall)


def _fill(
    run: BenchRun, arms: list[FleetArm], books: FleetBooks, per_core: float | None, wall: float | None
) -> None:
    """Figures, samples, verdicts, notes and the table of what was measured."""
    run.results["arms"] = [arm.as_json() for arm in arms]
    run.results["streams"] = {"per_cpu_s_of_front_end": per_core, "per_s": wall}
    run.results["books"] = {"differences": books.differences, "charged_requests": dict(books.charged)}
    run.samples = [
        {"arm": arm.name, "agent_s": [round(one.took_s, 3) for one in arm.load.agents]} for arm in arms
    ]
    run.verdicts = verdicts(arms, books, per_core)
    run.notes = list(_notes(arms))
    title = "Crews on a fleet; computed: prompt tokens; tax: of them, computed before"
    run.show(sheet(title, COLUMNS, run.results["arms"]))


def _run(
    place: FleetFiles, work: Work, progress: Ticker
) -> tuple[list[FleetArm], float | None, float | None]:
    arms, names = [], place.tenants
    per_core = wall = None
    for name in names:
        progress.phase(f"{name}: {work.crews} crews of {work.agents}, {place.nodes} nodes ({work.model})")
        with front(place, ARMS[name], last=name == names[-1]) as one:
            arms.append(_arm(one, name, work))
            if name == names[-1] and place.engine != "vllm":  # it is the front end's, whatever computes
                progress.phase(f"{BURST} streamed answers, {AT_ONCE} at a time")
                per_core, wall = _burst(one, f"sk-{name}", work.model)
    return arms, per_core, wall


def _arm(one: FrontProcess, name: str, work: Work) -> FleetArm:
    killed: list[str] = []
    half = work.crews * work.agents * work.turns // 2

    def answered(turns: int) -> None:
        if name == KILLED and turns == half:
            killed.append(one.kill_busiest())

    key = f"sk-{name}"
    load = asyncio.run(FleetCrews(one.place.url, key, work, answered).run())
    tokens = _document_tokens(one.place.url, key, work)
    one.wait_ready(one.place.nodes)
    return FleetArm(name, load, tokens, killed[0] if killed else None)


def _document_tokens(url: str, key: str, work: Work) -> int:
    """What a crew's agents share, in tokens, as the model counts them."""
    from stepwell.bench.fleet.load import words

    text = words(work.document_words, 1_000)
    body = {"model": work.model, "content": text, "prompt": text}  # llama.cpp's word for it, and vLLM's
    headers = {"authorization": f"Bearer {key}"}
    answer = httpx2.post(f"{url}/tokenize", json=body, headers=headers, timeout=60, trust_env=False)
    return len(answer.raise_for_status().json()["tokens"])


def _burst(one: FrontProcess, key: str, model: str) -> tuple[float | None, float]:
    """Streamed answers per second of the front end's own CPU time, and by the wall clock of this machine."""
    asyncio.run(burst(one.place.url, key, model, AT_ONCE, AT_ONCE))
    cpu_ns = process_cpu_ns(one.server.pid)
    before_ns = cpu_ns() if cpu_ns else 0
    took_s = asyncio.run(burst(one.place.url, key, model, BURST, AT_ONCE))
    per_core = BURST * 1e9 / max(1e7, cpu_ns() - before_ns) if cpu_ns else None
    return per_core, BURST / took_s


def read_books(path: Path) -> FleetBooks:
    """The ledger after all nodes have closed it."""
    store = open_store(str(path), create=False)
    try:
        rows, found = statement(store, Period(), ("tenant",)).rows, verify(store)
    finally:
        store.close()
    return FleetBooks(
        len(found.differences),
        {row.group[0]: row.counts.requests for row in rows},
        {row.group[0]: row.counts.charge_microusd for row in rows},
    )


# --- reporting -------------------------------------------------------------------------------------


def verdicts(arms: list[FleetArm], books: FleetBooks, per_core: float | None) -> list[Verdict]:
    """What a killed node may cost: time, and nothing else."""
    by_name = {arm.name: arm for arm in arms}
    whole, killed = by_name["kv-affine"], by_name[KILLED]
    same = sum(a == b for a, b in zip(whole.load.answers(), killed.load.answers(), strict=True))
    told = sum(one.cost_microusd for one in killed.load.agents)
    crews, charged = len(whole.load.answers()), books.charged.get(KILLED, 0)
    money = books.microusd.get(KILLED, 0) - told
    least = by_name["least-loaded"].load.computed if "least-loaded" in by_name else None
    return [
        Verdict("crews with the answer that they have without the kill", same, crews, at_most=False),
        Verdict("turns answered in the killed arm", killed.load.turns, whole.load.turns, at_most=False),
        Verdict("charges beyond one for each answer, killed arm", charged - killed.load.turns, 0),
        Verdict("micro-dollars charged beyond what answers said, killed arm", money if told else None, 0),
        Verdict("differences in the books", books.differences, 0),
        Verdict(
            "prompt tokens that affinity computes, against least loaded",
            None if least is None else whole.load.computed,
            least or 0,
        ),
        Verdict("streamed answers a second on one core", per_core, STREAMS_PER_S, at_most=False),
    ]


def _notes(arms: list[FleetArm]) -> list[str]:
    by_name = {arm.name: arm for arm in arms}
    whole, killed = by_name["kv-affine"].load.agents, by_name[KILLED].load.agents
    lost = [after.took_s - before.took_s for before, after in zip(whole, killed, strict=True)]
    return [
        f"time lost per agent by the kill of {by_name[KILLED].killed}: median {median(lost):.1f} s, "
        f"most {max(lost):.1f} s; {sum(one.broken for one in killed)} streams ended with an error and were "
        "sent again"
    ]

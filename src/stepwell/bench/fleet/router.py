"""``stepwell bench router``: how long the choice of a node takes, with very many agents.

The rules alone, without HTTP: a fleet whose nodes have reported all agents, turns that arrive, end and change
what is known, nodes that are reported again meanwhile.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from stepwell.basics.quantiles import percentile
from stepwell.bench.clocks import resident_bytes
from stepwell.bench.harness import BenchRun, SeedOption, bench, numbers_of
from stepwell.console.options import Positive
from stepwell.console.output import sheet
from stepwell.console.report import Verdict
from stepwell.fleet.prefixes import CUTS, PromptPrefix
from stepwell.fleet.routers import ROUTERS, Router
from stepwell.fleet.state import Fleet
from stepwell.fleet.types import HeldTokens, RoutedTurn

Row = tuple[tuple[str, str], str, int, HeldTokens]

LIMIT_US = 300.0
TARGET_NODES, TARGET_AGENTS = 8, 100_000
AGENTS_PER_SESSION = 4
CONTEXT_TOKENS = 2_000
TIERS = ("priority", "default", "flex")
QUICK_DECISIONS = 2_000
COLUMNS = {
    "rule": "{router}",
    "nodes": "{nodes}",
    "agents": "{agents:,}",
    "p50": "{choose_us_p50:,.0f}",
    "p99": "{choose_us_p99:,.0f}",
    "max": "{choose_us_max:,.0f}",
    "p99, wall": "{wall_us_p99:,.0f}",
    "told": "{told_us_p50:,.0f}",
    "bytes/agent": "{bytes_per_agent:,.0f}",
    "rebuilt": "{rebuilt_s:.2f} s",
}


@dataclass(slots=True)
class RouterTime:
    """One rule at one size."""

    router: str
    nodes: int
    agents: int
    choose_us: list[float] = field(default_factory=list)
    """CPU time of the thread: on a busy machine the wall clock counts what others do meanwhile."""
    wall_us: list[float] = field(default_factory=list)
    told_us: list[float] = field(default_factory=list)
    """``sent`` and ``ended`` together."""
    bytes_per_agent: float = 0.0
    rebuilt_s: float = 0.0
    """To take in what all nodes report."""

    def as_json(self) -> dict[str, Any]:
        return {
            "router": self.router,
            "nodes": self.nodes,
            "agents": self.agents,
            **{f"choose_us_p{p}": percentile(self.choose_us, p) for p in (50, 90, 99)},
            "choose_us_max": max(self.choose_us),
            **{f"wall_us_p{p}": percentile(self.wall_us, p) for p in (50, 99)},
            "told_us_p50": percentile(self.told_us, 50),
            "bytes_per_agent": self.bytes_per_agent,
            "rebuilt_s": self.rebuilt_s,
        }


@bench("router")
def main(
    run: BenchRun,
    *,
    nodes: str = "8",
    agents: Positive = TARGET_AGENTS,
    decisions: Positive = 20_000,
    seed: SeedOption = 1,
) -> None:
    """Measure how long it takes to choose a node for a turn, under each rule.

    Example: ``stepwell bench router --nodes 8,64,512``

    Parameters
    ----------
    nodes
        Sizes of the fleet, comma separated.
    agents
        Agents that the fleet knows, each with KV on one node or two.
    decisions
        Turns that are routed at each size.
    """
    sizes = numbers_of("--nodes", nodes, "nodes of a fleet", 1, 4_096)
    decisions = min(decisions, QUICK_DECISIONS) if run.quick else decisions
    run.settings = {"nodes": sizes, "agents": agents, "decisions": decisions, "seed": seed}
    found = []
    for size in sizes:
        for router in ROUTERS.values():
            run.progress.phase(f"{router.name}, {size} nodes, {agents:,} agents")
            found.append(measure(router, size, agents, decisions, seed))
    gc.unfreeze()
    run.results["cases"] = [one.as_json() for one in found]
    run.samples = [{"router": one.router, "nodes": one.nodes, "choose_us": one.choose_us} for one in found]
    run.verdicts = verdicts(found)
    title = "CPU time of one decision in us, the same by the wall clock; of telling sent and ended"
    run.show(sheet(title, COLUMNS, run.results["cases"]))


def measure(router: Router, nodes: int, agents: int, decisions: int, seed: int) -> RouterTime:
    """One rule in a world of its own."""
    dice = random.Random(seed)
    found = RouterTime(router.name, nodes, agents)
    names = [f"node-{n}" for n in range(nodes)]
    fleet = Fleet(names)
    gc.collect()
    rows = reports(names, agents, dice)
    after_reports = resident_bytes()
    started = time.perf_counter()
    for node, told in rows.items():
        fleet.places.replace(node, told)
    found.rebuilt_s = time.perf_counter() - started
    found.bytes_per_agent = max(0, resident_bytes() - after_reports) / agents
    del rows
    gc.collect()
    gc.freeze()  # as the front end does: what is known of agents stays
    now_us, open_turns = 0, []
    for _ in range(decisions):
        now_us += dice.randrange(20_000)
        turn = random_turn(agents, dice)
        started, started_cpu = time.perf_counter(), time.thread_time()
        choice = router.choose(fleet, turn, now_us)
        found.choose_us.append((time.thread_time() - started_cpu) * 1e6)
        found.wall_us.append((time.perf_counter() - started) * 1e6)
        if choice is None:
            continue
        started_cpu = time.thread_time()
        open_turns.append(fleet.sent(turn, choice, now_us))
        if len(open_turns) > 4 * nodes:
            ticket = open_turns.pop(dice.randrange(len(open_turns)))
            tokens = ticket.turn.prompt_tokens
            fleet.ended(
                ticket, now_us, context_tokens=tokens + 64, generated_tokens=64, cached_tokens=tokens // 2
            )
        found.told_us.append((time.thread_time() - started_cpu) * 1e6)
    return found


def reports(names: Sequence[str], agents: int, dice: random.Random) -> dict[str, list[Row]]:
    """What every node has to tell; a fifth of the agents has been on a second node before."""
    rows: dict[str, list[Row]] = {name: [] for name in names}
    for n in range(agents):
        session = f"session-{n // AGENTS_PER_SESSION}"
        name = (f"tenant-{n % 97}", f"{session}/agent-{n}")
        held = HeldTokens(*(dice.randrange(CONTEXT_TOKENS // 3) for _ in range(3)))
        for _ in range(1 + (n % 5 == 0)):
            rows[names[dice.randrange(len(names))]].append((name, session, CONTEXT_TOKENS, held))
    return rows


def random_turn(agents: int, dice: random.Random) -> RoutedTurn:
    """Four of five turns are an agent's next; the others are the first of a new one. Prompts of a session
    begin alike for half their length."""
    n = dice.randrange(agents * 5 // 4)
    session = f"session-{n // AGENTS_PER_SESSION}"
    return RoutedTurn(
        f"tenant-{n % 97}",
        dice.choice(TIERS),
        session,
        f"{session}/agent-{n}",
        prefixes=tuple(
            [
                PromptPrefix(f"{session if cut <= CONTEXT_TOKENS // 2 else n}:{cut}", cut)
                for cut in CUTS
                if cut <= CONTEXT_TOKENS
            ]
        ),
        prompt_tokens=CONTEXT_TOKENS,
    )


def verdicts(found: Sequence[RouterTime]) -> list[Verdict]:
    """The target holds for the first rule at the size that it names."""
    best = next(iter(ROUTERS))
    p99_us = [
        percentile(one.choose_us, 99)
        for one in found
        if (one.router, one.nodes) == (best, TARGET_NODES) and one.agents >= TARGET_AGENTS
    ]
    target = f"{best}, 8 nodes, 100,000 agents: p99 of a decision, CPU time"
    return [Verdict(target, p99_us[0] if p99_us else None, LIMIT_US, " us")]

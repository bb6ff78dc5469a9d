"""``stepwell bench router``: how long the choice of a node takes, with very many agents.

The rules alone, without HTTP: a fleet whose nodes have reported all agents, turns that arrive, end and change
what is known, nodes that are reported again meanwhile.
"""

from __future__ import annotations

import gc
import random
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from stepwell.console.options import JsonOption, Positive, QuickOption
from stepwell.console.output import report_console, table
from stepwell.console.progress import ticker
from stepwell.console.report import Report, Verdict
from stepwell.errors import BadInput
from stepwell.fleet.prefixes import CUTS, PromptPrefix
from stepwell.fleet.routers import ROUTERS, Router
from stepwell.fleet.state import Fleet
from stepwell.fleet.types import HeldTokens, RoutedTurn
from stepwell.quantiles import percentile

Row = tuple[tuple[str, str], str, int, HeldTokens]

LIMIT_US = 300.0
TARGET_NODES, TARGET_AGENTS = 8, 100_000
AGENTS_PER_SESSION = 4
CONTEXT_TOKENS = 2_000
TIERS = ("priority", "default", "flex")
QUICK_DECISIONS = 2_000


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


def main(
    *,
    quick: QuickOption = False,
    json_file: JsonOption = None,
    nodes: str = "8",
    agents: Positive = TARGET_AGENTS,
    decisions: Positive = 20_000,
    seed: int = 1,
) -> None:
    """Measure how long it takes to choose a node for a turn, under each rule.

    Example: stepwell bench router --nodes 8,64,512

    Parameters
    ----------
    nodes
        Sizes of the fleet, comma separated.
    agents
        Agents that the fleet knows, each with KV on one node or two.
    decisions
        Turns that are routed at each size.
    seed
        Of the random world.
    """
    sizes = parse_sizes(nodes)
    decisions = min(decisions, QUICK_DECISIONS) if quick else decisions
    report = Report("router", {"nodes": sizes, "agents": agents, "decisions": decisions, "seed": seed})
    found = []
    with ticker() as progress:
        for size in sizes:
            for router in ROUTERS.values():
                progress.phase(f"{router.name}, {size} nodes, {agents:,} agents")
                found.append(measure(router, size, agents, decisions, seed))
    report.results["cases"] = [one.as_json() for one in found]
    report.samples = [{"router": one.router, "nodes": one.nodes, "choose_us": one.choose_us} for one in found]
    report.verdicts = verdicts(found)
    gc.unfreeze()
    console = report_console(json_file)
    console.print(_table(found))
    report.finish(console, json_file)


def parse_sizes(text: str) -> list[int]:
    """``8,64``. ``BadInput`` for what is no size of a fleet."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    for word in words or [text]:
        if not (word.isascii() and word.isdigit() and 1 <= int(word) <= 4_096):
            raise BadInput(f"--nodes {word!r}: a fleet has 1 to 4,096 nodes")
    return [int(word) for word in words]


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


def resident_bytes() -> int:
    """Memory of this process (Linux; elsewhere 0)."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return 0
    return pages * resource.getpagesize()


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
    for one in found:
        if (one.router, one.nodes) == (best, TARGET_NODES) and one.agents >= TARGET_AGENTS:
            p99_us = percentile(one.choose_us, 99)
            return [
                Verdict(
                    f"{best}, 8 nodes, 100,000 agents: p99 of a decision, CPU time", p99_us, LIMIT_US, " us"
                )
            ]
    return [Verdict(f"{best}, 8 nodes, 100,000 agents: p99 of a decision, CPU time", None, LIMIT_US, " us")]


def _table(found: Sequence[RouterTime]) -> Table:
    columns = ("rule", "nodes", "agents", "p50", "p99", "max", "p99, wall", "told", "bytes/agent", "rebuilt")
    rows = []
    for one in found:
        figures = one.as_json()
        times = [
            f"{figures[key]:,.0f}"
            for key in ("choose_us_p50", "choose_us_p99", "choose_us_max", "wall_us_p99")
        ]
        told = f"{figures['told_us_p50']:,.0f}"
        memory = [f"{one.bytes_per_agent:,.0f}", f"{one.rebuilt_s:.2f} s"]
        rows.append([one.router, f"{one.nodes}", f"{one.agents:,}", *times, told, *memory])
    return table(
        "CPU time of one decision in us, the same by the wall clock; of telling sent and ended", columns, rows
    )

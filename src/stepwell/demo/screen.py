"""The live screen: a row per agent and the fill of the KV tiers. Without a terminal: plain lines.

Colours repeat what the characters already say, so that a screen without colour reads the same.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from stepwell.basics.units import format_size
from stepwell.demo.board import AgentStatus, RunBoard
from stepwell.demo.record import KV_TIERS, AgentSample, DemoCustomer, DemoRun, Sample

LOOKS = {
    "device": ("█", "color(214)", "device"),
    "host": ("▓", "color(37)", "host memory"),
    "disk": ("▒", "color(33)", "disk"),
    "absent": ("·", "bright_black", "nowhere (not computed, or dropped)"),
}
"""Per place: a character and a colour, told apart with and without colour vision, and its name."""
WIDE = 100
"""Columns of a window from which on bars are long."""
BAR_CELLS, NARROW_BAR_CELLS = 24, 10
FILL_CELLS, NARROW_FILL_CELLS, FILL_WORDS = 36, 8, 58
FIXED_LINES = 8
"""Lines beside the agents: head, legend, column heads, fill, margins."""
PLAIN_INTERVAL_S = 4.0


class PlainScreen:
    """A line every few seconds: for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._next_s = 0.0

    def begin(self, run: DemoRun, board: RunBoard, turns: int) -> None:
        """``turns``: as many as were rehearsed."""
        self._run, self._board, self._turns = run, board, turns
        self._next_s = 0.0
        self._say(f"{run.name}:")

    def show(self, sample: Sample) -> None:
        if sample.t_s >= self._next_s:
            self._next_s = sample.t_s + PLAIN_INTERVAL_S
            fill = ", ".join(_share(tier, sample, self._run) for tier in KV_TIERS)
            work = f"running {sample.running}, waiting {sample.waiting}"
            self._say(f"{sample.t_s:6.1f} s  {self._turn()}, {work}; KV {fill}")

    def end(self, completed: bool) -> None:
        self._say(f"{self._run.duration_s:6.1f} s  {_ended(completed)}, {len(self._board.turns)} turns")

    def _turn(self) -> str:
        """A reader that answers nothing usable is asked again, which no rehearsal foresees."""
        done, rehearsed = len(self._board.turns), self._turns
        beyond = f"turn {done}, {rehearsed} were rehearsed"
        return f"turn {done} of {rehearsed}" if done <= rehearsed else beyond

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def _ended(completed: bool) -> str:
    return "done" if completed else "stopped"


def _share(tier: str, sample: Sample, run: DemoRun) -> str:
    limit = run.capacity.limit_bytes(tier)
    return f"{tier} {sample.used_bytes[tier] / limit:.0%}" if limit else f"{tier} off"


class LiveScreen(PlainScreen):
    """A table that is drawn again at every look."""

    def __init__(self, console: Console, customers: Sequence[DemoCustomer], agents: Sequence[str]) -> None:
        super().__init__(console)
        self._customers = {customer.tenant: customer for customer in customers}
        self._agents = list(agents)

    def begin(self, run: DemoRun, board: RunBoard, turns: int) -> None:
        self._run, self._board, self._turns = run, board, turns
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._live.start()

    def show(self, sample: Sample) -> None:
        self._live.update(self.render(sample), refresh=True)

    def end(self, completed: bool) -> None:
        self._live.stop()
        self._say(f"{self._run.name}: {_ended(completed)} after {self._run.duration_s:.1f} s.")

    def render(self, sample: Sample) -> RenderableType:
        """The whole screen for one moment."""
        head = Text(self._run.name, style="bold")
        told = f"{sample.t_s:.0f} s   {self._turn()}   {sample.running} running, {sample.waiting} queued"
        head.append(f"   {told}", style="not bold")
        return Group(head, self._fills(sample), legend(), self._table(sample))

    def _fills(self, sample: Sample) -> Table:
        grid = Table.grid(padding=(0, 2))
        cells = min(FILL_CELLS, max(NARROW_FILL_CELLS, self._console.width - FILL_WORDS))
        for tier in KV_TIERS:
            used, limit = sample.used_bytes[tier], self._run.capacity.limit_bytes(tier)
            words = _fill_words(used, limit, self._run.capacity.token_bytes)
            grid.add_row(f"KV, {tier}", fill_bar(tier, used, limit, cells), words)
        return grid

    def _table(self, sample: Sample) -> Table:
        bar_cells = BAR_CELLS if self._console.width >= WIDE else NARROW_BAR_CELLS
        table = Table(
            box=None, expand=True, pad_edge=False, padding=(0, 2, 0, 0), header_style="bright_black"
        )
        table.add_column("customer", no_wrap=True, width=16)
        table.add_column("agent", no_wrap=True, width=10)
        table.add_column("state", no_wrap=True, ratio=1)
        table.add_column("tokens", no_wrap=True, width=6, justify="right")
        table.add_column("where", no_wrap=True, width=bar_cells)
        table.add_column("TTFT", no_wrap=True, width=7, justify="right")
        longest = max((seen.tokens for seen in sample.agents.values()), default=1)
        shown, before = self._fitting(), ""
        for agent in shown:
            tenant, status, seen = agent.split("/")[0], self._status(agent), sample.agents.get(agent)
            name = Text()
            if tenant != before:
                name = Text(f"{self._customers[tenant].name} ", style="bold")
                name.append(self._customers[tenant].service_tier, style="not bold bright_black")
            tokens = f"{seen.tokens:,}" if seen is not None else ""
            ttft = "" if status.last_ttft_s is None else f"{status.last_ttft_s:.2f} s"
            bar = kv_bar(seen, longest, bar_cells)
            table.add_row(name, status.role, state_words(status, seen), tokens, bar, ttft)
            before = tenant
        if hidden := len(self._agents) - len(shown):
            table.add_row("", "", Text(f"{hidden} more wait", style="bright_black"))
        return table

    def _fitting(self) -> list[str]:
        """As many agents as the window holds; those at work first, in the crews' order."""
        room = max(3, self._console.height - FIXED_LINES)
        if len(self._agents) <= room:
            return self._agents
        busy = sorted(self._agents, key=lambda agent: not self._status(agent).busy)
        kept = set(busy[: room - 1])
        return [agent for agent in self._agents if agent in kept]

    def _status(self, agent: str) -> AgentStatus:
        return self._board.statuses.get(agent) or AgentStatus(agent, agent.split("/")[1])


def make_screen(console: Console, customers: Sequence[DemoCustomer], agents: Sequence[str]) -> PlainScreen:
    """Live on a terminal, plain elsewhere."""
    if console.is_terminal and not console.is_dumb_terminal:
        return LiveScreen(console, customers, agents)
    return PlainScreen(console)


def state_words(status: AgentStatus, seen: AgentSample | None) -> Text:
    """What the agent does, and what the server does for it. Only the crew knows why an agent waits."""
    if not status.busy:
        return Text(status.doing, style="bright_black")
    server = seen.state if seen is not None and seen.state != "idle" else "waiting"
    return Text(f"{status.doing}: {'queued' if server == 'waiting' else server}")


def kv_bar(seen: AgentSample | None, longest: int, cells: int = BAR_CELLS) -> Text:
    """An agent's tokens as a bar, deepest KV tier last; every place with tokens gets a cell."""
    bar = Text()
    for kind, (character, colour, _) in LOOKS.items():
        if seen is not None and (tokens := getattr(seen, kind)):
            bar.append(character * max(1, round(tokens * cells / longest)), style=colour)
    return bar


def fill_bar(tier: str, used: int, limit: int, cells: int = FILL_CELLS) -> Text:
    """How full a KV tier is."""
    character, colour, _ = LOOKS[tier]
    full = min(cells, round(used * cells / limit)) if limit else 0
    bar = Text(character * full, style=colour)
    bar.append("·" * (cells - full), style="bright_black")
    return bar


def _fill_words(used: int, limit: int, token_bytes: int) -> str:
    if not limit:
        return "off"
    tokens = f"{used // token_bytes:,} of {limit // token_bytes:,} tokens"
    return f"{used / limit:4.0%}  {tokens}, {format_size(used)}"


def legend() -> Text:
    """What the characters mean."""
    line = Text(no_wrap=True, overflow="ellipsis")
    for character, colour, name in LOOKS.values():
        line.append(character * 2, style=colour)
        line.append(f" {name}   ", style="bright_black")
    return line

"""The live screen: a row per agent and the fill of the KV tiers. Without a terminal: plain lines.

Colours repeat what the characters already say, so that a screen without colour reads the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from stepwell.basics.units import format_size
from stepwell.demo.board import AgentStatus, RunBoard
from stepwell.demo.record import KV_TIERS, AgentSample, DemoCustomer, DemoRun, Sample

LOOKS = {
    "device": ("█", "color(214)"),
    "host": ("▓", "color(37)"),
    "disk": ("▒", "color(33)"),
    "absent": ("·", "bright_black"),
}
"""Per place: a character and a colour, told apart with and without colour vision."""
BAR_CELLS = 24
NARROW_BAR_CELLS = 10
COLUMNS = {"customer": 16, "agent": 10, "tokens": 6, "TTFT": 7}
"""Widths of the columns that do not give way; the state and the bar share what is left."""
STATE_CELLS = 22
"""The state gets at least so much; then the bar grows, then the state again."""
WIDE_STATE_CELLS = 32
PADDING = 10
FILL_CELLS = 36
NARROW_FILL_CELLS = 8
FILL_WORDS = 58
FIXED_LINES = 8
"""Lines beside the agents: head, legend, column heads, fill, margins."""
PLAIN_INTERVAL_S = 4.0


class Screen(Protocol):
    """Shows a run while it goes on."""

    def begin(self, run: DemoRun, board: RunBoard, turns: int) -> None: ...
    def show(self, sample: Sample) -> None: ...
    def end(self, completed: bool) -> None: ...


def make_screen(console: Console, customers: Sequence[DemoCustomer], agents: Sequence[str]) -> Screen:
    """Live on a terminal, plain elsewhere."""
    if console.is_terminal and not console.is_dumb_terminal:
        return LiveScreen(console, customers, agents)
    return PlainScreen(console)


class PlainScreen:
    """A line every few seconds: for logs and pipes."""

    def __init__(self, console: Console, interval_s: float = PLAIN_INTERVAL_S) -> None:
        self._console = console
        self._interval_s = interval_s
        self._next_s = 0.0
        self._board = RunBoard()
        self._run: DemoRun | None = None
        self._turns = 0

    def begin(self, run: DemoRun, board: RunBoard, turns: int) -> None:
        self._run, self._board, self._turns = run, board, turns
        self._next_s = 0.0
        self._say(f"{run.name}:")

    def show(self, sample: Sample) -> None:
        if sample.t_s < self._next_s:
            return
        self._next_s = sample.t_s + self._interval_s
        self._say(
            f"{sample.t_s:6.1f} s  {_turn(self._board, self._turns)}, running {sample.running}, "
            f"waiting {sample.waiting}; KV {self._fill(sample)}"
        )

    def end(self, completed: bool) -> None:
        if self._run is not None:
            self._say(f"{self._run.duration_s:6.1f} s  {_ended(completed)}, {len(self._board.turns)} turns")

    def _fill(self, sample: Sample) -> str:
        assert self._run is not None
        return ", ".join(_share(tier, sample, self._run) for tier in KV_TIERS)

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def _turn(board: RunBoard, rehearsed: int) -> str:
    """A reader that answers nothing usable is asked again, which no rehearsal foresees."""
    done = len(board.turns)
    return f"turn {done} of {rehearsed}" if done <= rehearsed else f"turn {done}, {rehearsed} were rehearsed"


def _ended(completed: bool) -> str:
    return "done" if completed else "stopped"


def _share(tier: str, sample: Sample, run: DemoRun) -> str:
    limit = run.capacity.limit_bytes(tier)
    return f"{tier} {sample.used_bytes[tier] / limit:.0%}" if limit else f"{tier} off"


class LiveScreen:
    """A table that is drawn again at every look."""

    def __init__(self, console: Console, customers: Sequence[DemoCustomer], agents: Sequence[str]) -> None:
        self._console = console
        self._customers = {customer.tenant: customer for customer in customers}
        self._agents = list(agents)
        self._live: Live | None = None
        self._run: DemoRun | None = None
        self._board = RunBoard()
        self._turns = 0

    def begin(self, run: DemoRun, board: RunBoard, turns: int) -> None:
        self._run, self._board, self._turns = run, board, turns
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._live.start()

    def show(self, sample: Sample) -> None:
        if self._live is not None:
            self._live.update(self.render(sample), refresh=True)

    def end(self, completed: bool) -> None:
        if self._live is not None and self._run is not None:
            self._live.stop()
            self._live = None
            line = f"{self._run.name}: {_ended(completed)} after {self._run.duration_s:.1f} s."
            self._console.print(line, highlight=False)

    def render(self, sample: Sample) -> RenderableType:
        """The whole screen for one moment."""
        assert self._run is not None
        return Group(self._head(sample), self._fills(sample), legend(), self._table(sample))

    def _head(self, sample: Sample) -> Text:
        assert self._run is not None
        line = Text()
        line.append(self._run.name, style="bold")
        line.append(f"   {sample.t_s:.0f} s   {_turn(self._board, self._turns)}   ")
        line.append(f"{sample.running} running, {sample.waiting} queued")
        return line

    def _fills(self, sample: Sample) -> Table:
        assert self._run is not None
        grid = Table.grid(padding=(0, 2))
        cells = min(FILL_CELLS, max(NARROW_FILL_CELLS, self._console.width - FILL_WORDS))
        for tier in KV_TIERS:
            used, limit = sample.used_bytes[tier], self._run.capacity.limit_bytes(tier)
            words = _fill_words(used, limit, self._run.capacity.token_bytes)
            grid.add_row(f"KV, {tier}", fill_bar(tier, used, limit, cells), words)
        return grid

    def _table(self, sample: Sample) -> Table:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bright_black")
        bar_cells, state_cells = self._widths()
        widths = COLUMNS | {"state": state_cells, "where": bar_cells}
        for head in ("customer", "agent", "state", "tokens", "where", "TTFT"):
            justify: Literal["left", "right"] = "right" if head in ("tokens", "TTFT") else "left"
            table.add_column(head, justify=justify, no_wrap=True, width=widths[head])
        shown = self._fitting(sample)
        longest = max((seen.tokens for seen in sample.agents.values()), default=1)
        before = ""
        for agent in shown:
            tenant = agent.split("/")[0]
            table.add_row(*self._row(agent, sample.agents.get(agent), longest, tenant != before))
            before = tenant
        if hidden := len(self._agents) - len(shown):
            table.add_row("", "", Text(f"{hidden} more wait", style="bright_black"))
        return table

    def _fitting(self, sample: Sample) -> list[str]:
        """As many agents as the window holds; those at work first, in the crews' order."""
        room = max(3, self._console.height - FIXED_LINES)
        if len(self._agents) <= room:
            return self._agents
        busy = sorted(self._agents, key=lambda agent: not self._status(agent).busy)
        kept = set(busy[: room - 1])
        return [agent for agent in self._agents if agent in kept]

    def _status(self, agent: str) -> AgentStatus:
        return self._board.statuses.get(agent) or AgentStatus(agent, agent.split("/")[1])

    def _widths(self) -> tuple[int, int]:
        """Cells for the bar and for the state: what the fixed columns leave."""
        room = self._console.width - sum(COLUMNS.values()) - PADDING
        bar_cells = min(BAR_CELLS, max(NARROW_BAR_CELLS, room - STATE_CELLS))
        return bar_cells, min(WIDE_STATE_CELLS, max(1, room - bar_cells))

    def _row(
        self, agent: str, seen: AgentSample | None, longest: int, first: bool
    ) -> tuple[RenderableType, ...]:
        status = self._status(agent)
        customer = self._customers[agent.split("/")[0]]
        name = Text(f"{customer.name} ", style="bold") if first else Text()
        if first:
            name.append(customer.service_tier, style="not bold bright_black")
        ttft = "" if status.last_ttft_s is None else f"{status.last_ttft_s:.2f} s"
        tokens = f"{seen.tokens:,}" if seen is not None else ""
        bar = kv_bar(seen, longest, self._widths()[0])
        return name, status.role, state_words(status, seen), tokens, bar, ttft


def state_words(status: AgentStatus, seen: AgentSample | None) -> Text:
    """What the agent does, and what the server does for it. Only the crew knows why an agent waits."""
    if not status.busy:
        return Text(status.doing, style="bright_black")
    server = seen.state if seen is not None and seen.state != "idle" else "waiting"
    return Text(f"{status.doing}: {'queued' if server == 'waiting' else server}")


def kv_bar(seen: AgentSample | None, longest: int, cells: int = BAR_CELLS) -> Text:
    """An agent's tokens as a bar, deepest KV tier last; every place with tokens gets a cell."""
    bar = Text()
    if seen is None:
        return bar
    for kind, tokens in (
        ("device", seen.device),
        ("host", seen.host),
        ("disk", seen.disk),
        ("absent", seen.absent),
    ):
        if tokens:
            character, colour = LOOKS[kind]
            bar.append(character * max(1, round(tokens * cells / longest)), style=colour)
    return bar


def fill_bar(tier: str, used: int, limit: int, cells: int = FILL_CELLS) -> Text:
    """How full a KV tier is."""
    character, colour = LOOKS[tier]
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
    words = {
        "device": "device",
        "host": "host memory",
        "disk": "disk",
        "absent": "nowhere (not computed, or dropped)",
    }
    line = Text(no_wrap=True, overflow="ellipsis")
    for kind, (character, colour) in LOOKS.items():
        line.append(character * 2, style=colour)
        line.append(f" {words[kind]}   ", style="bright_black")
    return line

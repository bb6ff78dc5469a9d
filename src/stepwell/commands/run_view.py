"""A crew at work, on screen: a live tree of its agents, or plain lines where nobody looks."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.tree import Tree

from stepwell.agents import events
from stepwell.errors import BadInput

WIDEST = 70
REDRAWS_PER_S = 4
FEWEST_COLUMNS = 120


@dataclass(slots=True)
class Line:
    """One agent as the view shows it."""

    agent: str
    parent: str | None
    doing: str = "begins"
    turns: int = 0
    tokens: int = 0
    cost_microusd: int | None = None

    def text(self) -> str:
        cost = "" if self.cost_microusd is None else f", {usd(self.cost_microusd)}"
        used = f"{self.turns} turns, {self.tokens:,} tokens{cost}"
        return f"[bold]{escape(self.agent)}[/]  {escape(self.doing)}  [dim]{used}[/]"


def usd(microusd: int) -> str:
    """Whole micro-dollars, written without rounding."""
    return f"{microusd // 1_000_000}.{microusd % 1_000_000:06d} USD"


def brief(text: str) -> str:
    """The beginning of a text, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= WIDEST else line[: WIDEST - 3] + "..."


def doing(event: events.Event) -> str | None:
    """What its agent does from here on, in words; None: the event says nothing of that."""
    match event:
        case events.Assigned(task=task):
            return f"was asked: {brief(task)}"
        case events.TurnBegan(number=number):
            return f"thinks (turn {number})"
        case events.CallBegan(tool=tool):
            return f"calls {tool}"
        case events.Waiting(waits_for="child", after_agent=str(after)):
            return f"waits for {after}"
        case events.Retried(why=why, wait_ms=wait_ms):
            return f"waits {wait_ms} ms for the server: {brief(why)}"
        case events.Ended(outcome=outcome, text=text):
            return f"{outcome}: {brief(text)}"
    return None


def spoken(event: events.Event) -> str | None:
    """A plain line for what is worth one."""
    match event:
        case events.Planned(agent=agent, round_number=number, steps=steps, dropped=dropped):
            left_out = f" (left out: {'; '.join(dropped)})" if dropped else ""
            return f"{agent} plans, round {number}: {brief('; '.join(steps))}{left_out}"
        case events.Messaged(author=author, recipient=recipient, text=text):
            return f"{author} to {recipient}: {brief(text)}"
        case events.Assigned() | events.CallBegan() | events.Retried() | events.Ended():
            return f"{event.agent} {doing(event)}"
    return None


@dataclass(slots=True)
class View:
    """What is known of every agent, and how it is shown."""

    console: Console
    live: Live | None = None
    lines: dict[str, Line] = field(default_factory=dict)
    note: str = ""

    def __call__(self, event: events.Event) -> None:
        self._learn(event)
        text = spoken(event)
        if self.live is None:
            if text is not None:
                self.console.print(text, markup=False, soft_wrap=True)
        else:
            self.note = text if isinstance(event, events.Planned) and text else self.note

    def _learn(self, event: events.Event) -> None:
        if isinstance(event, events.Spawned):
            self.lines.setdefault(event.agent, Line(event.agent, event.parent))
        line = self.lines.get(getattr(event, "agent", ""))
        if line is None:
            return
        line.doing = doing(event) or line.doing
        if isinstance(event, events.TurnEnded):
            usage = event.usage
            line.turns = event.number
            line.tokens += usage.prompt_tokens + usage.completion_tokens
            if usage.cost_microusd is not None:
                line.cost_microusd = (line.cost_microusd or 0) + usage.cost_microusd

    def __rich__(self) -> Tree:
        """Drawn by rich, a few times a second."""
        top = Tree(escape(self.note) or "the crew begins")
        drawn: dict[str, Tree] = {}
        for name, line in list(self.lines.items()):
            above = drawn.get(line.parent or "", top)
            drawn[name] = above.add(line.text())
        return top


@contextmanager
def watched(console: Console) -> Iterator[View]:
    """A view of one run; on a terminal the tree stays there at its end."""
    view = View(console)
    if not console.is_terminal:
        console.width = max(console.width, FEWEST_COLUMNS)
        yield view
        return
    with Live(view, console=console, refresh_per_second=REDRAWS_PER_S, vertical_overflow="ellipsis") as live:
        view.live = live
        yield view


@contextmanager
def trace_file(path: Path | None) -> Iterator[list[events.Listener]]:
    """A listener that writes every event as a line of JSON, with the time since the start in microseconds."""
    if path is None:
        yield []
        return
    try:
        file = path.open("w", encoding="utf-8")
    except OSError as error:
        raise BadInput(f"--trace {path} cannot be written: {error.strerror}") from error
    with file:
        yield [_writer(file)]


def _writer(file: IO[str]) -> events.Listener:
    began_us = time.monotonic_ns() // 1_000

    def write(event: events.Event) -> None:
        line = {"at_us": events.now_us() - began_us} | events.as_json(event)
        file.write(json.dumps(line, ensure_ascii=False) + "\n")
        file.flush()  # what happened before a crash is what one wants to read after it

    return write

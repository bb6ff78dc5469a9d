"""A crew at work, on screen: a live tree of its agents, or plain lines without a terminal."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text
from rich.tree import Tree

from stepwell.agents import events
from stepwell.agents.tracing import without_texts
from stepwell.basics.private import begun_privately
from stepwell.basics.units import counted
from stepwell.errors import BadInput, StepwellError

WIDEST = 70
ROW_CHARS = 300
"""Of a text in the tree, where the terminal cuts it."""
REDRAWS_PER_S = 4
FEWEST_COLUMNS = 120
FRAME_ROWS = 4
"""Rows of the screen that are not an agent's: the two above, and room for what is printed below."""
LAST_ROWS = 100
"""Agents that stay on the terminal when the run has ended."""
AT_WORK_STYLE, WRONG_STYLE = "cyan", "yellow"


@dataclass(slots=True)
class AgentLine:
    """One agent as the view shows it."""

    agent: str
    parent: str | None
    doing: str = "begins"
    about: str = ""
    """What it was asked, or has answered."""
    turns: int = 0
    tokens: int = 0
    cost_microusd: int | None = None
    at_work: bool = True
    wrong: bool = False
    since_us: int = field(default_factory=events.now_us)

    def text(self, now_us: int) -> Text:
        """On one row: what does not fit is cut at the end."""
        shown = Text(no_wrap=True, overflow="ellipsis")
        shown.append(self.agent.removeprefix(f"{self.parent}."), "bold")
        style = WRONG_STYLE if self.wrong else AT_WORK_STYLE if self.at_work else ""
        seconds = (now_us - self.since_us) // 1_000_000
        shown.append(f"  {self.doing}{f' {seconds} s' if self.at_work and seconds else ''}", style)
        if self.turns:
            shown.append(f"  {used(self.turns, self.tokens, self.cost_microusd)}", "dim")
        return shown.append(f"  {self.about}" if self.about else "")

    def learn(self, event: events.Event) -> None:
        """What changes by an event of this agent."""
        state = doing(event)
        if state is not None and state != self.doing:
            self.doing, self.since_us = state, events.now_us()
        match event:
            case events.Assigned(task=task):
                self.about, self.at_work, self.wrong = brief(last_line(task), ROW_CHARS), True, False
            case events.Planned(steps=steps):
                self.about = brief("; ".join(steps), ROW_CHARS)
            case events.Ended(outcome=outcome, text=text):
                self.at_work, self.wrong = False, outcome != "completed"
                self.about = brief(plainly(text), ROW_CHARS)
            case events.TurnEnded(number=number, usage=usage):
                self.turns = number
                self.tokens += usage.prompt_tokens + usage.completion_tokens
                if usage.cost_microusd is not None:
                    self.cost_microusd = (self.cost_microusd or 0) + usage.cost_microusd


def used(turns: int, tokens: int, cost_microusd: int | None) -> str:
    cost = "" if cost_microusd is None else f", {usd(cost_microusd)}"
    return f"{counted(turns, 'turn')}, {tokens:,} tokens{cost}"


def usd(microusd: int) -> str:
    """Whole micro-dollars, written without rounding."""
    return f"{microusd // 1_000_000}.{microusd % 1_000_000:06d} USD"


def brief(text: str, widest: int = WIDEST) -> str:
    """The beginning of a text, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= widest else line[: widest - 3] + "..."


def last_line(task: str) -> str:
    """Of a task: what is to be done stands there, after what it rests on."""
    return (task.strip().splitlines() or [""])[-1]


def plainly(text: str) -> str:
    """An answer that is a JSON object, for people: its plain values by name."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if not isinstance(value, dict):
        return text
    if isinstance(value.get("steps"), list):
        return f"a plan of {counted(len(value['steps']), 'step')}" if value["steps"] else "no more steps"
    return ", ".join(f"{key}: {_plain_value(one)}" for key, one in value.items())


def _plain_value(value: object) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def doing(event: events.Event) -> str | None:
    """What its agent does from here on, in words; None: the event says nothing of that."""
    match event:
        case events.Assigned():
            return "begins"
        case events.TurnBegan(number=number):
            return f"thinks (turn {number})"
        case events.CallBegan(tool=tool):
            return f"calls {tool}"
        case events.Waiting(waits_for="child", after_agent=str(after)):
            return f"waits for {after}"
        case events.Retried(why=why):
            return f"waits for the server ({brief(why)})"
        case events.Ended(outcome=outcome):
            return outcome
    return None


def spoken(event: events.Event) -> str | None:
    """A plain line for what is worth one."""
    match event:
        case events.Planned(agent=agent, round_number=number, steps=steps, dropped=dropped):
            left_out = f" (left out: {'; '.join(dropped)})" if dropped else ""
            return f"{agent} plans, round {number}: {brief('; '.join(steps))}{left_out}"
        case events.Messaged(author=author, recipient=recipient, text=text):
            return f"{author} to {recipient}: {brief(text)}"
        case events.Assigned(agent=agent, task=task):
            return f"{agent} was asked: {brief(task)}"
        case events.CallBegan(agent=agent, tool=tool):
            return f"{agent} calls {tool}"
        case events.CallEnded(agent=agent, tool=tool, ok=False):
            return f"{agent} was told that {tool} failed"
        case events.Retried(agent=agent, why=why, wait_ms=wait_ms):
            return f"{agent} waits {wait_ms} ms for the server: {brief(why)}"
        case events.Ended(agent=agent, outcome=outcome, text=text):
            return f"{agent} {outcome}: {brief(plainly(text))}"
    return None


@dataclass(slots=True)
class RunView:
    """What is known of every agent, and how it is shown."""

    console: Console
    title: str = "the crew"
    live: Live | None = None
    lines: dict[str, AgentLine] = field(default_factory=dict)
    plan: str = ""
    ended: bool = False
    began_us: int = field(default_factory=events.now_us)

    def __call__(self, event: events.Event) -> None:
        self._learn(event)
        text = spoken(event)
        if self.live is None and text is not None:
            self.console.print(text, markup=False, soft_wrap=True)

    def _learn(self, event: events.Event) -> None:
        if isinstance(event, events.Spawned):
            self.lines.setdefault(event.agent, AgentLine(event.agent, event.parent))
        elif isinstance(event, events.Planned):
            self.plan = f"round {event.round_number}: {'; '.join(event.steps) or 'no more steps'}"
        line = self.lines.get(getattr(event, "agent", ""))
        if line is not None:
            line.learn(event)

    def __rich__(self) -> Group:
        """Drawn by rich, a few times a second, in a thread of its own."""
        now_us, lines = events.now_us(), dict(self.lines)
        room = LAST_ROWS if self.ended else max(3, self.console.height - FRAME_ROWS)
        drawn = shown_agents(lines, room)
        top = Tree(self._head(lines, now_us), guide_style="dim")
        branches: dict[str, Tree] = {}
        for name in lines:
            if name in drawn:
                above = branches.get(lines[name].parent or "", top)
                branches[name] = above.add(lines[name].text(now_us))
        hidden = [line for name, line in lines.items() if name not in drawn]
        if hidden:
            working = sum(line.at_work for line in hidden)
            top.add(Text(f"and {len(hidden) - working} that have ended, {working} at work", "dim"))
        plan = (
            [Text(" ".join(self.plan.split()), "dim", no_wrap=True, overflow="ellipsis")] if self.plan else []
        )
        return Group(*plan, top)

    def _head(self, lines: dict[str, AgentLine], now_us: int) -> Text:
        turns, tokens = (sum(getattr(line, one) for line in lines.values()) for one in ("turns", "tokens"))
        costs = [line.cost_microusd for line in lines.values() if line.cost_microusd is not None]
        seconds = (now_us - self.began_us) // 1_000_000
        took = used(turns, tokens, sum(costs) if costs else None)
        head = f"{self.title}: {seconds} s, {counted(len(lines), 'agent')}, {took}"
        return Text(head, no_wrap=True, overflow="ellipsis")


def shown_agents(lines: Mapping[str, AgentLine], room: int) -> set[str]:
    """Which agents to draw where there is room for so many: those at work, then those that ended last, each
    with those above it."""
    if len(lines) <= room:
        return set(lines)
    shown: set[str] = set()
    ended = sorted(
        (name for name in lines if not lines[name].at_work), key=lambda name: -lines[name].since_us
    )
    for name in [*(name for name in lines if lines[name].at_work), *ended]:
        path = {name}
        above = lines[name].parent
        while above is not None and above in lines:
            path.add(above)
            above = lines[above].parent
        if len(shown | path) <= room - 1:  # one row says how many are left out
            shown |= path
    return shown


@contextmanager
def watched(console: Console, title: str = "the crew") -> Iterator[RunView]:
    """A view of one run; on a terminal the tree stays there at its end."""
    view = RunView(console, title)
    if not console.is_terminal:
        console.width = max(console.width, FEWEST_COLUMNS)
        yield view
        return
    with Live(view, console=console, refresh_per_second=REDRAWS_PER_S, vertical_overflow="ellipsis") as live:
        view.live = live
        try:
            yield view
        finally:
            view.ended = True


@contextmanager
def trace_file(
    path: Path | None, head: Mapping[str, object] | None = None, *, texts: bool = True
) -> Iterator[list[events.Listener]]:
    """A listener that writes every event as a line of JSON, with the time since the start in microseconds.

    The first line is ``head`` with the time of day. Without ``texts`` each text is its number of characters.

    Where the disk is full the crew works on, and the trace ends; ``StepwellError`` says so when the work
    under it is done. ``BadInput`` at once where the file cannot be opened.
    """
    if path is None:
        yield []
        return
    try:
        begun_privately(path)
        file = path.open("wb", buffering=0)  # what happened before a crash is what one wants to read after it
    except OSError as error:
        raise BadInput(f"--trace {path} cannot be written: {error.strerror}") from error
    with file:
        trace = _Trace(file, texts)
        began = datetime.now(UTC).isoformat(timespec="milliseconds")
        trace.write({"event": "trace", "at_us": 0, "began": began, **(head or {})})
        yield [trace]
    if trace.fault is not None:
        raise StepwellError(
            f"--trace {path} is not whole: {trace.fault.strerror}; make room for the next one"
        )


@dataclass(slots=True)
class _Trace:
    """Writes events until it cannot."""

    file: FileIO
    texts: bool = True
    fault: OSError | None = None
    began_us: int = field(default_factory=events.now_us)

    def __call__(self, event: events.Event) -> None:
        if self.fault is None:
            line = {"at_us": events.now_us() - self.began_us} | events.as_json(event)
            self.write(line if self.texts else without_texts(line))

    def write(self, line: Mapping[str, object]) -> None:
        data = (json.dumps(line, ensure_ascii=False) + "\n").encode()
        try:
            if self.file.write(data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as fault:
            self.fault = fault

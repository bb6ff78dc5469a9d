"""The trace of a session: a line of JSON for each event, and what the lines say read back as steps in time.

The first line names the session and the crew. ``appended`` lines hold every message of every agent once, so
the prompt of a turn is all messages of its agent up to there. Without texts the lines keep names, ids, times,
tokens and cost, and of each text its number of characters.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stepwell.agents.events import TurnUsage
from stepwell.errors import BadInput

TEXTS = frozenset(
    {"ask", "task", "arguments", "result", "text", "steps", "dropped", "why", "messages", "request"}
)
"""Fields of events that hold what people, models and tools said."""
Line = Mapping[str, Any]


def without_texts(line: Line) -> dict[str, Any]:
    """The line with the number of characters in place of each text."""
    return {
        key: {"chars": len(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))}
        if key in TEXTS
        else value
        for key, value in line.items()
    }


@dataclass(slots=True)
class TraceStep:
    """One turn of an agent or one call of a tool. Times are microseconds since the trace began."""

    kind: str
    """``turn`` or ``call``."""
    name: str
    start_us: int
    end_us: int | None = None
    """None: the trace ends before it does."""
    usage: TurnUsage | None = None
    failed: bool = False
    details: dict[str, Any] = field(default_factory=dict)
    """What else is known: model, response id, arguments, result, the messages before it."""

    def seconds(self, now_us: int) -> float:
        return ((now_us if self.end_us is None else self.end_us) - self.start_us) / 1e6


@dataclass(slots=True)
class AgentTrace:
    """One agent: what it was asked, its steps, and how its last task ended."""

    name: str
    parent: str | None
    role: str
    tasks: list[Any] = field(default_factory=list)
    steps: list[TraceStep] = field(default_factory=list)
    notes: list[tuple[int, str]] = field(default_factory=list)
    """Waits for the server, plans and messages, with their time."""
    messages: list[Any] = field(default_factory=list)
    """As far as texts were kept."""
    outcome: str = ""
    text: Any = ""
    said: int = 0
    """How many of its messages stand before its last step."""

    @property
    def turns(self) -> list[TraceStep]:
        return [step for step in self.steps if step.kind == "turn"]

    @property
    def usage(self) -> TurnUsage:
        return total(step.usage for step in self.turns)


@dataclass(slots=True)
class Trace:
    """A session as its trace tells it."""

    head: dict[str, Any] = field(default_factory=dict)
    agents: dict[str, AgentTrace] = field(default_factory=dict)
    status: str = ""
    """Empty: the trace ends before the session does."""
    text: Any = ""
    end_us: int = 0

    def children(self, agent: str | None) -> list[AgentTrace]:
        return [one for one in self.agents.values() if one.parent == agent]

    @property
    def usage(self) -> TurnUsage:
        return total(one.usage for one in self.agents.values())


def total(usages: Iterable[TurnUsage | None]) -> TurnUsage:
    """The sum; a cost that no server told stays untold."""
    sum_of = TurnUsage()
    for one in usages:
        if one is not None:
            costs = [cost for cost in (sum_of.cost_microusd, one.cost_microusd) if cost is not None]
            sum_of = TurnUsage(
                sum_of.prompt_tokens + one.prompt_tokens,
                sum_of.cached_tokens + one.cached_tokens,
                sum_of.recomputed_tokens + one.recomputed_tokens,
                sum_of.completion_tokens + one.completion_tokens,
                sum(costs) if costs else None,
            )
    return sum_of


def read_trace(lines: Iterable[str], where: str = "trace") -> Trace:
    """What a trace file says. A last line that was cut by a crash is left out. Raises ``BadInput``."""
    trace = Trace()
    for line in _parsed(list(lines), where):
        at_us = int(line.get("at_us", 0))
        trace.end_us = max(trace.end_us, at_us)
        _learn(trace, str(line["event"]), at_us, line)
    if not trace.agents and not trace.head:
        raise BadInput(f"{where} has no events: write one with stepwell run --trace FILE")
    return trace


def _parsed(lines: Sequence[str], where: str) -> Iterator[dict[str, Any]]:
    for number, text in enumerate(lines, 1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
            is_event = isinstance(line, dict) and isinstance(line.get("event"), str)
        except ValueError as error:
            if number == len(lines):
                return
            raise BadInput(f"{where}, line {number}: it is not JSON ({error})") from error
        if not is_event:
            raise BadInput(f"{where}, line {number}: it is no event of a session")
        yield line


def _learn(trace: Trace, event: str, at_us: int, line: Line) -> None:
    if event in ("trace", "began"):
        trace.head |= {key: value for key, value in line.items() if key not in ("event", "at_us")}
    elif event == "finished":
        trace.status, trace.text = str(line["status"]), line["text"]
        for root in trace.children(None):  # a planner, or one left out, has no task of its own that ends
            root.outcome = root.outcome or trace.status
    elif event == "spawned":
        name = str(line["agent"])
        trace.agents[name] = AgentTrace(name, line["parent"], str(line["role"]))
    elif (agent := trace.agents.get(str(line.get("agent") or line.get("author")))) is not None:
        _learn_of(agent, event, at_us, line)


def _learn_of(agent: AgentTrace, event: str, at_us: int, line: Line) -> None:
    match event:
        case "assigned":
            agent.tasks.append(line["task"])
        case "appended":
            told = line["messages"]
            agent.messages += told if isinstance(told, list) else [told]
            _note_answer(agent, agent.messages[-1])
        case "turn_began":
            details = {key: line[key] for key in ("model", "number", "request") if key in line}
            details["messages"] = agent.messages[agent.said :]
            agent.said = len(agent.messages)
            agent.steps.append(TraceStep("turn", f"turn {line['number']}", at_us, details=details))
        case "call_began":
            details = {"arguments": line["arguments"]}
            agent.steps.append(TraceStep("call", str(line["tool"]), at_us, details=details))
        case "turn_ended":
            _end(agent, at_us, line, TurnUsage(**line["usage"]))
        case "call_ended":
            _end(agent, at_us, line, None)
        case "retried":
            agent.notes.append((at_us, f"waits {line['wait_ms']} ms for the server"))
        case "planned":
            steps = line["steps"] if isinstance(line["steps"], list) else [line["steps"]]
            told = "; ".join(one if isinstance(one, str) else json.dumps(one) for one in steps)
            agent.notes.append((at_us, f"plans, round {line['round_number']}: {told or 'nothing more'}"))
        case "messaged":
            agent.notes.append((at_us, f"writes to {line['recipient']}"))
        case "ended":
            agent.outcome, agent.text = str(line["outcome"]), line["text"]


def _note_answer(agent: AgentTrace, message: Any) -> None:
    """What the model said belongs to the turn that is under way."""
    step = agent.steps[-1] if agent.steps else None
    spoken = isinstance(message, dict) and message.get("role") == "assistant" and message.get("content")
    if spoken and step is not None and step.kind == "turn" and step.end_us is None:
        step.details["answer"] = spoken


def _end(agent: AgentTrace, at_us: int, line: Line, usage: TurnUsage | None) -> None:
    """The step that is open; a turn that failed has no end of its own."""
    if not agent.steps or agent.steps[-1].end_us is not None:
        return
    step = agent.steps[-1]
    step.end_us, step.usage, step.failed = at_us, usage, not line.get("ok", True)
    step.details |= {key: line[key] for key in ("response", "result", "cut") if key in line}


def perfetto(trace: Trace) -> dict[str, Any]:
    """The trace as ``ui.perfetto.dev`` and ``chrome://tracing`` open it: a track for each agent.

    https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU (Trace Event Format).
    """
    made: list[dict[str, Any]] = [
        {"ph": "M", "name": "process_name", "pid": 1, "args": {"name": str(trace.head.get("crew", "crew"))}}
    ]
    for number, agent in enumerate(trace.agents.values(), 1):
        track = {"pid": 1, "tid": number}
        made.append({"ph": "M", "name": "thread_name", **track, "args": {"name": agent.name}})
        for step in agent.steps:
            used = {} if step.usage is None else _args_of(step.usage)
            made.append(
                {
                    **{"ph": "X", "name": step.name, "cat": step.kind, **track},
                    **{"ts": step.start_us, "dur": round(step.seconds(trace.end_us) * 1e6)},
                    "args": used | {"failed": step.failed} | step.details,
                }
            )
        made += [{"ph": "i", "s": "t", "name": note, "ts": at_us, **track} for at_us, note in agent.notes]
    return {"traceEvents": made, "displayTimeUnit": "ms", "otherData": trace.head}


def _args_of(usage: TurnUsage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "cached_tokens": usage.cached_tokens,
        "answer_tokens": usage.completion_tokens,
        "cost_microusd": usage.cost_microusd,
    }

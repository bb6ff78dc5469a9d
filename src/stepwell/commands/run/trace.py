"""``stepwell trace``: the trace of a session as a tree of its agents, with time and cost beside each step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.text import Text
from rich.tree import Tree

from stepwell.agents.events import TurnUsage
from stepwell.agents.tracing import AgentTrace, Trace, TraceStep, perfetto, read_trace
from stepwell.basics.units import counted
from stepwell.commands.run.trace_otlp import send
from stepwell.commands.run.view import brief, usd
from stepwell.console.fitting import UNBOUNDED
from stepwell.console.options import ResultOption, flag, option, writable
from stepwell.console.output import report_console, write_json
from stepwell.errors import BadInput
from stepwell.telemetry.redaction import redacted

SHOWN_CHARS = 300


def trace(
    file: Annotated[Path, Parameter(help="What 'stepwell run --trace FILE' wrote.")],
    /,
    *,
    text: Annotated[bool, flag("Show prompts, answers and results of tools whole.")] = False,
    perfetto_file: Annotated[
        Path | None,
        Parameter(
            name="--perfetto",
            validator=writable,
            help="Write it here for ui.perfetto.dev and chrome://tracing.",
        ),
    ] = None,
    otlp: Annotated[
        str | None,
        option("Send it as spans to this OTLP endpoint over HTTP, or to Langfuse."),
    ] = None,
    otlp_header: Annotated[tuple[str, ...], option("A header for --otlp, as NAME=VALUE (repeat).")] = (),
    json_file: ResultOption = None,
) -> int:
    """A session step by step: which agent asked which, when, for how long, at what cost.

    Times count from the start of the run. Example:

        stepwell run documents report.pdf --ask "Who paid for the well?" --trace trace.jsonl
        stepwell trace trace.jsonl
        stepwell trace trace.jsonl --text | less
        stepwell trace trace.jsonl --perfetto trace.json
        stepwell trace trace.jsonl --otlp http://127.0.0.1:4318
        stepwell trace trace.jsonl --otlp https://cloud.langfuse.com/api/public/otel

    Langfuse wants LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY in the environment. What was said is sent as
    far as the trace has it: 'stepwell run --no-trace-text' leaves it out.
    """
    headers = _headers(otlp_header, otlp)
    found = read_trace(_lines(file), str(file))
    console = report_console(json_file)
    # Long texts are wrapped inside their branch; in a file or a pipe a line is as long as its text.
    console.print(_tree(found, whole=text), width=None if console.is_terminal else UNBOUNDED)
    if perfetto_file is not None:
        perfetto_file.write_text(json.dumps(perfetto(found), ensure_ascii=False), encoding="utf-8")
    write_json(json_file, _as_json(found))
    sent = (
        "" if otlp is None else f" Sent: {counted(send(found, otlp, headers), 'span')} to {redacted(otlp)}."
    )
    console.print(
        _last_line(found, perfetto_file) + sent, style="bold", markup=False, highlight=False, soft_wrap=True
    )
    return 0


def _headers(given: tuple[str, ...], otlp: str | None) -> dict[str, str]:
    if given and otlp is None:
        raise BadInput("--otlp-header is for --otlp: give its URL")
    headers = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise BadInput("--otlp-header: write NAME=VALUE")
        headers[name.strip()] = value.strip()
    return headers


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text("utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise BadInput(f"{file} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _tree(found: Trace, *, whole: bool) -> Tree:
    crew, session = found.head.get("crew", "a crew"), found.head.get("session", "")
    tree = Tree(Text(f"{crew} {session}".strip(), "bold"))
    if "ask" in found.head:
        tree.add(Text(f"asked: {_shown(found.head['ask'], whole=whole)}"))
    for agent in found.children(None):
        _add_agent(tree, found, agent, whole=whole)
    return tree


def _add_agent(tree: Tree, found: Trace, agent: AgentTrace, *, whole: bool) -> None:
    head = Text(agent.name, "bold")
    head.append(f"  {agent.outcome or 'under way'}", "" if agent.outcome == "completed" else "yellow")
    head.append(f"  {_took(agent, found)}", "dim")
    branch = tree.add(head)
    for task in agent.tasks:
        branch.add(Text(f"asked: {_shown(task, whole=whole)}"))
    entries: list[tuple[int, TraceStep | str]] = [(step.start_us, step) for step in agent.steps]
    entries += [(at_us, note) for at_us, note in agent.notes]
    for at_us, entry in sorted(entries, key=lambda pair: pair[0]):
        _add_entry(branch, found, at_us, entry, whole=whole)
    for child in found.children(agent.name):
        _add_agent(branch, found, child, whole=whole)
    if agent.text:
        branch.add(Text(f"said: {_shown(agent.text, whole=whole)}"))


def _add_entry(branch: Tree, found: Trace, at_us: int, entry: TraceStep | str, *, whole: bool) -> None:
    if isinstance(entry, str):
        branch.add(Text(f"{at_us / 1e6:8.2f} s  {entry}", "yellow"))
        return
    line = Text(f"{at_us / 1e6:8.2f} s  {entry.name}  {entry.seconds(found.end_us):.2f} s")
    if entry.usage is not None:
        line.append(f"  {_tokens(entry.usage)}", "dim")
    if entry.failed or entry.end_us is None:
        line.append("  failed" if entry.failed else "  not ended", "yellow")
    if entry.kind == "call":
        line.append(f"  {_shown(entry.details.get('arguments', ''), whole=whole)}")
    step = branch.add(line)
    if whole:
        for message in entry.details.get("messages", ()):
            step.add(Text(_message(message)))
    if "result" in entry.details:
        step.add(Text(f"gave: {_shown(entry.details['result'], whole=whole)}"))


def _message(message: Any) -> str:
    """One message of a prompt, whole."""
    if not isinstance(message, dict) or "role" not in message:
        return _shown(message, whole=True)
    said = message.get("content") or json.dumps(message.get("tool_calls"), ensure_ascii=False)
    return f"{message['role']}: {said}"


def _shown(value: Any, *, whole: bool) -> str:
    """A text, or how long it was where texts were left out."""
    if isinstance(value, dict) and set(value) == {"chars"}:
        return f"({value['chars']:,} characters)"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if whole else brief(text, SHOWN_CHARS)


def _took(agent: AgentTrace, found: Trace) -> str:
    seconds = sum(step.seconds(found.end_us) for step in agent.steps)
    return f"{counted(len(agent.turns), 'turn')}, {seconds:.2f} s at work, {_tokens(agent.usage)}"


def _tokens(usage: TurnUsage) -> str:
    cost = "" if usage.cost_microusd is None else f", {usd(usage.cost_microusd)}"
    return (
        f"prompt {usage.prompt_tokens:,} (cached {usage.cached_tokens:,}), "
        f"answer {usage.completion_tokens:,}{cost}"
    )


def _as_json(found: Trace) -> dict[str, Any]:
    return {
        "head": found.head,
        "status": found.status,
        "duration_us": found.end_us,
        "agents": [
            {
                "agent": one.name,
                "parent": one.parent,
                "role": one.role,
                "outcome": one.outcome,
                "turns": len(one.turns),
                "prompt_tokens": one.usage.prompt_tokens,
                "answer_tokens": one.usage.completion_tokens,
                "cost_microusd": one.usage.cost_microusd,
                "steps": [
                    {
                        "kind": step.kind,
                        "name": step.name,
                        "start_us": step.start_us,
                        "end_us": step.end_us,
                        "failed": step.failed,
                    }
                    for step in one.steps
                ],
            }
            for one in found.agents.values()
        ],
    }


def _last_line(found: Trace, perfetto_file: Path | None) -> str:
    where = "" if perfetto_file is None else f" Written: {perfetto_file}."
    turns = counted(sum(len(one.turns) for one in found.agents.values()), "turn")
    agents = counted(len(found.agents), "agent")
    return (
        f"trace: {found.status or 'not ended'} after {found.end_us / 1e6:.1f} s; {agents}, "
        f"{turns}, {_tokens(found.usage)}.{where}"
    )

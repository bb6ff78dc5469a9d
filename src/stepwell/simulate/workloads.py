"""Workloads by name or from a file, at their own length, as often as is asked for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stepwell.errors import BadInput
from stepwell.simulate.files import BAD_SHARE, TraceFile, read_trace
from stepwell.simulate.from_recording import workload_of_recording
from stepwell.simulate.generated import generated
from stepwell.simulate.recorded_sessions import sessions_of_recording
from stepwell.simulate.traces import AGENTIC, MOONCAKE, agentic_of, mooncake_of
from stepwell.simulate.workload import SessionSpec, TurnSpec, Workload

GENERATED = "generated"
NAMES = ("agentic", *MOONCAKE, GENERATED)
TRACES_VARIABLE = "STEPWELL_TRACES"
_UNIT = {"agentic": 64, "calls": 64, "mooncake": 512, "azure": 512}


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which part of a workload, and how much of it."""

    name: str
    """A name of ``NAMES``, or a file."""
    directory: Path | None = None
    """Where the named traces are."""
    count: int | None = None
    """Sessions of agents, or requests; None: all there are. More than there are: they come again."""
    seed: int = 1
    block_tokens: int = 512
    bad_share: float = BAD_SHARE
    context_tokens: int | None = None
    """Sessions with a longer context are left out."""
    closed: bool = False
    """Of a recording: a turn comes after those that it came after there, and not when it came."""


def traces_folder(given: Path | None = None) -> Path | None:
    """Where the named traces are: as given, else as ``TRACES_VARIABLE`` says; None where neither says it."""
    named = os.environ.get(TRACES_VARIABLE)
    return given or (Path(named) if named else None)


def workload_of(wanted: Wanted) -> tuple[Workload, TraceFile | None]:
    """The workload, and the file it came from. ``BadInput`` for what cannot be read."""
    if wanted.name == GENERATED:
        if wanted.closed:
            raise BadInput(f"--closed is for recordings of 'stepwell serve --record'; {GENERATED} is none")
        made = generated(sessions=wanted.count or 40, seed=wanted.seed)
        return replace(made, block_tokens=_block(wanted.block_tokens, made.unit_tokens)), None
    trace = read_trace(_path(wanted), bad_share=wanted.bad_share, most=_most(wanted))
    if trace.kind == "servegen":
        raise BadInput(
            f"{trace.path} holds clients and no requests: give a workload, and --arrivals servegen:FILE"
        )
    if trace.kind == "recording":
        return _recorded(trace, wanted), trace
    if wanted.closed:
        raise BadInput(f"--closed is for recordings of 'stepwell serve --record'; {trace.path} is none")
    return times(_short_enough(_built(trace, wanted), wanted), wanted.count), trace


def _recorded(trace: TraceFile, wanted: Wanted) -> Workload:
    """Turns of a recording of our own; the first ``count`` of them."""
    name = trace.path.name.split(".")[0]
    read = sessions_of_recording if wanted.closed else workload_of_recording
    found = read(trace.path, name, wanted.block_tokens)
    first = replace(found, sessions=found.sessions[: wanted.count])
    return times(_short_enough(first, wanted), wanted.count)


def _short_enough(found: Workload, wanted: Wanted) -> Workload:
    """Without the sessions whose context is longer than was asked for."""
    most = wanted.context_tokens
    if most is None:
        return found
    kept = [s for s in found.sessions if all(t.prompt_tokens + t.new_tokens <= most for t in s.turns)]
    if not kept:
        raise BadInput(f"{found.name}: no session has a context of at most {most} tokens")
    return replace(found, sessions=tuple(kept))


def _path(wanted: Wanted) -> Path:
    file = AGENTIC if wanted.name == "agentic" else MOONCAKE.get(wanted.name)
    if file is None:
        return Path(wanted.name)
    if wanted.directory is None:
        raise BadInput(
            f"where is the trace {wanted.name!r}? Give --traces DIR or set STEPWELL_TRACES to the directory"
            f" of {file}; '{GENERATED}' needs no file"
        )
    return wanted.directory / file


def _most(wanted: Wanted) -> int | None:
    """Sessions of agents are drawn from all there are; requests are the first ones."""
    return None if wanted.name == "agentic" else wanted.count


def _block(asked: int, unit_tokens: int) -> int:
    return max(unit_tokens, asked // unit_tokens * unit_tokens)


def _built(trace: TraceFile, wanted: Wanted) -> Workload:
    unit = int(trace.records[0].get("block_size") or _UNIT[trace.kind])
    block_tokens = _block(wanted.block_tokens, unit)
    name = wanted.name if wanted.name in NAMES else trace.path.name.split(".")[0]
    if trace.kind in ("agentic", "calls"):
        records = trace.records if trace.kind == "agentic" else _sessions(trace.records)
        found = agentic_of(
            records,
            sessions=wanted.count,
            seed=wanted.seed,
            unit_tokens=unit,
            context_tokens=wanted.context_tokens,
            block_tokens=block_tokens,
        )
        if not found.sessions:
            raise BadInput(
                f"{trace.path}: no session has a context of at most {wanted.context_tokens} tokens"
            )
    else:
        records = trace.records if trace.kind == "mooncake" else _unshared(trace.records)
        found = mooncake_of(records, name, seed=wanted.seed, unit_tokens=unit, block_tokens=block_tokens)
    note = trace.bad_note()
    return replace(found, name=name, notes=(*found.notes, note) if note else found.notes)


def _unshared(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Lengths without names: nothing is known to be shared. Times count from the first request."""
    made, names, first = [], 0, records[0]["timestamp"]
    for record in records:
        count = record["input_length"] // 512 + 1
        at = max(0, record["timestamp"] - first)
        made.append({**record, "timestamp": at, "hash_ids": list(range(names, names + count))})
        names += count
    return made


def _sessions(calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Calls by session, as sessions of one agent each. What is between two calls is taken for thinking."""
    found: dict[str, list[dict[str, Any]]] = {}
    for call in calls:
        found.setdefault(str(call["session_id"]), []).append(call)
    return [{"id": name, "requests": [_request(c) for c in own]} for name, own in found.items()]


def _request(call: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "t": call["t_ms"] / 1000, "type": "n", "in": call["input_length"], "out": call["output_length"],
        "input_types": ["tool_result"], "stop": "tool_use", "hash_rle": call["hash_rle"],
    }  # fmt: skip


# --- again and again --------------------------------------------------------------------------


def times(workload: Workload, count: int | None) -> Workload:
    """``count`` sessions: those of the workload, and after the last one the same again under other names."""
    have = len(workload.sessions)
    if count is None or count <= have:
        return workload
    span_us = max(session.start_us for session in workload.sessions) + 1_000_000
    names = max(
        (first + length for t in workload.turns() for first, length in t.prompt + (t.grown or ())), default=0
    )
    found = [_again(workload, number, span_us, names) for number in range(count)]
    note = f"{have} sessions were there and come {count / have:.3g} times"
    return replace(workload, sessions=tuple(found), notes=(*workload.notes, note))


def _again(workload: Workload, number: int, span_us: int, names: int) -> SessionSpec:
    """``names``: how many there are in the workload; those of a repetition begin after the ones before it."""
    turn, place = divmod(number, len(workload.sessions))
    session = workload.sessions[place]
    if not turn:
        return session
    name = f"{session.name}.{turn}"
    agents = tuple(replace(a, name=_renamed(a.name, session.name, name), parent=None if a.parent is None else
                           _renamed(a.parent, session.name, name)) for a in session.agents)  # fmt: skip
    turns = session.turns
    if workload.shared:
        turns = tuple(_moved(one, turn * names) for one in turns)
    return replace(session, name=name, agents=agents, turns=turns, start_us=session.start_us + turn * span_us)


def _renamed(name: str, old: str, new: str) -> str:
    return name.replace(old, new, 1) if name else name


def _moved(turn: TurnSpec, by: int) -> TurnSpec:
    prompt = tuple((first + by, count) for first, count in turn.prompt)
    grown = None if turn.grown is None else tuple((first + by, count) for first, count in turn.grown)
    return replace(turn, prompt=prompt, grown=grown)

"""Public traces as workloads: agents of coding sessions (closed loop) and Mooncake's requests (open loop).

Sources: callanjfox/kv-cache-tester (487 sessions of coding agents, local block ids) and
kvcache-ai/Mooncake FAST'25 (conversation and synthetic, global block ids, no session ids).
"""

from __future__ import annotations

import gzip
import itertools
import json
import random
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from stepwell.errors import BadInput
from stepwell.policy.types import Wait
from stepwell.simulate.linked import linked_turns
from stepwell.simulate.workload import (
    AgentSpec,
    Runs,
    SessionSpec,
    TurnSpec,
    Workload,
    part,
    run_length,
    runs_of,
)

AGENTIC = "kvcache_tester_claude_code_agentic.jsonl.gz"
MOONCAKE = {
    "conversation": "mooncake_fast25_conversation_trace.jsonl.gz",
    "synthetic": "mooncake_fast25_synthetic_trace.jsonl.gz",
}
BLOCK_TOKENS = 64
TIER_SHARES = (("priority", 0.2), ("default", 0.5), ("flex", 0.3))
CONTEXT_TOKENS = 200_000
"""The context window that most of the traced sessions had; the few longer ones are left out by default."""
TENANTS = 3
"""Per service tier."""
_AGENTIC_TOKENS, _MOONCAKE_TOKENS = 64, 512
_SEEN = {"tool_use": Wait.TOOL, "end_turn": Wait.PERSON}


def lines_of(directory: Path, name: str) -> Iterator[dict[str, Any]]:
    """The records of a trace file. ``BadInput`` when it is not there or damaged."""
    file = directory / name
    try:
        with gzip.open(file, "rb") as lines:
            for line in lines:
                yield json.loads(line)
    except OSError as error:
        raise BadInput(f"the trace {file} cannot be read: {error.strerror or error}") from error
    except (EOFError, zlib.error, ValueError, RecursionError) as error:
        raise BadInput(f"the trace {file} is damaged: {error}") from error


def customer(draw: random.Random) -> tuple[str, str]:
    """A tenant and its service tier, by seed: no public trace says who paid for what."""
    pick, which = draw.random(), draw.randrange(TENANTS)
    for name, share in TIER_SHARES:
        pick -= share
        if pick < 0:
            return f"{name}-{which + 1}", name
    return f"flex-{which + 1}", "flex"


TIER_NOTE = "service tiers by seed: " + ", ".join(f"{share:.0%} {name}" for name, share in TIER_SHARES)


# --- coding agents ----------------------------------------------------------------------------


def agentic(
    directory: Path,
    *,
    sessions: int | None = 110,
    seed: int = 1,
    unit_tokens: int = 2,
    cv: float = 1.0,
    context_tokens: int | None = CONTEXT_TOKENS,
) -> Workload:
    """Sessions of coding agents: the next turn comes its think time after the last one's answer.

    ``unit_tokens`` stand for a trace block of 64. Sessions begin by a Gamma process with coefficient of
    variation ``cv``, one a second on average (``calibrate.calibrated`` sets the pace). Sessions with a
    context above ``context_tokens`` (of the trace) are left out.
    """
    records = lines_of(directory, AGENTIC)
    return agentic_of(
        records, sessions=sessions, seed=seed, unit_tokens=unit_tokens, cv=cv, context_tokens=context_tokens
    )


def agentic_of(
    found_records: Iterable[dict[str, Any]],
    *,
    sessions: int | None,
    seed: int,
    unit_tokens: int,
    cv: float = 1.0,
    context_tokens: int | None = None,
    block_tokens: int = BLOCK_TOKENS,
) -> Workload:
    """The same of records in the format of kv-cache-tester, from anywhere."""
    records = [r for r in found_records if _longest(r) <= (context_tokens or 1 << 62)]
    draw = random.Random(seed)
    if sessions is not None and sessions < len(records):
        records = [records[i] for i in sorted(draw.sample(range(len(records)), sessions))]
        draw.shuffle(records)
    found, start_s = [], 0.0
    for number, record in enumerate(records):
        tenant, service_tier = customer(draw)
        spec = _session(record, f"s{number:03d}", tenant, service_tier, unit_tokens, draw)
        found.append(replace(spec, start_us=int(start_s * 1e6)))
        start_s += draw.gammavariate(1 / cv**2, cv**2)
    notes = (
        f"{len(found)} sessions of coding agents (seed {seed}), arrivals Gamma with CV {cv:g}"
        + (f", contexts up to {context_tokens:,} tokens" if context_tokens else ""),
        f"a trace block of {_AGENTIC_TOKENS} tokens stands for {unit_tokens} here, answers are scaled alike",
        f"{TIER_NOTE}; {TENANTS} tenants each",
    )
    return Workload("agentic", tuple(found), unit_tokens, block_tokens, notes=notes)


def _longest(record: Mapping[str, Any]) -> int:
    """Tokens of the session's longest context."""
    longest = 0
    for request in record["requests"]:
        for one in request["requests"] if request["type"] == "subagent" else (request,):
            longest = max(longest, one["in"] + one["out"])
    return longest


@dataclass(slots=True)
class _Chain:
    """One agent's requests in the trace."""

    name: str
    role: str
    starts_s: float
    ends_s: float | None
    """None: it runs on its own, no agent waits for it."""
    requests: list[dict[str, Any]]
    numbers: list[int] = field(default_factory=list)
    launched_after: int = 0
    """The main agent's request (index) whose end launched it."""

    def at_s(self, index: int) -> float:
        return self.starts_s + float(self.requests[index]["t"])


def _chains(record: Mapping[str, Any]) -> list[_Chain]:
    """The main agent first. A child's ``t`` in the trace is its end (its launch, if none waits for it)."""
    own = [r for r in record["requests"] if r["type"] != "subagent"]
    chains = [_Chain(record.get("agent_id", "main"), record.get("role", "main"), 0.0, None, own)]
    for child in (r for r in record["requests"] if r["type"] == "subagent" and r["requests"]):
        ran_s = None if child["duration_ms"] is None else child["duration_ms"] / 1000
        starts_s = max(0.0, child["t"] - (ran_s or 0.0))
        ends_s = None if ran_s is None else float(child["t"])
        role = child["subagent_type"] or "child"
        chains.append(_Chain(child["agent_id"], role, starts_s, ends_s, child["requests"]))
    number = 0
    for chain in chains:
        chain.numbers = list(range(number, number + len(chain.requests)))
        number += len(chain.requests)
    for chain in chains[1:]:
        before = [i for i in range(len(own)) if own[i]["t"] <= chain.starts_s]
        chain.launched_after = before[-1] if before else 0
    return chains


def _session(
    record: Mapping[str, Any], name: str, tenant: str, service_tier: str, unit: int, draw: random.Random
) -> SessionSpec:
    chains = _chains(record)
    block = record.get("block_size") or _AGENTIC_TOKENS
    turns: list[TurnSpec] = []
    for agent, chain in enumerate(chains):
        scaled = [_scaled(request, unit, block) for request in chain.requests]
        turns += [_turn(chains, agent, index, unit, draw, scaled[index]) for index in range(len(scaled))]
    agents = tuple(_agent(chains, i, name) for i in range(len(chains)))
    requests = [request for chain in chains for request in chain.requests]
    linked = all("after" in request for request in requests)
    if linked:
        turns = linked_turns(requests, turns, [chain.name for chain in chains])
    return SessionSpec(name, tenant, service_tier, 0, agents, tuple(turns), linked)


def _agent(chains: Sequence[_Chain], number: int, session: str) -> AgentSpec:
    chain, main = chains[number], chains[0]
    offset_s = 0.0
    if number:
        launch = chain.launched_after
        offset_s = max(0.0, chain.starts_s - main.at_s(launch) - _took_s(main.requests[launch]))
    parent = f"{session}/{main.name}" if number else None
    return AgentSpec(f"{session}/{chain.name}", chain.role, parent, tuple(chain.numbers), int(offset_s * 1e6))


def _took_s(request: Mapping[str, Any]) -> float:
    return float(request.get("api_time") or 0.0)


def _awaited(chains: Sequence[_Chain], index: int) -> list[int]:
    """Children that main's request ``index`` waits for: launched after the one before, ended before it."""
    at_s = chains[0].at_s(index)
    return [
        number
        for number, chain in enumerate(chains)
        if number and chain.launched_after == index - 1 and chain.ends_s is not None and chain.ends_s <= at_s
    ]


def _rest_s(chain: _Chain, index: int) -> float:
    """From the end of the request before to this one."""
    if not index:
        return 0.0
    think = chain.requests[index].get("think_time")
    if think is not None:
        return max(0.0, float(think))
    return max(0.0, chain.at_s(index) - chain.at_s(index - 1) - _took_s(chain.requests[index - 1]))


def _turn(
    chains: Sequence[_Chain],
    agent: int,
    index: int,
    unit: int,
    draw: random.Random,
    scaled: tuple[Runs, int, int],
) -> TurnSpec:
    chain = chains[agent]
    request, last = chain.requests[index], index + 1 == len(chain.requests)
    following = None if last else chain.requests[index + 1]
    awaited = [] if agent else _awaited(chains, index)
    awaited_next = [] if agent or last else _awaited(chains, index + 1)
    gap_s = _rest_s(chain, index)
    if awaited:
        gap_s = max(0.0, chain.at_s(index) - max(chains[c].ends_s or 0.0 for c in awaited))
    prompt, tokens, new_tokens = scaled
    wait, seen = _waits(request, following, bool(awaited_next))
    return TurnSpec(
        number=chain.numbers[index],
        agent=agent,
        at_us=int(chain.at_s(index) * 1e6),
        gap_us=int(gap_s * 1e6),
        took_us=int(_took_s(request) * 1e6),
        prompt_tokens=tokens,
        new_tokens=new_tokens,
        prompt=prompt,
        grown=_grown(prompt, tokens + new_tokens, unit, following),
        wait=wait,
        seen_wait=seen,
        rest_us=None if last else int(_rest_s(chain, index + 1) * 1e6),
        noise=draw.gauss(0.0, 1.0),
        after_agent=max(awaited_next, key=lambda c: chains[c].ends_s or 0.0, default=None),
        awaits=tuple(awaited),
        launches=()
        if agent
        else tuple(c for c in range(1, len(chains)) if chains[c].launched_after == index),
    )


def _scaled(request: Mapping[str, Any], unit: int, block: int) -> tuple[Runs, int, int]:
    """Prompt names, prompt tokens and answer tokens, at ``unit`` tokens per trace block of ``block``."""
    prompt: Runs = tuple((first, count) for first, count in request["hash_rle"])
    rest = (request["in"] % block) * unit // block
    tokens = run_length(prompt) * unit + min(rest, unit - 1)
    return prompt, max(1, tokens), max(1, round(request["out"] * unit / block))


def _grown(prompt: Runs, total: int, unit: int, following: Mapping[str, Any] | None) -> Runs | None:
    """The names of what was generated, when the agent's next prompt goes on from all of it."""
    if following is None:
        return None
    units, known = total // unit, run_length(prompt)
    runs: Runs = tuple((first, count) for first, count in following["hash_rle"])
    if run_length(runs) < units or part(runs, 0, known) != prompt:
        return None
    return part(runs, known, units)


def _waits(
    request: Mapping[str, Any], following: Mapping[str, Any] | None, children: bool
) -> tuple[Wait, Wait]:
    """What the agent waits for after a request: as its runtime knows, and as the server sees."""
    seen = _SEEN.get(request["stop"], Wait.UNKNOWN)
    if following is None:
        return Wait.DONE, seen
    if children:
        return Wait.CHILD, seen
    if seen is not Wait.UNKNOWN:
        return seen, seen
    return (Wait.TOOL if "tool_result" in following["input_types"] else Wait.PERSON), seen


# --- Mooncake ---------------------------------------------------------------------------------


def mooncake(
    directory: Path, which: str, *, requests: int | None = None, seed: int = 1, unit_tokens: int = 32
) -> Workload:
    """Requests at their timestamps. ``unit_tokens`` stand for a trace block of 512.

    No agent is named in this trace: each request is a session of its own, without an agent. All are of one
    tenant (they share prefixes, and tenants never do); the service tier is drawn per conversation, that is
    by the second block of the prompt, the first one being common to all.
    """
    records = [r for _, r in zip(_up_to(requests), lines_of(directory, MOONCAKE[which]), strict=False)]
    return mooncake_of(records, which, seed=seed, unit_tokens=unit_tokens)


def mooncake_of(
    records: Sequence[dict[str, Any]],
    which: str,
    *,
    seed: int,
    unit_tokens: int,
    block_tokens: int = BLOCK_TOKENS,
) -> Workload:
    """The same of records in Mooncake's format, from anywhere."""
    following = _following(records)
    sessions = [_request(r, n, following[n], seed, unit_tokens) for n, r in enumerate(records)]
    notes = (
        f"{len(sessions)} requests at their timestamps, time scaled to the machine",
        f"a trace block of {_MOONCAKE_TOKENS} tokens stands for {unit_tokens} here, answers are scaled alike",
        f"{TIER_NOTE}, per conversation; one tenant, no agent is named",
    )
    return Workload(which, tuple(sessions), unit_tokens, block_tokens, shared=which, notes=notes)


def _up_to(limit: int | None) -> Iterator[int]:
    return itertools.count() if limit is None else iter(range(limit))


def _following(records: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any] | None]:
    """Per request the next one that goes on from its whole prompt and has room for its answer: its
    conversation's next turn, as far as one can tell from the names."""
    latest: dict[int, Mapping[str, Any]] = {}
    found: list[Mapping[str, Any] | None] = []
    for record in reversed(records):
        names = record["hash_ids"]
        whole = record["input_length"] // _MOONCAKE_TOKENS
        candidate = latest.get(names[whole - 1]) if whole > 1 else None
        if (
            candidate is not None
            and candidate["input_length"] < record["input_length"] + record["output_length"]
        ):
            candidate = None
        found.append(candidate)
        for name in names:
            latest[name] = record
    found.reverse()
    return found


def _request(
    record: Mapping[str, Any], number: int, following: Mapping[str, Any] | None, seed: int, unit: int
) -> SessionSpec:
    names = record["hash_ids"]
    whole = record["input_length"] // _MOONCAKE_TOKENS
    rest = (record["input_length"] % _MOONCAKE_TOKENS) * unit // _MOONCAKE_TOKENS
    prompt = runs_of(names[:whole])
    tokens = max(1, run_length(prompt) * unit + rest)
    new_tokens = max(1, round(record["output_length"] * unit / _MOONCAKE_TOKENS))
    grown = (
        None if following is None else runs_of(following["hash_ids"][whole : (tokens + new_tokens) // unit])
    )
    _, service_tier = customer(random.Random(f"{seed}/{names[min(1, len(names) - 1)]}"))
    turn = TurnSpec(
        number=0,
        agent=0,
        at_us=0,
        gap_us=0,
        took_us=0,
        prompt_tokens=tokens,
        new_tokens=new_tokens,
        prompt=prompt,
        grown=grown,
        wait=Wait.UNKNOWN,
        seen_wait=Wait.UNKNOWN,
        rest_us=None,
    )
    agent = AgentSpec("", "", None, (0,))
    return SessionSpec(f"r{number}", "everybody", service_tier, record["timestamp"] * 1000, (agent,), (turn,))

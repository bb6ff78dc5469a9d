"""Workloads written for others: Mooncake's JSONL, and sessions of agents in kv-cache-tester's format."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stepwell.policy.types import Wait
from stepwell.simulate.linked import links_of, own_name
from stepwell.simulate.workload import AgentSpec, SessionSpec, TurnSpec, Workload, numbers

MOONCAKE_TOKENS = 512


def write_mooncake(workload: Workload, path: Path) -> int:
    """One line per turn, at the trace's own times, in their order. Returns the number of lines.

    Blocks of 512 tokens are numbered anew: equal numbers mean equal prefixes, across all sessions.
    """
    lines = sorted(_mooncake(workload), key=lambda line: line["timestamp"])
    return _write(path, lines)


def _mooncake(workload: Workload) -> Iterator[dict[str, Any]]:
    known: dict[tuple[str, int], int] = {}
    per_block = max(1, MOONCAKE_TOKENS // workload.unit_tokens)
    fresh = 0
    for session in workload.sessions:
        space = workload.shared or session.name
        for turn in session.turns:
            names = list(numbers(turn.prompt))[per_block - 1 :: per_block]
            ids = [known.setdefault((space, name), len(known)) for name in names]
            if turn.prompt_tokens > len(ids) * MOONCAKE_TOKENS:  # the last block is not full and not shared
                fresh += 1
                ids.append(known.setdefault(("", fresh), len(known)))
            yield {
                "timestamp": (session.start_us + turn.at_us) // 1000,
                "input_length": turn.prompt_tokens,
                "output_length": turn.new_tokens,
                "hash_ids": ids,
                "session_id": session.name,
            }


def write_sessions(workload: Workload, path: Path) -> int:
    """One line per session, with its sub-agents. Returns the number of lines.

    Names of a session are its own in this format: what sessions share is not told.
    """
    return _write(path, [_session(session, workload.unit_tokens) for session in workload.sessions])


def _session(session: SessionSpec, unit_tokens: int) -> dict[str, Any]:
    main, *children = session.agents
    by_number = {turn.number: turn for turn in session.turns}
    requests = [_request(session, by_number[number], 0) for number in main.turns]
    requests += [_child(session, agent, by_number) for agent in children if agent.turns]
    requests.sort(key=lambda request: request["t"])
    return {
        "id": session.name, "block_size": unit_tokens, "hash_id_scope": "local",
        "agent_id": own_name(main.name, session.name) or "main", "role": main.role, "requests": requests,
    }  # fmt: skip


def _child(session: SessionSpec, agent: AgentSpec, by_number: dict[int, TurnSpec]) -> dict[str, Any]:
    """Its ``t`` is its end, as in the format."""
    turns = [by_number[number] for number in agent.turns]
    starts_us = turns[0].at_us
    ran_us = turns[-1].at_us + turns[-1].took_us - starts_us
    return {
        "t": (starts_us + ran_us) / 1e6, "type": "subagent", "agent_id": own_name(agent.name, session.name),
        "subagent_type": agent.role, "duration_ms": ran_us // 1000,
        "requests": [_request(session, turn, starts_us) for turn in turns],
    }  # fmt: skip


def _request(session: SessionSpec, turn: TurnSpec, since_us: int) -> dict[str, Any]:
    stop = {Wait.TOOL: "tool_use", Wait.PERSON: "end_turn"}.get(turn.seen_wait, "")
    return {
        "t": (turn.at_us - since_us) / 1e6, "type": "n", "in": turn.prompt_tokens, "out": turn.new_tokens,
        "input_types": ["tool_result"], "stop": stop, "api_time": turn.took_us / 1e6,
        "think_time": turn.gap_us / 1e6, "hash_rle": [list(run) for run in turn.prompt],
        **(links_of(session, turn) if session.linked else {}),
    }  # fmt: skip


def _write(path: Path, lines: list[dict[str, Any]]) -> int:
    with path.open("w", encoding="utf-8") as file:
        for line in lines:
            file.write(json.dumps(line, separators=(",", ":")) + "\n")
    return len(lines)

"""Two public traces of agents as workloads: mini-swe-agent and a team like Magentic-One's.

Source: LMCache/lmcache-agent-trace, as hashes of blocks of 64 tokens (256 characters; lengths are characters
over four). A call has a time and no duration: ``_TOKEN_MS`` for each token of its answer is taken for the
traced server's part of the time until the next call. The trace does not say which member of a team calls, so
a session is one agent whose prompts change; sessions belong to tenants and share nothing. There are few of
them, so they come again, each time as new ones.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

from stepwell.simulate.traces import agentic_of, lines_of
from stepwell.simulate.workload import Workload

HASHED = "derived_lmcache_agent_hashed.jsonl.gz"
LMCACHE = {"mini-swe": "miniswe", "magentic-one": "magagent"}
"""Traces by their names here, and as the file has them."""
_TOKEN_MS = 10


def lmcache(
    directory: Path, which: str, *, sessions: int | None = None, seed: int = 1, unit_tokens: int = 2
) -> Workload:
    """``sessions`` of one trace (None: each once); order, arrivals, tenants and service tiers by seed."""
    note = f"{_TOKEN_MS} ms a token for a call's own time"
    return again_and_again(
        list(_records(directory, which)),
        which,
        sessions=sessions,
        seed=seed,
        unit_tokens=unit_tokens,
        note=note,
    )


def again_and_again(
    records: Sequence[dict[str, Any]],
    name: str,
    *,
    sessions: int | None,
    seed: int,
    unit_tokens: int,
    note: str,
) -> Workload:
    """A few sessions in the format of kv-cache-tester, in an order by seed, each time as new ones."""
    order = list(records)
    random.Random(seed).shuffle(order)
    wanted = [order[number % len(order)] for number in range(sessions or len(order))]
    found = agentic_of(wanted, sessions=None, seed=seed, unit_tokens=unit_tokens)
    return replace(
        found, name=name, notes=(*found.notes, f"{len(records)} sessions, again and again; {note}")
    )


def _records(directory: Path, which: str) -> Iterator[dict[str, Any]]:
    """Sessions in the format of kv-cache-tester."""
    calls = [line for line in lines_of(directory, HASHED) if line["workload"] == LMCACHE[which]]
    for session, lines in groupby(calls, key=lambda line: line["session_id"]):
        yield {"id": session, "requests": list(_requests(list(lines)))}


def _requests(lines: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(lines):
        last = number + 1 == len(lines)
        until_s = 0.0 if last else (lines[number + 1]["t_ms"] - line["t_ms"]) / 1000
        took_s = line["output_length"] * _TOKEN_MS / 1000
        yield {
            "type": "n",
            "t": line["t_ms"] / 1000,
            "in": line["input_length"],
            "out": line["output_length"],
            "hash_rle": line["hash_rle"],
            "input_types": ["tool_result"],
            "stop": "end_turn" if last else "tool_use",
            "api_time": took_s if last else min(took_s, until_s),
        }

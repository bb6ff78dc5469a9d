"""The public traces, where they are: what an infinite memory would have hit is known exactly."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from stepwell.errors import BadInput
from stepwell.policy.block_index import BlockIndex
from stepwell.policy.types import BlockMeta, Wait
from stepwell.simulate.traces import AGENTIC, MOONCAKE, agentic, lines_of, mooncake
from stepwell.simulate.workload import Namespace, Runs, run_length, runs_of

PLACES = (os.environ.get("STEPWELL_TRACES"), Path(__file__).parents[3] / "shared" / "data" / "traces")
TRACES = next((Path(p) for p in PLACES if p and (Path(p) / AGENTIC).is_file()), None)

needs_traces = pytest.mark.skipif(TRACES is None, reason="the traces are not here: set STEPWELL_TRACES")


class Endless:
    """A memory that loses nothing: the real block index, and how much of every prompt it holds.

    A block is ``per_block`` trace blocks; the walk matches those of its last one singly.
    """

    def __init__(self, label: str, per_block: int) -> None:
        self.names, self.per_block = Namespace(label), per_block
        self.index = BlockIndex(per_block, 1)
        self.units = self.hits = 0

    @property
    def unique(self) -> int:
        return len(set(chain.from_iterable(block.meta.units for block in self.index.blocks.values())))

    def serve(self, prompt: Runs) -> None:
        units = self.names.names(prompt)
        stored = sum(match.n_tokens for match in self.index.walk(units, len(units)))
        self.units += len(units)
        self.hits += stored
        for depth in range(stored // self.per_block, -(-len(units) // self.per_block)):
            self.keep(units, depth)

    def keep(self, units: list[bytes], depth: int) -> None:
        first = depth * self.per_block
        own = tuple(units[first : first + self.per_block])
        parent = units[first - 1] if depth else None
        if own[-1] not in self.index.blocks:
            node = self.index.add(BlockMeta(own[-1], parent, depth, len(own), own, "", len(own)))
            node.device = True


def serve_all(label: str, prompts: Iterable[Runs], per_block: int) -> Endless:
    memory = Endless(label, per_block)
    for prompt in prompts:
        memory.serve(prompt)
    return memory


def in_order(record: dict[str, Any]) -> list[Runs]:
    """All prompts of a session, sub-agents' among them, by the time they were sent."""
    timed = []
    for request in record["requests"]:
        if request["type"] != "subagent":
            timed.append((request["t"], request))
            continue
        start_s = request["t"] - (request["duration_ms"] or 0) / 1000
        timed += [(start_s + inner["t"], inner) for inner in request["requests"]]
    timed.sort(key=lambda pair: pair[0])
    return [tuple((first, count) for first, count in r["hash_rle"]) for _, r in timed]


@needs_traces
def test_agents_hit_exactly_what_the_trace_repeats() -> None:
    assert TRACES is not None
    units = hits = unique = 0
    for record in lines_of(TRACES, AGENTIC):
        memory = serve_all(record["id"], in_order(record), 16)
        units, hits, unique = units + memory.units, hits + memory.hits, unique + memory.unique
    assert (units, unique) == (62_913_495, 2_375_102)
    assert hits == units - unique
    assert round(hits / units, 6) == 0.962248


@needs_traces
@pytest.mark.parametrize(
    ("which", "share", "unique"), [("conversation", 0.3664, 182_790), ("synthetic", 0.6396, 43_924)]
)
def test_mooncake_hits_exactly_what_the_trace_repeats(which: str, share: float, unique: int) -> None:
    assert TRACES is not None
    prompts = (runs_of(record["hash_ids"]) for record in lines_of(TRACES, MOONCAKE[which]))
    memory = serve_all(which, prompts, 1)
    assert memory.unique == unique
    assert round(memory.hits / memory.units, 4) == share


@needs_traces
def test_an_agentic_session_keeps_its_shape() -> None:
    """Turns go on from answers, children are awaited, the last turn says that it is the last."""
    assert TRACES is not None
    workload = agentic(TRACES, sessions=60, seed=3)
    turns = list(workload.turns())
    grown = [turn for turn in turns if turn.grown is not None]
    assert len(grown) > len(turns) / 2
    for turn in grown:
        total = (turn.prompt_tokens + turn.new_tokens) // workload.unit_tokens
        assert run_length(turn.prompt) + run_length(turn.grown or ()) == total
    for session in workload.sessions:
        last = [session.turns[agent.turns[-1]] for agent in session.agents]
        assert all(turn.wait is Wait.DONE and turn.rest_us is None for turn in last)
        launched = [child for turn in session.turns for child in turn.launches]
        assert sorted(launched) == list(range(1, len(session.agents)))
        awaited = [child for turn in session.turns for child in turn.awaits]
        assert len(awaited) == len(set(awaited)) and set(awaited) <= set(launched)
        assert all(t.prompt_tokens >= run_length(t.prompt) * workload.unit_tokens for t in session.turns)


@needs_traces
def test_a_seed_gives_the_same_workload_and_another_seed_another() -> None:
    assert TRACES is not None
    assert agentic(TRACES, sessions=5, seed=4).sessions == agentic(TRACES, sessions=5, seed=4).sessions
    assert agentic(TRACES, sessions=5, seed=4).sessions != agentic(TRACES, sessions=5, seed=5).sessions


@needs_traces
def test_turns_of_one_conversation_pay_alike() -> None:
    assert TRACES is not None
    workload = mooncake(TRACES, "conversation", requests=2_000)
    tiers: dict[int, set[str]] = {}
    for session in workload.sessions:
        prompt = session.turns[0].prompt
        if run_length(prompt) > 1:
            second = prompt[0][0] + 1 if prompt[0][1] > 1 else prompt[1][0]
            tiers.setdefault(second, set()).add(session.service_tier)
    assert max(map(len, tiers.values())) == 1
    assert len({tier for held in tiers.values() for tier in held}) == 3


def test_names_of_runs_are_what_they_stand_for() -> None:
    namespace, draw = Namespace("n"), random.Random(5)
    numbers = [draw.randrange(40) for _ in range(60)]
    runs = runs_of(numbers)
    names = namespace.names(runs)
    assert [int.from_bytes(name[8:], "big") for name in names] == numbers
    assert all(len(name) == 16 and name[:8] == namespace.salt for name in names)


def test_a_missing_trace_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be read"):
        agentic(tmp_path)
    (tmp_path / AGENTIC).write_bytes(b"not a gzip file")
    with pytest.raises(BadInput, match="cannot be read"):
        agentic(tmp_path)

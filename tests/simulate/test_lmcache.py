"""The hashed traces of LMCache's agents as sessions that come again."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from stepwell.errors import BadInput
from stepwell.policy.types import Wait
from stepwell.simulate.lmcache import HASHED, LMCACHE, lmcache

CALLS = [
    {"workload": "miniswe", "session_id": "a", "t_ms": 0, "input_length": 200, "output_length": 100,
     "block_size": 64, "hash_rle": [[1, 3]]},
    {"workload": "miniswe", "session_id": "a", "t_ms": 5_000, "input_length": 330, "output_length": 900,
     "block_size": 64, "hash_rle": [[1, 3], [9, 2]]},
    {"workload": "miniswe", "session_id": "a", "t_ms": 6_000, "input_length": 330, "output_length": 10,
     "block_size": 64, "hash_rle": [[1, 3], [9, 2]]},
    {"workload": "magagent", "session_id": "b", "t_ms": 0, "input_length": 70, "output_length": 10,
     "block_size": 64, "hash_rle": [[40, 1]]},
]  # fmt: skip


@pytest.fixture
def traces(tmp_path: Path) -> Path:
    with gzip.open(tmp_path / HASHED, "wt") as file:
        file.writelines(json.dumps(call) + "\n" for call in CALLS)
    return tmp_path


def test_calls_of_a_session_are_turns_of_one_agent(traces: Path) -> None:
    (session,) = lmcache(traces, "mini-swe", unit_tokens=8).sessions
    assert [turn.prompt_tokens for turn in session.turns] == [25, 41, 41]
    assert [turn.wait for turn in session.turns] == [Wait.TOOL, Wait.TOOL, Wait.DONE]
    gaps_s = [turn.gap_us / 1e6 for turn in session.turns]
    assert gaps_s == [0, 4, 0], "10 ms a token are the traced server's, and no gap is less than nothing"


def test_sessions_come_again_as_new_ones(traces: Path) -> None:
    workload = lmcache(traces, "magentic-one", sessions=5)
    assert [session.name for session in workload.sessions] == [f"s{number:03d}" for number in range(5)]
    assert workload.name == "magentic-one"
    assert workload == lmcache(traces, "magentic-one", sessions=5)
    assert workload != lmcache(traces, "magentic-one", sessions=5, seed=2)


@pytest.mark.parametrize("which", LMCACHE)
def test_a_missing_trace_is_one_sentence(tmp_path: Path, which: str) -> None:
    with pytest.raises(BadInput, match="cannot be read"):
        lmcache(tmp_path, which)

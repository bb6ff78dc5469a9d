"""Graphs of calls as sessions: who is launched by whom, and who waits for whom."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from stepwell.errors import BadInput
from stepwell.policy.types import Wait
from stepwell.simulate.inference_perf import ARCHIVE, UNIT_TOKENS, inference_perf
from stepwell.simulate.workload import SessionSpec

ASK = "x" * 121
"""With its role 128 characters: two units."""


def span(name: str, start_s: float, end_s: float, *said: str, answer: str = "a" * 64) -> dict[str, Any]:
    roles = ("user", "assistant")
    messages = [{"role": roles[place % 2], "content": text} for place, text in enumerate(said)]
    return {
        "span_id": name,
        "start_time": f"2026-02-25T10:00:{start_s:09.6f}",
        "end_time": f"2026-02-25T10:00:{end_s:09.6f}",
        "attributes": {"gen_ai.input.messages": json.dumps(messages), "gen_ai.output.text": answer},
    }


def written(directory: Path, *graphs: object) -> Path:
    with tarfile.open(directory / ARCHIVE, "w:gz") as archive:
        for number, spans in enumerate(graphs):
            data = json.dumps({"spans": spans}).encode()
            member = tarfile.TarInfo(f"test_traces/{number}.json")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return directory


def only(directory: Path, *spans: object) -> SessionSpec:
    (session,) = inference_perf(written(directory, spans)).sessions
    return session


def test_calls_that_overlap_are_launched_and_awaited(tmp_path: Path) -> None:
    session = only(
        tmp_path,
        span("join", 6, 9, "c"),
        span("first", 0, 2, "a"),
        span("left", 2.5, 4, "b"),
        span("right", 3, 5, "d"),
    )
    first, join, left, right = session.turns
    assert [agent.name for agent in session.agents] == ["s000/main", "s000/left", "s000/right"]
    assert (first.launches, first.wait) == ((1, 2), Wait.CHILD)
    assert (join.awaits, join.gap_us, join.wait) == ((1, 2), 1_000_000, Wait.DONE)
    assert [session.agents[turn.agent].offset_us for turn in (left, right)] == [500_000, 1_000_000]
    assert (left.took_us, right.took_us) == (1_500_000, 2_000_000)


def test_a_conversation_goes_on_from_what_was_said(tmp_path: Path) -> None:
    first, second = only(
        tmp_path,
        span("1", 0, 2, ASK, answer="y" * 50),
        span("2", 3, 4, ASK, "y" * 50, "and?"),
    ).turns
    assert (first.prompt_tokens, first.new_tokens) == (2 * UNIT_TOKENS, 12)
    assert second.prompt[0][0] == first.prompt[0][0] and second.prompt_tokens > first.prompt_tokens
    assert second.gap_us == 1_000_000


def test_a_graph_that_begins_with_a_fan_out_has_somebody_who_launches(tmp_path: Path) -> None:
    session = only(tmp_path, span("1", 0, 2, "a"), span("2", 1, 3, "b"), span("3", 4, 5, "c"))
    assert len(session.agents) == 2
    assert session.turns[0].launches == (1,) and session.turns[1].awaits == (1,)


def test_graphs_come_again_as_new_ones(tmp_path: Path) -> None:
    directory = written(tmp_path, [span("1", 0, 2, "a")], [span("1", 0, 2, "b"), span("2", 3, 4, "c")])
    workload = inference_perf(directory, sessions=5, seed=3)
    assert [session.name for session in workload.sessions] == [f"s{number:03d}" for number in range(5)]
    assert sorted(len(session.turns) for session in workload.sessions)[:2] == [1, 1]
    assert workload == inference_perf(directory, sessions=5, seed=3)


@pytest.mark.parametrize("spans", [None, [{}], [span("1", 0, 2, "a") | {"attributes": []}]])
def test_a_damaged_archive_is_one_sentence(tmp_path: Path, spans: object) -> None:
    with pytest.raises(BadInput, match="is damaged"):
        inference_perf(written(tmp_path, spans))
    with pytest.raises(BadInput, match="cannot be read"):
        inference_perf(tmp_path / "nowhere")

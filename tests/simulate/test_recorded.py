"""A live server's recording, played under other policies: the same turns, the measured machine."""

from __future__ import annotations

import gzip
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stepwell.commands.replay.replay import replay
from stepwell.errors import BadInput
from stepwell.policy.types import Computed, Hint, Hinted, KvTier, Moved, RequestArrived, Wait
from stepwell.recording.file import Recorder, read_recording
from stepwell.simulate.fit import fit
from stepwell.simulate.recorded import measured_model, recorded_workload
from tests.driver.harness import make_rig


def record(path: Path) -> None:
    """Nine agents in three rounds on a small device; one cancels, one says what it waits for."""
    rig = make_rig(
        device=10, host=8, disk=40, always_load=False, depth_ns_per_token=500, copy_us_per_block=70
    )
    rig.driver.loop.observers.insert(0, Recorder(path, rig.driver.scheduler.config))
    for turn in range(3):
        for agent in range(9):
            hint = Hint(Wait.TOOL, 40_000) if agent == 1 else Hint()
            tier = ("priority", "default", "flex")[agent % 3]
            prompt = [100 + agent, *range(60, 90 + 5 * turn)]
            rig.ask(prompt, 7, agent=f"a{agent}", role="coder", hint=hint, service_tier=tier)
        if turn == 1:
            rig.driver.cancel(turn * 9 + 2)
        rig.settle()
        rig.clock.sleep_us(2_000_000)
    rig.driver.stop()


def lines_of(path: Path) -> list[str]:
    with gzip.open(path, "rt") as file:
        return file.readlines()


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recorded") / "run.jsonl.gz"
    record(path)
    return path


def test_a_recording_carries_roles_and_hints(recording: Path) -> None:
    _, steps = read_recording(recording)
    arrivals = [e for step in steps for e in step.events if isinstance(e, RequestArrived)]
    assert {a.caller.role for a in arrivals} == {"coder"}
    assert [a.hint for a in arrivals if a.caller.agent == "a1"] == [Hint(Wait.TOOL, 40_000)] * 3
    assert {a.hint for a in arrivals if a.caller.agent == "a2"} == {Hint()}


def test_hints_after_a_turn_are_recorded(tmp_path: Path) -> None:
    """What is said between turns comes back as it was."""
    path = tmp_path / "run.jsonl"
    rig = make_rig()
    recorder = Recorder(path, rig.driver.scheduler.config)
    said = Hinted(3, "t", "a", Hint(Wait.AGENT, after_agent="b", retain_us=5))
    recorder.decided(7, [said], rig.driver.scheduler.step(7, []))
    recorder.close()
    _, steps = read_recording(path)
    assert [step.events for step in steps] == [(said,)]


def test_a_recording_from_before_hints_still_reads(recording: Path, tmp_path: Path) -> None:
    old = tmp_path / "old.jsonl"
    lines = []
    for line in lines_of(recording):
        step: dict[str, Any] = json.loads(line)
        for name, body in step.get("e", ()):
            if name == "RequestArrived":
                del body["role"], body["hint"]
        lines.append(json.dumps(step))
    old.write_text("\n".join(lines) + "\n")
    _, steps = read_recording(old)
    arrivals = [e for step in steps for e in step.events if isinstance(e, RequestArrived)]
    assert len(arrivals) == 27 and all(a.caller.role == "" and a.hint == Hint() for a in arrivals)


def test_the_costs_are_those_of_the_recorded_machine(recording: Path) -> None:
    """The rig's engine takes 2,000 us a prompt token, 500 ns per earlier token and 70 us a copy."""
    found = recorded_workload(*read_recording(recording))
    model = measured_model(found)
    assert model.prefill_us_per_token == 2_000
    assert model.depth_ns_per_token == pytest.approx(500, abs=60)
    assert model.decode_us_per_step + model.decode_us_per_sequence < 20
    assert model.copy_us_per_block == 70
    size = found.config.block_bytes
    for whole_us in (model.read_us(size), model.write_us(size)):  # 500 us a transfer, tails included
        assert 500 <= whole_us < 700
    assert model.token_bytes == found.config.token_bytes


def test_turns_come_and_answer_as_recorded(recording: Path) -> None:
    found = recorded_workload(*read_recording(recording))
    turns = list(found.turns.values())
    assert [t.at_us for t in turns] == sorted(t.at_us for t in turns) and turns[0].at_us == 0
    cancelled = [t for t in turns if t.cancelled]
    assert len(cancelled) == 1 and not found.unfinished
    assert {t.new_tokens for t in turns} == {7}
    for turn in turns:
        assert len(turn.units(4)) == (turn.recorded.prompt_tokens + 7) // 4


def test_other_policies_play_the_same_turns(
    recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    assert replay(recording, policy="lru,priority-lru,oracle", json_file=out) == 0
    result = json.loads(out.read_text())
    assert [run["policy"] for run in result["runs"]] == ["lru", "priority-lru", "oracle"]
    assert {run["turns"] for run in result["runs"]} == {27}
    assert {run["prompt_tokens"] for run in result["runs"]} == {result["runs"][0]["prompt_tokens"]}
    misses = {run["policy"]: run["miss_s"] for run in result["runs"]}
    assert 0 < misses["oracle"] <= misses["lru"]
    printed = capsys.readouterr().out
    assert "prefill_us_per_token 2,000" in printed and "cost of misses =" in printed
    assert printed.rstrip().splitlines()[-1].startswith("replay: least cost of misses under")


def test_an_unknown_policy_is_one_sentence(recording: Path) -> None:
    with pytest.raises(BadInput, match=r"--policy mru: there is .*lru"):
        replay(recording, policy="mru")


def test_the_end_of_a_recording_cuts_turns_short(recording: Path, tmp_path: Path) -> None:
    """A server that was killed leaves turns without an end: they generate what is known."""
    short = tmp_path / "short.jsonl"
    lines = lines_of(recording)
    short.write_text("".join(lines[: len(lines) // 2]))
    found = recorded_workload(*read_recording(short))
    assert found.unfinished > 0
    assert replay(short, policy="lru") == 0


def test_the_fit_finds_costs_and_never_a_negative_one() -> None:
    draw = random.Random(1)
    rows = [
        (draw.randrange(300), draw.randrange(9_000), draw.randrange(2), draw.randrange(9)) for _ in range(80)
    ]
    exact = [3 * a + 0.25 * b + 40 * c + 7 * d for a, b, c, d in rows]
    assert fit(rows, exact) == pytest.approx([3, 0.25, 40, 7])
    sinking = [3 * a - 5 * c for a, _, c, _ in rows]
    assert min(fit(rows, sinking)) >= 0
    assert fit([(1, 0), (2, 0)], [5, 10]) == pytest.approx([5, 0])


def test_nothing_measured_keeps_the_defaults() -> None:
    config = make_rig().driver.scheduler.config
    found = recorded_workload(config, [])
    model = measured_model(found)
    assert replace(model, token_bytes=0) == replace(type(model)(), token_bytes=0)
    found.steps.append(Computed(100, 0, 0, 50_000))
    found.moves.append(Moved(b"x", KvTier.DISK, KvTier.HOST, True, 4_000_000, 2_000))
    model = measured_model(found)
    assert (model.prefill_us_per_token, model.read_bytes_per_s) == (500, 2_000_000_000)

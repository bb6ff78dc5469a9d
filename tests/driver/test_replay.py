"""A recording decides the same again: in this process, in another, under any hash seed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from stepwell import cli
from stepwell.commands.replay.replay import replay
from stepwell.policy.decisions import DecisionLog
from stepwell.policy.scheduler import Scheduler
from stepwell.policy.types import Hint, Wait
from stepwell.recording.file import Recorder, RecordingError, read_recording
from tests.driver.harness import make_rig


def record(path: Path) -> None:
    """A small busy life: more agents than the device holds, cancellations, failures."""
    rig = make_rig(device=10, host=8, disk=40)
    rig.driver.loop.observers.insert(0, Recorder(path, rig.driver.scheduler.config))
    for turn in range(3):
        for agent in range(6):
            rig.ask([100 + agent, *range(60, 90 + 5 * turn)], 7, agent=f"a{agent}")
        rig.driver.cancel(turn * 6 + 2)
        rig.tiers.fail_reads = 1
        rig.settle()
    rig.driver.stop()


def digest(path: Path) -> str:
    config, steps = read_recording(path)
    scheduler, log = Scheduler(config), DecisionLog()
    for step in steps:
        log.add(step.now_us, scheduler.step(step.now_us, step.events))
        assert log.digest[:16] == step.digest
    assert log.plans > 40
    return log.digest


@pytest.mark.parametrize("name", ["run.jsonl", "run.jsonl.gz"])
def test_replay_decides_the_same(tmp_path: Path, name: str) -> None:
    record(tmp_path / name)
    digest(tmp_path / name)
    out = tmp_path / "out.json"
    assert replay(tmp_path / name, json_file=out) == 0
    assert json.loads(out.read_text())["same"] is True


def test_the_hash_seed_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    record(path)
    code = (
        "from pathlib import Path; from tests.driver.test_replay import digest; "
        f"print(digest(Path({str(path)!r})))"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[2])},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("0", "1", "77")
    }
    assert seen == {digest(path) + "\n"}


def test_another_decision_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    record(path)
    lines = path.read_text().splitlines()
    header = json.loads(lines[0])
    header["config"]["device_blocks"] -= 1
    path.write_text("\n".join([json.dumps(header), *lines[1:]]) + "\n")
    assert replay(path) == 1


@pytest.mark.parametrize(
    "content", [b"", b"{}\n", b"not json\n", b'{"format":"stepwell-recording","version":9}\n']
)
def test_what_is_not_a_recording_is_said_in_one_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(content)
    with pytest.raises(RecordingError, match="not a Stepwell recording"):
        read_recording(path)


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    record(path)
    lines = path.read_bytes().splitlines()
    lines[5] = lines[5][:-9]
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(RecordingError, match="line 6 is damaged"):
        replay(path)


def test_a_recording_holds_no_tokens_of_a_customer(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    rig = make_rig(answer=b"the secret answer")
    rig.driver.loop.observers.insert(0, Recorder(path, rig.driver.scheduler.config))
    rig.ask(list(b"a very secret prompt, long enough to fill some blocks"), 20)
    rig.driver.stop()
    content = path.read_text()
    assert "secret" not in content
    assert str(list(b"secret"))[1:-1].replace(" ", "") not in content.replace(" ", "")


@pytest.mark.parametrize("every", [1, 3])
def test_who_looks_at_a_server_changes_no_decision(tmp_path: Path, every: int) -> None:
    """Screens and metrics ask for forecasts; what they are told is no event, so it may decide nothing."""

    def live(path: Path, looks: bool) -> str:
        rig, dice = make_rig(device=14, host=8, disk=60, eviction="stepwell"), Random(5)
        recorder = Recorder(path, rig.driver.scheduler.config)
        rig.driver.loop.observers.insert(0, recorder)
        for turn in range(60):
            for agent in dice.sample(range(12), 3):
                hint = Hint(Wait.TOOL, expected_us=dice.randrange(10**7)) if agent % 2 else Hint()
                prompt = [100 + agent, *range(60, 80 + turn % 30)]
                rig.ask(prompt, 5, agent=f"a{agent}", role=f"r{agent % 3}", hint=hint)
            rig.settle()
            if looks and turn % every == 0:
                rig.driver.snapshot()
            rig.clock.sleep_us(dice.choice((10**5, 10**6, 10**7)))
        rig.driver.stop()
        return recorder.digest

    assert live(tmp_path / "seen.jsonl", looks=True) == live(tmp_path / "unseen.jsonl", looks=False)


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recorded") / "run.jsonl"
    record(path)
    return path


def test_a_run_is_played_on_a_machine_of_the_catalogue_and_priced(recording: Path, tmp_path: Path) -> None:
    """By rent, by a cost book for both machines, and on more chips: the turns are the recorded ones."""
    out = tmp_path / "out.json"
    flags = ["replay", str(recording), "--machine", "h100", "--json", str(out)]
    found = []
    for more in ([], ["--cost-book", "laptop"], ["--chips", "2", "--machine-model", "llama-3.1-70b"]):
        assert cli.run([*flags, *more]) == 0
        found.append(json.loads(out.read_text()))
    for one in found:
        here, there = one["runs"]
        assert one["turns"] == here["run"]["turns"] == there["run"]["turns"] == 18
        assert 0 < there["run"]["busy_s"] < here["run"]["busy_s"]
    rented, booked, two = (one["runs"][1] for one in found)
    assert rented["usd"] == pytest.approx(1.30 * rented["run"]["elapsed_s"] / 3600)
    assert two["usd_hour"] == pytest.approx(2.60)
    assert two["run"]["busy_s"] > rented["run"]["busy_s"]
    assert found[0]["runs"][0]["usd"] is None
    assert found[1]["runs"][0]["usd_hour"] > 0
    assert booked["usd_hour"] > 0


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--machine", "abacus"], "no hardware 'abacus': there is h100"),
        (["--machine", "h100", "--machine-model", "kimi-k2"], "has no room for the longest turn"),
        (["--machine", "h100", "--chips", "0"], "--chips 0: give 1 to 1024"),
        (["--machine", "h100", "--policy", "lru,arc"], "give --policy one name"),
        (["--cost-book", "laptop"], "give --machine"),
        (["--machine", "h100", "--cost-book", "nobody.toml"], "nobody.toml"),
    ],
)
def test_a_machine_that_cannot_be_is_one_sentence(
    flags: list[str], said: str, recording: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["replay", str(recording), *flags]) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_json_on_standard_output_is_json_alone(recording: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The solver of the lower bound greets on standard output, beneath Python."""
    pytest.importorskip("highspy")
    assert cli.run(["replay", str(recording), "--policy", "lru", "--json", "-"]) == 0
    assert json.loads(capfd.readouterr().out)["turns"] == 18

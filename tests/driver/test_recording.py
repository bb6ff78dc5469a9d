"""What a recording holds comes back as it was: contracts, hints, and files from before either."""

from __future__ import annotations

import json
from pathlib import Path

from stepwell.policy.config import PolicyConfig
from stepwell.policy.contracts import DEFAULT_CONTRACTS, Contract, Shares
from stepwell.policy.types import Caller, Hint, Hinted, Plan, RequestArrived, Wait
from stepwell.recording.file import Recorder, read_recording

CONFIG = PolicyConfig(
    block_tokens=64,
    unit_tokens=16,
    device_blocks=8,
    block_bytes=64,
    token_bytes=1,
    host_bytes=1_000,
    disk_bytes=0,
    contracts=(
        Contract("gold", 9, Shares(1, 2, 3, 4), 500, Shares(5, 6, 7, 8), 10, None, 30),
        Contract("free"),
    ),
    disk_write_bytes_per_day=77,
)
HINT = Hint(Wait.AGENT, 9_000_000, "run/reader", 300_000_000)
ARRIVED = RequestArrived(
    1, Caller("t", "gold", "run", "run/a", role="a"), 32, 8, (b"\x00" * 16, b"\xff" * 16), HINT
)
EVENTS = (ARRIVED, Hinted(1, "t", "run/a", Hint(Wait.DONE)))


def record(path: Path) -> None:
    recorder = Recorder(path, CONFIG)
    recorder.decided(5, EVENTS, Plan())
    recorder.close()


def test_contracts_and_hints_come_back_exactly(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    record(path)
    config, steps = read_recording(path)
    assert config == CONFIG
    (step,) = steps
    assert step.events == EVENTS
    assert isinstance(step.events[0], RequestArrived)
    assert step.events[0].hint.wait is Wait.AGENT


def test_recordings_from_before_contracts_and_hints_are_read(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    record(path)
    header, line = map(json.loads, path.read_text().splitlines())
    for name in ("contracts", "disk_write_bytes_per_day"):
        del header["config"][name]
    line["e"] = line["e"][:1]
    for name in ("role", "hint"):
        del line["e"][0][1][name]
    path.write_text(json.dumps(header) + "\n" + json.dumps(line) + "\n")
    config, steps = read_recording(path)
    assert config.contracts == DEFAULT_CONTRACTS
    (arrived,) = next(steps).events
    assert isinstance(arrived, RequestArrived)
    assert (arrived.caller.role, arrived.hint) == ("", Hint())
    steps.close()  # type: ignore[attr-defined]

"""A running state over a restart: what lies on disk is gone on from, and what is damaged is not."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.engines.prefixes import prompt
from tests.engines.test_states import load

from stepwell.bench.node import TurnLog, driver_for, turn_of
from stepwell.bench.zoo.child import model_file
from stepwell.engines.llamacpp import LlamaCppText
from stepwell.loop.requests import Admitted
from stepwell.policy.types import KvTier

FIRST, MORE = prompt(200), prompt(50, seed=3)


def run_turns(path: Path, disk: Path, prompts: list[list[int]]) -> tuple[list[list[int]], Admitted]:
    """One life of a node: its turns one after the other, then everything goes to disk."""
    engine = load(path, 2048)
    text = LlamaCppText(engine._model, "tiny", engine.info.context_tokens)
    answers, admitted = [], None
    with driver_for(
        engine, text, host_bytes=64 << 20, disk_bytes=64 << 20, disk_dir=disk, always_load=True
    ) as driver:
        for tokens in prompts:
            log = TurnLog()
            driver.submit(turn_of(tokens, 6, "agent"), log)
            driver.run_until_idle()
            driver.check()
            answers.append(log.tokens)
            admitted = log.admitted
        driver.demote_idle(KvTier.DISK)
        driver.run_until_idle()
    assert admitted is not None
    return answers, admitted


@pytest.mark.parametrize("name", ["lfm2", "mamba"])
def test_a_restart_goes_on_from_the_last_whole_block_on_disk(name: str, tmp_path: Path) -> None:
    path = model_file(tmp_path, name)
    whole, stayed = run_turns(path, tmp_path / "one", [FIRST, [*FIRST, *MORE]])
    (first,), _ = run_turns(path, tmp_path / "two", [FIRST])
    (second,), admitted = run_turns(path, tmp_path / "two", [[*FIRST, *MORE]])
    assert [first, second] == whole
    assert stayed.cached.device == admitted.cached.disk == 192


@pytest.mark.parametrize("name", ["lfm2", "mamba"])
def test_a_damaged_checkpoint_is_a_miss(name: str, tmp_path: Path) -> None:
    path, disk = model_file(tmp_path, name), tmp_path / "kv"
    whole, _ = run_turns(path, tmp_path / "one", [FIRST, [*FIRST, *MORE]])
    run_turns(path, disk, [FIRST])
    hurt = 0
    for file in sorted(disk.rglob("*")):
        if file.is_file() and file.stat().st_size > 4096:
            data = bytearray(file.read_bytes())
            for at in range(len(data) // 2, len(data), 512):
                data[at] ^= 0xFF
            file.write_bytes(data)
            hurt += 1
    assert hurt
    (second,), admitted = run_turns(path, disk, [[*FIRST, *MORE]])
    assert second == whole[1]
    assert admitted.cached.disk < 192

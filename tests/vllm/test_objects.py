"""The object store in the real vLLM: an agent goes on at another node, with another disk and equal tokens."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stepwell.vllm.objects import digest_of_model
from tests.vllm.engine import engine, offloading

pytest.importorskip("obstore")

PROMPT = "Agent A works on the tax return of 2025. " * 6


def node(disk: Path, objects: Path, **more: Any) -> dict[str, Any]:
    """A node's configuration: a disk of its own, and the store that it shares."""
    extra = offloading(disk)
    extra["secondary_tiers"].append(
        {
            "type": "StepwellObjects",
            "module_path": "stepwell.vllm.objects",
            "url": str(objects),
            "max_bytes": "64MiB",
            **more,
        }
    )
    return extra


def change_every_object(folder: Path, change: Callable[[bytearray], bytes]) -> int:
    objects = sorted(folder.glob("kv1/*.kv"))
    for one in objects:
        one.write_bytes(change(bytearray(one.read_bytes())))
    return len(objects)


def flipped(data: bytearray) -> bytes:
    data[len(data) - 5_000] ^= 4
    return bytes(data)


def test_an_agent_goes_on_at_another_node(tiny_model: Path, tmp_path: Path) -> None:
    """The first node's process has ended and its disk is gone. The second has its own copy of the model."""
    objects = tmp_path / "objects"
    with engine(tiny_model, node(tmp_path / "disk-a", objects)) as a:
        first = a.turn(PROMPT, tenant="acme")
        assert first.cached == 0
    shutil.rmtree(tmp_path / "disk-a")
    elsewhere = tmp_path / "elsewhere" / "model"
    shutil.copytree(tiny_model, elsewhere)
    with engine(elsewhere, node(tmp_path / "disk-b", objects)) as b:
        b.turn("Somebody else asks first, and the store is listed meanwhile.", tokens=2)
        there = b.turn(PROMPT, tenant="acme")
        assert there.tokens == first.tokens
        assert there.cached >= 192
        assert b.metric("vllm:kv_offload_objects_read_blocks") >= 6
        assert b.metric("vllm:kv_offload_objects_limit_bytes") == 64 << 20
    assert change_every_object(objects, flipped) >= 6
    with engine(elsewhere, node(tmp_path / "disk-c", objects)) as c:
        c.turn("Somebody else asks first, and the store is listed meanwhile.", tokens=2)
        rotten = c.turn(PROMPT, tenant="acme")
        assert rotten.tokens == first.tokens
        assert rotten.cached == 0
        assert c.metric("vllm:kv_offload_objects_damaged_blocks") >= 1


def test_a_store_that_is_away_costs_only_what_is_computed_again(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "none")
    with engine(tiny_model, None) as stock:
        expected = stock.turn(PROMPT).tokens
    extra = node(tmp_path / "disk", tmp_path, url="s3://nowhere/kv", deadline_s=1.0)
    with engine(tiny_model, extra) as one:
        turns = [one.turn(PROMPT, tokens=12) for _ in range(3)]
        assert [turn.tokens for turn in turns] == [expected] * 3
        assert turns[1].cached >= 192
        assert one.metric("vllm:kv_offload_objects_dropped_blocks") >= 1
    lines = [record for record in caplog.records if "object store" in record.message]
    assert len(lines) == 1


def test_a_model_is_told_by_what_its_files_hold(tiny_model: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_model, copy)
    assert digest_of_model(copy) == digest_of_model(tiny_model)
    weights = next(copy.glob("*.safetensors"))
    weights.write_bytes(flipped(bytearray(weights.read_bytes())))
    assert digest_of_model(copy) != digest_of_model(tiny_model)

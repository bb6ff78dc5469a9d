"""The disk tier in the real vLLM: equal tokens from device, host and disk, after a restart and after rot."""

from __future__ import annotations

from pathlib import Path

from tests.vllm.engine import engine, offloading

PROMPT = "Agent A works on the tax return of 2025. " * 6


def flip_a_bit_of_every_record(root: Path) -> int:
    records = sorted(root.glob("v1-*/*.kv"))
    for record in records:
        data = bytearray(record.read_bytes())
        data[len(data) - 5_000] ^= 4
        record.write_bytes(data)
    return len(records)


def test_tokens_are_the_same_wherever_the_kv_was(tiny_model: Path, tmp_path: Path) -> None:
    with engine(tiny_model, None) as stock:
        expected = stock.turn(PROMPT).tokens
    with engine(tiny_model, offloading(tmp_path)) as one:
        first = one.turn(PROMPT)
        device = one.turn(PROMPT)
        one.fill("Few", 2)
        host = one.turn(PROMPT)
        one.fill("Many", 8)
        disk = one.turn(PROMPT)
        assert [turn.tokens for turn in (first, device, host, disk)] == [expected] * 4
        assert first.cached == 0
        assert min(device.cached, host.cached, disk.cached) >= 192
        assert one.metric("vllm:kv_offload_disk_read_blocks") >= 6
        assert one.metric("vllm:kv_offload_disk_limit_bytes") == 64 << 20
        one.fill("Again", 8)
        assert flip_a_bit_of_every_record(tmp_path) > 20
        rotten = one.turn(PROMPT)
        assert rotten.tokens == expected
        assert rotten.cached == 0
        assert one.metric("vllm:kv_offload_disk_damaged_blocks") >= 1


def test_a_restart_finds_the_disk_warm_and_another_model_finds_nothing(
    tiny_model: Path, tmp_path: Path
) -> None:
    with engine(tiny_model, offloading(tmp_path)) as one:
        first = one.turn(PROMPT, tenant="acme")
    with engine(tiny_model, offloading(tmp_path)) as one:
        back = one.turn(PROMPT)
        assert back.tokens == first.tokens
        assert back.cached >= 192
    config = tiny_model / "config.json"
    config.write_text(config.read_text() + "\n")  # the folder holds another model now
    with engine(tiny_model, offloading(tmp_path)) as one:
        assert one.turn(PROMPT).cached == 0

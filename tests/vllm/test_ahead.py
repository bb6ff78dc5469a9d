"""KV comes up ahead of use in the real vLLM: an agent that is expected finds host speed, and nobody pays."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from stepwell.policy.types import Hint, Wait
from stepwell.vllm.waking import VARIABLE, tell_hint
from tests.vllm.engine import Engine, engine, offloading
from tests.vllm.test_kv_events_served import ACME, BLOCK, KEYS, turn
from tests.vllm.test_kv_events_served import until as until_there
from tests.vllm.test_served import SMALL, cached, serving

PROMPT = "Agent A works on the tax return of 2025. " * 6
SCHEDULER = {"scheduler_cls": "stepwell.vllm.scheduler.StepwellScheduler", "scheduling_policy": "priority"}
AHEAD = {"type": "StepwellAhead", "module_path": "stepwell.vllm.ahead"}
MINUTES = 600_000


def node(disk: Path, *, ahead: bool = True, **more: Any) -> dict[str, Any]:
    extra = offloading(
        disk, eviction_policy="StepwellHost", cache_policy_module_path="stepwell.vllm.host", **more
    )
    if ahead:
        extra["secondary_tiers"].append(AHEAD)
    return extra


def others(one: Engine, name: str, count: int, **said: Any) -> None:
    for number in range(count):
        prompt = f"{name} {number} takes the room of others. " * 8
        one.turn(prompt, tokens=2, tenant="acme", agent=f"{name}-{number}", **said)


def until(one: Engine, name: str, least: float) -> float:
    """Steps of an engine that has no turn, until a counter has come so far."""
    deadline = time.monotonic() + 600
    while one.metric(name) < least and time.monotonic() < deadline:
        one.llm.llm_engine.step()
        one.llm.llm_engine.do_log_stats()
    return one.metric(name)


def disk_reads(one: Engine) -> float:
    return one.metric("vllm:kv_offload_disk_read_blocks")


@pytest.fixture
def ear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "ear"
    folder.mkdir()
    monkeypatch.setenv(VARIABLE, str(folder))
    return folder


def away(one: Engine) -> tuple[int, ...]:
    """Agent A has answered a person, and others who come back soon take device and host."""
    first = one.turn(PROMPT, tenant="acme", agent="a", wait="person", expected_ms=MINUTES)
    others(one, "Busy", 8, wait="tool", expected_ms=60_000)
    return first.tokens


def test_who_is_expected_finds_its_kv_on_the_host(tiny_model: Path, tmp_path: Path, ear: Path) -> None:
    with engine(tiny_model, node(tmp_path / "kv", host_chunks=24), **SCHEDULER) as one:
        tokens = away(one)
        assert one.metric("vllm:kv_offload_ahead_promoted_blocks") == 0, "nobody expects it"
        tell_hint(ear, "acme", "a", Hint(Wait.TOOL, 1_000))
        assert until(one, "vllm:kv_offload_ahead_promoted_blocks", 8) >= 8
        before = disk_reads(one)
        back = one.turn(PROMPT, tenant="acme", agent="a", wait="person")
        assert back.tokens == tokens
        assert back.cached >= 192
        assert disk_reads(one) == before, "the turn has read nothing from disk"
        assert one.metric("vllm:kv_offload_ahead_used_blocks") >= 7, "all of the prompt"
        assert one.metric("vllm:kv_offload_ahead_wasted_blocks") == 0


def test_without_it_the_turn_reads_the_disk(tiny_model: Path, tmp_path: Path, ear: Path) -> None:
    with engine(tiny_model, node(tmp_path / "kv", ahead=False, host_chunks=24), **SCHEDULER) as one:
        tokens = away(one)
        tell_hint(ear, "acme", "a", Hint(Wait.TOOL, 1_000))
        before = disk_reads(one)
        back = one.turn(PROMPT, tenant="acme", agent="a", wait="person")
        assert (back.tokens, disk_reads(one) - before >= 6) == (tokens, True)


def test_what_comes_up_in_vain_is_counted_and_never_used(tiny_model: Path, tmp_path: Path, ear: Path) -> None:
    """The agent does not come, and others need the room."""
    with engine(tiny_model, node(tmp_path / "kv", host_chunks=24), **SCHEDULER) as one:
        away(one)
        tell_hint(ear, "acme", "a", Hint(Wait.TOOL, 1_000))
        assert until(one, "vllm:kv_offload_ahead_promoted_blocks", 8) >= 8
        tell_hint(ear, "acme", "a", Hint(Wait.DONE))
        others(one, "Late", 8, wait="tool", expected_ms=60_000)
        wasted = one.metric("vllm:kv_offload_ahead_wasted_blocks")
        assert 8 <= wasted <= one.metric("vllm:kv_offload_ahead_promoted_blocks")
        assert one.metric("vllm:kv_offload_ahead_used_blocks") == 0


def test_rotten_records_are_not_brought_up_and_tokens_stay(
    tiny_model: Path, tmp_path: Path, ear: Path
) -> None:
    with engine(tiny_model, node(tmp_path / "kv", host_chunks=24), **SCHEDULER) as one:
        tokens = away(one)
        for record in (tmp_path / "kv").glob("v1-*/*.kv"):
            data = bytearray(record.read_bytes())
            data[len(data) - 5_000] ^= 4
            record.write_bytes(data)
        tell_hint(ear, "acme", "a", Hint(Wait.TOOL, 1_000))
        assert until(one, "vllm:kv_offload_ahead_failed_blocks", 4) >= 4
        assert one.turn(PROMPT, tenant="acme", agent="a").tokens == tokens
        assert one.metric("vllm:kv_offload_ahead_promoted_blocks") == 0


def test_an_idle_server_is_woken_by_a_hint(tiny_model: Path, tmp_path: Path) -> None:
    """Over HTTP, with vLLM in its own processes: nobody asks anything between the hint and the turn."""
    (tmp_path / "stepwell.toml").write_text(KEYS)
    start = ["serve", "--engine", "vllm", "--model", str(tiny_model), "--port", "0", "--ledger", "none"]
    room = ["--host-kv", "384KiB", "--disk-kv", "64MiB", "--disk-dir", str(tmp_path / "kv")]
    flags = ["--config", str(tmp_path / "stepwell.toml"), "--context-tokens", "512"]
    flags += ["--vllm-args", " ".join(SMALL)]
    with serving([*start, *room, *flags], tmp_path / "front.log") as client:
        first = turn(client, "first", "person; expected_ms=36000000")
        whole = first["usage"]["prompt_tokens"] // BLOCK * BLOCK
        for number in range(8):
            turn(client, f"other-{number}", "tool; expected_ms=3600000")
        fallen = until_there(client, "first", lambda kv: kv["disk"] >= BLOCK and not kv["device"])
        assert fallen["host"] < whole
        url = "/v1/agents/crew/first/hint"
        # counted from the end of its turn: a busy machine may have taken a minute for the others since
        said = client.post(url, json={"next": "tool", "expected_ms": 60_000}, headers=ACME)
        assert said.status_code == 200, said.text
        assert until_there(client, "first", lambda kv: kv["host"] >= whole)["disk"] == 0
        again = turn(client, "first")
        assert cached(again) >= whole - BLOCK
        assert again["choices"][0]["text"] == first["choices"][0]["text"]

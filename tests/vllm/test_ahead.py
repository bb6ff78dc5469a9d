"""KV comes up ahead of use in the real vLLM: an agent that is expected finds host speed, and nobody pays."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from stepwell.policy.types import Caller, Hint, Wait
from stepwell.vllm.ahead import StepwellAhead
from stepwell.vllm.host import StepwellHost
from stepwell.vllm.waking import VARIABLE, WAKE, listening, tell_hint
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


class Cold:
    """A cold tier whose last write ended when no turn was there to ask for it."""

    def __init__(self) -> None:
        self.tier = self
        self.loads = self.asked = 0

    def follow(self, told: Any) -> None:
        self.told = told

    def holds(self, key: bytes) -> bool:
        return bool(self.asked)

    def ask(self) -> int:
        self.asked += 1
        return self.asked


def test_a_hint_finds_what_was_written_after_the_last_turn(ear: Path) -> None:
    host, cold = StepwellHost(4), Cold()
    ahead = StepwellAhead(None, memoryview(bytearray(64)), "StepwellAhead")
    ahead.connect(host, [cold])  # type: ignore[list-item]
    key = b"0" * 12
    host.book.begin("r1", Caller("acme", agent="a"), Hint(Wait.PERSON, 3_600_000_000), host._now_us())
    host.book.used("r1", [(key, (32, 0))], host._now_us())
    host.book.insert(key, "r1", host._now_us())
    host.book.free(key, host._now_us())
    host.book.finish("r1", host._now_us())
    host.book.evict(1, (), "default", host._now_us())
    assert (ahead.has_pending_work(), cold.asked) == (False, 0)
    with closing(listening(ear / WAKE)) as wake:
        tell_hint(ear, "acme", "a", Hint(Wait.TOOL, 1_000))
        assert not ahead.has_pending_work()
        assert cold.asked == 1, "it is heard at once, although the engine has only just looked"
        assert sorted([wake.recv(64), wake.recv(64)]) == [b"0", b"500"], "it asks to look again"
    cold.told([key])
    assert until_true(ahead.has_pending_work)
    assert host.book.worth_fetching(1, host._now_us())[0].key == key
    ahead.shutdown()


def until_true(right: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 600
    while not right() and time.monotonic() < deadline:
        pass
    return right()


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

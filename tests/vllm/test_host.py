"""Stepwell's policy over vLLM's host memory: vLLM's own contract, and whom it keeps."""

from __future__ import annotations

from pathlib import Path

import pytest
from vllm.v1.kv_offload.base import ReqContext, make_offload_key
from vllm.v1.kv_offload.cpu.manager import CPUOffloadingManager
from vllm.v1.kv_offload.cpu.policies.base import CachePolicy

from stepwell.vllm.host import StepwellHost
from tests.vllm.engine import engine, offloading

POLICIES = [(name, None) for name in ("lru", "arc")] + [("StepwellHost", "stepwell.vllm.host")]


def manager_of(policy: tuple[str, str | None], chunks: int) -> CPUOffloadingManager:
    return CPUOffloadingManager(num_chunks=chunks, cache_policy=policy[0], cache_policy_module_path=policy[1])


def keys_of(*numbers: int) -> list[bytes]:
    return [make_offload_key(str(n).encode() * 4, 0) for n in numbers]


def store(manager: CPUOffloadingManager, request: ReqContext, *numbers: int) -> list[bytes] | None:
    """Store and complete; returns the keys that had to go."""
    keys = keys_of(*numbers)
    for depth, key in enumerate(keys):
        request.set_offload_key_position(key, 32 * (depth + 1))
    output = manager.prepare_store(keys, request)
    if output is None:
        return None
    manager.complete_store(output.keys_to_store, request)
    return list(output.evicted_keys)


def hits(manager: CPUOffloadingManager, *numbers: int) -> list[bool]:
    return [manager.lookup(key, ReqContext("look")).name == "HIT" for key in keys_of(*numbers)]


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy[0])
def test_every_policy_keeps_vllms_contract(policy: tuple[str, str | None]) -> None:
    manager = manager_of(policy, 4)
    one = ReqContext("one")
    assert store(manager, one, 1, 2, 3, 4) == []
    assert hits(manager, 1, 2, 3, 4) == [True] * 4
    manager.prepare_load(keys_of(1, 2, 3), one)
    assert manager.prepare_store(keys_of(5, 6), ReqContext("two")) is None, "pinned chunks stay"
    assert hits(manager, 1, 2, 3, 4) == [True] * 4, "and nothing has changed"
    manager.complete_load(keys_of(1, 2, 3), one)
    gone = store(manager, ReqContext("two"), 5, 6)
    assert gone is not None
    assert len(gone) == 2
    assert hits(manager, 5, 6) == [True, True]
    manager.on_request_finished(one)
    last = ReqContext("last")
    failed = manager.prepare_store(keys_of(7), last)
    assert failed is not None
    manager.complete_store(keys_of(7), last, success=False)
    assert hits(manager, 7) == [False]
    manager.reset_cache()
    assert hits(manager, 1, 2, 3, 4, 5, 6) == [False] * 6
    assert store(manager, ReqContext("three"), 8, 9, 10, 11) == []


def test_what_an_agent_says_decides_who_stays() -> None:
    """Under LRU the older agent would go. It waits for a tool, and the younger one is done."""
    manager = manager_of(POLICIES[-1], 8)
    for name, first, said in (
        ("waits", 1, {"wait": "tool", "expected_ms": 2000}),
        ("done", 11, {"wait": "done"}),
    ):
        request = ReqContext(name, {"tenant": "acme", "agent": name} | said)
        store(manager, request, *range(first, first + 4))
        manager.on_request_finished(request)
    gone = store(manager, ReqContext("third", {"tenant": "acme", "agent": "third"}), 21, 22, 23, 24)
    assert set(gone or ()) == set(keys_of(11, 12, 13, 14))
    assert hits(manager, 1, 2, 3, 4) == [True] * 4


def test_it_is_one_of_vllms_policies() -> None:
    assert issubclass(StepwellHost, CachePolicy)
    assert not StepwellHost.__abstractmethods__


def test_tokens_are_the_same_under_stepwells_policy(tiny_model: Path, tmp_path: Path) -> None:
    prompts = [f"Agent {n} works on the tax return of 20{n:02d}. " * 5 for n in range(6)]
    with engine(tiny_model, None) as stock:
        expected = [stock.turn(prompt, 8).tokens for prompt in prompts]
    extra = offloading(
        tmp_path,
        host_chunks=16,
        eviction_policy="StepwellHost",
        cache_policy_module_path="stepwell.vllm.host",
    )
    with engine(tiny_model, extra) as one:
        for _ in range(3):
            for number, prompt in enumerate(prompts):
                params = {"tenant": "acme", "agent": f"a{number}", "wait": "tool", "expected_ms": 500}
                assert one.turn(prompt, 8, **params).tokens == expected[number]
        assert one.metric("vllm:kv_offload_disk_read_blocks") > 0

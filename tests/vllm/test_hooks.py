"""The hooks of vLLM that this room uses are where they were: one clear message each when vLLM moves one."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from vllm.v1.core.block_pool import BlockPool
from vllm.v1.core.kv_cache_manager import KVCacheManager
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.kv_offload import base
from vllm.v1.kv_offload.cpu.manager import CPUOffloadingManager
from vllm.v1.kv_offload.cpu.policies.base import CachePolicy
from vllm.v1.kv_offload.file_mapper import FileMapper
from vllm.v1.kv_offload.tiering import base as tiering
from vllm.v1.kv_offload.tiering.manager import TieringOffloadingManager
from vllm.v1.kv_offload.tiering.spec import TieringOffloadingSpec

from stepwell.vllm.install import TESTED, installed, require_vllm
from stepwell.vllm.scheduler import StepwellScheduler

HOOKS: list[tuple[Any, str, tuple[str, ...]]] = [
    (tiering.SecondaryTierManager, "__init__", ("self", "offloading_spec", "primary_kv_view", "tier_type")),
    (tiering.SecondaryTierManager, "lookup", ("self", "key", "req_context")),
    (tiering.SecondaryTierManager, "submit_store", ("self", "job_metadata")),
    (tiering.SecondaryTierManager, "submit_load", ("self", "job_metadata")),
    (tiering.SecondaryTierManager, "get_finished_jobs", ("self",)),
    (tiering.SecondaryTierManager, "has_pending_work", ("self",)),
    (tiering.SecondaryTierManager, "take_events", ("self",)),
    (tiering.SecondaryTierManager, "drain_jobs", ("self",)),
    (tiering.SecondaryTierManager, "get_stats", ("self",)),
    (tiering.SecondaryTierManager, "build_metric_definitions", ("extra_config",)),
    (tiering.SecondaryTierManager, "serve_external_requests", ("self", "parent")),
    (tiering.ParentManager, "on_new_request", ("self", "req_context")),
    (tiering.ParentManager, "lookup", ("self", "key", "req_context")),
    (tiering.ParentManager, "on_request_finished", ("self", "req_context")),
    (base.ReqContext, "set_state", ("self", "val")),
    (base.ReqContext, "get_state", ("self", "cls")),
    (base.ReqContext, "set_offload_key_position", ("self", "key", "end_token")),
    (AsyncLLM, "is_sleeping", ("self",)),
    (BlockPool, "get_cached_block", ("self", "block_hash", "kv_cache_group_ids")),
    (tiering.JobResult, "__init__", ("self", "job_id", "success", "successful_keys", "transfer_time")),
    (base.ReqContext, "get_offload_key_position", ("self", "key")),
    (base.OffloadingWorker, "submit_store", ("self", "job_id", "src_spec", "dst_spec")),
    (base.OffloadingWorker, "submit_load", ("self", "job_id", "src_spec", "dst_spec")),
    (base.OffloadingWorker, "get_finished", ("self",)),
    (base.OffloadingWorker, "wait", ("self", "job_ids")),
    (CachePolicy, "insert", ("self", "key", "chunk")),
    (CachePolicy, "evict", ("self", "n", "protected")),
    (CachePolicy, "touch", ("self", "keys", "req_context")),
    (CachePolicy, "on_store_miss", ("self", "keys", "req_context")),
    (CachePolicy, "on_request_finished", ("self", "key_groups", "insertion_only_keys", "reused_keys")),
    (CachePolicy, "mark_evictable", ("self", "key")),
    (CachePolicy, "mark_non_evictable", ("self", "key")),
    (CPUOffloadingManager, "prepare_store", ("self", "keys", "req_context")),
    (
        FileMapper,
        "from_offloading_spec",
        ("root_dir", "offloading_spec", "blocks_per_file", "parallel_agnostic"),
    ),
    (TieringOffloadingSpec, "get_worker", ("self", "kv_caches")),
    (TieringOffloadingSpec, "get_manager", ("self",)),
    (TieringOffloadingManager, "complete_load", ("self", "keys", "req_context")),
    (TieringOffloadingManager, "complete_store", ("self", "keys", "req_context", "success")),
    (KVCacheManager, "get_blocks", ("self", "request_id")),
    (BlockPool, "get_num_free_blocks", ("self",)),
    (AsyncScheduler, "schedule", ("self", "throttle_prefills")),
    (AsyncScheduler, "add_request", ("self", "request")),
    (AsyncScheduler, "update_from_output", ("self", "scheduler_output", "model_runner_output")),
    (AsyncScheduler, "finish_requests", ("self", "request_ids", "finished_status")),
    (AsyncScheduler, "_preempt_request", ("self", "request", "timestamp")),
    (AsyncScheduler, "_request_blocks_can_be_freed", ("self", "request")),
]


@pytest.mark.parametrize(
    ("owner", "name", "parameters"), HOOKS, ids=lambda value: getattr(value, "__name__", "")
)
def test_a_hook_is_where_it_was(owner: Any, name: str, parameters: tuple[str, ...]) -> None:
    where = f"vLLM {installed()}: {owner.__module__}.{owner.__qualname__}.{name}"
    hook = getattr(owner, name, None)
    assert hook is not None, f"{where} is gone: stepwell.vllm was written for {TESTED}"
    found = tuple(inspect.signature(hook).parameters)
    assert found[: len(parameters)] == parameters, (
        f"{where} takes {found} now, and took {parameters} in {TESTED}"
    )


def test_the_answers_and_words_are_those_we_use() -> None:
    assert {"HIT", "MISS", "RETRY"} <= {answer.name for answer in base.LookupResult}
    assert {"CPU", "STORAGE"} <= {medium.name for medium in base.Medium}
    fields = set(tiering.TransferJob.__dataclass_fields__)
    assert {"job_id", "keys", "chunk_ids", "req_context"} <= fields


def test_events_say_what_we_read_and_requests_carry_what_we_write() -> None:
    from vllm.distributed.kv_events import AllBlocksCleared, BlockRemoved, BlockStored
    from vllm.v1.request import Request

    from stepwell.vllm import kv_events

    ours = ((kv_events.Stored, BlockStored), (kv_events.Removed, BlockRemoved))
    for own, theirs in (*ours, (kv_events.Cleared, AllBlocksCleared)):
        assert own.__struct_config__.tag == theirs.__name__
        missing = set(own.__struct_fields__) - set(theirs.__struct_fields__)
        assert not missing, f"vLLM {installed()}: {theirs.__name__} has lost {missing}"
    source = inspect.getsource(Request.__init__)
    for name in ("self.session_id =", "self.kv_cache_report_mode ="):
        assert name in source, f"vLLM {installed()}: a request has no {name[5:-2]} any more"


def test_the_version_is_the_one_that_was_tested() -> None:
    assert require_vllm().startswith(TESTED)


def test_the_scheduler_is_one_of_vllms() -> None:
    assert issubclass(StepwellScheduler, AsyncScheduler)

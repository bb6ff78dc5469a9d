"""A real vLLM on a tiny random model, in this process, and what a test asks of it."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEVICE_BLOCKS = 20
CHUNK_BYTES = 16_384


@dataclass(frozen=True)
class Turn:
    tokens: tuple[int, ...]
    cached: int


class Engine:
    def __init__(self, model: Path, extra: dict[str, Any] | None, **settings: Any) -> None:
        from vllm.config import KVTransferConfig

        from vllm import LLM

        transfer = None
        if extra is not None:
            transfer = KVTransferConfig(
                kv_connector="OffloadingConnector", kv_role="kv_both", kv_connector_extra_config=extra
            )
        self.llm = LLM(
            model=str(model),
            enforce_eager=True,
            dtype="float32",
            max_model_len=512,
            block_size=32,
            num_gpu_blocks_override=DEVICE_BLOCKS,
            max_num_seqs=4,
            max_num_batched_tokens=512,
            disable_log_stats=False,
            kv_transfer_config=transfer,
            distributed_executor_backend="uni",
            **settings,
        )

    def turn(self, prompt: str, tokens: int = 12, **params: Any) -> Turn:
        from vllm import SamplingParams

        extra = {"kv_transfer_params": params} if params else None
        sampling = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, extra_args=extra)
        (answer,) = self.llm.generate([prompt], sampling, use_tqdm=False)
        return Turn(tuple(answer.outputs[0].token_ids), answer.num_cached_tokens or 0)

    def fill(self, name: str, count: int) -> None:
        """Other agents take the room."""
        for number in range(count):
            self.turn(f"{name} {number} takes the room of others. " * 8, tokens=2)

    def metric(self, name: str) -> float:
        return sum(m.value for m in self.llm.get_metrics() if m.name == name and hasattr(m, "value"))


def offloading(root: Path, *, host_chunks: int = 24, **more: Any) -> dict[str, Any]:
    """The configuration that a user writes, on the CPU platform."""
    tier = {
        "type": "StepwellDisk",
        "module_path": "stepwell.vllm.disk",
        "root": str(root),
        "max_bytes": "64MiB",
    }
    return {
        "spec_name": "StepwellSpec",
        "spec_module_path": "stepwell.vllm.spec",
        "cpu_bytes_to_use": host_chunks * CHUNK_BYTES,
        "offload_prompt_only": False,
        "secondary_tiers": [tier | more.pop("tier", {})],
        **more,
    }


@contextmanager
def engine(model: Path, extra: dict[str, Any] | None, **settings: Any) -> Iterator[Engine]:
    one = Engine(model, extra, **settings)
    try:
        yield one
    finally:
        one.llm.llm_engine.engine_core.shutdown()
        del one.llm
        gc.collect()

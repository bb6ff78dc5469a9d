"""vLLM servers to compare: as it comes, with what it offers for KV beside the device, and with our parts.

All have the same flags; only what a comparison is about differs. The server is vLLM's own in every arm.
vLLM's host offloading refuses engines on the CPU, so that the arms of its LRU and its ``fs`` tier run its
manager, policy and tier with our copying worker (``StepwellSpec``).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepwell.bench.servers import ServerArm, free_port
from stepwell.vllm.command_line import QUIET, command_line, transfer_config

ROOMY, STOCK, LRU, FS = "stock with room for all", "stock", "stock + LRU on the host", "stock + LRU + fs"
OURS, OURS_ROOMY = "stepwell", "stepwell with room for all"
ARMS = (ROOMY, STOCK, LRU, FS, OURS, OURS_ROOMY)
BLOCK_TOKENS = 32
VARIABLES = {**QUIET, "VLLM_LOGGING_LEVEL": "WARNING", "VLLM_CPU_KVCACHE_SPACE": "2"}
"""Of every server: on a CPU vLLM wants most of the machine's memory unless it is told how much."""


@dataclass(frozen=True, slots=True)
class VllmPlan:
    """What every server is given."""

    model: Path
    context_tokens: int
    everybody_blocks: int
    """Device blocks with which nothing needs to leave."""
    few_blocks: int
    host_bytes: int
    disk_bytes: int
    at_once: int
    """Requests that run together (``--max-num-seqs``)."""
    dtype: str

    def blocks_of(self, name: str) -> int:
        return self.everybody_blocks if name in (ROOMY, OURS_ROOMY) else self.few_blocks

    def flags(self, name: str) -> list[str]:
        return [
            *("--enforce-eager", "--dtype", self.dtype, "--block-size", str(BLOCK_TOKENS)),
            *("--max-model-len", str(self.context_tokens), "--max-num-seqs", str(self.at_once)),
            *("--num-gpu-blocks-override", str(self.blocks_of(name))),
            *("--max-num-batched-tokens", "512", "--enable-chunked-prefill"),
            "--disable-hybrid-kv-cache-manager",  # else a block holds a part of the layers, and tokens hide
        ]

    def arm(self, name: str, folder: Path) -> ServerArm:
        """One server. ``folder``: for what it writes."""
        port, flags = free_port(), self.flags(name)
        if name in (OURS, OURS_ROOMY):
            transfer = transfer_config(self.host_bytes, self.disk_bytes, folder / "kv")
            command = command_line(self.model, "127.0.0.1", port, transfer, flags)
        else:
            command = stock_command(self.model, port, self._transfer(name, folder), flags)
        return ServerArm(name, tuple(command), port, is_ours=False, device_kv_tokens=self._tokens(name))

    def _tokens(self, name: str) -> int:
        return self.blocks_of(name) * BLOCK_TOKENS

    def _transfer(self, name: str, folder: Path) -> dict[str, Any] | None:
        if name not in (LRU, FS):
            return None
        tiers = [{"type": "fs", "root_dir": str(folder / "fs")}] if name == FS else []
        return {
            "kv_connector": "OffloadingConnector",
            "kv_role": "kv_both",
            "kv_connector_extra_config": {
                "spec_name": "StepwellSpec",
                "spec_module_path": "stepwell.vllm.spec",
                "cpu_bytes_to_use": self.host_bytes,
                "eviction_policy": "lru",
                "offload_prompt_only": False,
                "secondary_tiers": tiers,
            },
        }


def stock_command(
    model: Path, port: int, transfer: Mapping[str, Any] | None, flags: Sequence[str]
) -> list[str]:
    """vLLM's server without any part of ours but, where KV moves on the CPU, the copying worker."""
    moved = () if transfer is None else ("--kv-transfer-config", json.dumps(transfer))
    return [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)),
        *("--served-model-name", model.resolve().name, "--host", "127.0.0.1", "--port", str(port)),
        *("--enable-prompt-tokens-details", *moved, *flags),
    ]

"""vLLM's own server with Stepwell's parts: its command line, the same for every way to start it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from stepwell.errors import BadInput
from stepwell.settings.file import ObjectSettings
from stepwell.tiers.objects.client import open_objects

QUIET = {
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",  # a model is a folder that is here: nothing is to be fetched
}


def transfer_config(
    host_bytes: int,
    disk_bytes: int,
    disk_dir: Path | None,
    tenant_bytes: int | None = None,
    objects: ObjectSettings | None = None,
) -> dict[str, object]:
    """vLLM's ``--kv-transfer-config`` with Stepwell's parts. Raises ``BadInput``."""
    tiers: list[dict[str, object]] = []
    if disk_bytes:
        if disk_dir is None:
            raise BadInput("--disk-kv needs --disk-dir: say where the KV shall lie")
        tier: dict[str, object] = {
            "type": "StepwellDisk",
            "module_path": "stepwell.vllm.disk",
            "root": str(disk_dir.resolve()),
            "max_bytes": disk_bytes,
        }
        if tenant_bytes is not None:
            tier["max_bytes_per_tenant"] = tenant_bytes
        tiers.append(tier)
    if objects is not None and objects.url:
        tiers.append(_objects(objects))
    if tiers:
        tiers.append({"type": "StepwellAhead", "module_path": "stepwell.vllm.ahead"})
    return {
        "kv_connector": "OffloadingConnector",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {
            "spec_name": "StepwellSpec",
            "spec_module_path": "stepwell.vllm.spec",
            "cpu_bytes_to_use": host_bytes,
            "eviction_policy": "StepwellHost",
            "cache_policy_module_path": "stepwell.vllm.host",
            "offload_prompt_only": False,
            "secondary_tiers": tiers,
        },
    }


def _objects(wanted: ObjectSettings) -> dict[str, object]:
    open_objects(wanted.url, wanted.deadline_ms / 1000)  # what is wrong with it is said before vLLM starts
    tier: dict[str, object] = {
        "type": "StepwellObjects",
        "module_path": "stepwell.vllm.objects",
        "url": wanted.url if "://" in wanted.url else str(Path(wanted.url).resolve()),
        "max_bytes": wanted.kv,
        "deadline_s": wanted.deadline_ms / 1000,
        "buffer_bytes": wanted.buffer,
        "namespace": wanted.namespace,
    }
    if wanted.tenant_kv is not None:
        tier["max_bytes_per_tenant"] = wanted.tenant_kv
    return tier


OWNERS, FRONT_END_ONLY = "stepwell.vllm.owners.StepwellOwners", "stepwell.vllm.guard.FrontEndOnly"


def command_line(
    model: Path,
    host: str,
    port: int,
    transfer: Mapping[str, object],
    more: Sequence[str] = (),
    *,
    middleware: bool = True,
    aliases: Sequence[str] = (),
) -> list[str]:
    """``middleware``: vLLM's server tells owners by their API keys itself; else a front end has done so, and
    only it may ask.
    ``aliases``: further names under which clients may ask for the model."""
    names = dict.fromkeys((model.resolve().name, *aliases))
    return [
        *(sys.executable, "-P", "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)),
        *("--served-model-name", *names, "--host", host, "--port", str(port)),
        *("--scheduling-policy", "priority", "--scheduler-cls", "stepwell.vllm.scheduler.StepwellScheduler"),
        *("--middleware", OWNERS if middleware else FRONT_END_ONLY),
        *("--enable-prompt-tokens-details", "--kv-transfer-config", json.dumps(transfer)),
        *more,
    ]


def environment(**more: str) -> dict[str, str]:
    """Of vLLM's process. What the caller's environment says wins over what is set here to keep it quiet."""
    return {**QUIET, **os.environ, **more}

"""The flags of ``stepwell serve``, and which setting each one is."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from stepwell.console.options import flag, option
from stepwell.settings.file import PolicySettings


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class ServeFlags:
    """Settings that have a flag; defaults stand in brackets."""

    model: Annotated[str | None, option("smollm2, gemma3, or the path of a GGUF file. [smollm2]")] = None
    served_model_name: Annotated[
        list[str] | None,
        Parameter(
            consume_multiple=True,
            help="Further names under which clients may ask for it.",
        ),
    ] = None
    device_kv_tokens: Annotated[
        int | None, option("Room for KV on the device, in tokens, all agents together. [8192]")
    ] = None
    host_kv: Annotated[str | None, option("Host memory for KV, like 512MiB or 2GiB; 0: none. [1GiB]")] = None
    disk_kv: Annotated[str | None, option("Disk room for KV; 0: none. [4GiB]")] = None
    disk_dir: Annotated[Path | None, option("Directory for KV on disk. [~/.cache/stepwell/kv]")] = None
    objects: Annotated[
        str | None, option("KV for all nodes below the disk: s3://bucket/folder, or a folder's path. [none]")
    ] = None
    objects_kv: Annotated[str | None, option("Room for KV there, of all nodes together. [100GiB]")] = None
    host: Annotated[
        str | None, option("Address to listen on; beyond loopback API keys are required. [127.0.0.1]")
    ] = None
    port: Annotated[int | None, option("Port; 0: any free one. [8000]")] = None
    keys_file: Annotated[Path | None, option("A TOML file with [[keys]]: key, tenant, service_tiers.")] = None
    record: Annotated[
        Path | None, option("Write every event here, for 'stepwell replay' (.gz compresses).")
    ] = None
    ledger: Annotated[
        str | None,
        option("The books: a file, postgresql://..., or none. [~/.local/share/stepwell/ledger.db]"),
    ] = None
    price_book: Annotated[
        str | None,
        option("What customers pay: a preset or a TOML file. [local]"),
    ] = None
    cost_book: Annotated[str | None, option("What the machine costs: a preset or a TOML file. [laptop]")] = (
        None
    )
    log_format: Annotated[
        str | None, option("How log lines look: text, or json (one object a line). [text]")
    ] = None
    policy: Annotated[
        str | None, option(f"Eviction policy: which block leaves a KV tier first. [{PolicySettings().name}]")
    ] = None
    context_tokens: Annotated[
        int | None, option("Longest prompt and answer. [what the model was trained for]")
    ] = None
    default_max_new_tokens: Annotated[
        int | None,
        option("Longest answer to a request that names no max_tokens. [512]"),
    ] = None
    threads: Annotated[int | None, option("CPU threads of the engine. [all that this process may use]")] = (
        None
    )
    kv_type: Annotated[
        str | None, option("f16, q8_0 (half the memory, changes results), q4_0, ... for K and V. [f16]")
    ] = None
    n_gpu_layers: Annotated[int | None, option("Layers on the GPU; -1: all. [0]")] = None
    engine: Annotated[
        str | None,
        option(
            "llamacpp; vllm: vLLM's own server behind this one, --model is a folder then; or null: computes "
            "nothing, for load tests. [llamacpp]"
        ),
    ] = None
    otel: Annotated[
        bool | None,
        flag(
            "Send spans and metrics by OpenTelemetry to where the OTEL_* variables say; one that names "
            "an exporter or an endpoint is enough without this flag."
        ),
    ] = None
    vllm_args: Annotated[
        str | None,
        Parameter(
            allow_leading_hyphen=True,
            help="Further flags of vLLM's own server, in one word: '--max-num-seqs 16 --enforce-eager'.",
        ),
    ] = None

    def settings(self) -> dict[str, object]:
        """What ``settings.load`` takes as its flags."""
        return {key: getattr(self, flag.name) for flag in fields(self) for key in KEYS[flag.name]}


KEYS = {
    "model": ["engine.model"],
    "served_model_name": ["server.model_aliases"],
    "device_kv_tokens": ["engine.device_kv_tokens"],
    "host_kv": ["kv.host_kv"],
    "disk_kv": ["kv.disk_kv"],
    "disk_dir": ["kv.disk_dir"],
    "objects": ["objects.url"],
    "objects_kv": ["objects.kv"],
    "host": ["server.host"],
    "port": ["server.port"],
    "keys_file": ["keys_file"],
    "record": ["record"],
    "ledger": ["ledger.path"],
    "price_book": ["ledger.price_book"],
    "cost_book": ["ledger.cost_book"],
    "log_format": ["log.format"],
    "policy": ["policy.name"],
    "context_tokens": ["engine.context_tokens"],
    "default_max_new_tokens": ["server.default_max_new_tokens"],
    "threads": ["engine.threads"],
    "kv_type": ["engine.kv_type_k", "engine.kv_type_v"],
    "n_gpu_layers": ["engine.n_gpu_layers"],
    "engine": ["engine.kind"],
    "otel": ["server.otel"],
    "vllm_args": ["engine.vllm_args"],
}
"""Per flag: the settings it stands for."""

"""``stepwell vllm serve | convert``: vLLM's own server with Stepwell's parts, and a model for it."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Annotated, NoReturn

from cyclopts import Parameter

from stepwell.basics.units import format_size, parse_size
from stepwell.console.options import Flag
from stepwell.console.progress import ticker
from stepwell.engines.models import resolve_model
from stepwell.errors import BadInput
from stepwell.settings.file import ObjectSettings
from stepwell.vllm.command_line import command_line, environment, transfer_config
from stepwell.vllm.convert import convert_gguf
from stepwell.vllm.install import examine_model, require_vllm
from stepwell.vllm.random_model import RANDOM, make_random
from stepwell.vllm.waking import VARIABLE

More = Annotated[
    str,
    Parameter(
        allow_leading_hyphen=True, help="Flags of vLLM itself, after --, as they are: -- --max-model-len 8192"
    ),
]


def serve(
    model: Path,
    *more: More,
    host: str = "127.0.0.1",
    port: int = 8000,
    host_kv: str = "1GiB",
    disk_kv: str = "0",
    disk_dir: Path | None = None,
    tenant_disk_kv: str | None = None,
    objects: str = "",
    objects_kv: str = "100GiB",
    config: Path | None = None,
    dry: Flag = False,
) -> int:
    """Run vLLM's own server with Stepwell's host policy, disk tier, scheduler and owners. No fork of vLLM.

    What it adds: agents' KV goes to host memory and disk in the order in which it can be spared; the disk
    is bounded and checked; service tiers decide which request goes first; its owner is taken from its API
    key, and what clients send about that is removed. Budgets, the ledger and the live page are 'stepwell
    serve' alone.

    Example: ``stepwell vllm serve models/gemma3 --disk-dir kv --disk-kv 20GiB -- --max-model-len 4096``

    Parameters
    ----------
    model
        A folder that vLLM loads; 'stepwell vllm convert' makes one of a GGUF.
    host
        The address to listen on.
    port
        The port to listen on.
    host_kv
        Host memory for KV.
    disk_kv
        Bound of KV on disk; 0 leaves the disk out.
    disk_dir
        Where it lies; needed with --disk-kv.
    tenant_disk_kv
        Bound of each tenant's KV on disk.
    objects
        Where engines on several machines share KV: s3://bucket/folder, or a folder's path.
    objects_kv
        Bound of KV there, of all engines together.
    config
        Stepwell's settings file, for its API keys.
    dry
        Print the command line and end.
    """
    require_vllm()
    examine_model(model)
    _require_keys_beyond_loopback(host, config)
    tenant_bytes = None if tenant_disk_kv is None else parse_size(tenant_disk_kv)
    shared = ObjectSettings(objects, parse_size(objects_kv))
    transfer = transfer_config(parse_size(host_kv), parse_size(disk_kv), disk_dir, tenant_bytes, shared)
    command = command_line(model, host, port, transfer, more)
    if not dry:
        _become(command, config)
    print(" ".join(_quoted(part) for part in command))
    return 0


def _become(command: list[str], config: Path | None) -> NoReturn:
    """vLLM's server in place of this process, so that signals reach it."""
    said = {} if config is None else {"STEPWELL_CONFIG": str(config.resolve())}
    said[VARIABLE] = tempfile.mkdtemp(prefix="stepwell-vllm-")
    os.execve(sys.executable, command, environment(**said))


def _quoted(part: str) -> str:
    return f"'{part}'" if set(part) & set(' "{}[]') else part


def _require_keys_beyond_loopback(host: str, config: Path | None) -> None:
    from stepwell.server.run import require_keys_beyond_loopback
    from stepwell.settings.file import load
    from stepwell.settings.keys import key_ring

    require_keys_beyond_loopback(host, key_ring(load(config, {})))


def convert(gguf: str, folder: Path, *, dtype: str = "bfloat16") -> int:
    """Turn a GGUF into a folder that vLLM loads: config, tokenizer and weights as safetensors.

    The weights are dequantised, so the folder is larger than the file, and tokens differ from those of
    llama.cpp, which computes with the quantised ones.

    Example: ``stepwell vllm convert gemma3 models/gemma3``

    Parameters
    ----------
    gguf
        smollm2, gemma3, the path of a GGUF file, or random: a tiny model without sense, for trying out.
    folder
        The folder to make; it must not exist.
    dtype
        Type of the weights: bfloat16, float16 or float32.
    """
    require_vllm()
    if dtype not in ("bfloat16", "float16", "float32"):
        raise BadInput(f"--dtype is bfloat16, float16 or float32, not {dtype!r}")
    if folder.exists():
        raise BadInput(f"{folder} is there already: name a new folder")
    source = None if gguf == RANDOM else resolve_model(gguf).path
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=folder.name + ".", dir=folder.parent))
    try:
        with ticker() as progress:
            if source is None:
                progress.phase("drawing random weights")
                make_random(beside)
            else:
                progress.phase(f"reading {source.name} and turning it into tensors")
                convert_gguf(source, beside, dtype)
        found = examine_model(beside)
        beside.chmod(0o755)
        beside.rename(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    print(
        f"{folder}: {found['architecture']}, {found['tensors']} tensors, "
        f"{format_size(found['weights_bytes'])}. "
        f"Serve it with  stepwell vllm serve {folder}"
    )
    return 0

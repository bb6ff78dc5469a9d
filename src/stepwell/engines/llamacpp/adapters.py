"""LoRA adapters: small files that change what a model's weights compute, chosen by request.

An adapter is a property of the whole context while it decodes, so a batch is run in one part for each adapter
in it. KV that was computed under one is wrong under another: ``EngineInfo.adapters`` names a digest for
each, which is part of the names of its blocks.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_cpp as lib

from stepwell.engines.base import BatchItem
from stepwell.engines.llamacpp.config import ModelError
from stepwell.engines.llamacpp.fingerprint import file_digest
from stepwell.engines.llamacpp.header import inspect
from stepwell.engines.llamacpp.native import NativeModel, complaint
from stepwell.policy.types import RequestId

Parts = list[tuple[str, list[BatchItem]]]


class Adapters:
    """The adapters of one model, loaded before its context is made. llama.cpp frees them with the model."""

    def __init__(self, model: NativeModel, files: Sequence[tuple[str, Path]]) -> None:
        """``files``: name and GGUF file. ``ModelError`` when one is not an adapter of this model."""
        self._handles = {name: _load(model, name, path) for name, path in files}
        self.digests = tuple((name, file_digest(path)) for name, path in files)
        self._used = ""
        self._of: dict[RequestId, str] = {}

    def require(self, name: str) -> None:
        """``ValueError`` for a name that there is not."""
        if name and name not in self._handles:
            there = ", ".join(sorted(self._handles)) or "none"
            raise ValueError(f"there is no adapter {name!r}; this model has {there}")

    def opened(self, request: RequestId, name: str) -> None:
        self._of[request] = name

    def forget(self, request: RequestId) -> None:
        self._of.pop(request, None)

    def apart(self, batch: Sequence[BatchItem]) -> Parts:
        """The batch by adapter, in the order in which each comes first."""
        parts: dict[str, list[BatchItem]] = {}
        for item in batch:
            parts.setdefault(self._of[item.request], []).append(item)
        return list(parts.items())

    def use(self, context: Any, name: str) -> None:
        """From now on the context decodes under this adapter; empty: under none."""
        if name == self._used:
            return
        if name:
            handles = (lib.llama_adapter_lora_p_ctypes * 1)(self._handles[name])
            status = lib.llama_set_adapters_lora(context, handles, 1, (ctypes.c_float * 1)(1.0))
        else:
            status = lib.llama_set_adapters_lora(context, None, 0, None)
        assert status == 0, f"llama.cpp does not take the adapter {name!r}"
        self._used = name


def _load(model: NativeModel, name: str, path: Path) -> Any:
    try:
        header = inspect(path)
    except ModelError as error:
        raise ModelError(f"adapter {name!r}: {error}") from None
    if header.values.get("general.type") != "adapter":
        raise ModelError(f"adapter {name!r}: {path} is a GGUF file, but not of a LoRA adapter")
    handle = lib.llama_adapter_lora_init(model.handle, os.fsencode(path))
    if not handle:
        raise ModelError(f"adapter {name!r}: {path} is damaged or of another model{complaint()}")
    if lib.llama_adapter_get_alora_n_invocation_tokens(handle):
        raise ModelError(
            f"adapter {name!r}: {path} is to be switched on by tokens (aLoRA), which is not served"
        )
    return handle

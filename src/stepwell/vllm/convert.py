"""A folder that vLLM loads, of a GGUF file: transformers reads and writes it."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stepwell.errors import StepwellError


def convert_gguf(source: Path, folder: Path, dtype: str) -> None:
    """Config, tokenizer and weights into ``folder``. Raises ``StepwellError`` with transformers' reason."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything is in the file: nothing is to be fetched
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()  # it warns of packed weights, which are not kept packed here
    logging.disable_progress_bar()
    place: dict[str, Any] = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
    try:
        with _read_once():
            tokenizer = AutoTokenizer.from_pretrained(**place)
            model = AutoModelForCausalLM.from_pretrained(**place, dtype=getattr(torch, dtype))
    except (ValueError, KeyError, NotImplementedError, OSError, ImportError) as error:
        raise StepwellError(
            f"transformers cannot read {source.name}: {str(error).splitlines()[0]}"
        ) from error
    model.hf_quantizer = None  # the tensors are plain now, and transformers would refuse to save them
    model.config.__dict__.pop("quantization_config", None)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@contextmanager
def _read_once() -> Iterator[None]:
    """transformers opens the file four times, and its reader walks each time through all words of the
    vocabulary as slices of a memory map, which for Gemma's 262,144 takes a minute of CPU. Here it is opened
    once, and lies in memory meanwhile."""
    import gguf
    import numpy as np

    plain, memmap = gguf.GGUFReader, np.memmap

    def in_memory(path: Any, *_: Any, **__: Any) -> Any:
        return np.fromfile(path, dtype=np.uint8)

    @functools.cache
    def opened(path: Any, *_: Any) -> Any:
        setattr(np, "memmap", in_memory)  # noqa: B010  a type to mypy, a name to us
        try:
            return plain(path)
        finally:
            setattr(np, "memmap", memmap)  # noqa: B010

    gguf.GGUFReader = opened
    try:
        yield
    finally:
        gguf.GGUFReader = plain

"""A machine as ``stepwell calibrate RUN --out`` writes it, and as ``stepwell simulate --machine`` reads it:
its lines, and its room for KV in tokens and bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from stepwell.errors import BadInput
from stepwell.simulate.accelerator import Accelerator
from stepwell.simulate.llamacpp_costs import LlamaCppCosts

LINES: Mapping[str, type[Accelerator] | type[LlamaCppCosts]] = {
    "accelerator": Accelerator,
    "llama.cpp": LlamaCppCosts,
}
_ROOM = ("block_tokens", "device_tokens", "host_bytes", "disk_bytes", "step_tokens", "max_running")


@dataclass(frozen=True, slots=True)
class FittedMachine:
    """A machine that was fitted to a run of it."""

    lines: Accelerator | LlamaCppCosts
    block_tokens: int
    """Of the run; what a copy of a block takes is for so many."""
    device_tokens: int
    host_bytes: int
    disk_bytes: int
    step_tokens: int
    max_running: int
    source: str

    def as_json(self) -> dict[str, Any]:
        kind = next(name for name, made in LINES.items() if isinstance(self.lines, made))
        room = {name: getattr(self, name) for name in _ROOM}
        return {"machine": kind, "source": self.source, "lines": asdict(self.lines), **room}

    def for_blocks(self, block_tokens: int) -> Accelerator | LlamaCppCosts:
        """The lines with what a copy of a block of another size takes."""
        copy_us = self.lines.copy_us_per_block * block_tokens // self.block_tokens
        return replace(self.lines, copy_us_per_block=copy_us)


def read_machine(file: Path) -> FittedMachine:
    """``BadInput``: one sentence about what is missing or damaged."""
    try:
        found = json.loads(file.read_text("utf-8"))
        lines = LINES[found["machine"]](**found["lines"])
        room = {name: int(found[name]) for name in _ROOM}
        source = str(found["source"])
    except OSError as error:
        raise BadInput(f"{file}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise BadInput(
            f"{file} is no machine as 'stepwell calibrate RUN --out' writes it: {error!r}"
        ) from error
    figures = {**asdict(lines), **room}
    for name, value in figures.items():
        if not isinstance(value, int) or value < 0:
            raise BadInput(f"{file}: {name} is {value!r} and must be a whole number at or above zero")
    for name in (
        "token_bytes",
        "block_tokens",
        "step_tokens",
        "max_running",
        "read_bytes_per_s",
        "write_bytes_per_s",
    ):
        if not figures[name]:
            raise BadInput(f"{file}: {name} must be above zero")
    return FittedMachine(lines, **room, source=source)

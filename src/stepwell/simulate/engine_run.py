"""A benchmark run of another engine, read from its folder: requests with their times, and how it was set up.

The layout is that of LLMServingSim's measurements of vLLM: ``requests.jsonl`` (request_id, input_toks,
output_toks, queued_ts, scheduled_ts, first_token_ts, last_token_ts; seconds of one clock) beside
``meta.json`` (the engine's own arguments, and its number of KV blocks where it was written down), here or
in ``vllm/``. ``config.json`` above it describes the hardware.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from stepwell.catalogue.kv import kv_bytes_per_token
from stepwell.catalogue.load import Entry, entries
from stepwell.errors import BadInput

TIMES = ("queued_ts", "scheduled_ts", "first_token_ts", "last_token_ts")
BAD_SHARE = 0.05
BUFFERS_GB = 3.5
"""What an engine keeps of memory besides weights and KV, where it does not say how many blocks it has."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One request as the engine served it; seconds from the first one's arrival."""

    input_tokens: int
    output_tokens: int
    queued_s: float
    scheduled_s: float
    first_s: float
    last_s: float

    @property
    def tpot_s(self) -> float | None:
        """Per token after the first."""
        return (self.last_s - self.first_s) / (self.output_tokens - 1) if self.output_tokens > 1 else None


@dataclass(frozen=True, slots=True)
class Scales:
    """What the lines of a machine would be if memory bandwidth were all that counts, in seconds."""

    step: float
    """All weights that one step reads on one chip."""
    depth: float
    """The KV of one token."""
    prompt_token: float
    """The weights that a token uses: a stand-in for arithmetic, which the folder does not tell."""


@dataclass(frozen=True, slots=True)
class EngineRun:
    """A run, and the engine's room."""

    name: str
    requests: tuple[Measured, ...]
    bad: tuple[str, ...]
    block_tokens: int
    blocks: int
    """Per replica."""
    blocks_from: str
    """How that is known."""
    max_running: int
    step_tokens: int
    context_tokens: int | None
    replicas: int
    scales: Scales | None = None
    """None: its folder says too little of hardware and model."""


def read_run(folder: Path) -> EngineRun:
    """``BadInput``: one sentence about what is missing or damaged."""
    place = next((p for p in (folder, folder / "vllm") if (p / "requests.jsonl").is_file()), None)
    if place is None:
        raise BadInput(f"{folder}: there is no requests.jsonl, here or in vllm/")
    meta = _json(place / "meta.json")
    requests, bad = _requests(place / "requests.jsonl")
    engine = meta.get("engine_kwargs") or {}
    try:
        replicas = int(engine.get("data_parallel_size") or 1)
        blocks, block_tokens, known = _blocks(folder, meta, engine)
        limit = engine.get("max_model_len")
        return EngineRun(
            str(meta.get("model") or folder.name), tuple(requests), tuple(bad), block_tokens, blocks, known,
            int(engine.get("max_num_seqs") or 256), int(engine.get("max_num_batched_tokens") or 2048),
            None if limit is None else int(limit), replicas, _scales(folder, meta, engine),
        )  # fmt: skip
    except (TypeError, ValueError, AttributeError) as error:
        raise BadInput(f"{place / 'meta.json'} is damaged: {error}") from error


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text("utf-8"))
    except OSError as error:
        raise BadInput(f"{file}: {error.strerror or error}") from error
    except ValueError as error:
        raise BadInput(f"{file} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise BadInput(f"{file} holds no JSON object")
    return found


def _requests(file: Path) -> tuple[list[Measured], list[str]]:
    rows: list[dict[str, Any]] = []
    bad: list[str] = []
    lines = [line for line in file.read_text("utf-8", "replace").splitlines() if line.strip()]
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(_row(line))
        except (ValueError, KeyError, TypeError) as error:
            bad.append(f"line {number}: {error!r}")
    if len(bad) > BAD_SHARE * max(1, len(lines)):
        raise BadInput(f"{file}: refused, {len(bad)} of {len(lines)} lines are malformed, first {bad[0]}")
    if len(rows) < 20:
        raise BadInput(f"{file}: {len(rows)} requests are too few to fit anything")
    start = min(row["queued_ts"] for row in rows)
    found = [
        Measured(row["input_toks"], row["output_toks"], *(row[name] - start for name in TIMES))
        for row in rows
    ]
    return sorted(found, key=lambda one: one.queued_s), bad


def _row(line: str) -> dict[str, Any]:
    row = json.loads(line)
    times = [float(row[name]) for name in TIMES]
    counts = [int(row[name]) for name in ("input_toks", "output_toks")]
    if not all(map(math.isfinite, times)) or times != sorted(times) or min(counts) < 1:
        raise ValueError("times that go back, or a length below one")
    return {**dict(zip(TIMES, times, strict=True)), "input_toks": counts[0], "output_toks": counts[1]}


def _blocks(folder: Path, meta: Mapping[str, Any], engine: Mapping[str, Any]) -> tuple[int, int, str]:
    """KV blocks of one replica: as the engine said, or else from its memory."""
    cache = meta.get("kv_cache") or {}
    size = int(cache.get("block_size") or engine.get("block_size") or 16)
    if cache.get("num_gpu_blocks"):
        return int(cache["num_gpu_blocks"]), size, "the engine's own block count"
    model = _model(str(meta.get("model") or ""))
    memory = _instance(folder / "config.json")
    if model is None or memory is None:
        return 1 << 20, size, "unknown: taken as never full"
    chips = int(engine.get("tensor_parallel_size") or 1)
    weights_gb = _weights_gb(model, engine)
    gb = memory["mem_size"] * memory.get("mem_util", 0.9) - weights_gb - BUFFERS_GB
    heads = min(chips, max(1.0, model.number("kv_heads")))
    blocks = int(gb * 1e9 // (kv_bytes_per_token(model, 2.0) / heads * size))
    if blocks < 1:
        raise BadInput(f"{folder}: no memory is left for KV beside the weights of {model.name}")
    return blocks, size, f"memory of {memory['mem_size']} GB less weights and {BUFFERS_GB} GB"


def _scales(folder: Path, meta: Mapping[str, Any], engine: Mapping[str, Any]) -> Scales | None:
    model = _model(str(meta.get("model") or ""))
    memory = _instance(folder / "config.json")
    if model is None or memory is None or not memory.get("mem_bw"):
        return None
    chips = int(engine.get("tensor_parallel_size") or 1)
    bytes_per_s = memory["mem_bw"] * 1e9
    return Scales(
        _weights_gb(model, engine) * 1e9 / bytes_per_s,
        kv_bytes_per_token(model, 2.0) / min(chips, max(1.0, model.number("kv_heads"))) / bytes_per_s,
        2e9 * model.number("active_params_b") / chips / bytes_per_s,
    )


def _weights_gb(model: Entry, engine: Mapping[str, Any]) -> float:
    """On one chip, in bf16; experts are spread over the replicas where the engine says so."""
    chips = int(engine.get("tensor_parallel_size") or 1)
    expert = int(engine.get("data_parallel_size") or 1) if engine.get("enable_expert_parallel") else 1
    total, active = model.number("params_b"), model.number("active_params_b")
    return 2 * (active + (total - active) / expert) / chips


def _instance(file: Path) -> dict[str, float] | None:
    if not file.is_file():
        return None
    try:
        memory = _json(file)["nodes"][0]["instances"][0]["npu_mem"]
        return {key: float(value) for key, value in memory.items() if isinstance(value, int | float)}
    except (LookupError, TypeError):
        return None


def _model(path: str) -> Entry | None:
    """The catalogue's model whose name the path holds; the longest such name."""
    text = path.lower()
    found = [key for key in entries("models") if key in text]
    return entries("models")[max(found, key=len)] if found else None


@dataclass(frozen=True, slots=True)
class MeanTimes:
    """Means over requests, in milliseconds."""

    ttft_ms: float
    tpot_ms: float
    e2e_ms: float

    def errors(self, really: MeanTimes) -> tuple[float, float, float]:
        """Relative errors against what was measured."""
        return (
            self.ttft_ms / really.ttft_ms - 1,
            self.tpot_ms / really.tpot_ms - 1,
            self.e2e_ms / really.e2e_ms - 1,
        )


def mean_times(requests: Iterable[Measured]) -> MeanTimes:
    """As the engine's own summary has them: from queueing on."""
    found: Sequence[Measured] = list(requests)
    tpot = [one.tpot_s for one in found if one.tpot_s is not None]
    return MeanTimes(
        fmean(one.first_s - one.queued_s for one in found) * 1e3,
        fmean(tpot) * 1e3 if tpot else 0.0,
        fmean(one.last_s - one.queued_s for one in found) * 1e3,
    )

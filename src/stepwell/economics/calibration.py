"""Fit the roofline's constants to measured points; the error on configurations that were left out."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

from stepwell.catalogue.load import entries, entry
from stepwell.economics.roofline import TERMS, Serving, terms
from stepwell.errors import BadInput
from stepwell.simulate.fit import fit

FOLDS = 5
BAD_SHARE = 0.05
_ROUNDS = 8
_NEAR = 0.03
"""Errors below this weigh alike; above, a point's pull falls with its error, as in a fit of medians."""

MODEL_OF_PATH = {
    "Llama-3.1-8B": "llama-3.1-8b",
    "Llama-3.1-70B": "llama-3.1-70b",
    "Qwen3-32B": "qwen3-32b",
    "Qwen3-235B-A22B": "qwen3-235b-a22b",
    "Qwen3-30B-A3B": "qwen3-30b-a3b",
    "Qwen3.5-397B-A17B": "qwen3.5-397b-a17b",
    "DeepSeek-R1": "deepseek-v3",
    "DeepSeek-V3": "deepseek-v3",
    "gpt-oss-120b": "gpt-oss-120b",
    "MiniMax-M2.5": "minimax-m2.5",
    "Kimi-K2": "kimi-k2",
    "GLM-5": "glm-5",
}
_WEIGHT_BYTES = {"fp8": 1.0, "fp8_block": 1.0, "fp4": 0.56, "nvfp4": 0.56, "mxfp4": 0.56, "w4a16_mxfp4": 0.56}


@dataclass(frozen=True, slots=True)
class Point:
    """One measured configuration."""

    engine: str
    serving: Serving
    tpot_ms: float

    @property
    def dense(self) -> bool:
        return self.serving.model.get("params_b") == self.serving.model.get("active_params_b")

    @property
    def configuration(self) -> str:
        """Points that differ only in lengths and batch share one; they are left out together."""
        s = self.serving
        return f"{self.engine} {s.model.key} {s.part.key} x{s.chips} {s.weight_bytes}"


@dataclass(frozen=True, slots=True)
class Points:
    points: list[Point]
    skipped: int
    """Rows of disaggregated runs, or of models that the catalogue does not have."""
    bad: list[str]
    """Malformed rows, by line and reason."""


def read_points(path: Path) -> Points:
    """A CSV with the columns of AIConfigurator's silicon points; ``.gz`` is read too."""
    data = path.read_bytes()
    try:
        text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8", "replace")
    except (OSError, EOFError, zlib.error) as error:
        raise BadInput(f"{path} cannot be read: {error}") from error
    reader = csv.DictReader(io.StringIO(text))
    needed = {"backend", "model_path", "system", "isl", "osl", "batch_size", "tp_size", "silicon_tpot_ms"}
    if missing := needed - set(reader.fieldnames or ()):
        raise BadInput(f"{path}: the columns {', '.join(sorted(missing))} are missing")
    found, skipped, bad = [], 0, []
    for row in reader:
        if row.get("mode", "agg") != "agg" or (model := _model(row["model_path"])) is None:
            skipped += 1
            continue
        try:
            found.append(_point(row, model))
        except (ValueError, TypeError) as error:
            bad.append(f"line {reader.line_num}: {error}")
    if len(bad) > BAD_SHARE * max(1, len(found) + len(bad)):
        raise BadInput(f"{path}: {len(bad)} of {len(found) + len(bad)} points are malformed, first {bad[0]}")
    return Points(found, skipped, bad)


def _model(path: str) -> str | None:
    return next((key for part, key in MODEL_OF_PATH.items() if part in path), None)


def _point(row: dict[str, str], model: str) -> Point:
    part = row["system"].removesuffix("_sxm")
    if part not in entries("parts"):
        raise ValueError(f"unknown hardware {row['system']!r}")
    values = [float(row[name]) for name in ("batch_size", "isl", "osl", "silicon_tpot_ms")]
    if not all(0 < value < 1e9 for value in values):
        raise ValueError("a figure is not above zero")
    batch, isl, osl, measured = values
    chips = int(row["tp_size"] or 1) * int(row.get("pp_size") or 1)
    weight = _WEIGHT_BYTES.get(row.get("gemm_quant_mode") or row.get("precision") or "", 2.0)
    serving = Serving(entry("models", model), entry("parts", part), chips, weight, 2.0, int(batch), isl, osl)
    return Point(row["backend"], serving, measured)


def fit_constants(points: Sequence[Point]) -> list[float]:
    """None below zero; relative errors count, and far-off points count less (reweighted least squares)."""
    rows = [terms(point.serving) for point in points]
    targets = [point.tpot_ms for point in points]
    weights = [1 / target for target in targets]
    constants = [0.0] * len(TERMS)
    for _ in range(_ROUNDS):
        scaled = [[term * w for term in row] for row, w in zip(rows, weights, strict=True)]
        constants = fit(scaled, [t * w for t, w in zip(targets, weights, strict=True)])
        off = [abs(_dot(row, constants) / target - 1) for row, target in zip(rows, targets, strict=True)]
        weights = [1 / t / max(_NEAR, error) ** 0.5 for t, error in zip(targets, off, strict=True)]
    return constants


def _dot(row: Sequence[float], constants: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(row, constants, strict=True))


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Relative errors of points whose configuration was not fitted."""

    name: str
    points: int
    median: float
    mean: float


def fold_of(configuration: str) -> int:
    return int(hashlib.sha256(configuration.encode()).hexdigest(), 16) % FOLDS


def held_out(points: Sequence[Point]) -> Iterator[tuple[Point, float]]:
    """Every point with its relative error under constants fitted without its configuration."""
    for fold in range(FOLDS):
        left_in = [p for p in points if fold_of(p.configuration) != fold]
        if not left_in:
            continue
        constants = by_engine(left_in)
        for point in points:
            if fold_of(point.configuration) == fold:
                yield point, error_of(point, constants)


def error_of(point: Point, constants: Mapping[str, Sequence[float]]) -> float:
    """The relative error with its engine's constants."""
    chosen = constants.get(point.engine, constants["all"])
    return abs(_dot(terms(point.serving), chosen) / point.tpot_ms - 1)


def by_engine(points: Sequence[Point]) -> dict[str, list[float]]:
    """Constants per engine, and ``all`` for an engine that was not measured."""
    engines = sorted({point.engine for point in points})
    found = {engine: fit_constants([p for p in points if p.engine == engine]) for engine in engines}
    return found | {"all": fit_constants(points)}


def grouped(errors: Sequence[tuple[Point, float]], name: Callable[[Point], str]) -> list[HeldOut]:
    groups: dict[str, list[float]] = {}
    for point, error in errors:
        groups.setdefault(name(point), []).append(error)
    return [HeldOut(key, len(v), median(v), fmean(v)) for key, v in sorted(groups.items())]

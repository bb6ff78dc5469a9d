from __future__ import annotations

from pathlib import Path

import pytest

from stepwell.economics.calibration import by_engine, error_of, fold_of, held_out, read_points
from stepwell.economics.constants import load_constants
from stepwell.economics.roofline import TERMS, tpot_ms
from stepwell.errors import BadInput

HEAD = "backend,model_path,system,tp_size,batch_size,isl,osl,gemm_quant_mode,silicon_tpot_ms"


def points_file(path: Path, bad: int = 0) -> Path:
    """Points that a known machine would measure."""
    rows = [
        f"vllm,Qwen/Qwen3-32B,{part}_sxm,{tp},{batch},{isl},{osl},fp8,1"
        for part in ("h100", "h200", "b200")
        for tp in (1, 2, 4)
        for batch in (1, 8, 64)
        for isl, osl in ((1024, 1024), (8192, 1024))
    ]
    path.write_text("\n".join([HEAD, *rows]) + "\n")
    constants = load_constants("vllm")
    measured = [tpot_ms(p.serving, constants) for p in read_points(path).points]
    rows = [f"{row.rpartition(',')[0]},{value}" for row, value in zip(rows, measured, strict=True)]
    path.write_text("\n".join([HEAD, *rows, *["vllm,Qwen/Qwen3-32B,h999,1,1,1,1,fp8,1"] * bad]) + "\n")
    return path


def test_known_constants_predict_configurations_that_were_left_out(tmp_path: Path) -> None:
    points = read_points(points_file(tmp_path / "points.csv")).points
    assert len({fold_of(p.configuration) for p in points}) > 1
    errors = sorted(error for _, error in held_out(points))
    assert errors[len(errors) // 2] < 0.02
    constants = by_engine(points)
    assert len(constants["vllm"]) == len(TERMS) and min(constants["vllm"]) >= 0
    assert error_of(points[0], constants) < 0.05


def test_malformed_points_are_counted_and_refused_past_a_share(tmp_path: Path) -> None:
    read = read_points(points_file(tmp_path / "few.csv", bad=1))
    assert len(read.bad) == 1 and "h999" in read.bad[0]
    with pytest.raises(BadInput, match="malformed"):
        read_points(points_file(tmp_path / "many.csv", bad=10))
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(BadInput, match="columns"):
        read_points(tmp_path / "other.csv")


def test_constants_of_an_engine_that_was_not_measured() -> None:
    with pytest.raises(BadInput, match="fitted for"):
        load_constants("other")

"""``stepwell calibrate``: fit a machine to measured points or to a run, and say how good it is."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from stepwell.commands.calibrate.archive import calibrate_archive, is_archive
from stepwell.commands.calibrate.own import calibrate_own
from stepwell.commands.calibrate.page import points_page
from stepwell.commands.calibrate.run import calibrate_run
from stepwell.commands.plan.output import progress, write_page
from stepwell.console.options import ChartsOption, FileOption, Flag, ResultOption
from stepwell.console.output import console_for, write_json
from stepwell.economics.calibration import (
    FOLDS,
    HeldOut,
    Point,
    by_engine,
    error_of,
    grouped,
    held_out,
    read_points,
)
from stepwell.economics.roofline import TERMS
from stepwell.errors import BadInput
from stepwell.simulate.files import is_recording

HEAD = ("held out", "points", "median error", "mean")


def calibrate(
    file: Path,
    *,
    hold_out: Flag = False,
    out: FileOption = None,
    html: ChartsOption = None,
    json_file: ResultOption = None,
) -> int:
    """Fit the hardware model to measurements or to a run; report the error on what was left out.

    A recording of 'stepwell serve --record': every second step is fitted and the others are predicted; then
    all turns are played under the simulation and means of TTFT, TPOT and E2E are compared.

    Measured points are a CSV (``.gz`` too) with the columns backend, model_path, system, tp_size, batch_size,
    isl, osl, gemm_quant_mode and silicon_tpot_ms, as AIConfigurator publishes them. Whole configurations
    (engine, model, part, chips, precision) are left out together, a fifth at a time, and predicted from the
    rest.
    Dense models are fitted; mixtures of experts are predicted with the constants of the dense ones.

    A folder is a run of vLLM (requests.jsonl, meta.json, here or in vllm/; config.json above): every second
    request is fitted, all are played again under the simulation with the engine's own number of blocks, and
    means of TTFT, TPOT and E2E are compared.

    A ``.tar.gz`` of such folders: each run in turn, with one table at the end. With ``--hold-out`` no request
    of a run is fitted: its lines are those of the other runs (of the same model, if there are any), carried
    over to its own memory bandwidth.

    Example: ``stepwell calibrate run.jsonl.gz --out machine.json``, then ``stepwell simulate run.jsonl.gz
    --machine machine.json``

    Example: ``stepwell calibrate run/RTX4090/Llama-3.1-8B --html calibration.html``

    Example: ``stepwell calibrate points.csv.gz --out constants.json``, then ``stepwell plan price ...
    --constants constants.json``

    Parameters
    ----------
    file
        A recording, measured points, the folder of a run, or a ``.tar.gz`` of those.
    hold_out
        With a ``.tar.gz``: predict each run from the others.
    out
        Write the machine or the constants here.
    """
    if hold_out and not is_archive(file):
        raise BadInput(f"--hold-out predicts one run from others: give a .tar.gz of folders, not {file}")
    if file.is_dir():
        return calibrate_run(file, out, html, json_file)
    if is_recording(file):
        return calibrate_own(file, out, html, json_file)
    if is_archive(file):
        return calibrate_archive(file, out, html, json_file, hold_out)
    return _calibrate_points(file, out, html, json_file)


def _calibrate_points(file: Path, out: Path | None, html: Path | None, json_file: Path | None) -> int:
    read = read_points(file)
    dense = [point for point in read.points if point.dense]
    fitted, mixtures = dense, [point for point in read.points if not point.dense]
    if len(fitted) < 2 * len(TERMS):
        raise BadInput(f"{file}: {len(fitted)} points are too few to fit {len(TERMS)} constants")
    errors = list(progress(held_out(fitted), len(fitted), f"fitting {FOLDS} times"))
    constants = by_engine(fitted)
    named = {
        e: dict(zip(TERMS, (round(c, 6) for c in values), strict=True)) for e, values in constants.items()
    }
    console = console_for(json_file)
    whole = grouped(errors, lambda point: "all points")
    blind = [(p, error_of(p, constants)) for p in mixtures]
    rows = [
        *grouped(errors, _label),
        *grouped(blind, lambda p: f"mixture, dense constants: {p.serving.model.key}"),
    ]
    rows += whole
    console.print(_table(rows))
    read_note = (
        f"{len(read.points)} points read, {read.skipped} of other kinds skipped, {len(read.bad)} malformed"
    )
    console.print(read_note)
    answer = (
        f"median error of the time per token {whole[0].median:.1%} (mean {whole[0].mean:.1%}) on"
        f" {whole[0].points} points of configurations that were not fitted"
    )
    if html is not None:
        inputs = {"points": file, "held out": f"one of {FOLDS} folds at a time", "read": read_note}
        page = points_page(f"{answer}.", HEAD, rows, [_cells(row) for row in rows], named, inputs)
        write_page(page, html, console)
    result = {"constants": named, "held_out": [_json(row) for row in rows], "malformed": read.bad}
    write_json(json_file, result)
    write_json(out, {"constants": named, "source": file.name, "held_out_median": whole[0].median})
    console.print(f"calibrate: {answer}", style="bold", markup=False)
    return 0


def _label(point: Point) -> str:
    return f"{point.engine} {point.serving.model.key} {point.serving.part.key}"


def _json(row: HeldOut) -> dict[str, object]:
    return {"name": row.name, "points": row.points, "median": row.median, "mean": row.mean}


def _table(rows: list[HeldOut]) -> Table:
    table = Table(*HEAD, title="time per output token")
    for row in rows:
        table.add_row(*_cells(row))
    return table


def _cells(row: HeldOut) -> list[str]:
    return [row.name, str(row.points), f"{row.median:.1%}", f"{row.mean:.1%}"]

"""``stepwell calibrate FOLDER``: fit the simulation to a run of another engine, and compare the two."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from stepwell.commands.calibrate.page import FIGURES, means_rows, run_page
from stepwell.commands.plan.output import write_page
from stepwell.console.output import console_for, write_json
from stepwell.simulate.engine_fit import Fidelity, fidelity
from stepwell.simulate.engine_run import EngineRun, MeanTimes, read_run
from stepwell.simulate.machine_file import FittedMachine


def calibrate_run(folder: Path, out: Path | None, html: Path | None, json_file: Path | None) -> int:
    """Fit, play, compare; write the lines of the fitted machine."""
    run = read_run(folder)
    with Console(stderr=True).status("") as status:
        found = fidelity(run, status.update)
    console = console_for(json_file)
    about = _about(run, found)
    for line in about:
        console.print(line, markup=False, soft_wrap=True)
    errors = {"error": found.errors, "error, not fitted": found.held_out_errors}
    console.print(means_table(found.measured, found.simulated, errors))
    result = {
        "run": run.name, "requests": len(run.requests), "malformed": list(run.bad), "blocks": run.blocks,
        "blocks_from": run.blocks_from, "replicas": run.replicas, "lines": asdict(found.model),
        "measured": asdict(found.measured), "simulated": asdict(found.simulated),
        "errors": dict(zip(FIGURES, found.errors, strict=True)),
        "held_out_errors": dict(zip(FIGURES, found.held_out_errors, strict=True)),
        "preemptions": found.preemptions,
    }  # fmt: skip
    write_json(json_file, result)
    machine = FittedMachine(
        found.model, run.block_tokens, run.blocks * run.block_tokens, 0, 0, run.step_tokens, run.max_running,
        run.name,
    )  # fmt: skip
    write_json(out, machine.as_json())
    shown = ", ".join(f"{name} {error:+.1%}" for name, error in zip(FIGURES, found.errors, strict=True))
    answer = f"{run.name}: error of the means: {shown}"
    if html is not None:
        inputs = {"run": folder, "fitted": "every second request", "blocks": f"{run.blocks:,}"}
        lines = asdict(found.model)
        page = run_page(f"{answer}.", found.measured, found.simulated, errors, about, lines, inputs)
        write_page(page, html, console)
    console.print(f"calibrate: {answer}", style="bold", markup=False)
    return 0


def _about(run: EngineRun, found: Fidelity) -> list[str]:
    model = found.model
    lines = [
        f"{run.name}: {len(run.requests)} requests, {run.replicas} replicas of {run.blocks:,} blocks of"
        f" {run.block_tokens} tokens ({run.blocks_from})",
        f"limits: {run.max_running} requests at once, {run.step_tokens} tokens a step",
        f"fitted: {model.step_ps / 1e9:.2f} ms a step, {model.sequence_ps / 1e6:.1f} us a sequence in it,"
        f" {model.depth_ps / 1e3:.1f} ns a token before those,"
        f" {model.prompt_token_ps / 1e6:.1f} us a token of a prompt",
        f"{found.preemptions} preemptions in the simulation",
    ]
    if run.bad:
        lines.append(f"{len(run.bad)} malformed lines were left out: {'; '.join(run.bad[:5])}")
    return lines


def means_table(
    measured: MeanTimes, simulated: MeanTimes, errors: Mapping[str, tuple[float, float, float]]
) -> Table:
    """Means in milliseconds; each column of errors under its name."""
    table = Table("mean", "measured ms", "simulated ms", *errors, title="fidelity")
    for row in means_rows(measured, simulated, errors):
        table.add_row(*row)
    return table

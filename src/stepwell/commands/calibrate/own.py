"""``stepwell calibrate RUN.jsonl``: fit a machine to a recording of our own server, and compare the two."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from stepwell.commands.calibrate.page import FIGURES, run_page
from stepwell.commands.calibrate.run import means_table
from stepwell.commands.plan.output import write_page
from stepwell.console.output import console_for, write_json
from stepwell.simulate.machine_file import FittedMachine
from stepwell.simulate.own_run import OwnFit, own_fit


def calibrate_own(file: Path, out: Path | None, html: Path | None, json_file: Path | None) -> int:
    """Fit, check, play, compare; write the machine."""
    with Console(stderr=True).status(f"{file.name}: fitting and playing"):
        found = own_fit(file)
    console = console_for(json_file)
    about = _about(file, found)
    for line in about:
        console.print(line, markup=False, soft_wrap=True)
    console.print(means_table(found.measured, found.simulated, {"error": found.errors}))
    machine = machine_of(file, found)
    errors = dict(zip(FIGURES, found.errors, strict=True))
    result = {
        "run": file.name, "turns": found.turns, "left_out": found.left_out, "machine": machine.as_json(),
        "held_out_steps": found.held_out_steps, "held_out_step_error": found.step_error,
        "held_out_steps_together": found.steps_error, "measured": asdict(found.measured),
        "simulated": asdict(found.simulated), "errors": errors,
    }  # fmt: skip
    write_json(json_file, result)
    write_json(out, machine.as_json())
    if out is not None:
        console.print(f"machine: {out} (stepwell simulate WORKLOAD --machine {out})", markup=False)
    shown = ", ".join(f"{name} {error:+.1%}" for name, error in errors.items())
    answer = (
        f"{file.name}: {found.held_out_steps} steps that were not fitted: median error"
        f" {found.step_error:.1%}, together {found.steps_error:+.1%}; error of the means: {shown}"
    )
    if html is not None:
        three = {"error": found.errors}
        inputs = {"recording": file, "fitted": "every second step", "turns": found.turns}
        lines = asdict(found.model)
        page = run_page(f"{answer}.", found.measured, found.simulated, three, about, lines, inputs)
        write_page(page, html, console)
    console.print(f"calibrate: {answer}", style="bold", markup=False, soft_wrap=True)
    return 0


def machine_of(file: Path, found: OwnFit) -> FittedMachine:
    config = found.config
    return FittedMachine(
        found.model, config.block_tokens, config.device_blocks * config.block_tokens, config.host_bytes,
        config.disk_bytes, config.step_tokens, config.max_running, file.name,
    )  # fmt: skip


def _about(file: Path, found: OwnFit) -> list[str]:
    model, config = found.model, found.config
    ms = {name: value / 1e9 for name, value in asdict(model).items() if name.endswith("_ps")}
    us = {name: 1e3 * value for name, value in ms.items()}
    lines = [
        f"{file.name}: {found.turns} turns, {found.fitted_steps} steps fitted and {found.held_out_steps} not;"
        f" {config.device_blocks} blocks of {config.block_tokens} tokens on the device",
        f"fitted: {ms['lone_ps']:.2f} ms a step of one token, {us['lone_depth_ps']:.1f} us a token before it;"
        f" else {ms['step_ps']:.2f} ms a step, {ms['prompt_token_ps']:.2f} ms a token of a prompt,"
        f" {ms['sequence_ps']:.2f} ms a sequence that decodes",
        f"a token before those takes {us['depth_ps']:.1f} us in small batches; in large ones"
        f" {us['tile_depth_ps']:.1f} us for a prompt's, {us['tile_sequence_ps']:.0f} us for a sequence",
    ]
    if found.left_out:
        lines.append(
            f"{found.left_out} turns were cancelled, refused or had not ended: they are not compared"
        )
    return lines

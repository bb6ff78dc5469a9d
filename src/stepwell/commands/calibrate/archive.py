"""``stepwell calibrate RUNS.tar.gz``: every run of another engine in an archive, one after the other."""

from __future__ import annotations

import tarfile
import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.table import Table

from stepwell.commands.calibrate.page import FIGURES, archive_page
from stepwell.commands.plan.output import progress, write_page
from stepwell.console.output import console_for, write_json
from stepwell.errors import BadInput
from stepwell.simulate.engine_fit import Fidelity, fidelity, predicted
from stepwell.simulate.engine_run import EngineRun, read_run

HEAD = ("run", "requests", *(f"{figure} ms" for figure in FIGURES), "errors", "not fitted")
_MOST_BYTES = 1 << 30
_WANTED = ("requests.jsonl", "meta.json", "config.json")


def is_archive(file: Path) -> bool:
    try:
        return file.is_file() and tarfile.is_tarfile(file)
    except OSError:
        return False


def calibrate_archive(
    file: Path, out: Path | None, html: Path | None, json_file: Path | None, hold_out: bool = False
) -> int:
    """Fit each run to half of its requests, play it, compare; ``hold_out``: predict each from the others.

    ``BadInput``: none is in it, or too few to hold one out."""
    if out is not None:
        raise BadInput("--out writes one machine: give the folder of one run")
    with tempfile.TemporaryDirectory(prefix="stepwell-calibrate-") as directory:
        folders = _unpacked(file, Path(directory))
        runs = [(str(folder.relative_to(directory)), read_run(folder)) for folder in folders]
        if hold_out and len(runs) < 2:
            raise BadInput(f"{file}: to hold one run out there must be two at least")
        found = [
            (name, run, predicted(run, _beside(run, runs)) if hold_out else fidelity(run))
            for name, run in progress(runs, len(runs), "fitting and playing")
        ]
    console = console_for(json_file)
    console.print(_table(found))
    write_json(json_file, {"hold_out": hold_out, "runs": [_json(*one) for one in found]})
    worst = max(abs(error) for _, _, one in found for error in one.errors)
    how = ", each predicted from the others" if hold_out else ""
    answer = f"{len(found)} runs{how}: the means are off by {worst:.1%} at most"
    if html is not None:
        errors = {name: one.errors for name, _, one in found}
        fitted = (
            "the other runs (of the same model, if there are any)"
            if hold_out
            else "every second request of each run"
        )
        page = archive_page(
            f"{answer}.", HEAD, [_cells(*one) for one in found], errors, {"archive": file, "fitted": fitted}
        )
        write_page(page, html, console)
    console.print(f"calibrate: {answer}", style="bold", markup=False)
    return 0


def _beside(run: EngineRun, runs: Sequence[tuple[str, EngineRun]]) -> list[EngineRun]:
    """The other runs: those of the same model, if there are any."""
    others = [other for _, other in runs if other is not run]
    return [other for other in others if other.name == run.name] or others


def _unpacked(file: Path, place: Path) -> list[Path]:
    """The folders of the runs, in the order of their names; nothing but their three files is unpacked."""
    try:
        with tarfile.open(file) as archive:
            members = [m for m in archive if m.isfile() and Path(m.name).name in _WANTED]
            if sum(member.size for member in members) > _MOST_BYTES:
                raise BadInput(f"{file}: its runs are larger than 1 GiB")
            archive.extractall(place, members, filter="data")
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise BadInput(f"{file} cannot be read: {error}") from error
    found = [requests.parent for requests in place.rglob("requests.jsonl")]
    folders = sorted(folder.parent if folder.name == "vllm" else folder for folder in found)
    if not folders:
        raise BadInput(f"{file}: there is no run in it (requests.jsonl beside meta.json)")
    return folders


def _table(found: list[tuple[str, EngineRun, Fidelity]]) -> Table:
    table = Table(*HEAD, title="fidelity")
    for one in found:
        table.add_row(*_cells(*one))
    table.caption = "means, measured / simulated; errors of " + ", ".join(FIGURES)
    return table


def _cells(name: str, run: EngineRun, one: Fidelity) -> list[str]:
    really, played = asdict(one.measured).values(), asdict(one.simulated).values()
    times = [f"{a:,.1f} / {b:,.1f}" for a, b in zip(really, played, strict=True)]
    errors = [" ".join(f"{e:+.1%}" for e in some) for some in (one.errors, one.held_out_errors)]
    return [name, str(len(run.requests)), *times, *errors]


def _json(name: str, run: EngineRun, one: Fidelity) -> dict[str, object]:
    return {
        "run": name, "requests": len(run.requests), "malformed": list(run.bad), "blocks": run.blocks,
        "blocks_from": run.blocks_from, "measured": asdict(one.measured), "simulated": asdict(one.simulated),
        "errors": dict(zip(FIGURES, one.errors, strict=True)),
        "held_out_errors": dict(zip(FIGURES, one.held_out_errors, strict=True)),
        "preemptions": one.preemptions,
    }  # fmt: skip

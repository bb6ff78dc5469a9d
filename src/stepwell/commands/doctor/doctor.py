"""``stepwell doctor``: what this machine can hold, how fast, and where loading beats recomputing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from stepwell.basics.this_machine import available_memory_bytes, usable_cores
from stepwell.basics.units import format_duration, format_size
from stepwell.commands.doctor.objects import (
    VLLM_BLOCK_BYTES,
    ObjectFindings,
    examine_objects,
    objects_line,
)
from stepwell.commands.doctor.promise import NOT_SERVED, Promise, promise_of
from stepwell.commands.doctor.vectors import file_of_vectors, report_of_vectors, vector_lines
from stepwell.console.options import JsonOption, OptionalPositive
from stepwell.console.output import report_console, table, write_json
from stepwell.console.progress import Ticker, ticker
from stepwell.console.report import Report, Verdict
from stepwell.engines.base import Engine, EngineInfo, TextModel
from stepwell.engines.models import resolve_model
from stepwell.engines.probe import DEPTHS, LENGTHS, Probe, ReturnSpeeds, crossovers
from stepwell.errors import UnfitModel
from stepwell.launch.assemble import load_engine
from stepwell.settings.file import Settings, load
from stepwell.tiers.inspect import measure_disk
from stepwell.vllm.install import examine_model, require_vllm

AGENT_TOKENS = (1_024, 4_096, 8_192)
PROBE_TOKENS = 1_024
LIMIT_HOST_MS = 10.0
LIMIT_DISK_MS = 60.0
_RECORD_BYTES = 4096
"""What a record on disk takes beside its payload, and what it is rounded up to."""


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class DoctorFlags:
    """The settings that are examined."""

    engine: Literal["llamacpp", "vllm"] = "llamacpp"
    """vllm: say instead whether 'stepwell vllm serve' would start here, with the folder given as --model."""
    model: str | None = None
    """smollm2, gemma3 or the path of a GGUF file."""
    config: Path | None = None
    """The settings file that serve would read."""
    device_kv_tokens: int | None = None
    """Room for KV on the device, in tokens."""
    host_kv: str | None = None
    """Bound of KV in host memory, like 512MiB."""
    disk_kv: str | None = None
    """Bound of KV on disk; 0 leaves the disk out."""
    disk_dir: Path | None = None
    """Directory for KV on disk. It is measured in a temporary directory beside it."""
    objects: str | None = None
    """An object store that nodes share: s3://bucket/folder, or a folder's path. One object is written there,
    read and removed."""
    threads: OptionalPositive = None
    """Threads of the engine (default: the cores there are)."""

    def settings(self) -> Settings:
        """Raises ``BadInput``."""
        flags: dict[str, object] = {
            "engine.model": self.model,
            "engine.device_kv_tokens": self.device_kv_tokens,
            "engine.threads": self.threads,
            "kv.host_kv": self.host_kv,
            "kv.disk_kv": self.disk_kv,
            "kv.disk_dir": None if self.disk_dir is None else str(self.disk_dir),
            "objects.url": self.objects,
        }
        return load(self.config, flags)


NO_FLAGS = DoctorFlags()


def doctor(*, flags: DoctorFlags = NO_FLAGS, json_file: JsonOption = None) -> int:
    """Say what this machine can hold with these settings, what is promised for the model, and how fast it is.

    Loads the model, computes about a thousand tokens, moves their KV to host memory and disk and back.
    Takes well under a minute. Give it the flags you mean to give to serve.

    Example: ``stepwell doctor --model gemma3 --device-kv-tokens 4096 --host-kv 2GiB``

    The promise is one of: exact (moved KV changes no bit), same tokens, not served. Exit code 2: not served.
    Of a model of embeddings or rankings: exact, or close (a number differs in its last digits beside others).
    """
    if flags.engine == "vllm":
        return _vllm(flags.model, load(flags.config, {"objects.url": flags.objects}), json_file)
    settings = flags.settings()
    free_before = available_memory_bytes()
    console = report_console(json_file)
    try:
        if (beside := file_of_vectors(settings)) is not None:
            return _vectors(settings, beside, console, json_file)
        with ticker() as progress:
            found = examine(settings, progress)
    except UnfitModel as error:
        return _not_served(settings, error, console, json_file)
    report = _report(settings, found, free_before)
    lines = [*_machine_lines(report, found, settings.engine.n_gpu_layers)]
    lines += [] if found.objects is None else [objects_line(settings.objects, found.objects)]
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    for shown in (_capacity_table(settings, found), _speed_table(found.speeds), _crossover_table(found)):
        console.print(shown)
    report.finish(console, json_file)
    return 0


def _vllm(model: str | None, settings: Settings, json_file: Path | None) -> int:
    """What is asked of vLLM: its version, a model's folder and an object store, if there are any."""
    found: dict[str, Any] = {"engine": "vllm", "version": require_vllm()}
    line = f"vLLM {found['version']} is here, the version that was tested."
    if model is not None:
        found["model"] = examine_model(Path(model))
        line += f" {model}: {found['model']['architecture']}, {found['model']['tensors']} tensors, whole."
    store = examine_objects(settings.objects, VLLM_BLOCK_BYTES)
    if store is not None:
        found["objects"] = store.as_json()
        line += "\n" + objects_line(settings.objects, store)
    write_json(json_file, found)
    report_console(json_file).print(line, markup=False, highlight=False, soft_wrap=True)
    return 0


def _vectors(settings: Settings, path: Path, console: Console, json_file: Path | None) -> int:
    """A model that makes no text: it keeps no KV, so there is less to say."""
    with ticker() as progress:
        report = report_of_vectors(settings, path, progress)
    for line in vector_lines(report):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    report.finish(console, json_file)
    return UnfitModel.exit_code if report.results["promise"]["word"] == NOT_SERVED else 0


def _not_served(settings: Settings, error: UnfitModel, console: Console, json_file: Path | None) -> int:
    promise = Promise(NOT_SERVED, str(error))
    write_json(json_file, _begun(settings, promise).as_json())
    console.print(promise.line(), markup=False, highlight=False, soft_wrap=True)
    return error.exit_code


@dataclass(frozen=True, slots=True)
class Findings:
    """What the examination found. ``disk`` is ``measure_disk``'s result, or why there is none."""

    info: EngineInfo
    speeds: ReturnSpeeds
    disk: dict[str, Any] | None
    disk_problem: str | None
    objects: ObjectFindings | None = None
    """Of the object store that the settings name."""


def examine(settings: Settings, progress: Ticker) -> Findings:
    """Load the model and measure; nothing is left behind."""
    wanted = settings.engine
    progress.phase(f"loading {wanted.model if wanted.kind == 'llamacpp' else 'the null engine'}")
    engine, text = load_engine(settings)
    try:
        return _measure(settings, engine, text, progress)
    finally:
        engine.close_engine()


def _measure(settings: Settings, engine: Engine, text: TextModel, progress: Ticker) -> Findings:
    info = engine.info
    progress.phase("computing, storing and loading a thousand tokens")
    speeds = Probe(engine, text).measure(PROBE_TOKENS)
    disk, problem = None, None
    if settings.kv.disk_kv:
        progress.phase(f"writing and reading them where {settings.kv.disk_dir} is")
        try:
            many = measure_disk(
                settings.kv.disk_dir, info.block_bytes, speeds.return_tokens // info.block_tokens
            )
            one = measure_disk(settings.kv.disk_dir, info.block_bytes, 1)
            speeds.disk_many_us, speeds.disk_one_us = many["read_s"] * 1e6, one["read_s"] * 1e6
            disk = many
        except OSError as error:
            problem = f"{settings.kv.disk_dir} cannot be used for KV: {error.strerror or error}"
    return Findings(info, speeds, disk, problem, examine_objects(settings.objects, info.block_bytes))


# --- the report -------------------------------------------------------------------------------


def _begun(settings: Settings, promise: Promise) -> Report:
    """The report with the settings and the promise."""
    kv = settings.kv
    chosen = {
        "model": settings.engine.model if settings.engine.kind == "llamacpp" else "null",
        "device_kv_tokens": settings.engine.device_kv_tokens,
        "host_kv_bytes": kv.host_kv,
        "disk_kv_bytes": kv.disk_kv,
        "disk_dir": str(kv.disk_dir),
        "threads": settings.engine.threads or usable_cores(),
    }
    return Report("doctor", chosen, {"promise": asdict(promise)})


def _report(settings: Settings, found: Findings, free_before: int) -> Report:
    report = _begun(settings, promise_of(settings.engine, found.info))
    report.results |= {
        "devices": _devices(settings),
        "model": found.info.model,
        "context_tokens": found.info.context_tokens,
        "kv_bytes_per_token": found.info.token_bytes,
        "block_bytes": found.info.block_bytes,
        "available_memory_bytes": free_before,
        "agents_that_fit": capacity(settings, found.info),
        "speeds": found.speeds.as_json(),
        "disk": found.disk,
        "objects": None if found.objects is None else found.objects.as_json(),
        "crossover_tokens": [asdict(one) for one in crossovers(found.speeds)],
    }
    report.samples = [{"what": "prefill_piece", **asdict(piece)} for piece in found.speeds.prefill] + [
        {"what": what, "us": values}
        for what, values in (
            ("store_block", found.speeds.store_us),
            ("load_block", found.speeds.load_us),
            ("return_from_host", found.speeds.return_us),
        )
    ]
    report.verdicts = verdicts(found.speeds)
    report.notes = list(warnings(settings, found, free_before))
    return report


def verdicts(speeds: ReturnSpeeds) -> list[Verdict]:
    """The two targets for coming back. Asked of 1,024 tokens; a smaller device is scaled up to that."""
    host_ms = speeds.host_us(PROBE_TOKENS) / 1000
    disk_us = speeds.disk_us(PROBE_TOKENS)
    return [
        Verdict("1,024 tokens back from host", host_ms, LIMIT_HOST_MS, " ms"),
        Verdict(
            "1,024 tokens back from disk", None if disk_us is None else disk_us / 1000, LIMIT_DISK_MS, " ms"
        ),
    ]


def capacity(settings: Settings, info: EngineInfo) -> dict[str, dict[str, int]]:
    """How many agents of a length fit in each KV tier, if no two share a prefix."""
    made: dict[str, dict[str, int]] = {"device": {}, "host": {}, "disk": {}}
    record_bytes = -(-(info.block_bytes + _RECORD_BYTES) // _RECORD_BYTES) * _RECORD_BYTES
    for tokens in AGENT_TOKENS:
        blocks = -(-tokens // info.block_tokens)
        made["device"][str(tokens)] = info.device_blocks // blocks
        made["host"][str(tokens)] = settings.kv.host_kv // (blocks * info.block_bytes)
        made["disk"][str(tokens)] = settings.kv.disk_kv // (blocks * record_bytes)
    return made


def warnings(settings: Settings, found: Findings, free_before: int) -> Iterator[str]:
    """What would go wrong, or is not worth having, with these settings on this machine."""
    info, kv = found.info, settings.kv
    cores = usable_cores()
    if cores < 2:
        yield "one core: engine, server and disk share it, so every figure here will be worse under load"
    if settings.engine.threads and settings.engine.threads > cores:
        yield f"{settings.engine.threads} threads on {cores} cores wait for each other: leave --threads out"
    needed = _model_bytes(settings) + info.device_bytes + kv.host_kv
    if needed > 0.9 * free_before:
        yield (
            f"model, device KV and --host-kv {format_size(kv.host_kv)} need {format_size(needed)} together "
            f"and {format_size(free_before)} are free: choose a smaller --host-kv"
        )
    yield from _disk_warnings(settings, found)
    if max(AGENT_TOKENS) > info.context_tokens:
        yield f"this model's context here is {info.context_tokens:,} tokens: no agent can be longer"


def _disk_warnings(settings: Settings, found: Findings) -> Iterator[str]:
    if found.disk_problem:
        yield found.disk_problem
    if found.disk is None:
        return
    free = _free_disk_bytes(settings.kv.disk_dir)
    if free < settings.kv.disk_kv:
        yield (
            f"--disk-kv {format_size(settings.kv.disk_kv)} is more than the {format_size(free)} that are "
            f"free where {settings.kv.disk_dir} is"
        )
    if not found.disk["direct_io"]:
        yield "no direct I/O in that directory: the disk figures may be the page cache's"
    speeds = found.speeds
    loading_us, computing_us = speeds.disk_us(PROBE_TOKENS), speeds.recompute_us(PROBE_TOKENS, 0)
    if loading_us is not None and loading_us > computing_us:
        yield (
            f"slow disk: 1,024 tokens come back in {format_duration(round(loading_us))} and are computed in "
            f"{format_duration(round(computing_us))}; KV on this disk does not pay"
        )


def _model_bytes(settings: Settings) -> int:
    return (
        resolve_model(settings.engine.model).path.stat().st_size if settings.engine.kind == "llamacpp" else 0
    )


def _free_disk_bytes(directory: Path) -> int:
    place = directory.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def _devices(settings: Settings) -> list[dict[str, Any]]:
    """What the build of llama.cpp can compute on."""
    if settings.engine.kind != "llamacpp":
        return []
    from stepwell.engines.llamacpp.devices import devices

    return [asdict(device) for device in devices()]


def device_line(device: dict[str, Any], layers: int) -> str:
    """One device of the build, and whether it is left unused."""
    memory = (
        f", {format_size(device['total_bytes'])} memory ({format_size(device['free_bytes'])} free)"
        if device["total_bytes"]
        else ""
    )
    unused = device["kind"] in ("gpu", "igpu") and not layers
    note = "; nothing is computed there: set engine.n_gpu_layers = -1" if unused else ""
    return f"Device: {device['name']} ({device['kind']}), {device['description']}{memory}{note}"


def _machine_lines(report: Report, found: Findings, layers: int) -> Iterator[str]:
    machine, info = report.as_json()["machine"], found.info
    yield (
        f"Machine: {machine['cpu']}, {machine['cores']} cores, {format_size(machine['memory_bytes'])} memory "
        f"({format_size(report.results['available_memory_bytes'])} free)"
    )
    for device in report.results["devices"]:
        yield device_line(device, layers)
    yield (
        f"Model: {info.model}, {info.token_bytes:,} bytes of KV per token, context {info.context_tokens:,} "
        f"tokens, blocks of {info.block_tokens} tokens ({format_size(info.block_bytes)})"
    )
    yield Promise(**report.results["promise"]).line()


def _capacity_table(settings: Settings, found: Findings) -> Table:
    fits = capacity(settings, found.info)
    sizes = {
        "device": f"{found.info.device_blocks * found.info.block_tokens:,} tokens",
        "host": format_size(settings.kv.host_kv),
        "disk": format_size(settings.kv.disk_kv),
    }
    rows = [
        [kv_tier, sizes[kv_tier], *(f"{count:,}" for count in counts.values())]
        for kv_tier, counts in fits.items()
    ]
    columns = ("KV tier", "size", *(f"agents of {tokens:,}" for tokens in AGENT_TOKENS))
    return table("What fits, if no two agents share a prefix", columns, rows)


def _speed_table(speeds: ReturnSpeeds) -> Table:
    figures = speeds.as_json()
    rows = [["prefill", f"{figures['prefill_tokens_per_s']:,.0f} tokens/s"]]
    for sequences, rate in figures["decode_tokens_per_s"].items():
        rows.append([f"decode, {sequences} at once", f"{rate:,.0f} tokens/s"])
    rows += [
        ["store a block, device to host", format_duration(round(figures["store_block_us"]))],
        ["load a block, host to device", format_duration(round(figures["load_block_us"]))],
    ]
    return table("How fast", ("", "measured"), rows)


def _crossover_table(found: Findings) -> Table:
    """Times to have n tokens back, by the way they come, and from where on each way wins."""
    speeds = found.speeds
    rows = []
    for tokens in LENGTHS:
        disk_us = speeds.disk_us(tokens)
        computed = [format_duration(round(speeds.recompute_us(tokens, depth))) for depth in DEPTHS]
        loaded = [speeds.host_us(tokens), disk_us]
        shown = ["-" if us is None else format_duration(round(us)) for us in loaded]
        rows.append([f"{tokens:,}", *shown, *computed])
    for kv_tier in ("host", "disk"):
        won = [one for one in crossovers(speeds) if one.kv_tier == kv_tier]
        cells = ["never" if one.tokens is None else f"from {one.tokens} on" for one in won]
        rows.append([f"{kv_tier} wins", "", "", *cells])
    columns = ("tokens", "from host", "from disk", *(f"computed behind {depth:,}" for depth in DEPTHS))
    return table("Where loading beats recomputing", columns, rows)

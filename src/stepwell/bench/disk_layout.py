"""``stepwell bench disk-layout``: how should KV blocks lie on this disk? The figures behind ADR 0003."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xxhash
from rich.table import Table

from stepwell.bench.common import (
    JsonOption,
    QuickOption,
    Report,
    Ticker,
    Verdict,
    percentile,
    report_console,
    require_writable,
    table,
    ticker,
)
from stepwell.bench.crash_child import BLOCK_BYTES, BLOCK_TOKENS, TOKEN_BYTES
from stepwell.bench.layouts import FilesLayout, Layout, LogLayout, SlabLayout, StoreLayout
from stepwell.policy.types import BlockMeta
from stepwell.tiers.inspect import measure_disk
from stepwell.tiers.pages import Pages

MakeLayout = Callable[[Path, int, int], Layout]

LAYOUTS: dict[str, MakeLayout] = {
    "file per block, space reused (chosen)": StoreLayout,
    "file per block": FilesLayout,
    "file per block, fdatasync": lambda path, limit, block: FilesLayout(path, limit, block, sync=True),
    "one slab of full frames": SlabLayout,
    "log of segments": LogLayout,
}
CHECKSUMS: dict[str, Callable[[memoryview], object]] = {
    "zlib.crc32": zlib.crc32,
    "hashlib.sha256": lambda data: hashlib.sha256(data).digest(),
    "hashlib.blake2b, 16 bytes": lambda data: hashlib.blake2b(data, digest_size=16).digest(),
    "xxhash XXH3, 8 bytes": xxhash.xxh3_64_digest,
    "xxhash XXH3, 16 bytes (chosen)": xxhash.xxh3_128_digest,
}


@dataclass(slots=True)
class Measured:
    """One layout's figures. Speeds count payload only: header and padding are the layout's business."""

    name: str
    fill_bytes_per_s: float = 0.0
    churn_bytes_per_s: float = 0.0
    churn_p99_us: float = 0.0
    read_bytes_per_s: float = 0.0
    read_p50_us: float = 0.0
    read_p99_us: float = 0.0
    restart_ms: float = 0.0
    held_share: float = 0.0
    """Payload held when full, as a share of the bound."""
    write_amplification: float = 0.0
    samples_us: list[float] = field(default_factory=list)


def main(
    *, quick: QuickOption = False, json_file: JsonOption = None, directory: Path | None = None, seed: int = 1
) -> int:
    """Measure the layouts that a store of KV blocks could have on the disk of this machine.

    Blocks of SmolLM2's size (64 tokens, 1.47 MB), every sixteenth a tail of random length. Each layout is
    filled to its bound, then blocks are dropped and written for twice the bound, then all are read in
    random order, then it starts again. Direct I/O, one thread, checksums included. Also measures the
    checksums that were considered, and 16 blocks (1,024 tokens) coming back through the real tiers.
    Example: stepwell bench disk-layout --directory /var/lib/stepwell

    Parameters
    ----------
    directory
        Where to measure (a new directory in there, removed afterwards); the default is the system's
        temporary directory. Name a directory on the disk that matters.
    seed
        Of the order of drops and reads.
    """
    require_writable(json_file)
    limit_bytes = (64 if quick else 512) * 2**20
    place = Path(tempfile.mkdtemp(prefix="stepwell-layout-", dir=directory))
    try:
        with ticker() as progress:
            measured = [_measure(name, place, limit_bytes, seed, progress) for name in LAYOUTS]
            progress.phase("checksums")
            checksums = {name: _speed_of(checksum) for name, checksum in CHECKSUMS.items()}
            progress.phase("1,024 tokens back from disk")
            back = measure_disk(place / "store", BLOCK_BYTES, 16)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return _finish(measured, checksums, back, limit_bytes, quick, json_file)


# --- one layout ---------------------------------------------------------------------------------


class _Run:
    """The same workload for every layout: what is dropped and read follows from the seed."""

    def __init__(self, layout: Layout, seed: int) -> None:
        self.layout, self.dice = layout, random.Random(seed)
        self.live: list[BlockMeta] = []
        self.pages = {BLOCK_TOKENS: Pages.of(os.urandom(BLOCK_BYTES))}
        self.next_number = 0
        self.payload_bytes = 0

    def new_block(self) -> BlockMeta:
        self.next_number += 1
        tail = self.next_number % 16 == 0
        n_tokens = self.dice.randint(1, BLOCK_TOKENS - 1) if tail else BLOCK_TOKENS
        name = self.next_number.to_bytes(16, "big")
        return BlockMeta(name, None, 0, n_tokens, (name,), "bench", n_tokens * TOKEN_BYTES)

    def pages_of(self, block: BlockMeta) -> Pages:
        if block.n_tokens not in self.pages:
            full = self.pages[BLOCK_TOKENS].payload
            self.pages[block.n_tokens] = Pages.of(full[: block.size_bytes])
        return self.pages[block.n_tokens]

    def write(self, block: BlockMeta) -> float:
        """Microseconds for making room (a random block goes) and writing."""
        pages = self.pages_of(block)
        started = time.perf_counter()
        while not self.layout.fits(block):
            self.layout.drop(self.live.pop(self.dice.randrange(len(self.live))))
        self.layout.write(block, pages)
        self.live.append(block)
        self.payload_bytes += block.size_bytes
        return (time.perf_counter() - started) * 1e6

    def fill(self) -> list[float]:
        took_us = []
        while self.layout.fits(block := self.new_block()):
            took_us.append(self.write(block))
        return took_us

    def churn(self, payload_bytes: int) -> list[float]:
        until, took_us = self.payload_bytes + payload_bytes, []
        while self.payload_bytes < until:
            took_us.append(self.write(self.new_block()))
        return took_us

    def read_all(self) -> list[float]:
        """Microseconds of full blocks; all are read."""
        self.dice.shuffle(self.live)
        buffers = {block.n_tokens: Pages(block.size_bytes) for block in self.live}
        took_us = []
        for block in self.live:
            started = time.perf_counter()
            self.layout.read(block, buffers[block.n_tokens])
            took_us.append((time.perf_counter() - started) * 1e6)
        return took_us


def _measure(name: str, place: Path, limit_bytes: int, seed: int, progress: Ticker) -> Measured:
    progress.phase(name)
    path = place / "layout"
    path.mkdir(mode=0o700)
    layout = LAYOUTS[name](path, limit_bytes, BLOCK_BYTES)
    measured = Measured(name)
    try:
        run = _Run(layout, seed)
        filled_us = run.fill()
        measured.fill_bytes_per_s = run.payload_bytes / sum(filled_us) * 1e6
        measured.held_share = _held_bytes(run) / limit_bytes
        _measure_churn(run, measured, 2 * limit_bytes)
        _measure_reads(run, measured)
        started = time.perf_counter()
        layout.restart()
        measured.restart_ms = (time.perf_counter() - started) * 1e3 * 2**30 / _held_bytes(run)
    finally:
        layout.close()
        shutil.rmtree(path)
    return measured


def _held_bytes(run: _Run) -> int:
    return sum(block.size_bytes for block in run.live)


def _measure_churn(run: _Run, measured: Measured, payload_bytes: int) -> None:
    before_payload, before_written = run.payload_bytes, run.layout.written_bytes
    took_us = run.churn(payload_bytes)
    moved = run.payload_bytes - before_payload
    measured.churn_bytes_per_s = moved / sum(took_us) * 1e6
    measured.churn_p99_us = percentile(took_us, 99)
    measured.write_amplification = (run.layout.written_bytes - before_written) / moved


def _measure_reads(run: _Run, measured: Measured) -> None:
    took_us = run.read_all()
    measured.samples_us = took_us
    measured.read_bytes_per_s = _held_bytes(run) / sum(took_us) * 1e6
    measured.read_p50_us, measured.read_p99_us = percentile(took_us, 50), percentile(took_us, 99)


def _speed_of(checksum: Callable[[memoryview], object]) -> float:
    """Bytes per second over a block that lies in memory, best of several."""
    data = Pages.of(os.urandom(BLOCK_BYTES)).payload
    best_s = float("inf")
    for _ in range(10):
        started = time.perf_counter()
        checksum(data)
        best_s = min(best_s, time.perf_counter() - started)
    return BLOCK_BYTES / best_s


# --- report -------------------------------------------------------------------------------------


def _finish(
    measured: Sequence[Measured],
    checksums: dict[str, float],
    back: dict[str, Any],
    limit_bytes: int,
    quick: bool,
    json_file: Path | None,
) -> int:
    settings = {"limit_bytes": limit_bytes, "block_bytes": BLOCK_BYTES, "quick": quick}
    layouts = {m.name: {name: getattr(m, name) for name in _FIGURES} for m in measured}
    results = {"layouts": layouts, "checksum_bytes_per_s": checksums, "back_from_disk": back}
    report = Report("disk-layout", settings, results)
    report.samples = [{"layout": m.name, "read_us": m.samples_us} for m in measured]
    report.verdicts = [Verdict("1,024 tokens (24 MB) back from disk", back["read_s"] * 1e3, 60.0, " ms")]
    if not back["direct_io"]:
        report.notes.append("this file system has no direct I/O: reads come from the page cache")
    console = report_console(json_file)
    console.print(_layout_table(measured))
    rows = [(name, f"{speed / 1e9:.2f}") for name, speed in checksums.items()]
    console.print(table("Checksum over one block", ("function", "GB/s"), rows))
    report.finish(console, json_file)
    return 1 if report.missed else 0


_FIGURES = [name for name in Measured.__dataclass_fields__ if name not in ("name", "samples_us")]


def _layout_table(measured: Sequence[Measured]) -> Table:
    columns = (
        "layout",
        "fill MB/s",
        "churn MB/s",
        "churn p99 ms",
        "read MB/s",
        "read p99 ms",
        "restart ms/GiB",
        "held",
        "written/payload",
    )
    rows = [
        (
            m.name,
            f"{m.fill_bytes_per_s / 1e6:,.0f}",
            f"{m.churn_bytes_per_s / 1e6:,.0f}",
            f"{m.churn_p99_us / 1e3:.1f}",
            f"{m.read_bytes_per_s / 1e6:,.0f}",
            f"{m.read_p99_us / 1e3:.1f}",
            f"{m.restart_ms:.0f}",
            f"{m.held_share:.0%}",
            f"{m.write_amplification:.2f}",
        )
        for m in measured
    ]
    return table("Layouts of KV blocks on disk", columns, rows)

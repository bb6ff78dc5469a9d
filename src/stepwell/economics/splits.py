"""The cheapest way to serve: how much DRAM, how many disks, how large a batch."""

from __future__ import annotations

from dataclasses import replace

from stepwell.economics.steps import Case, Memory, Steady, steady
from stepwell.errors import BadInput

DRAM_GB = (0, 250, 500, 1000, 1500)
SSD_DRIVES = (1, 2, 4, 8, 16, 32)
FASTER = (0.7, 0.5, 0.35, 0.25)
"""Shares of the target time per token that are tried too: a smaller batch leaves HBM to resting contexts."""

KINDS = {
    "hbm": "HBM only",
    "dram": "HBM + DRAM",
    "selective": "HBM + DRAM + SSD, selective",
    "everything": "HBM + DRAM + SSD, everything written",
}
"""Splits of memory, as people read them."""


def cheapest(case: Case, kind: str) -> tuple[Memory, Steady]:
    """The memory of least cost per turn for a kind of ``KINDS``, then the cheapest batch in the target."""
    drive_gb = case.ssd.number("drive_tb") * 1000
    drams = (0,) if kind == "hbm" else DRAM_GB
    disks = (0,) if kind in ("hbm", "dram") else SSD_DRIVES
    admission = kind if kind == "everything" else "selective"
    tried = [Memory(dram, count * drive_gb, admission) for dram in drams for count in disks]
    results = [(memory, steady(case, memory)) for memory in tried]
    memory, found = min(results, key=lambda pair: pair[1].usd_per_turn)
    smaller = [_faster(case, memory, share) for share in FASTER]
    every = [found, *(one for one in smaller if one is not None)]
    return memory, min(every, key=lambda one: one.usd_per_turn)


def _faster(case: Case, memory: Memory, share: float) -> Steady | None:
    """With a smaller batch; None: one sequence alone is not that fast."""
    try:
        return steady(replace(case, target_tpot_ms=case.target_tpot_ms * share), memory)
    except BadInput:
        return None

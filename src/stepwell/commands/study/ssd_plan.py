"""The closed form beside ``stepwell study ssd``: what disks are worth when every replica is full."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from stepwell.commands.plan.choice import Choice
from stepwell.economics.splits import KINDS, cheapest
from stepwell.economics.steps import Memory, Steady, drives, prefill_usd, ssd_write_usd

HEAD = ("part", "memory, at its cheapest size", "DRAM GB", "drives", "found", "USD/1,000 turns", "binds")
SPLITS = ("hbm", "dram", "selective", "everything")


@dataclass(frozen=True, slots=True)
class FullReplica:
    """One part, with each split of memory, at the load that fills it and meets the time per token."""

    part: str
    chips: int
    found: dict[str, tuple[Memory, Steady, float]]
    """By split: its memory, what it does, and how many disks that are."""
    write_usd: Decimal
    """Wear of writing one context once."""
    compute_usd: Decimal
    """Of computing it once."""
    ssd_usd_gb: Decimal

    def usd_1000(self, split: str) -> Decimal:
        return 1000 * self.found[split][1].usd_per_turn

    def rows(self) -> list[list[str]]:
        return [
            [
                f"{self.chips} x {self.part}", KINDS[split], f"{memory.dram_gb:,.0f}", f"{disks:.0f}",
                f"{steady.hit_share:.1%}", f"{float(self.usd_1000(split)):.2f}", steady.binds,
            ]
            for split, (memory, steady, disks) in self.found.items()
        ]  # fmt: skip

    def answer(self) -> str:
        """What the third step is worth, and when its wear costs more than computing."""
        before, after = self.usd_1000("dram"), self.usd_1000("selective")
        change = float(1 - after / before)
        read = float(self.write_usd / self.compute_usd)
        dear = float(self.ssd_usd_gb * self.compute_usd / self.write_usd)
        return (
            f"{self.chips} x {self.part}, full, closed form: ${before:.2f} for 1,000 turns with HBM and DRAM,"
            f" ${after:.2f} with disks and selective admission, {abs(change):.0%}"
            f" {'cheaper' if change >= 0 else 'dearer'}. Writing a context wears ${self.write_usd:.4f} off a"
            f" disk and computing it costs ${self.compute_usd:.4f}: wear costs more above ${dear:.2f} a GB"
            f" (it is ${self.ssd_usd_gb:.2f}), or where what is written is read less than {read:.2f} times."
        )


def full_replica(part: str, chips: int, what_if: Sequence[str]) -> FullReplica:
    """``BadInput``: no such part or figure."""
    case = Choice(chips=chips, what_if=list(what_if)).case(part)
    found = {}
    for split in SPLITS:
        memory, steady = cheapest(case, split)
        found[split] = memory, steady, drives(memory, case.ssd)
    tokens = case.serving.input_tokens
    return FullReplica(
        part, chips, found, ssd_write_usd(case, tokens), prefill_usd(case, tokens), case.ssd.get("usd_gb")
    )

"""The restart of ``stepwell bench exactness``: blocks that another life of the server left on disk.

A cold server computes a prompt in other batches than a warm one, which has most of it already, and sums of
floating-point numbers depend on the batch; so answers from before and after a restart prove nothing. Here the
same turns come twice. In one arm the server lives on and finds everything on the device the second time; in
the other it is stopped in between and started anew on the same disk. The second times run the same batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stepwell.bench.arms import ArmsJob, Comparison, TurnResult, same_verdicts
from stepwell.bench.harness import scratch
from stepwell.console.progress import Ticker
from stepwell.console.report import Verdict
from stepwell.policy.types import KvTier

SHARE = 5
"""One turn in so many of the run: this part runs each of its turns four times."""


@dataclass(slots=True)
class Restarted:
    """What the restart changed (``comparison``: nothing may), and what another batch did."""

    comparison: Comparison
    cold: Comparison
    """Turns computed anew against the same turns found on the device: other batches, and no cache moved."""


def run(job: ArmsJob, progress: Ticker) -> Restarted:
    """Both arms. ``job.turns`` turns, each of them twice in either arm."""
    with scratch("restart") as folder:
        first, found = _lived_on(job, progress, folder / "stays")
        restarted = _restarted(job, progress, folder / "restarted", first)
    made = Restarted(Comparison(job.model), Comparison(job.model))
    for number, (one, two, three) in enumerate(zip(first, found, restarted, strict=True)):
        made.comparison.add(number, two, three)
        made.cold.add(number, one, two)
    return made


def _lived_on(job: ArmsJob, progress: Ticker, disk: Path) -> tuple[list[TurnResult], list[TurnResult]]:
    """The turns computed, and the same turns found on the device, in one life."""
    progress.phase(f"{job.model}: the same turns twice, no restart", 2 * job.turns)
    with job.life(disk) as node:
        first = node.arm(None, _stay, progress)
        return first, node.arm(first, _stay, progress)


def _restarted(job: ArmsJob, progress: Ticker, disk: Path, first: Sequence[TurnResult]) -> list[TurnResult]:
    """The turns computed in one life, and found in the next."""
    progress.phase(f"{job.model}: the same turns twice, restarted in between", 2 * job.turns)
    with job.life(disk) as node:
        node.arm(first, _stay, progress)
        node.driver.demote_idle(KvTier.DISK)
    with job.life(disk) as node:
        # What one turn brought to the device goes down again: the next round finds all of it on disk, too.
        return node.arm(first, lambda ended: KvTier.DISK, progress)


def _stay(ended: int) -> None:
    return None


def verdicts(found: Restarted) -> list[Verdict]:
    """Nothing may differ, and the blocks must really have come from the disk of the life before."""
    restarted = found.comparison
    return [
        *same_verdicts(f"{restarted.model}, restarted", restarted),
        Verdict(f"{restarted.model}, restarted: tokens from disk", restarted.from_disk, 1, at_most=False),
    ]


def notes(found: Restarted) -> list[str]:
    """What differs, and what other batches do to the same turns."""
    restarted, cold = found.comparison, found.cold
    return [
        *(f"{restarted.model}, restarted: {line}" for line in restarted.first),
        f"{cold.model}: of {cold.turns} turns computed anew instead of found on the device, "
        f"{cold.logit_differences} have other bits and {cold.token_differences} another token: they ran in "
        "other batches, and no cache moved",
    ]

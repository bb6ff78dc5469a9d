"""What the neighbours benchmark found: how both phases of a server compare, the verdicts, the tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from typing import Any

from rich.table import Table

from stepwell.basics.quantiles import percentile
from stepwell.bench.client import TurnSample
from stepwell.bench.server.flood import Neighbours
from stepwell.bench.server.neighbours_sessions import Siblings, siblings_table
from stepwell.console.output import sheet
from stepwell.console.report import Verdict
from stepwell.policy.contracts import AGED_TAKE, WHOLE, Contract

LIMIT_TTFT, LIMIT_TPOT = 1.25, 1.5
LIMIT_SIBLING = 50.0
FLEX = "flex"
OWED = {
    "service tier": "{name}",
    "weight": "{weight}",
    "step tokens": "{step_tokens:.2f}",
    "device": "{device:.2f}",
    "host": "{host:.2f}",
    "max wait s": "{wait_s:.0f}",
}
FELT = (
    ("server", "{name}"),
    *(
        column
        for label in ("ttft_p50", "ttft_p99", "tpot_p50", "tpot_p99")
        for column in (
            (label[-3:], f"{{{label}_alone_s:.3f}}"),
            ("flood", f"{{{label}_under_flood_s:.3f}}"),
            ("x", f"{{{label}_ratio:.2f}}"),
        )
    ),
)
FLOODED = {
    "server": "{name}",
    "sent": "{flood_requests}",
    "arrivals/s": "{flood_arrivals_per_s:.1f}",
    "held back": "{flood_held_back}",
    "refused": "{flood_refused}",
    "failed": "{flood_failed}",
    "lost": "{flood_lost}",
    "longest wait": "{flood_longest_wait_s:.1f}",
    "share": "{flood_share_of_computed_tokens:.0%}",
}


@dataclass(slots=True)
class NeighboursOutcome:
    """What one server did with both phases."""

    name: str
    part: str = "both"
    """What was measured: ``both``, the ``flood`` or the ``sessions`` of one tenant."""
    alone: list[TurnSample] = field(default_factory=list)
    flooded: list[TurnSample] = field(default_factory=list)
    flood: list[TurnSample] = field(default_factory=list)
    arrivals_per_s: float = 0.0
    held_back: int = 0
    lost: int = 0
    """Flood requests that never came to an end."""
    flood_turn_s: float = 0.0
    """One of the flood's turns alone, from end to end."""
    siblings: Siblings = field(default_factory=Siblings)
    alone_s: float = 0.0
    flooded_s: float = 0.0
    error: str | None = None

    @property
    def has_flood(self) -> bool:
        return self.part != "sessions"

    @property
    def has_sessions(self) -> bool:
        return self.part != "flood"

    @property
    def usable(self) -> bool:
        """Whether every measured turn was answered in both phases."""
        turns = [*self.alone, *self.flooded]
        return self.error is None and bool(self.alone and self.flooded) and not any(t.error for t in turns)

    def ratio(self, figure: str, percent: int) -> float:
        """Under the flood over alone; infinite where nothing came back."""
        if not self.usable:
            return float("inf")
        return self._figure(self.flooded, figure, percent) / self._figure(self.alone, figure, percent)

    @staticmethod
    def _figure(samples: Sequence[TurnSample], figure: str, percent: int) -> float:
        return percentile([ttft_s(s) if figure == "ttft" else tpot_s(s) for s in samples], percent)

    @property
    def failed(self) -> int:
        """Flood requests that were answered with an error, refusals apart."""
        return sum(1 for sample in self.flood if sample.error and not _refused(sample))

    @property
    def refused(self) -> int:
        return sum(1 for sample in self.flood if _refused(sample))

    @property
    def longest_wait_s(self) -> float:
        """Of the flood, to the first token: the time in the queue and its own prefill."""
        return max((sample.ttft_s for sample in self.flood if not sample.error), default=float("inf"))

    def wait_of_bound(self, max_wait_s: float) -> float:
        """The longest wait of a flood turn for its first token, over what its contract promises.

        That is (docs/policy-rules.md, "Bounds") ``max_wait``, the longest turn that may run then, and a turn
        for itself and for each that came to its bound before it and still waited, at the pace that is left
        beside paid streams. More than 1: the promise was not kept.
        """
        answered = [sample for sample in self.flood if not sample.error]
        run_s = max((sample.e2e_s for sample in self.alone), default=0.0)
        turn_s = (1 + AGED_TAKE) * self.flood_turn_s
        worst = 0.0 if answered else float("inf")
        for one in answered:
            due_s = one.start_s + max_wait_s
            before = sum(1 for o in answered if o.start_s < one.start_s and o.start_s + o.ttft_s > due_s)
            worst = max(worst, one.ttft_s / (max_wait_s + run_s + (before + 1) * turn_s))
        return worst

    @property
    def flood_share(self) -> float:
        """Of all tokens computed while paid turns were being taken, by whose first token came then."""
        if not self.flooded:
            return 0.0
        start_s = min(sample.start_s for sample in self.flooded)
        end_s = max(sample.start_s + sample.e2e_s for sample in self.flooded)
        mine = sum(_computed(s) for s in self.flood if start_s <= s.start_s + s.ttft_s <= end_s)
        theirs = sum(_computed(s) for s in self.flooded)
        return mine / (mine + theirs) if mine + theirs else 0.0

    def as_json(self) -> dict[str, Any]:
        figures: dict[str, Any] = {"name": self.name, "error": self.error, "turns_alone": len(self.alone)}
        figures["turns_under_flood"] = len(self.flooded)
        for figure, percent in product(("ttft", "tpot"), (50, 99)):
            phases = {"alone_s": self.alone, "under_flood_s": self.flooded}
            for name, turns in phases.items():
                found = self._figure(turns, figure, percent) if self.usable else None
                figures[f"{figure}_p{percent}_{name}"] = found
            figures[f"{figure}_p{percent}_ratio"] = self.ratio(figure, percent) if self.usable else None
        return figures | {
            "alone_s": self.alone_s,
            "under_flood_s": self.flooded_s,
            "flood_requests": len(self.flood),
            "flood_arrivals_per_s": self.arrivals_per_s,
            "flood_held_back": self.held_back,
            "flood_refused": self.refused,
            "flood_failed": self.failed,
            "flood_lost": self.lost,
            "flood_longest_wait_s": self.longest_wait_s,
            "flood_turn_alone_s": self.flood_turn_s,
            "flood_share_of_computed_tokens": self.flood_share,
            "one_tenant": self.siblings.as_json(),
        }


def ttft_s(sample: TurnSample) -> float:
    return sample.ttft_s


def tpot_s(sample: TurnSample) -> float:
    """Seconds for each token after the first."""
    return (sample.e2e_s - sample.ttft_s) / max(1, sample.output_tokens - 1)


def _computed(sample: TurnSample) -> int:
    return sample.prompt_tokens - sample.cached_tokens + sample.output_tokens


def _refused(sample: TurnSample) -> bool:
    return sample.error is not None and sample.error.startswith("HTTP 429")


def verdicts(outcomes: Sequence[NeighboursOutcome], contracts: Sequence[Contract]) -> list[Verdict]:
    """The targets hold for Stepwell's own policy; the others stand beside it to compare."""
    flex = next(contract for contract in contracts if contract.name == FLEX)
    made = []
    for outcome in (outcome for outcome in outcomes if outcome.name == "stepwell"):
        guaranteed = 100 * flex.guaranteed.step_tokens / WHOLE
        found = _figures(outcome)
        bound_s = flex.max_wait_us / 1e6
        made += [
            Verdict("priority: TTFT p99 under the flood, against alone", found["ttft"], LIMIT_TTFT, "x"),
            Verdict("priority: TPOT p99 under the flood, against alone", found["tpot"], LIMIT_TPOT, "x"),
            Verdict(
                "flex: share of computed tokens, guaranteed", found["share"], guaranteed, "%", at_most=False
            ),
            Verdict(
                f"flex: longest wait for the first token, of what a max_wait of {bound_s:.0f} s promises",
                outcome.wait_of_bound(bound_s) if outcome.has_flood else None,
                1.0,
                "x",
            ),
            Verdict("flex: requests lost", found["lost"], 0.0),
            Verdict(
                "one tenant: what a short turn waits for another session's long prompt, of its whole time",
                100 * outcome.siblings.wait_of_long if outcome.has_sessions else None,
                LIMIT_SIBLING,
                "%",
            ),
        ]
    return made


def _figures(outcome: NeighboursOutcome) -> dict[str, float | None]:
    """Of the flood; None where it was left out."""
    if not outcome.has_flood:
        return dict.fromkeys(("ttft", "tpot", "share", "lost"))
    return {
        "ttft": outcome.ratio("ttft", 99),
        "tpot": outcome.ratio("tpot", 99),
        "share": 100 * outcome.flood_share,
        "lost": float(outcome.lost + outcome.failed) if outcome.error is None else float("inf"),
    }


def cut_short(outcomes: Sequence[NeighboursOutcome], work: Neighbours) -> Iterator[str]:
    wanted = work.agents * work.turns
    for outcome in outcomes:
        if outcome.error is None and outcome.has_flood and len(outcome.flooded) < wanted:
            yield (
                f"{outcome.name}: {len(outcome.flooded)} of {wanted} turns could be begun within "
                f"{work.flood_s:.0f} s of flood"
            )
        if failed := [s.error for s in (*outcome.alone, *outcome.flooded) if s.error]:
            yield f"{outcome.name}: {len(failed)} priority turns failed, first: {failed[0]}"
        if errors := outcome.siblings.errors:
            yield f"{outcome.name}: {len(errors)} turns of one tenant's sessions failed, first: {errors[0]}"


def samples(outcome: NeighboursOutcome) -> Iterator[dict[str, Any]]:
    for phase in ("alone", "flooded", "flood"):
        for sample in getattr(outcome, phase):
            yield {"server": outcome.name, "phase": phase, **sample.as_json(), "text": ""}


def tables(outcomes: Sequence[NeighboursOutcome], contracts: Sequence[Contract]) -> list[Table]:
    owed = [
        {"name": one.name, "weight": one.weight, "wait_s": one.max_wait_us / 1e6}
        | {part: share / WHOLE for part, share in asdict(one.guaranteed).items()}
        for one in contracts
    ]
    made = [sheet("The contracts: guaranteed shares of the machine", OWED, owed)]
    if flooded := [outcome.as_json() for outcome in outcomes if outcome.has_flood]:
        made.append(
            sheet("The priority tenant in s: TTFT alone and under the flood, then TPOT", FELT, flooded)
        )
        made.append(sheet("The flood (longest wait in s; share of computed tokens)", FLOODED, flooded))
    if both := [(outcome.name, outcome.siblings) for outcome in outcomes if outcome.has_sessions]:
        made.append(siblings_table(both))
    return made

"""What a customer's service tier is owed: one contract over compute, device, host and disk.

Shares are per mille of the machine. A *guarantee* is kept whenever the service tier has demand;
what it does not use is lent, up to its *borrowable* part, and taken back in order of weight. A *cap*
is never passed, even on an empty machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Final

WHOLE: Final = 1000
"""Per mille: the whole machine."""

AGED_TAKE: Final = 5
"""Beside streams with a target, turns that have waited for their bound take at least a fifth of the others'
time, so they slow none to more than 1.2 and compute at a sixth of their pace alone or better."""


@dataclass(frozen=True, slots=True)
class Shares:
    """Per mille of each of the four resources."""

    step_tokens: int = 0
    device: int = 0
    host: int = 0
    disk: int = 0


EVERYTHING: Final = Shares(WHOLE, WHOLE, WHOLE, WHOLE)
RESOURCES: Final = tuple(field.name for field in fields(Shares))


@dataclass(frozen=True, slots=True)
class Contract:
    """One service tier. More ``weight`` means that its time is worth more, and that it takes first."""

    name: str
    weight: int = 1
    guaranteed: Shares = Shares()
    borrowable: int = WHOLE
    """Per mille of the guarantee that others may use while the service tier does not."""
    cap: Shares = EVERYTHING
    ttft_target_us: int | None = None
    tpot_target_us: int | None = None
    max_wait_us: int = 60_000_000
    """Once it has waited so long in all, a turn goes before all others: the bound on starvation."""
    keep_weight: int = 1
    """How much more a second that its agents are spared is worth when blocks on host and disk are
    compared across service tiers. More than 1 costs the others more than it spares: docs/policy-rules.md."""

    def __post_init__(self) -> None:
        for name in ("weight", "keep_weight"):
            if not 1 <= getattr(self, name) <= WHOLE:
                raise ValueError(f"service tier {self.name!r}: {name} must be from 1 to 1000")
        if not 0 <= self.borrowable <= WHOLE:
            raise ValueError(f"service tier {self.name!r}: borrowable must be from 0 to 1")
        for resource in RESOURCES:
            low, high = getattr(self.guaranteed, resource), getattr(self.cap, resource)
            if not 0 <= low <= high <= WHOLE:
                raise ValueError(
                    f"service tier {self.name!r}: {resource} needs 0 <= guaranteed <= cap <= 1, "
                    f"not {low / WHOLE:g} and {high / WHOLE:g}"
                )

    def reserved(self, resource: str) -> int:
        """Per mille that no other service tier may use, even while this service tier does not."""
        share: int = getattr(self.guaranteed, resource)
        return share * (WHOLE - self.borrowable) // WHOLE


DEFAULT_CONTRACTS: Final = (
    Contract(
        "priority",
        weight=16,
        guaranteed=Shares(step_tokens=600, device=200),
        ttft_target_us=2_000_000,
        tpot_target_us=100_000,
        max_wait_us=10_000_000,
    ),
    Contract(
        "default",
        weight=4,
        guaranteed=Shares(step_tokens=200, device=100),
        ttft_target_us=10_000_000,
        max_wait_us=30_000_000,
    ),
    Contract(
        "flex",
        weight=1,
        guaranteed=Shares(step_tokens=50),
        max_wait_us=120_000_000,
    ),
)
"""For a deployment that says nothing: OpenAI's three service tiers."""


def validate_contracts(contracts: Sequence[Contract]) -> None:
    """``ValueError`` with one sentence when names repeat or guarantees exceed the machine."""
    names = [contract.name for contract in contracts]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"service tier {name!r} is there twice")
    for resource in RESOURCES:
        parts = [(c.name, getattr(c.guaranteed, resource)) for c in contracts]
        total = sum(part for _, part in parts)
        if total > WHOLE:
            sums = " + ".join(f"{name} {part / WHOLE:g}" for name, part in parts if part)
            raise ValueError(
                f"the service tiers' guarantees of {resource} add up to {total / WHOLE:g} of the machine "
                f"({sums}): lower them to 1 in all"
            )


class ContractBook:
    """The contracts by name, the heaviest first. A name that is not configured weighs 1 and is owed nothing.

    ``ordered`` false: service tiers and tenants do not matter, all turns stand in one queue.
    """

    def __init__(self, contracts: Sequence[Contract], *, ordered: bool) -> None:
        self.ordered = ordered
        self._known = {contract.name: contract for contract in contracts} if ordered else {}
        self.names: list[str] = []
        """Service tiers seen or configured, the heaviest first."""
        for name in self._known:
            self._add(name)

    def of(self, service_tier: str) -> Contract:
        """The contract of a service tier."""
        name = service_tier if self.ordered else ""
        known = self._known.get(name)
        if known is None:
            known = self._known[name] = Contract(name)
            self._add(name)
        return known

    def _add(self, name: str) -> None:
        self.names.append(name)
        self.names.sort(key=lambda n: (-self._known[n].weight, n))

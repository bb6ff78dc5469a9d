"""Several models on one machine: which of them takes the next step, and how much host and disk each has.

Everything inside a model is decided by its own scheduler. Between models the same contracts hold: compute
goes by the service tiers that have turns in each; room is lent to the model that needs it and taken back down
to what its agents' service tiers are guaranteed and an even part of the rest.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from stepwell.policy.contracts import WHOLE, Contract, ContractBook

_SPARE: Final = 16  # a model that needs no more has a sixteenth of the whole beyond what it holds
_FULL: Final = 8  # one that has less than an eighth of its part left needs more
_UNIT: Final = 1 << 20


class StepOrder:
    """Virtual time by model: it passes the more slowly, the larger the model's share of compute is."""

    def __init__(self, contracts: Sequence[Contract], models: int) -> None:
        self._book = ContractBook(contracts, ordered=True)
        self._times = [0] * models
        self._shares = [WHOLE] * models
        self._active: list[int] = []

    def pick(self, ready: Sequence[int], demands: Sequence[Collection[str]]) -> int:
        """Of the models that have something to do the one that is furthest behind its share. ``demands``: by
        model, the service tiers that have turns there. A model without turns has no more than upkeep to do,
        and does it at once."""
        for model in ready:
            if not demands[model]:
                return model
        self._shares = self.shares(demands)
        active = [model for model, tiers in enumerate(demands) if tiers]
        floor = min((self._times[model] for model in active if model in self._active), default=0)
        for model in active:
            if model not in self._active:  # a model that comes back after a pause has saved nothing up
                self._times[model] = max(self._times[model], floor)
        self._active = active
        return min(ready, key=lambda model: (self._times[model], model))

    def took(self, model: int, duration_us: int, demands: Sequence[Collection[str]]) -> None:
        """A step of the model took so long; ``demands`` as they are after it."""
        if demands[model]:
            self._shares = self.shares(demands)
        self._times[model] += duration_us * _UNIT // max(1, self._shares[model])

    def shares(self, demands: Sequence[Collection[str]]) -> list[int]:
        """Per mille of compute by model: of each service tier with turns its guarantee, the rest by weight;
        what one tier has is divided evenly among the models in which it has turns."""
        names = sorted({name for tiers in demands for name in tiers})
        weights = sum(self._book.of(name).weight for name in names)
        guaranteed = sum(self._book.of(name).guaranteed.step_tokens for name in names)
        parts = [0] * len(demands)
        for name in names:
            contract = self._book.of(name)
            share = contract.guaranteed.step_tokens + (WHOLE - guaranteed) * contract.weight // weights
            models = [model for model, tiers in enumerate(demands) if name in tiers]
            for model in models:
                parts[model] += share // len(models)
        return parts


def room_shares(
    contracts: Sequence[Contract], holders: Sequence[Collection[str]], resource: str
) -> list[int]:
    """Per mille of host or disk (``resource``) by model: what is guaranteed to each service tier, divided
    among the models at which it has agents (``holders``), and an even part of the rest."""
    shares = [0] * len(holders)
    for contract in contracts:
        models = [model for model, tiers in enumerate(holders) if contract.name in tiers]
        for model in models:
            shares[model] += getattr(contract.guaranteed, resource) // len(models)
    rest = (WHOLE - sum(shares)) // max(1, len(shares))
    return [max(1, share + rest) for share in shares]


def divide(
    total: int, used: Sequence[int], bounds: Sequence[int], shares: Sequence[int] | None = None
) -> list[int]:
    """New bounds for ``used`` bytes of a pool of ``total``. Models that are not about to fill theirs get what
    they hold and a little more; the others share the rest by ``shares`` (None: evenly); what none needs is
    divided evenly. None is cut below its share while it holds that much."""
    models = range(len(used))
    spare = total // _SPARE
    needs_more = [bounds[model] - used[model] < bounds[model] // _FULL for model in models]
    wanted = [total if needs_more[model] else min(total, used[model] + spare) for model in models]
    parts = _fill(total, wanted, shares or [1] * len(wanted))
    left = (total - sum(parts)) // max(1, len(parts))
    return [part + left for part in parts]


def _fill(total: int, wanted: Sequence[int], shares: Sequence[int]) -> list[int]:
    """The wishes that are smallest for their share first and whole; a model that wants more than its share of
    what is left has that."""
    parts = [0] * len(wanted)
    left, left_shares = total, sum(shares)
    order = [(wanted[model] * WHOLE // share, model) for model, share in enumerate(shares)]
    for _, model in sorted(order):
        parts[model] = min(wanted[model], left * shares[model] // left_shares)
        left -= parts[model]
        left_shares -= shares[model]
    return parts


def granted(total: int, targets: Sequence[int], held: Sequence[int]) -> list[int]:
    """The bounds that can hold now. ``held``: what each may hold or does, whichever is more. One that is to
    have less gets its target; one that is to have more gets it as far as the others have given up theirs."""
    firm = [max(0, min(target, have)) for target, have in zip(targets, held, strict=True)]
    free = max(0, total - sum(held))
    for model in sorted(range(len(targets)), key=lambda model: (targets[model] - held[model], model)):
        more = min(max(0, targets[model] - held[model]), free)
        firm[model] += more
        free -= more
    return firm

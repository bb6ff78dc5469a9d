"""What is to be written of a step, while it is put together."""

from __future__ import annotations

from stepwell.basics.per_tier import PerTier
from stepwell.ledger.metering.metered import Entries
from stepwell.ledger.types import MACHINE_RESOURCES, Account, Cause, Position, Posting, Resource
from stepwell.policy.types import RequestId

Line = tuple[Account, Account, Resource, Cause, RequestId]


class PostingDraft:
    """Collects postings, usage and positions until ``hand_over``; ``totals`` grow over the whole run."""

    def __init__(self) -> None:
        self.totals: dict[str, int] = {resource.value: 0 for resource in MACHINE_RESOURCES}
        """What the machine has given since the run began, by resource."""
        self.entries = Entries()
        self._sums: dict[Line, int] = {}

    def add(
        self, debit: Account, credit: Account, resource: Resource, cause: Cause, request: int, amount: int
    ) -> None:
        """Amounts of one step between the same accounts for the same cause are one posting."""
        assert amount >= 0, f"{resource} from {debit} to {credit} is negative"
        if amount:
            line = (debit, credit, resource, cause, request)
            self._sums[line] = self._sums.get(line, 0) + amount

    def count(self, resource: Resource, amount: int) -> None:
        """The machine has given so much."""
        self.totals[resource.value] += amount

    def hold(self, account: Account, held_bytes: PerTier[int], now_us: int) -> None:
        """The account's storage is posted up to now, and from now on it holds this."""
        self.entries.positions.append(Position(account, held_bytes, now_us))

    def drop_sums(self) -> None:
        """Forget what was added since the last ``hand_over``: it belongs to a step that never ended."""
        self._sums.clear()

    def hand_over(self) -> Entries:
        """What is to be written now. Positions alone wait: they are news only once something is posted."""
        if not (self._sums or self.entries.usage or self.entries.settled):
            return Entries()
        entries, self.entries = self.entries, Entries()
        sums, self._sums = self._sums, {}
        for (debit, credit, resource, cause, request), amount in sums.items():
            entries.postings.append(Posting(debit, credit, resource, amount, cause, request))
        return entries

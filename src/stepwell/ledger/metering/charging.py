"""The money of requests as postings: held when a request arrives, settled when it ends, and corrected when it
turns out whether a person was shown its answer. ``bills`` decides what a request costs."""

from __future__ import annotations

from stepwell.ledger.metering.draft import PostingDraft
from stepwell.ledger.metering.metered import Metered, customer_accounts
from stepwell.ledger.pricing.bills import BilledTokens, Bills
from stepwell.ledger.types import MACHINE, Account, Cause, Resource
from stepwell.policy.types import Embedded, Hinted


class Charging:
    """Posts to customers what ``bills`` says."""

    def __init__(self, bills: Bills, draft: PostingDraft) -> None:
        self._bills, self._draft = bills, draft

    def hold(self, metered: Metered) -> None:
        """The request has arrived: the most that it may come to is held."""
        arrival = metered.arrival
        metered.held_microusd = self._bills.hold_of(arrival)
        customer, held = customer_accounts(arrival.caller.tenant)
        self._draft.add(customer, held, Resource.MONEY, Cause.HOLD, arrival.request, metered.held_microusd)

    def settle(self, metered: Metered, now_us: int) -> None:
        """The hold becomes what it was really worth; the rest goes back."""
        arrival, request = metered.arrival, metered.arrival.request
        usage = self._bills.settle(
            arrival,
            metered.holder.account,
            BilledTokens(
                metered.cached_tokens, metered.total - arrival.prompt_tokens, metered.recomputed_tokens
            ),
            metered.reason if metered.opened or metered.reason != "stop" else "cancelled",
            now_us,
            opened=metered.opened,
            ttft_us=metered.ttft_us,
            e2e_us=now_us - metered.arrived_us,
        )
        charge, add = usage.charge_microusd, self._draft.add
        customer, held = customer_accounts(arrival.caller.tenant)
        add(held, self._bills.revenue, Resource.MONEY, Cause.SETTLE, request, charge)
        rest = metered.held_microusd - charge
        add(customer, held, Resource.MONEY, Cause.HOLD, request, max(0, -rest))
        add(held, customer, Resource.MONEY, Cause.RELEASE, request, max(0, rest))
        self._draft.entries.usage.append(usage)
        self._draft.entries.settled.append((request, charge))

    def correct(self, event: Hinted, now_us: int) -> None:
        """An answer turned out to be for a tool and not for a person, or the other way round."""
        usage = self._bills.correct(event, now_us)
        if usage is None:
            return
        self._draft.entries.usage.append(usage)
        customer, _ = customer_accounts(usage.account.tenant)
        more, revenue = usage.charge_microusd, self._bills.revenue
        debit, credit = (customer, revenue) if more > 0 else (revenue, customer)
        self._draft.add(debit, credit, Resource.MONEY, Cause.CORRECTION, usage.request, abs(more))

    def embedded(self, event: Embedded, now_us: int) -> None:
        """Texts were embedded or ranked: the time that took, and what it costs. Without tokens nothing is
        charged: the client did not wait for the answer."""
        account = Account.of(event.caller)
        self._draft.count(Resource.EMBEDDING, event.spent_us)
        self._draft.add(MACHINE, account, Resource.EMBEDDING, Cause.STEP, 0, event.spent_us)
        if not event.tokens:
            return
        usage, (customer, _) = self._bills.embedded(event, now_us), customer_accounts(account.tenant)
        revenue, charge = self._bills.revenue, usage.charge_microusd
        self._draft.add(customer, revenue, Resource.MONEY, Cause.SETTLE, 0, charge)
        self._draft.entries.usage.append(usage)

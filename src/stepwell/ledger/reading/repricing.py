"""What the same requests would have been charged by another price book.

Each request is priced by itself, as it was when it ran: minimum charges, rounding and long prompts are exact.
The spend log does not keep for how long a customer asked to keep KV, so cache writes are priced as input and
kept KV is not priced.
"""

from __future__ import annotations

from stepwell.ledger.base import Store
from stepwell.ledger.pricing.bills import EMBEDDED, SERVED
from stepwell.ledger.pricing.prices import PriceBook, TokenCounts
from stepwell.ledger.reading.queries import Accounts, AccountSpent, Counts, Period


def repriced(store: Store, period: Period, book: PriceBook) -> list[AccountSpent]:
    """The spend log by account and model, charged by ``book``: requests that ended in the period, each with
    what was corrected of it at any time."""
    where, values = period.where("w")
    rows = store.rows(
        "SELECT u.run, u.request, u.account, u.model, MAX(u.reason), SUM(u.requests), SUM(u.input_tokens), "
        "SUM(u.cached_tokens), SUM(u.visible_tokens), SUM(u.intermediate_tokens), SUM(u.recomputed_tokens) "
        "FROM usage u WHERE (u.run, u.request) IN "
        f"(SELECT w.run, w.request FROM usage w WHERE w.requests > 0 AND {where}) "
        "GROUP BY u.run, u.request, u.account, u.model",
        values,
    )
    accounts = Accounts(store)
    sums: dict[tuple[int, str], Counts] = {}
    for _, _, account, model, reason, *counted in rows:
        counts = Counts._make([*map(int, counted), 0])
        tier = accounts[account].service_tier
        charge = _charge(book.of(model), tier, reason, counts)
        key = account, model
        sums[key] = sums.get(key, Counts()).plus(counts._replace(charge_microusd=charge))
    return [AccountSpent(account, model, counts) for (account, model), counts in sums.items()]


def _charge(book: PriceBook, service_tier: str, reason: str, counts: Counts) -> int:
    tier = service_tier if service_tier in book.sheets else "default"
    if reason == EMBEDDED:  # these rows have no request of their own: an account's are priced together
        return book.embedding(tier, counts.input_tokens)
    if reason not in SERVED:
        return 0
    cached = min(counts.cached_tokens, counts.input_tokens)
    tokens = TokenCounts(counts.input_tokens, cached, counts.visible_tokens, counts.intermediate_tokens)
    return book.charge(tier, tokens).total

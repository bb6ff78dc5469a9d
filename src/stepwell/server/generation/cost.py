"""What an answer cost: ``usage.cost`` and ``usage.cost_details``, by the same sums as the ledger's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from stepwell.basics.per_tier import total_of
from stepwell.ledger.budgets.book import BudgetBook, BudgetState, names_of
from stepwell.ledger.metering.metered import Use
from stepwell.ledger.money import usd_text
from stepwell.ledger.pricing.bills import FOR_OTHERS, tokens_of
from stepwell.ledger.pricing.prices import Charge, TokenCounts, anthropic_usage
from stepwell.policy.types import Wait
from stepwell.server.backends.books import Books
from stepwell.server.generation.turns import Ask, Progress

MICROUSD = 1_000_000


def cost_of(
    books: Books | None, ask: Ask, progress: Sequence[Progress], choices_per_prompt: int, waits_for: Wait
) -> dict[str, Any]:
    """The two keys of ``usage``; none where no ledger is kept.

    ``progress`` is ordered by prompt. ``waits_for``: what the answer shows that its agent waits for. The
    ledger hears of it after the answer has ended (``note_what_it_waits_for``) and corrects what it had
    entered, so the charge shown is the one that stands then.
    """
    if books is None or books.ledger is None:
        return {}
    bills, visible = books.ledger.bills, is_visible(ask, waits_for)
    counted = [
        _counted(ask, one, same_prompt=index % choices_per_prompt > 0, visible=visible)
        for index, one in enumerate(progress)
    ]
    priced = ask.arrival(1, same_prompt=False)
    charges = [bills.charge_of(priced, tokens) for tokens in counted]
    parts = {part.name: sum(getattr(charge, part.name) for charge in charges) for part in fields(Charge)}
    details: dict[str, Any] = {
        name: microusd / MICROUSD for name, microusd in parts.items() if microusd or name != "minimum"
    }
    details["service_tier"] = bills.priced_as(priced)
    if bills.prices.counting == "anthropic":
        details["counted"] = anthropic_usage(_together(counted))
    details["visible"] = visible
    details |= _used(progress)
    ended = {
        one.admitted.request: charge.total
        for one, charge in zip(progress, charges, strict=True)
        if one.admitted is not None
    }
    if (warning := budget_warning(books.ledger.budgets, ask, ended)) is not None:
        details["budget_warning"] = warning
    return {"cost": sum(parts.values()) / MICROUSD, "cost_details": details}


def is_visible(ask: Ask, waits_for: Wait) -> bool:
    """Whether the answer is for a person: what the client has said counts before what the answer shows."""
    wait = waits_for if ask.hint.wait is Wait.UNKNOWN else ask.hint.wait
    return not ask.caller.parent_agent and wait not in FOR_OTHERS


def _counted(ask: Ask, one: Progress, *, same_prompt: bool, visible: bool) -> TokenCounts:
    """What the ledger charges one choice for."""
    if one.admitted is None or one.finished is None:
        return TokenCounts()
    arrival = ask.arrival(one.finished.prompt_tokens, same_prompt=same_prompt)
    return tokens_of(arrival, one.admitted.cached_tokens, one.finished.generated_tokens, visible=visible)


def _together(counted: Sequence[TokenCounts]) -> TokenCounts:
    """All choices of a request as one count."""
    return TokenCounts(
        sum(tokens.input_tokens for tokens in counted),
        sum(tokens.cached_tokens for tokens in counted),
        sum(tokens.visible_tokens for tokens in counted),
        sum(tokens.intermediate_tokens for tokens in counted),
        tuple(write for tokens in counted for write in tokens.cache_write_tokens),
    )


def _used(progress: Sequence[Progress]) -> dict[str, Any]:
    """Of the machine, by all choices together."""
    ended = [one.finished for one in progress if one.finished is not None]
    used: list[Use] = [finished.use for finished in ended if finished.use is not None]
    byte_us = total_of(use.byte_us for use in used)
    return {
        "compute_seconds": sum(use.compute_us for use in used) / 1e6,
        **{f"{kv_tier}_byte_seconds": spent / 1e6 for kv_tier, spent in byte_us._asdict().items()},
        "moved_bytes": sum(use.moved_bytes for use in used),
        "displaced_seconds": sum(use.displaced_us for use in used) / 1e6,
        "recomputed_tokens": sum(finished.recomputed_tokens for finished in ended),
    }


def budget_warning(budgets: BudgetBook, ask: Ask, ended: Mapping[int, int]) -> str | None:
    """One sentence about the widest budget of the request whose soft limit is reached. ``ended``: what each
    of its generations comes to; the driver hears of their end after us."""
    for name in names_of(ask.caller):
        state = budgets.state(*name, ended=ended)
        if state is not None and state.warned:
            return _warning(state)
    return None


def _warning(state: BudgetState) -> str:
    whose = f"{state.name.scope.value} {state.name.name!r}" if state.name.name else "this customer"
    spent, soft = usd_text(state.spent_microusd), usd_text(state.soft_microusd or 0)
    limit = f" of {usd_text(state.hard_microusd)}" if state.hard_microusd is not None else ""
    return f"The budget of {whose} has reached its soft limit of {soft}: {spent}{limit} is spent."

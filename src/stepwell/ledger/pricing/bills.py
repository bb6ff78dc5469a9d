"""What a request is charged: the hold before it runs, the charge after it, and what is corrected later.

*Visible* tokens are those of an agent without a parent whose answer goes to a person; all others are
*intermediate*: made for another agent or for a tool. Whether an answer calls a tool is often known only once
it is there, so a request that was settled as the one may be corrected to the other.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace

from stepwell.ledger.pricing.prices import Charge, PriceBook, TokenCounts
from stepwell.ledger.types import REVENUE, Account, Cause, Usage
from stepwell.policy.types import Embedded, Hinted, RequestArrived, RequestId, Wait

FOR_OTHERS = (Wait.TOOL, Wait.CHILD, Wait.AGENT)
MAX_CORRECTABLE = 10_000
SERVED = ("stop", "length", "cancelled", "failed")
"""How requests end that are paid for. ``failed``: their own constraint could not be followed to an end."""
EMBEDDED = "embedded"
"""The reason of a row of the spend log that is no generation: texts were embedded or ranked."""


@dataclass(frozen=True, slots=True)
class BilledTokens:
    """What a request has come to, in tokens."""

    cached_tokens: int
    generated_tokens: int
    recomputed_tokens: int


class Bills:
    """Charges requests, and remembers the last ones for corrections."""

    revenue = REVENUE

    def __init__(self, prices: PriceBook, model: str, wall_offset_us: int = 0) -> None:
        """``wall_offset_us``: from the run's own clock to microseconds since 1970."""
        self.prices = prices
        self.model = model
        self._wall_offset_us = wall_offset_us
        self._settled: OrderedDict[RequestId, tuple[RequestArrived, Usage]] = OrderedDict()

    def hold_of(self, arrival: RequestArrived) -> int:
        """What is reserved before the request runs: no outcome is charged more."""
        new_tokens = 0 if arrival.prewarm else arrival.max_new_tokens
        ttl_us = max(0, arrival.hint.retain_us or 0)
        return self.prices.of(self.model_of(arrival)).worst_case(
            self.priced_as(arrival),
            arrival.prompt_tokens,
            new_tokens,
            ttl_us=ttl_us,
            storage_token_us=ttl_us * (arrival.prompt_tokens + new_tokens),
        )

    def sells_retention(self, service_tier: str) -> bool:
        """Whether keeping KV for a time costs anything in this service tier, under any adapter."""
        tier = service_tier if service_tier in self.prices.sheets else "default"
        tokens, day_us = 1_000_000, 24 * 3_600_000_000
        kept = TokenCounts(tokens, cache_write_tokens=((day_us, tokens),), storage_token_us=day_us * tokens)
        names = [self.model, *(name for name in self.prices.models if name.startswith(f"{self.model}:"))]
        books = [self.prices.of(name) for name in names]
        return any(
            one.charge(tier, kept).total > one.charge(tier, TokenCounts(tokens)).total for one in books
        )

    def charge_of(self, arrival: RequestArrived, tokens: TokenCounts) -> Charge:
        """What a request comes to."""
        return self.prices.of(self.model_of(arrival)).charge(self.priced_as(arrival), tokens)

    def model_of(self, arrival: RequestArrived) -> str:
        """As the books name it: an adapter makes another model of it, which may have prices of its own."""
        return f"{self.model}:{arrival.adapter}" if arrival.adapter else self.model

    def priced_as(self, arrival: RequestArrived | Embedded) -> str:
        """A service tier that is not defined runs as ``default`` and is charged as that."""
        return arrival.caller.service_tier if arrival.caller.service_tier in self.prices.sheets else "default"

    def embedding(self, event: Embedded) -> int:
        """What texts that were embedded or ranked come to, in micro-dollars."""
        return self.prices.of(event.model).embedding(self.priced_as(event), event.tokens)

    def embedded(self, event: Embedded, now_us: int) -> Usage:
        """Their row of the spend log."""
        return Usage(
            0,
            Account.of(event.caller),
            event.model,
            EMBEDDED,
            now_us + self._wall_offset_us,
            input_tokens=event.tokens,
            charge_microusd=self.embedding(event),
        )

    def settle(
        self,
        arrival: RequestArrived,
        account: Account,
        counts: BilledTokens,
        reason: str,
        now_us: int,
        *,
        opened: bool,
        ttft_us: int,
        e2e_us: int,
    ) -> Usage:
        """The request has ended. What never ran, or failed through no fault of its own, costs nothing."""
        served = opened and reason in SERVED
        tokens = tokens_of(
            arrival, counts.cached_tokens, counts.generated_tokens, visible=is_visible(arrival)
        )
        usage = Usage(
            arrival.request,
            account,
            self.model_of(arrival),
            reason,
            now_us + self._wall_offset_us,
            1,
            tokens.input_tokens if opened else 0,
            tokens.cached_tokens if opened else 0,
            tokens.visible_tokens,
            tokens.intermediate_tokens,
            counts.recomputed_tokens,
            self.charge_of(arrival, tokens).total if served else 0,
            ttft_us,
            e2e_us,
        )
        if served:
            self._remember(arrival, usage)
        return usage

    def _remember(self, arrival: RequestArrived, usage: Usage) -> None:
        self._settled[arrival.request] = (arrival, usage)
        while len(self._settled) > MAX_CORRECTABLE:
            self._settled.popitem(last=False)

    def correct(self, event: Hinted, now_us: int) -> Usage | None:
        """It turns out for whom an answer was: the row of differences, or None when nothing changes."""
        known = self._settled.get(event.request)
        if known is None or known[0].caller.tenant != event.tenant or event.hint.wait is Wait.UNKNOWN:
            return None
        arrival, usage = known
        visible = not arrival.caller.parent_agent and event.hint.wait not in FOR_OTHERS
        generated = usage.output_tokens
        if not generated or visible is bool(usage.visible_tokens):
            return None
        tokens = tokens_of(arrival, usage.cached_tokens, generated, visible=visible)
        charge = self.charge_of(arrival, tokens).total
        difference = Usage(
            usage.request,
            usage.account,
            usage.model,
            usage.reason,
            now_us + self._wall_offset_us,
            requests=0,
            visible_tokens=generated if visible else -generated,
            intermediate_tokens=-generated if visible else generated,
            charge_microusd=charge - usage.charge_microusd,
            cause=Cause.CORRECTION,
        )
        corrected = replace(
            usage,
            visible_tokens=tokens.visible_tokens,
            intermediate_tokens=tokens.intermediate_tokens,
            charge_microusd=charge,
        )
        self._settled[arrival.request] = (arrival, corrected)
        return difference


def is_visible(arrival: RequestArrived) -> bool:
    """Whether what it generates is shown to the person who asked, as far as is known before it has."""
    return not arrival.caller.parent_agent and arrival.hint.wait not in FOR_OTHERS


def tokens_of(
    arrival: RequestArrived, cached_tokens: int, generated_tokens: int, *, visible: bool
) -> TokenCounts:
    """What of a request is paid for: one prompt once, and nothing that was made without a reader."""
    generated = 0 if arrival.prewarm else generated_tokens
    prompt = 0 if arrival.same_prompt else arrival.prompt_tokens
    cached = min(cached_tokens, prompt)
    ttl_us = max(0, arrival.hint.retain_us or 0)
    return TokenCounts(
        prompt,
        cached,
        generated if visible else 0,
        0 if visible else generated,
        ((ttl_us, prompt - cached),) if ttl_us and prompt > cached else (),
        ttl_us * (prompt + generated),
        arrival.prompt_tokens,
    )

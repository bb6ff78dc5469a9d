"""The price book: what customers pay, per service tier.

::

    source = "where the figures are from"           # and as_of, for the reader
    counting = "openai"                             # how usage reports count cached tokens; or "anthropic"
    batch_multiplier = 0.5                          # for work that may wait a day; default 1

    [prices]                                        # USD per million tokens, at most 6 digits after the point
    input = 1.25
    cached_input = 0.125                            # default: the input price
    cache_write = { "5m" = 1.5, "1h" = 2.5 }        # by ttl, or one price; default: the input price
    output = 10
    intermediate = 8                                # output for other agents; default: the output price
    embedding = 0.02                                # texts embedded or ranked; default: the input price
    storage_per_token_hour = 4.5                    # USD per million tokens and hour; default 0
    minimum_per_request = 0.0001                    # USD; default 0

    [service_tiers.flex]
    multiplier = 0.5                                # of the token prices above; not of storage and minimum
    [service_tiers.priority]
    multiplier = { input = 2, cached_input = 1 }    # cached_input and cache_write follow input,
    output = 18                                     # intermediate follows output; or prices of its own

    [long_prompt]                                   # dearer above so many prompt tokens
    above_tokens = 272000
    multiplier = { input = 2, output = 1.5 }

    [models."small-one".prices]                     # of one model, as the spend log names it; every other
    input = 0.1                                     # model has the prices above. Multipliers are those above
    output = 0.4                                    # unless the model has tables of its own

The service tier ``default`` has ``[prices]`` when it has no table; every other one needs a table.

Multipliers multiply: a batch under ``flex`` on a long prompt pays all three. Prices are integers of
pico-dollars (1 USD per million tokens is 1,000,000 pico-dollars per token), multiplied out when the book is
loaded; a product that is no whole pico-dollar is refused. A request is rounded once, as a whole, half up to a
micro-dollar.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Literal

from stepwell.ledger.money import MICROUSD, apportion_units, round_half_up
from stepwell.ledger.pricing.books import ABOUT, NumberLimits, TomlTable, parse_ttl_us, read_book

Counting = Literal["openai", "anthropic"]
HOUR_US = 3_600_000_000
ANY_TTL_US = sys.maxsize

FOLLOWS = {"cached_input": "input", "cache_write": "input", "intermediate": "output", "embedding": "input"}
"""Whose price, or multiplier, is taken when a key is not there."""
TOKEN_KEYS = ("input", "cached_input", "cache_write", "output", "intermediate", "embedding")
PRICE_KEYS = (*TOKEN_KEYS, "storage_per_token_hour", "minimum_per_request")
BOOK_KEYS = (*ABOUT, "counting", "batch_multiplier", "prices", "service_tiers", "long_prompt", "models")
MODEL_KEYS = ("batch_multiplier", "prices", "service_tiers", "long_prompt")

PRICE = NumberLimits(most=1_000_000, digits=6)
FACTOR = NumberLimits(most=1_000, digits=6)
LENGTH = NumberLimits(most=2**31 - 1, digits=0, positive=True)

Writes = dict[int, Fraction]
"""Price of a cache write by the longest ttl it is for."""


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """What one request is charged for.

    ``input_tokens`` is the whole prompt. ``cached_tokens`` of it were found in a KV tier, and
    ``cache_write_tokens`` of it (pairs of ttl in microseconds and tokens) were computed and then kept under a
    time to live that the customer asked for: they are charged as writes instead of as input.
    ``storage_token_us``: tokens kept under such a ttl times the ttl, in token-microseconds; what is kept
    because there is room costs the customer nothing.
    """

    input_tokens: int = 0
    cached_tokens: int = 0
    visible_tokens: int = 0
    intermediate_tokens: int = 0
    cache_write_tokens: tuple[tuple[int, int], ...] = ()
    storage_token_us: int = 0
    context_tokens: int = 0
    """Length of the prompt for the long-prompt rule, where ``input_tokens`` is 0 because an earlier choice
    of the same request was charged for it."""

    def __post_init__(self) -> None:
        writes = [part for pair in self.cache_write_tokens for part in pair]
        counts = (self.input_tokens, self.cached_tokens, self.visible_tokens, self.intermediate_tokens)
        if min(*counts, *writes, self.storage_token_us, self.context_tokens) < 0:
            raise ValueError(f"token counts cannot be negative: {self}")
        if self.cached_tokens + self.written_tokens > self.input_tokens:
            raise ValueError(f"more tokens cached and written than the prompt has: {self}")

    @property
    def written_tokens(self) -> int:
        return sum(tokens for _, tokens in self.cache_write_tokens)

    @property
    def fresh_tokens(self) -> int:
        """Of the prompt, neither cached nor charged as a write."""
        return self.input_tokens - self.cached_tokens - self.written_tokens

    @property
    def output_tokens(self) -> int:
        return self.visible_tokens + self.intermediate_tokens

    @property
    def anything(self) -> bool:
        """Whether there is anything to charge for."""
        return bool(self.input_tokens or self.output_tokens or self.storage_token_us)


@dataclass(frozen=True, slots=True)
class Charge:
    """What one request costs its customer, in micro-dollars; the parts sum to the total."""

    input: int = 0
    cached_input: int = 0
    cache_write: int = 0
    output: int = 0
    intermediate: int = 0
    storage: int = 0
    minimum: int = 0
    """What was missing to the minimum per request."""

    @property
    def total(self) -> int:
        return (
            self.input
            + self.cached_input
            + self.cache_write
            + self.output
            + self.intermediate
            + self.storage
            + self.minimum
        )


@dataclass(frozen=True, slots=True)
class Prices:
    """Pico-dollars per token, for one service tier and one kind of request."""

    input: int
    cached_input: int
    cache_write: tuple[tuple[int, int], ...]
    """By rising ttl: for what is kept up to so many microseconds, this price."""
    output: int
    intermediate: int
    storage_per_token_hour: int
    minimum_microusd: int
    embedding: int = 0

    def write(self, ttl_us: int) -> int:
        """The price of the shortest ttl listed that covers this one; beyond all of them, of the longest."""
        return next(
            (price for limit_us, price in self.cache_write if ttl_us <= limit_us), self.cache_write[-1][1]
        )

    def charge(self, tokens: TokenCounts) -> Charge:
        """Zero for a request that used nothing, at least the minimum for any other."""
        writes = sum(count * self.write(ttl_us) for ttl_us, count in tokens.cache_write_tokens)
        parts = apportion_units(
            {
                "input": HOUR_US * tokens.fresh_tokens * self.input,
                "cached_input": HOUR_US * tokens.cached_tokens * self.cached_input,
                "cache_write": HOUR_US * writes,
                "output": HOUR_US * tokens.visible_tokens * self.output,
                "intermediate": HOUR_US * tokens.intermediate_tokens * self.intermediate,
                "storage": tokens.storage_token_us * self.storage_per_token_hour,
            },
            HOUR_US * MICROUSD,
        )
        missing = self.minimum_microusd - sum(parts.values()) if tokens.anything else 0
        return Charge(**parts, minimum=max(0, missing))

    def most(self, prompt_tokens: int, max_new_tokens: int, ttl_us: int, storage_token_us: int) -> int:
        """Micro-dollars that no outcome of such a request exceeds."""
        prompt = max(self.input, self.cached_input, self.write(ttl_us) if ttl_us else 0)
        answer = max(self.output, self.intermediate)
        storage = Fraction(storage_token_us * self.storage_per_token_hour, HOUR_US)
        picousd = prompt_tokens * prompt + max_new_tokens * answer + storage
        return max(self.minimum_microusd, round_half_up(picousd / MICROUSD))


@dataclass(frozen=True, slots=True)
class PriceSheet:
    """The prices of one service tier, multiplied out."""

    usual: Prices
    long: Prices
    batch: Prices
    long_batch: Prices

    def prices(self, *, long: bool, batch: bool) -> Prices:
        """Which of the four applies."""
        if batch:
            return self.long_batch if long else self.batch
        return self.long if long else self.usual


@dataclass(frozen=True, slots=True)
class Priced:
    """Sheets by service tier, and from how many prompt tokens on the long-prompt prices apply."""

    sheets: Mapping[str, PriceSheet]
    above_tokens: int | None


@dataclass(frozen=True, slots=True)
class PriceBook:
    """What customers pay. Made by ``load_price_book``."""

    sheets: Mapping[str, PriceSheet]
    """By service tier."""
    counting: Counting = "openai"
    models: Mapping[str, Priced] = field(default_factory=dict)
    """Of models that have prices of their own."""
    above_tokens: int | None = None
    """Prompts longer than this pay the long-prompt prices."""
    source: str = ""
    as_of: str = ""
    text: str = ""
    """The TOML, as it was read."""

    def of(self, model: str) -> PriceBook:
        """The book for requests of one model: its own prices, or those of all."""
        if model not in self.models:
            return self
        return replace(self, sheets=self.models[model].sheets, above_tokens=self.models[model].above_tokens)

    def prices(self, service_tier: str, prompt_tokens: int = 0, *, batch: bool = False) -> Prices:
        """What applies to a request. ``KeyError`` for a service tier without a price: loading with the
        names of the deployment has refused that."""
        return self.sheets[service_tier].prices(long=self._is_long(prompt_tokens), batch=batch)

    def charge(self, service_tier: str, tokens: TokenCounts, *, batch: bool = False) -> Charge:
        """What a request is charged when it has ended."""
        prompt_tokens = max(tokens.input_tokens, tokens.context_tokens)
        return self.prices(service_tier, prompt_tokens, batch=batch).charge(tokens)

    def worst_case(
        self,
        service_tier: str,
        prompt_tokens: int,
        max_new_tokens: int,
        *,
        ttl_us: int = 0,
        storage_token_us: int = 0,
        batch: bool = False,
    ) -> int:
        """Micro-dollars to hold before the work: no cache hit, every token that may come, at the dearer of
        the output prices. ``ttl_us``: the time to live the customer asked for, 0 for none, and what is to be
        kept under it in token-microseconds. No admissible outcome is charged more."""
        sheets = {
            self.prices(service_tier, tokens, batch=batch)
            for tokens in (0, prompt_tokens)  # 0: a discount on long prompts may not be earned
        }
        return max(sheet.most(prompt_tokens, max_new_tokens, ttl_us, storage_token_us) for sheet in sheets)

    def embedding(self, service_tier: str, tokens: int) -> int:
        """Micro-dollars for texts embedded or ranked, half up. No minimum is charged."""
        return round_half_up(Fraction(tokens * self.prices(service_tier).embedding, MICROUSD))

    def _is_long(self, prompt_tokens: int) -> bool:
        return self.above_tokens is not None and prompt_tokens > self.above_tokens


def load_price_book(name_or_path: str | Path, service_tiers: Iterable[str] = ()) -> PriceBook:
    """Read a preset or a file. ``service_tiers``: those of the deployment, each of which must have a price.

    Raises ``BadInput``: one sentence that names the file and the key.
    """
    text, source = read_book("price", name_or_path)
    return parse_price_book(text, source, service_tiers)


def parse_price_book(text: str, source: str, service_tiers: Iterable[str] = ()) -> PriceBook:
    """The book in a text, such as the one kept with a run; ``source`` is what errors call it."""
    book = TomlTable.parse(text, source)
    book.only(*BOOK_KEYS)
    book.needs("prices")
    service_tiers = tuple(service_tiers)
    usual = _priced(book)
    _refuse_unpriced(book, service_tiers)
    named = book.table("models")
    models = {name: _of_model(named.table(name), book, service_tiers) for name in named}
    about, as_of = book.about()
    counting: Counting = "anthropic" if _counts_apart(book) else "openai"
    return PriceBook(usual.sheets, counting, models, usual.above_tokens, about, as_of, text)


def _priced(book: TomlTable) -> Priced:
    sheets = _sheets(book, _Raw.read(book.table("prices")))
    rule = book.table("long_prompt")
    return Priced(sheets, rule.whole("above_tokens", LENGTH) if "long_prompt" in book else None)


def _of_model(model: TomlTable, book: TomlTable, service_tiers: Iterable[str]) -> Priced:
    """Its own prices; what it does not say otherwise about service tiers, batches and long prompts is as for
    every model, as far as it is a multiplier: a price of another model would be none of its own."""
    model.only(*MODEL_KEYS)
    model.needs("prices")
    merged = model.with_defaults(book, "batch_multiplier", "long_prompt")
    tiers, shared = model.table("service_tiers"), book.table("service_tiers")
    for name in shared:
        if name not in tiers and (own := [key for key in PRICE_KEYS if key in shared.table(name)]):
            raise model.wrong(
                f"service_tiers.{name}",
                f"is missing: {shared.where(name)}.{own[0]} is a price and no multiplier, so it does not "
                "hold for this model",
            )
    merged = merged.with_table("service_tiers", tiers.with_defaults(shared, *shared))
    _refuse_unpriced(merged, service_tiers)
    return _priced(merged)


def _counts_apart(book: TomlTable) -> bool:
    return book.choice("counting", ("openai", "anthropic"), "openai") == "anthropic"


def _refuse_unpriced(book: TomlTable, service_tiers: Iterable[str]) -> None:
    priced = book.table("service_tiers")
    for name in service_tiers:
        if name not in priced and name != "default":
            raise book.wrong(
                f"service_tiers.{name}",
                f"the service tier {name!r} has no price: give it a multiplier or prices of its own",
            )


def _sheets(book: TomlTable, base: _Raw) -> dict[str, PriceSheet]:
    batch = _Factors.read(book, "batch_multiplier")
    rule = book.table("long_prompt")
    rule.only("above_tokens", "multiplier")
    long = _Factors.read(rule, "multiplier")
    tables = book.table("service_tiers")
    raws = {"default": (base, book.table("prices"))}
    for name in tables:
        table = tables.table(name)
        raws[name] = (base.own(table), table)
    return {
        name: PriceSheet(
            raw.prices(table),
            raw.times(long).prices(table),
            raw.times(batch).prices(table),
            raw.times(long).times(batch).prices(table),
        )
        for name, (raw, table) in raws.items()
    }


@dataclass(frozen=True, slots=True)
class _Factors:
    """Multipliers by token price; 1 where nothing is said."""

    by_key: Mapping[str, Fraction]

    @classmethod
    def read(cls, table: TomlTable, key: str) -> _Factors:
        """One number for all, or a table by price key."""
        if not table.is_table(key):
            factor = table.number(key, FACTOR, 1)
            return cls(dict.fromkeys(TOKEN_KEYS, factor))
        named = table.table(key)
        named.only(*TOKEN_KEYS)
        given = {name: named.number(name, FACTOR) for name in named}
        return cls({k: given.get(k, given.get(FOLLOWS.get(k, k), Fraction(1))) for k in TOKEN_KEYS})


@dataclass(frozen=True, slots=True)
class _Raw:
    """Prices as they are written, in USD per million, before they become whole pico-dollars."""

    given: Mapping[str, Fraction]
    """Everything but the writes."""
    writes: Writes

    @classmethod
    def read(cls, table: TomlTable) -> _Raw:
        """``[prices]``: input and output must be there."""
        table.only(*PRICE_KEYS)
        table.needs("input", "output")
        return cls(_given(table), _writes(table))

    def own(self, table: TomlTable) -> _Raw:
        """The prices of a service tier: its own, and for the rest these times its multiplier."""
        table.only("multiplier", *PRICE_KEYS)
        scaled, own = self.times(_Factors.read(table, "multiplier")), _given(table)
        # A price that follows another one here does not come back from the base when that one is its own.
        inherited = {
            key: price
            for key, price in scaled.given.items()
            if key in self.given or FOLLOWS.get(key) not in own
        }
        writes = _writes(table) or (scaled.writes if self.writes or "input" not in own else {})
        return _Raw({**inherited, **own}, writes)

    def times(self, factors: _Factors) -> _Raw:
        """Token prices multiplied; storage and the minimum stay."""
        full = {**self.given}
        for key, other in FOLLOWS.items():
            if key != "cache_write":
                full.setdefault(key, self.given[other])
        writes = self.writes or {ANY_TTL_US: self.given["input"]}
        return _Raw(
            {key: price * factors.by_key.get(key, 1) for key, price in full.items()},
            {ttl_us: price * factors.by_key["cache_write"] for ttl_us, price in writes.items()},
        )

    def prices(self, table: TomlTable) -> Prices:
        """Whole pico-dollars; ``table`` is named when a product is none."""
        full = self.times(_Factors({key: Fraction(1) for key in TOKEN_KEYS}))
        picousd = {key: _whole(table, key, price) for key, price in full.given.items()}
        return Prices(
            picousd["input"],
            picousd["cached_input"],
            tuple(
                (ttl_us, _whole(table, "cache_write", full.writes[ttl_us])) for ttl_us in sorted(full.writes)
            ),
            picousd["output"],
            picousd["intermediate"],
            picousd.get("storage_per_token_hour", 0),
            picousd.get("minimum_per_request", 0),  # USD to micro-dollars is the same factor
            picousd["embedding"],
        )


def _given(table: TomlTable) -> dict[str, Fraction]:
    return {key: table.number(key, PRICE) for key in PRICE_KEYS if key in table and key != "cache_write"}


def _writes(table: TomlTable) -> Writes:
    if "cache_write" not in table:
        return {}
    if not table.is_table("cache_write"):
        return {ANY_TTL_US: table.number("cache_write", PRICE)}
    by_ttl = table.table("cache_write")
    if not list(by_ttl):
        raise table.wrong("cache_write", "is empty: give a price by ttl, or one price")
    return {_ttl_us(by_ttl, key): by_ttl.number(key, PRICE) for key in by_ttl}


def _ttl_us(table: TomlTable, key: str) -> int:
    try:
        return parse_ttl_us(key)
    except ValueError as error:
        raise table.wrong(key, str(error)) from None


def _whole(table: TomlTable, key: str, price: Fraction) -> int:
    picousd = price * MICROUSD
    if picousd.denominator != 1:
        raise table.wrong(
            key, f"the multipliers make this price {float(price)}, which is no whole pico-dollar"
        )
    return int(picousd)


SHORT_TTL_US = 300_000_000
"""Anthropic reports writes for five minutes apart from those for an hour."""


def anthropic_usage(tokens: TokenCounts) -> dict[str, object]:
    """Token counts as Anthropic's reports have them: ``input_tokens`` is what was neither read from the
    cache nor written to it."""
    short = sum(count for ttl_us, count in tokens.cache_write_tokens if ttl_us <= SHORT_TTL_US)
    return {
        "input_tokens": tokens.fresh_tokens,
        "cache_read_input_tokens": tokens.cached_tokens,
        "cache_creation_input_tokens": tokens.written_tokens,
        "cache_creation": {
            "ephemeral_5m_input_tokens": short,
            "ephemeral_1h_input_tokens": tokens.written_tokens - short,
        },
        "output_tokens": tokens.output_tokens,
    }

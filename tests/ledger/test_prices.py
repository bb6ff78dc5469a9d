"""The price book: exact prices, one rounding, and a hold that no outcome exceeds."""

from __future__ import annotations

import gzip
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.errors import BadInput
from stepwell.ledger.money import apportion, exact, round_half_up
from stepwell.ledger.pricing.books import parse_ttl_us, preset_names, preset_text
from stepwell.ledger.pricing.prices import (
    PriceBook,
    Prices,
    TokenCounts,
    anthropic_usage,
    load_price_book,
    parse_price_book,
)

OPENAI = ("priority", "default", "flex")
HOUR_US = 3_600_000_000
BASE = "[prices]\ninput = 1.25\noutput = 10\n"

FULL = """
counting = "anthropic"
batch_multiplier = 0.5
[prices]
input = 3
cached_input = "0.30"
cache_write = { "5m" = 3.75, "1h" = 6 }
output = 15
intermediate = 12
storage_per_token_hour = 4.5
minimum_per_request = 0.0001
[service_tiers.flex]
multiplier = 0.5
[service_tiers.free]
multiplier = 0
minimum_per_request = 0
[service_tiers.odd]
multiplier = { input = 2, cached_input = 1 }
output = 7
[long_prompt]
above_tokens = 1000
multiplier = { input = 2, output = 1.5 }
"""


def book(text: str, service_tiers: tuple[str, ...] = ()) -> PriceBook:
    return parse_price_book(text, "price book test.toml", service_tiers)


def refused(text: str, *words: str, service_tiers: tuple[str, ...] = ()) -> str:
    with pytest.raises(BadInput) as raised:
        book(text, service_tiers)
    message = str(raised.value)
    assert message.startswith("price book test.toml")
    assert "\n" not in message.removeprefix("price book test.toml is not valid TOML")
    for word in words:
        assert word in message
    return message


# --- charging ----------------------------------------------------------------------------------


def test_a_price_is_the_number_that_was_written() -> None:
    written = book("[prices]\ninput = 0.1\ncached_input = '0.010001'\noutput = 1e1\n")
    prices = written.prices("default")
    assert (prices.input, prices.cached_input, prices.output) == (100_000, 10_001, 10_000_000)


def test_a_request_pays_for_what_it_used_part_by_part() -> None:
    tokens = TokenCounts(
        input_tokens=900,
        cached_tokens=400,
        visible_tokens=100,
        intermediate_tokens=200,
        cache_write_tokens=((parse_ttl_us("5m"), 100), (parse_ttl_us("30m"), 100)),
        storage_token_us=200_000 * HOUR_US // 1_000,
    )
    charge = book(FULL).charge("default", tokens)
    assert (charge.input, charge.cached_input) == (900, 120)  # 300 x 3, 400 x 0.3
    assert charge.cache_write == 375 + 600
    assert (charge.output, charge.intermediate) == (1500, 2400)
    assert charge.storage == 900  # 200 tokens for an hour at 4.5 USD per million
    assert charge.total == 900 + 120 + 975 + 1500 + 2400 + 900


def test_what_has_no_price_of_its_own_follows_another() -> None:
    prices = book(BASE).prices("default")
    assert prices.cached_input == prices.write(1) == prices.write(10**15) == prices.input == 1_250_000
    assert prices.intermediate == prices.output
    assert prices.storage_per_token_hour == prices.minimum_microusd == 0


def test_a_write_pays_the_shortest_ttl_that_covers_it() -> None:
    prices = book(FULL).prices("default")
    asked = {text: prices.write(parse_ttl_us(text)) for text in ("1s", "5m", "301s", "1h", "24h")}
    assert asked == {
        "1s": 3_750_000, "5m": 3_750_000, "301s": 6_000_000, "1h": 6_000_000, "24h": 6_000_000,
    }  # fmt: skip


def test_multipliers_apply_to_tokens_and_not_to_storage_or_the_minimum() -> None:
    flex = book(FULL).prices("flex")
    assert (flex.input, flex.cached_input, flex.output, flex.intermediate) == (
        1_500_000,
        150_000,
        7_500_000,
        6_000_000,
    )
    assert flex.cache_write == ((300_000_000, 1_875_000), (HOUR_US, 3_000_000))
    assert (flex.storage_per_token_hour, flex.minimum_microusd) == (4_500_000, 100)


def test_a_service_tier_may_have_prices_of_its_own_beside_a_multiplier() -> None:
    odd = book(FULL).prices("odd")
    assert (odd.input, odd.cached_input, odd.write(1)) == (6_000_000, 300_000, 7_500_000)
    assert odd.output == 7_000_000
    assert odd.intermediate == 12_000_000  # [prices] names it


def test_an_own_price_takes_those_along_that_follow_it() -> None:
    own = book(BASE + "[service_tiers.x]\ninput = 2\noutput = 3\n").prices("x")
    assert own == Prices(
        2_000_000, 2_000_000, ((own.cache_write[0][0], 2_000_000),), 3_000_000, 3_000_000, 0, 0, 2_000_000
    )


def test_batches_and_long_prompts_multiply_too() -> None:
    prices = book(FULL)
    assert prices.prices("flex", batch=True).input == 750_000
    assert prices.prices("flex", 1_000).input == 1_500_000
    assert prices.prices("flex", 1_001).input == 3_000_000
    long_batch = prices.prices("flex", 1_001, batch=True)
    assert (long_batch.input, long_batch.output) == (1_500_000, 5_625_000)
    assert (long_batch.cached_input, long_batch.intermediate) == (150_000, 4_500_000)


def test_a_further_choice_of_a_long_prompt_pays_the_long_price() -> None:
    prices = book(FULL)
    further = TokenCounts(visible_tokens=10, context_tokens=2_000)
    assert prices.charge("default", further).output == 225
    assert prices.charge("default", TokenCounts(visible_tokens=10)).output == 150


def test_the_minimum_is_for_requests_that_used_something() -> None:
    prices = book(FULL)
    charge = prices.charge("default", TokenCounts(input_tokens=1))
    assert (charge.total, charge.input, charge.minimum) == (100, 3, 97)
    assert prices.charge("default", TokenCounts()).total == 0
    assert prices.charge("free", TokenCounts(input_tokens=5)).total == 0
    assert prices.worst_case("default", 1, 1) == 100


def test_half_a_microdollar_is_rounded_up_once() -> None:
    prices = book("[prices]\ninput = 0.25\noutput = 0.25\n")
    assert prices.charge("default", TokenCounts(1, 0, 1)).total == 1
    assert prices.charge("default", TokenCounts(1)).total == 0
    charge = prices.charge("default", TokenCounts(1, 0, 1, 1))
    assert (charge.total, charge.input, charge.output, charge.intermediate) == (1, 1, 0, 0)


@pytest.mark.parametrize(
    "counts",
    [{"input_tokens": -1}, {"input_tokens": 1, "cached_tokens": 2}, {"cache_write_tokens": ((1, 1),)}],
)
def test_counts_that_cannot_be_are_refused(counts: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        TokenCounts(**counts)


def test_the_hold_is_what_the_dearest_outcome_is_charged() -> None:
    prices, ttl_us = book(FULL), parse_ttl_us("1h")
    plain = TokenCounts(900, visible_tokens=100)
    assert prices.worst_case("default", 900, 100) == prices.charge("default", plain).total
    kept = TokenCounts(900, 0, 100, 0, ((ttl_us, 900),), 1_000 * ttl_us)
    held = prices.worst_case("default", 900, 100, ttl_us=ttl_us, storage_token_us=1_000 * ttl_us)
    assert held == prices.charge("default", kept).total == 5_400 + 1_500 + 4_500
    dear = book(BASE + "intermediate = 20\n")
    assert (
        dear.worst_case("default", 0, 10) == dear.charge("default", TokenCounts(intermediate_tokens=10)).total
    )


def test_a_discount_on_long_prompts_is_not_relied_on_by_the_hold() -> None:
    prices = book(BASE + "[long_prompt]\nabove_tokens = 10\nmultiplier = 0.1\n")
    answer_alone = TokenCounts(visible_tokens=100)
    assert prices.worst_case("default", 11, 100) >= prices.charge("default", answer_alone).total


# --- properties --------------------------------------------------------------------------------

factor = st.sampled_from(["0", "0.5", "1", "1.5", "2", "6"])


@st.composite
def books(draw: st.DrawFn) -> PriceBook:
    # Up to 1,000 USD per million tokens; a minimum that is seldom more than what the tokens come to.
    amounts = [draw(st.integers(0, 10**6)) * 1_000 for _ in range(7)] + [
        draw(st.sampled_from([0, 0, 20_000]))
    ]
    usd = [f'"{a // 10**6}.{a % 10**6:06d}"' for a in amounts]
    return book(
        f"batch_multiplier = {draw(factor)}\n[prices]\ninput = {usd[0]}\ncached_input = {usd[1]}\n"
        f'cache_write = {{ "5m" = {usd[2]}, "1h" = {usd[3]} }}\noutput = {usd[4]}\nintermediate = {usd[5]}\n'
        f"storage_per_token_hour = {usd[6]}\nminimum_per_request = {usd[7]}\n"
        f"[service_tiers.x]\nmultiplier = {{ input = {draw(factor)}, output = {draw(factor)} }}\n"
        f"[long_prompt]\nabove_tokens = 100\nmultiplier = {draw(factor)}\n"
    )


count = st.integers(0, 300)
ttl = st.sampled_from([0, 1, 300_000_000, 300_000_001, HOUR_US, 10 * HOUR_US])


@given(books(), st.sampled_from(["default", "x"]), st.booleans(), st.data())
def test_no_outcome_is_charged_more_than_was_held(
    prices: PriceBook, service_tier: str, batch: bool, data: st.DataObject
) -> None:
    prompt, most_new, ttl_us, storage = (data.draw(s) for s in (count, count, ttl, st.integers(0, 10**14)))
    held = prices.worst_case(
        service_tier, prompt, most_new, ttl_us=ttl_us, storage_token_us=storage, batch=batch
    )
    began = data.draw(st.booleans())
    cached = data.draw(st.integers(0, prompt)) if began else 0
    written = data.draw(st.integers(0, prompt - cached)) if began and ttl_us else 0
    generated = data.draw(st.integers(0, most_new)) if began else 0
    visible = data.draw(st.integers(0, generated))
    outcome = TokenCounts(
        prompt if began else 0,
        cached,
        visible,
        generated - visible,
        ((ttl_us, written),) if written else (),
        data.draw(st.integers(0, storage)),
    )
    charge = prices.charge(service_tier, outcome, batch=batch)
    assert 0 <= charge.total <= held


@given(books(), count, count, count, count)
def test_the_parts_sum_to_the_total_that_is_rounded_once(
    prices: PriceBook, fresh: int, cached: int, visible: int, intermediate: int
) -> None:
    tokens = TokenCounts(fresh + cached, cached, visible, intermediate)
    sheet, charge = prices.prices("x", fresh + cached), prices.charge("x", tokens)
    picousd = {
        "input": fresh * sheet.input,
        "cached_input": cached * sheet.cached_input,
        "output": visible * sheet.output,
        "intermediate": intermediate * sheet.intermediate,
    }
    assert charge.total - charge.minimum == (sum(picousd.values()) + 500_000) // 1_000_000
    for name, amount in picousd.items():
        assert abs(getattr(charge, name) * 1_000_000 - amount) < 1_000_000


@given(st.dictionaries(st.integers(), st.fractions(), max_size=8))
def test_apportioned_parts_sum_to_the_rounded_whole(parts: dict[int, Fraction]) -> None:
    whole = apportion(parts)
    assert sum(whole.values()) == round_half_up(sum(parts.values(), Fraction(0)))
    assert all(abs(whole[name] - part) < 1 for name, part in parts.items())


# --- usage reports -----------------------------------------------------------------------------

WRITES = ((parse_ttl_us("5m"), 100), (parse_ttl_us("1h"), 50))
TOKENS = TokenCounts(1_000, 600, 30, 20, WRITES)


def test_anthropic_counts_the_cached_tokens_apart() -> None:
    assert anthropic_usage(TOKENS) == {
        "input_tokens": 250,
        "cache_read_input_tokens": 600,
        "cache_creation_input_tokens": 150,
        "cache_creation": {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 50},
        "output_tokens": 50,
    }


@given(books(), count, count, count, count, count)
def test_a_count_apart_leads_to_the_same_charge(
    prices: PriceBook, fresh: int, cached: int, short: int, long: int, answer: int
) -> None:
    writes = ((WRITES[0][0], short), (WRITES[1][0], long))
    tokens = TokenCounts(fresh + cached + short + long, cached, answer, 0, writes)
    apart: Any = anthropic_usage(tokens)
    creation = apart["cache_creation"]
    again = TokenCounts(
        apart["input_tokens"] + apart["cache_read_input_tokens"] + apart["cache_creation_input_tokens"],
        apart["cache_read_input_tokens"],
        apart["output_tokens"],
        0,
        (
            (WRITES[0][0], creation["ephemeral_5m_input_tokens"]),
            (WRITES[1][0], creation["ephemeral_1h_input_tokens"]),
        ),
    )
    assert prices.charge("default", again) == prices.charge("default", tokens)


# --- what is refused ---------------------------------------------------------------------------


def test_an_unknown_key_is_named_with_the_nearest_one() -> None:
    refused("[prices]\nimput = 1\noutput = 1\n", "'prices.imput'", "did you mean 'input'?")
    refused(BASE + "[service_tiers.flex]\nmultiplyer = 1\n", "service_tiers.flex.multiplyer", "'multiplier'")
    refused("curency = 'EUR'\n" + BASE, "unknown key 'curency'")
    refused(BASE + "[service_tiers.x]\nmultiplier = { storage = 1 }\n", "service_tiers.x.multiplier.storage")
    refused(BASE + "[long_prompt]\nabove_tokens = 5\ntimes = 2\n", "'long_prompt.times'")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("-1", "-1 is negative"),
        ("-0.000001", "negative"),
        ("nan", "not a finite number"),
        ("inf", "not a finite number"),
        ("-inf", "not a finite number"),
        ("true", "not a number"),
        ("'cheap'", "'cheap' is not a number"),
        ("'NaN'", "not a number"),
        ("''", "not a number"),
        ("' 1'", "not a number"),
        ("'1_0'", "not a number"),
        ("'\u0661'", "not a number"),
        ("[1]", "not a number"),
        ("{ a = 1 }", "not a number"),
        ("2026-11-22", "not a number"),
        ("1000001", "too large: at most 1000000"),
        ("1e999999999", "not a number"),
        ("1e999", "too large"),
        ("0.0000001", "more than 6 digits after the point"),
        ("1e-999", "more than 6 digits"),
        ("0." + "1" * 100, "not a number"),
    ],
)
def test_a_price_that_is_none_is_refused_by_its_key(value: str, reason: str) -> None:
    assert "prices.cached_input: " in refused(BASE + f"cached_input = {value}\n", reason)


def test_a_price_by_ttl_is_checked_like_any_other() -> None:
    refused(BASE + 'cache_write = { "5m" = -1 }\n', "prices.cache_write.5m: -1 is negative")
    refused(BASE + 'cache_write = { "soon" = 1 }\n', "prices.cache_write.soon", "write it like 30m")
    refused(BASE + 'cache_write = { "0m" = 1 }\n', "not a time to live")
    refused(BASE + "cache_write = {}\n", "prices.cache_write", "is empty")


def test_a_service_tier_without_a_price_is_refused() -> None:
    text = BASE + "[service_tiers.flex]\nmultiplier = 0.5\n"
    assert book(text, ("default", "flex")).sheets.keys() == {"default", "flex"}
    refused(text, "service_tiers.priority", "'priority' has no price", service_tiers=OPENAI)
    with pytest.raises(
        BadInput, match=r"price book local: service_tiers\.free: the service tier 'free' has no"
    ):
        load_price_book("local", (*OPENAI, "free"))


def test_a_product_that_is_no_whole_picodollar_is_refused() -> None:
    text = "[prices]\ninput = 0.000001\noutput = 1\n[service_tiers.flex]\nmultiplier = 0.5\n"
    refused(text, "service_tiers.flex.input", "no whole pico-dollar")
    refused("batch_multiplier = 0.5\n[prices]\ninput = 0.000001\noutput = 1\n", "prices.input", "pico-dollar")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ("prices", "is missing")),
        ("[prices]\ninput = 1\n", ("prices.output", "is missing")),
        ("prices = 3\n", ("prices", "must be a table")),
        (BASE + "[service_tiers]\nflex = 0.5\n", ("service_tiers.flex", "must be a table")),
        (BASE + "[long_prompt]\nmultiplier = 2\n", ("long_prompt.above_tokens", "is missing")),
        (BASE + "[long_prompt]\nabove_tokens = 2.5\n", ("long_prompt.above_tokens",)),
        (BASE + "[long_prompt]\nabove_tokens = 0\n", ("long_prompt.above_tokens", "more than 0")),
        ("counting = 'google'\n" + BASE, ("counting", "'openai' or 'anthropic'")),
        ("batch_multiplier = 1001\n" + BASE, ("batch_multiplier", "too large")),
        ("source = 3\n" + BASE, ("source", "must be text")),
        ("[prices\n", ("not valid TOML",)),
        (BASE + "input = 2\n", ("not valid TOML",)),
        ("a = " + "[" * 5_000 + "]" * 5_000, ("not valid TOML",)),
    ],
)
def test_a_book_that_is_wrong_says_where(text: str, words: tuple[str, ...]) -> None:
    refused(text, *words)


def test_exact_numbers_never_come_through_a_float() -> None:
    with pytest.raises(ValueError, match="not a number"):
        exact(0.1)


# --- presets -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", preset_names("price"))
def test_every_preset_prices_the_usual_service_tiers_and_says_where_it_is_from(name: str) -> None:
    preset = load_price_book(name, OPENAI)
    assert preset.source
    assert preset.as_of
    assert preset.text == preset_text("price", name)
    assert parse_price_book(preset.text, "again", OPENAI) == preset
    default, flex = preset.prices("default"), preset.prices("flex")
    assert 0 < default.cached_input < default.input < default.output
    assert flex.input <= default.input <= preset.prices("priority").input


LISTED = {
    "openai-gpt-5": "gpt-5",
    "openai-gpt-5.6-sol": "gpt-5.6-sol",
    "anthropic-claude-opus-4.5": "claude-opus-4-5",
    "google-gemini-2.5-pro": "gemini/gemini-2.5-pro",
    "deepseek-chat": "deepseek-chat",
    "local": "gemini/gemini-2.5-flash-lite",
}
KINDS = {
    "input_cost_per_token": "input",
    "output_cost_per_token": "output",
    "cache_read_input_token_cost": "cached_input",
}
WAYS = {
    "": ("default", False),
    "_flex": ("flex", False),
    "_priority": ("priority", False),
    "_batches": ("default", True),
}
UNLIKE = {("local", "cached_input", "_flex"), ("local", "cached_input", "_batches")}
"""The laptop's book halves everything for flex, as OpenAI does; Google does not halve cached input."""


def listed(facts: dict[str, Any], key: str) -> int | None:
    """Pico-dollars per token, of a figure that went through JSON as a float."""
    return round(facts[key] * 10**12) if key in facts else None


@pytest.mark.parametrize("name", LISTED)
def test_the_presets_are_the_list_prices(name: str, shared_data: Path) -> None:
    path = shared_data / "prices" / "litellm_1.109.1_prices_subset.json.gz"
    facts = json.loads(gzip.decompress(path.read_bytes()))[LISTED[name]]
    preset, compared = load_price_book(name), 0
    assert facts["source"] in preset.source
    lengths = {"": 1} if preset.above_tokens is None else {
        "": 1, f"_above_{preset.above_tokens // 1000}k_tokens": preset.above_tokens + 1,
    }  # fmt: skip
    for fact, kind in KINDS.items():
        for length, prompt_tokens in lengths.items():
            for way, (service_tier, batch) in WAYS.items():
                price = listed(facts, f"{fact}{length}{way}")
                if price is not None and (name, kind, way) not in UNLIKE:
                    ours = preset.prices(service_tier, prompt_tokens, batch=batch)
                    assert getattr(ours, kind) == price, (fact, length, way)
                    compared += 1
    assert compared >= 3


@pytest.mark.parametrize(
    ("name", "ttls"),
    [
        ("openai-gpt-5.6-sol", {"30m": "", "12h": "_above_12hr"}),
        ("anthropic-claude-opus-4.5", {"5m": "", "1h": "_above_1hr"}),
    ],
)
def test_the_presets_have_the_list_prices_of_cache_writes(
    name: str, ttls: dict[str, str], shared_data: Path
) -> None:
    path = shared_data / "prices" / "litellm_1.109.1_prices_subset.json.gz"
    facts = json.loads(gzip.decompress(path.read_bytes()))[LISTED[name]]
    prices = load_price_book(name).prices("default")
    for ttl, suffix in ttls.items():
        assert prices.write(parse_ttl_us(ttl)) == listed(facts, f"cache_creation_input_token_cost{suffix}")


# --- models --------------------------------------------------------------------------------------

MODELS = """
batch_multiplier = 0.5
[prices]
input = 10
output = 40
[service_tiers.flex]
multiplier = 0.5
[models."small-one".prices]
input = 1
output = 4
[models.large]
batch_multiplier = 0.25
[models.large.prices]
input = 100
output = 400
[models.large.service_tiers.flex]
output = 300
"""
MILLION = TokenCounts(1_000_000, visible_tokens=1_000_000)


@pytest.mark.parametrize(
    ("model", "service_tier", "batch", "usd"),
    [
        ("another", "default", False, 50),
        ("small-one", "default", False, 5),
        ("small-one", "flex", False, 2.5),
        ("small-one", "flex", True, 1.25),
        ("large", "default", False, 500),
        ("large", "flex", False, 400),
        ("large", "default", True, 125),
    ],
)
def test_a_model_has_its_own_prices(model: str, service_tier: str, batch: bool, usd: float) -> None:
    found = book(MODELS, OPENAI[1:]).of(model)
    assert found.charge(service_tier, MILLION, batch=batch).total == int(usd * 1_000_000)
    worst = found.worst_case(service_tier, 1_000_000, 1_000_000, batch=batch)
    assert worst >= found.charge(service_tier, MILLION, batch=batch).total


def test_a_long_prompt_of_a_model() -> None:
    text = (
        BASE + "[long_prompt]\nabove_tokens = 10\nmultiplier = 2\n[models.a.prices]\ninput = 1\noutput = 1\n"
    )
    own = text + "[models.a.long_prompt]\nabove_tokens = 100\nmultiplier = 3\n"
    tokens = TokenCounts(50_000)
    assert book(text).of("a").charge("default", tokens).total == 100_000
    assert book(own).of("a").charge("default", tokens).total == 150_000
    assert book(own).of("a").above_tokens == 100 and book(own).above_tokens == 10


def test_what_is_wrong_with_a_models_prices() -> None:
    refused(BASE + "[models.a]\nmultiplier = 2\n", "unknown key 'models.a.multiplier'")
    refused(BASE + "[models.a]\n", "models.a.prices: is missing")
    refused(BASE + "[models.a.prices]\ninput = 1\n", "models.a.prices.output: is missing")
    refused(
        BASE + "[service_tiers.flex]\noutput = 1\n[models.a.prices]\ninput = 1\noutput = 1\n",
        "models.a.service_tiers.flex",
        "service_tiers.flex.output is a price and no multiplier",
    )

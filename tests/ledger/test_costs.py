"""The cost book: an hour of everything costs what the machine costs, and wear is charged once."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.basics.per_tier import PerTier
from stepwell.errors import BadInput
from stepwell.ledger.pricing.books import preset_names
from stepwell.ledger.pricing.costs import Capacities, CostBook, load_cost_book, parse_cost_book
from stepwell.ledger.types import MACHINE_RESOURCES, STORAGE, Resource

HOUR_US = 3_600_000_000
YEAR_HOURS = 8_760
GB = 10**9
RENTED = "[accelerator]\nhourly_usd = 2\n"
DISK = "[disk]\nusd_per_gb = 0.36\nyears = 5\ndrive_writes_per_day = 1\n"
HOST = "[host_memory]\nusd_per_gb = 13\nyears = 5\n"

capacities = st.builds(PerTier, st.integers(0, 10**12), st.integers(0, 10**13), st.integers(0, 10**14))


def book(text: str) -> CostBook:
    return parse_cost_book(text, "cost book test.toml")


def refused(text: str, *words: str) -> None:
    with pytest.raises(BadInput) as raised:
        book(text)
    message = str(raised.value)
    assert message.startswith("cost book test.toml: ")
    for word in words:
        assert word in message


def hour(room: Capacities) -> dict[Resource, int]:
    """All of the machine for an hour."""
    return {
        Resource.COMPUTE: HOUR_US,
        **dict(zip(STORAGE, (size_bytes * HOUR_US for size_bytes in room), strict=True)),
    }


# --- conservation ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", preset_names("cost"))
@given(room=capacities)
def test_an_hour_of_everything_is_the_hourly_price(name: str, room: Capacities) -> None:
    costs = load_cost_book(name)
    assert costs.rates(room).cost(hour(room)) == costs.hourly_usd(room) * 1_000_000


def test_the_hourly_price_is_what_the_book_says() -> None:
    room = PerTier(80 * GB, 1_000 * GB, 8_000 * GB)
    costs = book(RENTED + HOST + DISK + "[machine]\nother_hourly_usd = 0.4\n")
    host = Fraction(13 * 1_000, 5 * YEAR_HOURS)
    disk = Fraction(36, 100) * 8_000 / 2 / (5 * YEAR_HOURS)  # half of it is charged as wear
    assert costs.hourly_usd(room) == Fraction(24, 10) + host + disk


def test_compute_and_memory_share_the_accelerator() -> None:
    room = PerTier(10 * GB, 0, 0)
    costs = book(RENTED + "memory_share = 0.25\n[machine]\nother_hourly_usd = 0.5\n").rates(room)
    assert costs.microusd[Resource.COMPUTE] * HOUR_US == 2_000_000
    assert costs.microusd[Resource.DEVICE] * room.device * HOUR_US == 500_000


def test_without_device_room_its_memory_falls_to_compute() -> None:
    rates = book(RENTED).rates(PerTier(0, 0, 0))
    assert rates.microusd[Resource.COMPUTE] * HOUR_US == 2_000_000
    assert rates.microusd[Resource.DEVICE] == 0


def test_every_resource_of_the_machine_has_a_rate_and_money_none() -> None:
    rates = load_cost_book("laptop").rates(PerTier(GB, GB, GB))
    assert set(MACHINE_RESOURCES) <= rates.microusd.keys()
    for moved in (Resource.STORED, Resource.LOADED, Resource.READ):
        assert rates.microusd[moved] == 0  # the time it took is in compute
    assert rates.microusd[Resource.DISPLACED] == rates.microusd[Resource.COMPUTE]
    with pytest.raises(KeyError):
        rates.cost({Resource.MONEY: 1})


def test_what_was_bought_is_written_off_with_its_power() -> None:
    bought = "[accelerator]\npurchase_usd = 30000\nyears = 5\nresidual_usd = 5000\ncount = 4\n"
    power = "power_kw = 1.5\npue = 1.2\nusd_per_kwh = 0.08\n"
    an_hour = Fraction(25_000, 5 * YEAR_HOURS)
    assert book(bought).accelerator_hourly_usd == 4 * an_hour
    assert book(bought + power).accelerator_hourly_usd == 4 * (an_hour + Fraction(144, 1_000))


def test_what_the_rent_includes_is_not_charged_again() -> None:
    room = PerTier(GB, 1_000 * GB, 0)
    extra, included = (book(RENTED + HOST + f"included = {flag}\n") for flag in ("false", "true"))
    host = Fraction(13 * 1_000, 5 * YEAR_HOURS)
    assert extra.hourly_usd(room) == 2 + host
    assert included.hourly_usd(room) == 2
    assert included.rates(room).cost({Resource.HOST: 1_000 * GB * HOUR_US}) == host * 1_000_000


def test_rooms_worth_more_than_the_rent_cost_the_rent() -> None:
    room = PerTier(GB, 10**16, 0)
    costs = book(RENTED + HOST + "included = true\n")
    assert costs.rates(room).cost({Resource.HOST: room.host * HOUR_US}) == 2_000_000
    assert costs.rates(room).microusd[Resource.COMPUTE] == 0


# --- wear --------------------------------------------------------------------------------------


def test_a_byte_written_costs_its_part_of_the_drive() -> None:
    """The published check: 0.36 USD per GB, one drive write a day for five years."""
    rates = book(RENTED + DISK + "capacity_share = 0\n").rates(PerTier(0, 0, 0))
    per_gb_usd = rates.cost({Resource.WRITTEN: GB}) / 1_000_000
    assert round(float(per_gb_usd), 6) == 0.000197
    kv_of_100k_tokens = 32_768 * 10**6  # Llama-70B in bf16: 327,680 bytes a token
    assert round(float(rates.cost({Resource.WRITTEN: kv_of_100k_tokens}) / 1_000_000), 4) == 0.0065
    assert rates.microusd[Resource.DISK] == 0


def test_three_writes_a_day_wear_a_third() -> None:
    thrice = book(RENTED + DISK.replace("per_day = 1", "per_day = 3") + "capacity_share = 0\n")
    wear = thrice.rates(PerTier(0, 0, 0)).cost({Resource.WRITTEN: GB}) / 1_000_000
    assert round(float(wear), 6) == 0.000066


@given(st.integers(0, 100), st.integers(1, 30), st.integers(1, 10), st.integers(1, 10**6))
def test_a_drive_that_is_written_at_its_rated_pace_pays_its_price(
    percent: int, tenths: int, years: int, size_gb: int
) -> None:
    text = (
        f"[disk]\nusd_per_gb = 0.36\nyears = {years}\ndrive_writes_per_day = {tenths / 10}\n"
        f"capacity_share = {percent / 100}\n"
    )
    size_bytes = size_gb * GB
    rates = book(RENTED + text).rates(PerTier(0, 0, size_bytes))
    life = {
        Resource.DISK: size_bytes * years * YEAR_HOURS * HOUR_US,
        Resource.WRITTEN: size_bytes * tenths * 365 * years // 10,
    }
    assert rates.cost(life) == pytest.approx(size_gb * 360_000, rel=1e-12)


# --- statements --------------------------------------------------------------------------------

amounts = st.dictionaries(
    st.sampled_from([*MACHINE_RESOURCES, Resource.DISPLACED]), st.integers(-(10**20), 10**20)
)


@given(amounts)
def test_parts_of_a_statement_sum_to_its_rounded_whole(amount: dict[Resource, int]) -> None:
    rates = load_cost_book("h100-bought").rates(PerTier(10 * GB, 100 * GB, 1_000 * GB))
    parts = rates.cost_microusd(amount)
    assert parts.keys() == amount.keys()
    assert abs(sum(parts.values()) - rates.cost(amount)) <= Fraction(1, 2)
    for resource, part in parts.items():
        assert abs(part - rates.cost({resource: amount[resource]})) < 1


def test_loaded_rates_pay_for_the_idle_hours_but_not_for_wear() -> None:
    room = PerTier(GB, GB, GB)
    rates = book(RENTED + DISK + "[machine]\nutilisation = 0.5\n").rates(room)
    loaded = rates.loaded()
    assert loaded.cost(hour(room)) == 2 * rates.cost(hour(room))
    assert loaded.microusd[Resource.WRITTEN] == rates.microusd[Resource.WRITTEN] > 0
    assert loaded.loaded() == loaded


# --- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ("accelerator", "is missing")),
        ("[accelerator]\n", ("accelerator.hourly_usd", "is missing")),
        ("[acelerator]\n", ("'acelerator'", "did you mean 'accelerator'")),
        (RENTED + "pue = 1.2\n", ("accelerator.power_kw", "is missing")),
        (RENTED + "power_kw = 1\n", ("accelerator.usd_per_kwh", "is missing")),
        (RENTED + "power_kw = 1\nusd_per_kwh = 1\npue = 0\n", ("accelerator.pue", "more than 0")),
        (RENTED + "years = 3\n", ("accelerator.years", "not both")),
        (RENTED + "memory_share = 1.1\n", ("accelerator.memory_share", "too large: at most 1")),
        (RENTED + "count = 0\n", ("accelerator.count", "more than 0")),
        (RENTED + "count = 1.5\n", ("accelerator.count", "digits")),
        ("[accelerator]\nhourly_usd = -1\n", ("accelerator.hourly_usd", "negative")),
        ("[accelerator]\nhourly_usd = nan\n", ("accelerator.hourly_usd", "not a finite number")),
        ("[accelerator]\npurchase_usd = 1\nyears = 0\n", ("accelerator.years", "more than 0")),
        ("[accelerator]\npurchase_usd = 1\n", ("accelerator.years", "is missing")),
        ("[accelerator]\nyears = 1\n", ("accelerator.purchase_usd", "is missing")),
        (
            "[accelerator]\npurchase_usd = 1\nyears = 1\nresidual_usd = 2\n",
            ("accelerator.residual_usd", "more than purchase_usd"),
        ),
        (RENTED + "[machine]\nutilisation = 1.1\n", ("machine.utilisation", "too large: at most 1")),
        (RENTED + "[machine]\nutilisation = 0\n", ("machine.utilisation", "more than 0")),
        (RENTED + "[machine]\nutilization = 1\n", ("machine.utilization", "did you mean 'utilisation'")),
        (RENTED + "[disk]\nusd_per_gb = 1\nyears = 5\n", ("disk.drive_writes_per_day", "is missing")),
        (RENTED + DISK + "capacity_share = 2\n", ("disk.capacity_share", "too large")),
        (RENTED + DISK.replace("day = 1", "day = 0"), ("disk.drive_writes_per_day", "more than 0")),
        (RENTED + DISK + "included = 1\n", ("disk.included", "true or false")),
        (RENTED + "[host_memory]\nusd_per_gb = 1\n", ("host_memory.years", "is missing")),
        (RENTED + "[host_memory]\nusd_per_gb = 1\nyears = 0\n", ("host_memory.years", "more than 0")),
    ],
)
def test_a_book_that_is_wrong_says_where(text: str, words: tuple[str, ...]) -> None:
    refused(text, *words)


def test_presets_say_where_they_are_from() -> None:
    for name in preset_names("cost"):
        preset = load_cost_book(name)
        assert preset.source
        assert preset.as_of
    assert load_cost_book("h100-rented").hourly_usd(PerTier(80 * GB, GB, GB)) == Fraction(13, 10)
    assert round(float(load_cost_book("h100-bought").hourly_usd(PerTier(80 * GB, 0, 0))), 2) == 1.3

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.basics.units import format_duration, format_size, parse_duration_us, parse_size


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("0", 0),
        ("4096", 4096),
        (4096, 4096),
        ("512MiB", 512 * 2**20),
        ("512mib", 512 * 2**20),
        (" 2 GiB ", 2 * 2**30),
        ("2GB", 2 * 10**9),
        ("1.5GiB", 3 * 2**29),
        ("10B", 10),
    ],
)
def test_sizes_read_as_people_write_them(text: str | int, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(
    "text", ["", "GiB", "-1", "2G", "1e9", "1,5GiB", "0x10", "2 GiB GiB", "inf", "٣GiB", -1, True]
)
def test_what_is_not_a_size_is_said_to_be_none(text: str | int) -> None:
    with pytest.raises(ValueError, match="is not a size: write it like 512MiB"):
        parse_size(text)


def test_a_size_beyond_64_bits_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match="more than any machine holds"):
        parse_size("9000000PiB")


@pytest.mark.parametrize(
    ("size_bytes", "text"), [(0, "0 B"), (1023, "1023 B"), (512 * 2**20, "512 MiB"), (3 * 2**29, "1.5 GiB")]
)
def test_sizes_are_shown_in_binary_units(size_bytes: int, text: str) -> None:
    assert format_size(size_bytes) == text


@given(st.integers(min_value=0, max_value=2**62))
def test_what_is_shown_reads_back_to_within_its_last_digit(size_bytes: int) -> None:
    assert abs(parse_size(format_size(size_bytes)) - size_bytes) <= 0.051 * max(size_bytes, 1)


@pytest.mark.parametrize(
    ("text", "duration_us"),
    [("250ms", 250_000), ("2s", 2_000_000), ("1.5 min", 90_000_000), ("7us", 7), ("0s", 0)],
)
def test_durations_read_as_people_write_them(text: str, duration_us: int) -> None:
    assert parse_duration_us(text) == duration_us


@pytest.mark.parametrize("text", ["", "5", "-2s", "2 fortnights", "s"])
def test_a_duration_needs_a_unit(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration_us(text)


@pytest.mark.parametrize(
    ("duration_us", "text"),
    [(850, "850 us"), (12_340, "12.3 ms"), (999_999, "1 s"), (2_400_000, "2.4 s"), (61_000_000, "1 min 1 s")],
)
def test_durations_are_shown_in_the_unit_a_person_would_choose(duration_us: int, text: str) -> None:
    assert format_duration(duration_us) == text

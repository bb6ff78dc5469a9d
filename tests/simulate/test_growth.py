"""What windows of a run say of the growth of its time."""

from __future__ import annotations

import pytest

from stepwell.simulate.growth import RunWindow, power, warm


def window(requests: int, cpu_s: float, host_share: float = 1.0) -> RunWindow:
    return RunWindow(requests, 100, cpu_s, 900, 1000, 20.0, host_share, 0.0)


def grown(exponent: float, noise: float = 0.0) -> list[RunWindow]:
    """Windows of a run whose time is n to that power; every second one dearer, the others cheaper."""
    made = []
    for number in range(1, 25):
        middle = 100 * number - 50
        made.append(window(100 * number, middle ** (exponent - 1) * (1 + noise * (-1) ** number)))
    return made


@pytest.mark.parametrize("exponent", [0.8, 1.0, 1.5, 2.0])
def test_a_power_is_found_again(exponent: float) -> None:
    found = power(grown(exponent), lambda one: one.cpu_ms_per_request)
    assert found is not None and found.windows == 24
    assert found.low == pytest.approx(found.value) == pytest.approx(exponent)


def test_noise_widens_the_interval_around_the_truth() -> None:
    found = power(grown(1.0, noise=0.3), lambda one: one.cpu_ms_per_request)
    assert found is not None and found.low < 1.0 < found.high and found.high - found.low > 0.1


def test_only_windows_after_memory_was_full_count() -> None:
    cold = [window(100, 1.0, 0.2), window(200, 2.0, 0.9), window(300, 3.0, 0.97)]
    full = [window(400 + 100 * number, 3.0, 0.94) for number in range(8)]
    assert warm([*cold, *full]) == full, "the window in which it fills up is half cold"
    assert warm(cold[:2]) == ()


def test_few_windows_and_no_time_say_nothing() -> None:
    assert power(grown(1.0)[:7], lambda one: one.cpu_ms_per_request) is None
    assert power(grown(1.0), lambda one: 0.0) is None

"""Finance functions. The roots and present values are pyxirr's; the sums are exact.

Flows are one per month unless said otherwise; a rate per year becomes ``(1 + r)^(1/12) - 1`` a month.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from itertools import accumulate

from stepwell.errors import MissingExtra

MONTHS = 12
ZERO = Decimal(0)


def monthly_rate(yearly: Decimal) -> Decimal:
    """The rate of a month that compounds to ``yearly``."""
    return (1 + yearly) ** (Decimal(1) / MONTHS) - 1


def npv(yearly_rate: Decimal, flows: Sequence[Decimal]) -> Decimal:
    """Present value at the first month, which is not discounted."""
    try:
        import pyxirr
    except ImportError as error:
        raise MissingExtra("a plan's present value", "plans") from error
    value = pyxirr.npv(float(monthly_rate(yearly_rate)), [float(flow) for flow in flows])
    return Decimal(str(value or 0.0))


_RATES = [-0.6 + 0.05 * step for step in range(53)]
_CLOSE = 1e-9


def irr(flows: Sequence[Decimal]) -> float | None:
    """Internal rate of return per year: where the present value falls through zero as the rate grows.

    Rents that outlive the income make a second root, at which it rises; that one says nothing about the
    investment. None: there is no rate between -60 % and 200 % at which it falls through zero.
    """
    import pyxirr

    amounts = [float(flow) for flow in flows]

    def value(rate: float) -> float:
        return float(pyxirr.npv((1 + rate) ** (1 / MONTHS) - 1, amounts) or 0.0)

    values = [value(rate) for rate in _RATES]
    for low, high, at_low, at_high in zip(_RATES, _RATES[1:], values, values[1:], strict=False):
        if at_low > 0 >= at_high:
            while high - low > _CLOSE:
                middle = (low + high) / 2
                low, high = (middle, high) if value(middle) > 0 else (low, middle)
            return (low + high) / 2
    return None


def payback_month(flows: Sequence[Decimal]) -> int | None:
    """The first month from which the running sum stays at or above zero; None: never."""
    last_below = None
    running = list(accumulate(flows))
    for month, total in enumerate(running):
        if total < 0:
            last_below = month
    if last_below is None:
        return 0
    return last_below + 1 if last_below + 1 < len(running) else None


def annuity(amount: Decimal, yearly_rate: Decimal, months: int) -> Decimal:
    """The level monthly payment that repays ``amount``; interest is a twelfth of the yearly rate."""
    rate = yearly_rate / MONTHS
    if rate == 0:
        return amount / months
    return amount * rate / (1 - (1 + rate) ** -months)


def capital_recovery(yearly_rate: Decimal, years: Decimal) -> Decimal:
    """Share of an investment to be earned every year: ``r / (1 - (1 + r)^-n)``."""
    return 1 / years if yearly_rate == 0 else yearly_rate / (1 - (1 + yearly_rate) ** -years)


def yearly(flows: Sequence[Decimal]) -> list[Decimal]:
    """Sums of twelve months; the last year may be shorter."""
    return [sum(flows[start : start + MONTHS], ZERO) for start in range(0, len(flows), MONTHS)]

"""What a cash flow comes to: the figures that a decision rests on."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from itertools import accumulate

from stepwell.economics.cash import (
    HOURS_A_MONTH,
    Cash,
    cash_flow,
    contract_end,
    energised,
    yearly_price,
)
from stepwell.economics.contract_file import Capex, ContractPlan
from stepwell.economics.finance import MONTHS, ZERO, capital_recovery, irr, npv, payback_month
from stepwell.economics.served import sold

_WORTH_A_WORD = Decimal("0.1")
"""Share of what was bought that is worth a sentence when nothing is said of it."""


@dataclass(frozen=True, slots=True)
class Measures:
    """Dollars, except where a name says otherwise."""

    revenue: Decimal
    gross_margin: float | None
    """After power, operations, rent and depreciation, of revenue; None: there is no revenue."""
    capex: Decimal
    free_cash: Decimal
    cash_low: Decimal
    """The lowest point of cumulative free cash flow, before debt."""
    cash_low_month: int
    equity_low: Decimal
    """The same after debt is drawn and served."""
    npv: Decimal
    irr: float | None
    payback_month: int | None
    debt_cover_least: float | None
    """The worst full year of (EBITDA - tax) / debt service within the contract's term."""
    exposure: Decimal
    """Rent and debt service after the term, times the chance that the customer does not renew."""

    def as_json(self) -> dict[str, object]:
        shown: dict[str, object] = {}
        for name in self.__slots__:
            value = getattr(self, name)
            shown[name] = round(float(value)) if isinstance(value, Decimal) else value
        return shown


def measure(plan: ContractPlan, cash: Cash | None = None) -> Measures:
    cash = cash or cash_flow(plan)
    flows = cash.free()
    running = list(accumulate(flows))
    low = min(running)
    revenue = sum(cash.revenue, ZERO)
    cost = sum((cash.opex(m) + cash.depreciation[m] for m in range(cash.months)), ZERO)
    return Measures(
        revenue=revenue,
        gross_margin=float((revenue - cost) / revenue) if revenue else None,
        capex=sum(cash.capex, ZERO),
        free_cash=running[-1],
        cash_low=min(low, ZERO),
        cash_low_month=running.index(low),
        equity_low=min(ZERO, *accumulate(cash.to_equity())),
        npv=npv(plan.discount_rate, flows),
        irr=irr(flows),
        payback_month=payback_month(flows),
        debt_cover_least=_debt_cover(plan, cash),
        exposure=_exposure(plan, cash),
    )


@dataclass(frozen=True, slots=True)
class MegawattYear:
    """What a megawatt in full service costs a year, and what is paid for it. Dollars."""

    capital: Decimal
    """Level charge that earns the discount rate on each purchase over its life, less what its end brings."""
    lease: Decimal
    power: Decimal
    operations: Decimal
    paid: Decimal
    """In the first year of the price path."""

    @property
    def cost(self) -> Decimal:
        return self.capital + self.lease + self.power + self.operations


def megawatt_year(plan: ContractPlan) -> MegawattYear:
    """``sum of capex x CRF(r, life) - residual x r / ((1 + r)^life - 1)``, rent, energy and operations."""
    plan = sold(plan)
    power, customer, mw = plan.power, plan.customer, sum((s.mw for s in plan.sites), ZERO)
    rent = sum((s.mw * s.lease_usd_per_kw_month for s in plan.sites), ZERO) * 1000 * MONTHS
    per_mwh = power.grid_usd_per_mwh * (1 - power.gas_share) + power.gas_usd_per_mwh * power.gas_share
    bought = sum((kind.usd_per_mw for kind in plan.capex), ZERO)
    return MegawattYear(
        capital=sum((_capital_charge(kind, plan.discount_rate) for kind in plan.capex), ZERO),
        lease=rent / mw if mw else ZERO,
        power=HOURS_A_MONTH * MONTHS * per_mwh * power.pue * max(power.load, power.take_or_pay_share),
        operations=plan.operations.usd_per_mw_year + plan.operations.maintenance_share * bought,
        paid=yearly_price(plan) * max(customer.utilisation, customer.take_or_pay_share),
    )


def _capital_charge(kind: Capex, rate: Decimal) -> Decimal:
    recovered = capital_recovery(rate, kind.life_years)
    # What is left at the end is worth its sinking fund: r / ((1 + r)^n - 1) is the recovery less the rate.
    return kind.usd_per_mw * (recovered - kind.residual_share * (recovered - rate))


def cost_of_delay(plan: ContractPlan) -> tuple[Decimal, Decimal]:
    """Revenue and present value that the delays of all sites cost."""
    sites = [site.model_copy(update={"delay_months": 0}) for site in plan.sites]
    late, on_time = cash_flow(plan), cash_flow(plan.model_copy(update={"sites": sites}))
    lost = sum(on_time.revenue, ZERO) - sum(late.revenue, ZERO)
    rate = plan.discount_rate
    return (lost if abs(lost) >= 1 else ZERO), npv(rate, on_time.free()) - npv(rate, late.free())


def _last_end(plan: ContractPlan) -> int:
    return max(contract_end(plan, site) for site in plan.sites)


def _debt_cover(plan: ContractPlan, cash: Cash) -> float | None:
    """Full years between the first and the last month of revenue under the contract."""
    earning = [m for m in range(min(_last_end(plan), cash.months)) if cash.revenue[m] > 0]
    if not earning:
        return None
    covers = []
    for start in range(earning[0], earning[-1] + 2 - MONTHS, MONTHS):
        year = range(start, start + MONTHS)
        service = sum((cash.debt_service[m] for m in year), ZERO)
        earned = sum((cash.revenue[m] - cash.opex(m) - cash.tax[m] for m in year), ZERO)
        if service:
            covers.append(float(earned / service))
    return min(covers, default=None)


def _exposure(plan: ContractPlan, cash: Cash) -> Decimal:
    after = range(min(_last_end(plan), cash.months), cash.months)
    owed = sum((cash.lease[m] + cash.debt_service[m] for m in after), ZERO)
    return owed * (1 - plan.customer.renewal_probability)


def left_out(plan: ContractPlan, cash: Cash) -> list[str]:
    """Sentences about what the plan pays for and does not see the end of."""
    end = cash.months
    found = [
        f"{site.name} comes in month {energised(site)}, after the plan's {end} months"
        for site in plan.sites
        if energised(site) >= end
    ]
    term_ends = max(contract_end(plan, site) for site in plan.sites)
    if term_ends > end and min(map(energised, plan.sites)) < end:
        found.append(
            f"the customer's term ends in month {term_ends} and the plan after {end}: what the last"
            f" {term_ends - end} months earn is not in it (years = {-(-term_ends // MONTHS)} or more has it)"
        )
    unused = sum(cash.capex, ZERO) - sum(cash.depreciation, ZERO) - sum(cash.residual, ZERO)
    if unused > sum(cash.capex, ZERO) * _WORTH_A_WORD:
        share = float(unused / sum(cash.capex, ZERO))
        found.append(
            f"{share:.0%} of what was bought is not written off when the plan ends, and counts for nothing"
        )
    return found

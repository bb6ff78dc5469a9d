"""The cash flow of a plan, month by month: sums of exact amounts, no dates and no files."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal

from stepwell.economics.contract_file import Capex, ContractPlan, Site
from stepwell.economics.finance import MONTHS, ZERO, annuity
from stepwell.economics.served import sold

HOURS_A_MONTH = Decimal(730)


def _zeros(months: int) -> list[Decimal]:
    return [ZERO] * months


@dataclass(slots=True)
class Cash:
    """One list per line, one entry per month. Costs are positive numbers."""

    months: int
    mw: list[Decimal] = field(default_factory=list)
    revenue: list[Decimal] = field(default_factory=list)
    received: list[Decimal] = field(default_factory=list)
    """Revenue as it is paid: after bad debt, late by the payment days, with the prepayment moved forward."""
    power: list[Decimal] = field(default_factory=list)
    operations: list[Decimal] = field(default_factory=list)
    lease: list[Decimal] = field(default_factory=list)
    damages: list[Decimal] = field(default_factory=list)
    capex: list[Decimal] = field(default_factory=list)
    residual: list[Decimal] = field(default_factory=list)
    depreciation: list[Decimal] = field(default_factory=list)
    interest: list[Decimal] = field(default_factory=list)
    debt_service: list[Decimal] = field(default_factory=list)
    drawn: list[Decimal] = field(default_factory=list)
    tax: list[Decimal] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in LINES:
            setattr(self, name, _zeros(self.months))

    def opex(self, month: int) -> Decimal:
        return self.power[month] + self.operations[month] + self.lease[month] + self.damages[month]

    def free(self) -> list[Decimal]:
        """Free cash flow to the firm: after rent, capex and tax, before debt."""
        return [
            self.received[m] - self.opex(m) - self.capex[m] + self.residual[m] - self.tax[m]
            for m in range(self.months)
        ]

    def to_equity(self) -> list[Decimal]:
        """What is left to the owner after debt is drawn and served."""
        return [f + self.drawn[m] - self.debt_service[m] for m, f in enumerate(self.free())]


LINES = (
    "mw", "revenue", "received", "power", "operations", "lease", "damages", "capex", "residual",
    "depreciation", "interest", "debt_service", "drawn", "tax",
)  # fmt: skip


def cash_flow(plan: ContractPlan) -> Cash:
    """Every line of the plan. Tax is paid on what depreciation and interest leave; losses carry on."""
    plan = sold(plan)
    cash = Cash(plan.years * MONTHS)
    in_service = _zeros(cash.months)
    for site in plan.sites:
        capacity = [_capacity(site, month) for month in range(cash.months)]
        _sell(plan, site, capacity, cash)
        _run(plan, site, capacity, cash)
        for kind in plan.capex:
            _buy(plan, site, kind, cash, in_service)
    for extra in plan.extra_capex:
        _spread(cash.capex, extra.month, extra.months, extra.usd)
    share = plan.operations.maintenance_share / MONTHS
    for month in range(cash.months):
        cash.operations[month] += in_service[month] * share
    _receive(plan, cash)
    _finance(plan, cash)
    _tax(plan, cash)
    return cash


def _spread(line: list[Decimal], first: int, months: int, amount: Decimal) -> None:
    """Evenly over months; what lies before the plan's start is paid in its first month."""
    each = amount / months
    for month in range(first, first + months):
        if month < len(line):
            line[max(0, month)] += each


def energised(site: Site) -> int:
    return site.promised_month + site.delay_months


def _capacity(site: Site, month: int) -> Decimal:
    """Megawatts that are there: none before power, all after the ramp."""
    since = month - energised(site)
    if since < 0:
        return ZERO
    return site.mw * min(Decimal(1), Decimal(since + 1) / (site.ramp_months + 1))


def yearly_price(plan: ContractPlan) -> Decimal:
    """Of a megawatt at full use, before the price path."""
    customer = plan.customer
    if customer.tokens is None:
        return customer.usd_per_mw_year
    t = customer.tokens
    billed = t.tokens_per_s_per_gpu * 3600 * 8760 / 1_000_000 / t.amplification
    return billed * t.usd_per_m_tokens * 1000 / t.kw_per_gpu


def _monthly_price(plan: ContractPlan, month: int) -> Decimal:
    customer = plan.customer
    years_on = max(0, month - customer.start_month) // MONTHS
    return yearly_price(plan) / MONTHS * (1 + customer.price_growth) ** years_on


def contract_end(plan: ContractPlan, site: Site) -> int:
    """The first month after the term."""
    customer = plan.customer
    starts = customer.start_month if customer.end == "fixed" else energised(site)
    return starts + int(customer.years * MONTHS)


def _sell(plan: ContractPlan, site: Site, capacity: list[Decimal], cash: Cash) -> None:
    customer = plan.customer
    paid_share = max(customer.utilisation, customer.take_or_pay_share)
    end = contract_end(plan, site)
    renewed_until = end + int(customer.renewal_years * MONTHS)
    for month, mw in enumerate(capacity):
        cash.mw[month] += mw
        if month < customer.start_month:
            continue
        full = mw * _monthly_price(plan, month)
        if month < end:
            cash.revenue[month] += full * paid_share
        elif month < renewed_until:
            cash.revenue[month] += (
                full * customer.renewal_probability * customer.renewal_price_share * customer.utilisation
            )
        if site.promised_month <= month < energised(site):
            cash.damages[month] += site.mw * customer.late_usd_per_mw_month


def _run(plan: ContractPlan, site: Site, capacity: list[Decimal], cash: Cash) -> None:
    power, customer = plan.power, plan.customer
    per_mwh = power.grid_usd_per_mwh * (1 - power.gas_share) + power.gas_usd_per_mwh * power.gas_share
    full = site.mw * HOURS_A_MONTH * per_mwh * power.pue
    end = contract_end(plan, site)
    renewed_until = end + int(customer.renewal_years * MONTHS)
    rent_from = energised(site) if site.lease_waits_for_site else site.promised_month
    rent_until = rent_from + int(site.lease_years * MONTHS)
    for month, mw in enumerate(capacity):
        # After the term the site runs as far as the customer is expected to stay.
        runs = Decimal(1) if month < end else customer.renewal_probability
        runs = runs if month < renewed_until else ZERO
        used = runs * mw / site.mw * power.load * full if site.mw else ZERO
        owed = full * power.take_or_pay_share if rent_from <= month < rent_until else ZERO
        cash.power[month] += max(used, owed)
        cash.operations[month] += runs * mw * plan.operations.usd_per_mw_year / MONTHS
        if rent_from <= month < rent_until:
            cash.lease[month] += site.mw * 1000 * site.lease_usd_per_kw_month


def _buy(plan: ContractPlan, site: Site, kind: Capex, cash: Cash, in_service: list[Decimal]) -> None:
    """Paid before the capacity comes, along its ramp; written off from then on."""
    ready = energised(site) if kind.waits_for_site else site.promised_month
    price = site.mw * kind.usd_per_mw
    _spread(cash.capex, ready - kind.months_before, kind.months_before + site.ramp_months + 1, price)
    _write_off(kind, price, energised(site), cash, in_service)
    _resell(kind, price, energised(site), cash)
    again = price * kind.refreshed_on_renewal * plan.customer.renewal_probability
    end = contract_end(plan, site)
    if again and plan.customer.renewal_years and end < cash.months:
        _spread(cash.capex, end - kind.months_before, kind.months_before + 1, again)
        _write_off(kind, again, end, cash, in_service)
        _resell(kind, again, end, cash)


def _write_off(kind: Capex, price: Decimal, start: int, cash: Cash, in_service: list[Decimal]) -> None:
    life = int(kind.life_years * MONTHS)
    each = price * (1 - kind.residual_share) / life
    for month in range(start, min(start + life, cash.months)):
        cash.depreciation[month] += each
        in_service[month] += price


def _resell(kind: Capex, price: Decimal, start: int, cash: Cash) -> None:
    end = start + int(kind.life_years * MONTHS)
    if end < cash.months:
        cash.residual[end] += price * kind.residual_share


def _receive(plan: ContractPlan, cash: Cash) -> None:
    """The prepayment comes first and is set against revenue until it is used up."""
    customer = plan.customer
    late = round(customer.payment_days / 30)
    left = customer.prepayment_usd
    if left and customer.prepayment_month < cash.months:
        cash.received[customer.prepayment_month] += left
    for month, earned in enumerate(cash.revenue):
        owed = earned * (1 - customer.bad_debt)
        set_off = min(left, owed)
        left -= set_off
        if month + late < cash.months:
            cash.received[month + late] += owed - set_off


def _finance(plan: ContractPlan, cash: Cash) -> None:
    debt = plan.financing
    term = int(debt.term_years * MONTHS)
    balance, starts = ZERO, _zeros(cash.months + term + 1)
    instalment = ZERO
    for month in range(cash.months):
        instalment += starts[month]
        interest = balance * debt.interest / MONTHS
        paid = min(instalment, balance + interest)
        cash.interest[month], cash.debt_service[month] = interest, paid
        drawn = cash.capex[month] * debt.debt_share
        cash.drawn[month] = drawn
        balance += interest - paid + drawn
        if drawn:
            each = annuity(drawn, debt.interest, term)
            starts[month + 1] += each
            starts[month + 1 + term] -= each


def _tax(plan: ContractPlan, cash: Cash) -> None:
    loss = ZERO
    for month in range(cash.months):
        income = (
            cash.revenue[month] * (1 - plan.customer.bad_debt)
            - cash.opex(month)
            - cash.depreciation[month]
            - cash.interest[month]
            + loss
        )
        loss = min(ZERO, income)
        cash.tax[month] = max(ZERO, income) * plan.tax_rate

"""``stepwell ledger statement | margin | top``: what was used, charged, and earned."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from stepwell.commands.ledger.flags import (
    Config,
    CostBook,
    Ledger,
    Limit,
    PriceBookFlag,
    Since,
    Tenant,
    Timezone,
    Until,
    as_json,
    key_names,
    opened,
    period,
    said,
    sums_and_rates,
    with_key_names,
    working,
)
from stepwell.commands.ledger.tables import (
    money,
    named,
    printable,
    share,
    show_margin,
    show_statement,
    show_top,
)
from stepwell.console.options import ResultOption
from stepwell.console.output import console_for, write_json
from stepwell.ledger.pricing.prices import load_price_book
from stepwell.ledger.reading import margin as margins
from stepwell.ledger.reading import statements
from stepwell.ledger.reading.calendar import UNITS, parts, unit_of, zone_of
from stepwell.ledger.reading.grouping import parse_by
from stepwell.ledger.reading.margin import Margin, MarginGroup
from stepwell.ledger.reading.over_time import charges, joined, statement_over_time
from stepwell.ledger.reading.queries import Counts, Period

By = Annotated[str, Parameter(help="By what to add up; several with commas.")]


def statement(
    *,
    by: By = "tenant",
    price_book: PriceBookFlag = None,
    ledger: Ledger = None,
    config: Config = None,
    since: Since = None,
    until: Until = None,
    tenant: Tenant = None,
    timezone: Timezone = "UTC",
    limit: Limit = 40,
    json_file: ResultOption = None,
) -> int:
    """What customers used and were charged: requests, tokens, money.

    A request counts when it ended; a correction when it was made. Tokens are *visible* when they were
    shown to the person who asked, and *intermediate* when other agents and tools got them.

    Example: ``stepwell ledger statement --by tenant,model --since 30d``

    ``--by`` takes tenant, key, service-tier, session, agent, parent-agent, role, model, and one of day, week
    and month (of ``--timezone``). Keys have the names that the settings give them.
    """
    zone = zone_of(timezone)
    fields, asked = parse_by(by, beyond=(statements.MODEL, *UNITS)), period(since, until, zone)
    book = None if price_book is None else load_price_book(price_book)
    with opened(ledger, config) as store, working("adding up requests"):
        found = statement_over_time(store, asked, fields, tenant, book, zone)
    console, names = console_for(json_file), key_names(config)
    shown = replace(
        found, rows=[replace(r, group=with_key_names(fields, r.group, names)) for r in found.rows]
    )
    show_statement(console, shown, f"Charges {said(asked)}{_by_book(price_book)}", limit)
    total = found.total
    console.print(
        f"{total.requests:,} requests, {total.input_tokens:,} tokens in and {total.output_tokens:,} out: "
        f"{money(total.charge_microusd)} USD",
        soft_wrap=True,
    )
    rows = [named(found.fields, row.group) | counts_json(row.counts) for row in found.rows]
    for row in rows:
        if row.get("key") in names:
            row["key_name"] = names[row["key"]]
    result = {"by": found.fields, "price_book": price_book, "rows": rows, "total": counts_json(total)}
    write_json(json_file, as_json(asked) | result)
    return 0


def _by_book(price_book: str | None) -> str:
    return "" if price_book is None else f", by the price book {price_book}"


def margin(
    *,
    by: By = "service-tier",
    loaded: bool = False,
    cost_book: CostBook = None,
    price_book: PriceBookFlag = None,
    ledger: Ledger = None,
    config: Config = None,
    since: Since = None,
    until: Until = None,
    tenant: Tenant = None,
    timezone: Timezone = "UTC",
    limit: Limit = 20,
    json_file: ResultOption = None,
) -> int:
    """Revenue against what the machine's compute, memory and wear cost, and which agents displaced which.

    What agents used, idle time, overhead and what is not attributed add up to the machine's bill.
    Each run is priced by the cost book it had.

    Example: ``stepwell ledger margin --by tenant,role --since 24h``

    ``--by`` takes service-tier, session, role, tenant, agent, key, parent-agent, and one of day, week and
    month (of ``--timezone``; each is rounded by itself).

    Parameters
    ----------
    loaded
        Spread the cost of idle time over what was used of the same resource.
    """
    zone = zone_of(timezone)
    fields, asked = parse_by(by, beyond=UNITS), period(since, until, zone)
    book, unit = None if price_book is None else load_price_book(price_book), unit_of(fields)
    own = tuple(name for name in fields if name != unit)

    def of(part: Period) -> Margin:
        sums, rates = sums_and_rates(store, part, cost_book)
        if book is not None:
            sums = replace(sums, spent=charges(store, part, book))
        return margins.margin(sums, rates, own, tenant=tenant, loaded=loaded)

    with opened(ledger, config) as store:
        if unit is None:
            found = of(asked)
        else:
            found = joined(
                [(label, of(part)) for label, part in parts(store, asked, unit, zone)], fields, unit
            )
    console, names = console_for(json_file), key_names(config)
    named_lines = [replace(one, group=with_key_names(fields, one.group, names)) for one in found.lines]
    title = f"Margin {said(asked)}{', loaded' if loaded else ''}{_by_book(price_book)}"
    show_margin(console, replace(found, lines=named_lines), title, limit)
    console.print(_last_line(found), soft_wrap=True)
    write_json(json_file, as_json(asked) | margin_json(found))
    return 0


def _last_line(found: Margin) -> str:
    total = found.total
    earned = f"revenue {money(total.revenue_microusd)} USD"
    if not found.machine:
        kept = total.margin_microusd
        return f"{earned} - cost {money(total.cost_microusd)} = {money(kept)} USD"
    bill = found.bill_microusd
    kept = total.revenue_microusd - bill
    used = f"{share(total.cost_microusd, bill)} of it used by agents"
    rate = share(kept, total.revenue_microusd)
    return f"{earned} - bill {money(bill)} ({used}) = {money(kept)} USD, {rate} of revenue"


def top(
    *,
    by: Literal["cost", "loss", "intermediate", "storage"] = "cost",
    of: Literal["agent", "session"] = "agent",
    limit: Annotated[int, Parameter(validator=Number(gte=1, lte=10_000))] = 10,
    cost_book: CostBook = None,
    ledger: Ledger = None,
    config: Config = None,
    since: Since = None,
    until: Until = None,
    tenant: Tenant = None,
    json_file: ResultOption = None,
) -> int:
    """The agents or sessions that cost most, lose most, talk most among themselves, or fill most memory.

    Example: ``stepwell ledger top --by loss --of session --since 7d``

    Parameters
    ----------
    by
        cost; loss (cost above revenue); intermediate tokens; storage (KV on all KV tiers).
    of
        What a line is: an agent or a session.
    limit
        How many lines.
    """
    fields, asked = parse_by(of), period(since, until)
    with opened(ledger, config) as store:
        sums, rates = sums_and_rates(store, asked, cost_book)
    lines = statements.top(margins.margin(sums, rates, fields, tenant=tenant).lines, by, limit)
    console = console_for(json_file)
    show_top(console, fields, lines, f"Most {by} {said(asked)} (USD)")
    first = printable(" / ".join(lines[0].group)) if lines else "none"
    console.print(f"Most {by}: {first}", markup=False, soft_wrap=True)
    write_json(
        json_file, as_json(asked) | {"by": by, "of": of, "lines": [line_json(fields, one) for one in lines]}
    )
    return 0


def counts_json(counts: Counts) -> dict[str, Any]:
    """All counts by their names, and the amplification (null without visible tokens)."""
    visible = counts.visible_tokens
    amplified = round(counts.intermediate_tokens / visible, 4) if visible else None
    return counts._asdict() | {"output_tokens": counts.output_tokens, "amplification": amplified}


def line_json(fields: tuple[str, ...], line: MarginGroup) -> dict[str, Any]:
    """Money in micro-dollars; amounts in the resources' units."""
    return (
        named(fields, line.group)
        | counts_json(line.counts)
        | {
            "revenue_microusd": line.revenue_microusd,
            "cost_microusd": line.cost_microusd,
            "margin_microusd": line.margin_microusd,
            "cost_by_resource_microusd": {r.value: cost for r, cost in line.cost.items()},
            "amounts": {r.value: amount for r, amount in line.amounts.items()},
            "between_turns_microusd": line.between_microusd,
            "lost_to_others_microusd": line.lost_microusd,
            "caused_to_others_microusd": line.caused_microusd,
        }
    )


def margin_json(found: Margin) -> dict[str, Any]:
    """Everything that the tables show, and what they leave out."""
    displaced = [
        {
            "victim": named(found.fields, one.victim),
            "beneficiary": named(found.fields, one.beneficiary),
            "displaced_us": one.amount_us,
            "cost_microusd": one.cost_microusd,
        }
        for one in found.exchanges
    ]
    return {
        "by": found.fields,
        "loaded": found.loaded,
        "lines": [line_json(found.fields, line) for line in found.lines],
        "total": line_json((), found.total),
        "machine": {
            kind.value: {resource.value: cost for resource, cost in costs.items()}
            for kind, costs in found.machine.items()
        },
        "bill_microusd": found.bill_microusd,
        "displaced": displaced,
    }

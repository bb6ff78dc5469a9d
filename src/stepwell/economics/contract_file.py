"""A data centre and its off-take as TOML: what may stand there, and ``--what-if`` on it."""

from __future__ import annotations

import copy
import difflib
import re
import tomllib
from collections.abc import Iterator, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stepwell.errors import BadInput

Amount = Annotated[Decimal, Field(ge=0, le=10**15, allow_inf_nan=False)]
Megawatts = Annotated[Decimal, Field(ge=0, le=10**6, allow_inf_nan=False)]
Share = Annotated[Decimal, Field(ge=0, le=1)]
Months = Annotated[int, Field(ge=0, le=600)]
Years = Annotated[Decimal, Field(gt=0, le=50)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Site(_Part):
    """One place: when it was promised, how late it is, how fast it fills."""

    name: str
    mw: Megawatts
    promised_month: Months
    """Months after the start of the plan."""
    delay_months: Months = 0
    ramp_months: Months = 0
    """From the first megawatt to the last, evenly."""
    lease_usd_per_kw_month: Amount = Decimal(0)
    lease_years: Years = Decimal(15)
    lease_waits_for_site: bool = False
    """Whether rent starts with power, or on the promised day however late the site is."""


class Capex(_Part):
    """One kind of thing that is bought for every megawatt."""

    kind: str
    usd_per_mw: Amount
    life_years: Years
    months_before: Months = 6
    """Paid evenly over so many months before the capacity comes; late sites pay when the promise said."""
    waits_for_site: bool = True
    residual_share: Share = Decimal(0)
    """Of the price, sold at the end of life, if the plan looks as far."""
    refreshed_on_renewal: Share = Decimal(0)
    """Of the price, paid again if the customer renews."""


class ExtraCapex(_Part):
    """Spending that no megawatt explains."""

    month: Months
    months: Annotated[int, Field(ge=1, le=600)] = 12
    usd: Amount


class Power(_Part):
    """Energy of the capacity that is energised."""

    pue: Annotated[Decimal, Field(ge=1, le=3)] = Decimal(1)
    """1 where the megawatts of the sites already include cooling."""
    load: Share = Decimal("0.8")
    grid_usd_per_mwh: Amount = Decimal(60)
    gas_share: Share = Decimal(0)
    gas_usd_per_mwh: Amount = Decimal(90)
    take_or_pay_share: Share = Decimal(0)
    """Paid from the promised day on, used or not."""


class Operations(_Part):
    """What it costs to run, beside power and rent."""

    usd_per_mw_year: Amount = Decimal(0)
    maintenance_share: Share = Decimal(0)
    """Of the capex in service, a year."""


class Financing(_Part):
    """Debt: a share of every payment of capex, repaid in level instalments."""

    debt_share: Share = Decimal(0)
    interest: Share = Decimal(0)
    term_years: Years = Decimal(5)


class Tokens(_Part):
    """Revenue made of tokens, as ``stepwell plan price`` counts them."""

    usd_per_m_tokens: Amount
    tokens_per_s_per_gpu: Amount
    kw_per_gpu: Annotated[Decimal, Field(gt=0)]
    amplification: Annotated[Decimal, Field(ge=1)] = Decimal(1)
    """Tokens computed for one that the customer pays for, against the mix that the rate was measured on."""


class Served(_Part):
    """Revenue made of turns that the sites' own machines serve, as ``stepwell plan price`` counts them.

    What is sold is a turn of the workload at list price; DRAM and disks are paid for at the rate at which
    they age or wear. That is at full use: the customer's ``utilisation`` says how much of it is reached.
    """

    part: str
    model: str
    list_price: str
    """input/cached/output in USD per million tokens, or a name of 'stepwell catalogue prices'."""
    workload: str = "agentic"
    memory: Literal["hbm", "dram", "selective", "everything"] = "selective"
    """Which KV tiers, and what is admitted to disks."""
    chips: Annotated[int, Field(ge=1, le=1024)] = 4
    weights: Literal["bf16", "fp8", "fp4"] = "fp8"
    kv: Literal["bf16", "fp8"] = "bf16"
    tpot_ms: Annotated[Decimal, Field(gt=0, le=1_000_000)] = Decimal(60)
    engine: str = "all"
    ssd: str = "ssd-1dwpd"
    kw_per_gpu: Annotated[Decimal, Field(gt=0)] | None = None
    """With its share of server, network and cooling; without it, the catalogue's."""
    price_factor: Amount = Decimal(1)
    """The list price is multiplied by this."""
    amplification: Annotated[Decimal, Field(ge=1)] = Decimal(1)
    """Turns computed for one that the customer pays for."""
    figures: dict[str, Any] = {}
    """Figures of the catalogues to set: of workload and part by name, of memory as ``ssd.usd_gb``."""


class Customer(_Part):
    """What is sold."""

    usd_per_mw_year: Amount = Decimal(0)
    tokens: Tokens | None = None
    """Instead of ``usd_per_mw_year``."""
    served: Served | None = None
    """Instead of both."""
    years: Years
    start_month: Months = 0
    end: Literal["fixed", "per site"] = "fixed"
    """``fixed``: the term ends on its day, and a late site loses revenue; ``per site``: each has it all."""
    utilisation: Share = Decimal(1)
    take_or_pay_share: Share = Decimal(1)
    """Paid for capacity that is there whether used or not."""
    price_growth: Annotated[Decimal, Field(gt=-1, lt=1)] = Decimal(0)
    """A year; negative where prices fall."""
    bad_debt: Share = Decimal(0)
    payment_days: Annotated[int, Field(ge=0, le=365)] = 0
    prepayment_usd: Amount = Decimal(0)
    prepayment_month: Months = 0
    renewal_probability: Share = Decimal(0)
    renewal_years: Amount = Decimal(0)
    renewal_price_share: Amount = Decimal(1)
    late_usd_per_mw_month: Amount = Decimal(0)
    """Damages for capacity that is late."""


class Scenario(_Part):
    name: str
    set: dict[str, Any]


class ContractPlan(_Part):
    """The whole file. Money is US dollars of the day it is paid."""

    name: str
    start: Annotated[str, Field(pattern=r"^\d{4}-(0[1-9]|1[0-2])$")]
    years: Annotated[int, Field(ge=1, le=50)]
    discount_rate: Share
    tax_rate: Share = Decimal(0)
    sites: Annotated[list[Site], Field(min_length=1)]
    capex: list[Capex] = []
    extra_capex: list[ExtraCapex] = []
    power: Power = Power()
    operations: Operations = Operations()
    financing: Financing = Financing()
    customer: Customer
    scenarios: list[Scenario] = []
    uncertain: dict[str, Annotated[list[Decimal], Field(min_length=3, max_length=3)]] = {}
    """Input by its key: low, likely, high."""
    sources: dict[str, str] = {}


def read_plan(path: Path) -> dict[str, Any]:
    """The file as tables, checked as a plan too. ``BadInput`` says what is wrong and where."""
    try:
        raw = tomllib.loads(path.read_text("utf-8"), parse_float=Decimal)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: {error}") from error
    plan = plan_of(raw, str(path))
    for key, (low, likely, high) in plan.uncertain.items():
        if not low <= likely <= high:
            raise BadInput(f"{path}: uncertain.{key} must be low, likely, high in this order")
        for value in (low, likely, high):
            _checked(raw, {key: value}, f"{path}: [uncertain]")
    for scenario in plan.scenarios:
        _checked(raw, scenario.set, f"{path}: scenario {scenario.name}")
    return raw


def _checked(raw: dict[str, Any], changes: dict[str, Any], where: str) -> None:
    """Whether the plan can be changed so. ``BadInput`` begins with ``where``."""
    try:
        after = changed(raw, changes)
    except BadInput as error:
        raise BadInput(f"{where}: {error}") from error
    plan_of(after, where)


def plan_of(raw: dict[str, Any], where: str) -> ContractPlan:
    try:
        plan = ContractPlan.model_validate(raw)
    except ValidationError as error:
        first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "missing":
            raise BadInput(f"{where}: {key} is missing") from error
        if first["type"] == "extra_forbidden":
            raise BadInput(f"{where}: {key} is an unknown key, {_meant(first['loc'])}") from error
        reason = _reason(first["type"], first["msg"], key)
        raise BadInput(f"{where}: {key} = {_shown(first['input'])} is wrong, it {reason}") from error
    sold = plan.customer
    if not sold.usd_per_mw_year and sold.tokens is None and sold.served is None:
        raise BadInput(f"{where}: customer needs usd_per_mw_year or a table customer.tokens or .served")
    if sold.tokens is not None and sold.served is not None:
        raise BadInput(f"{where}: customer has both a table tokens and a table served: only one can be sold")
    return plan


def _reason(kind: str, said: str, key: str) -> str:
    """What a value should be, in words of the file rather than of the library that read it."""
    if kind == "string_pattern_mismatch":
        return "should be a year and a month, such as 2027-01"
    if kind == "list_type" and "." not in key:
        return f"should be tables, each under [[{key}]] in double brackets"
    if kind == "string_type":
        return "should be text in quotes"
    if kind in ("model_type", "dict_type"):
        return "should be a table"
    if kind in ("too_short", "too_long") and key.startswith("uncertain."):
        return "should be three figures: low, likely, high"
    if kind == "too_short":
        return f"should have at least one table [[{key}]]"
    if kind in ("decimal_type", "decimal_parsing"):
        return "should be a number"
    return said.removeprefix("Input ")


def _shown(value: Any) -> str:
    """As it may stand in a sentence."""
    if isinstance(value, dict):
        return "{...}" if value else "{}"
    if isinstance(value, list):
        return f"[{', '.join(map(_shown, value[:8]))}{', ...' if len(value) > 8 else ''}]"
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)[:100]


def _meant(place: tuple[str | int, ...]) -> str:
    """What an unknown key was probably meant to be, of those that its table knows."""
    table: type[BaseModel] = ContractPlan
    for part in place[:-1]:
        if isinstance(part, str):
            table = _table_of(table.model_fields[part].annotation) or table
    return near(str(place[-1]), list(table.model_fields))


def near(key: str, known: Sequence[str]) -> str:
    """The closest of the keys that are known, or all of them."""
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else f"there is {', '.join(sorted(known))}"


def _table_of(annotation: Any) -> type[BaseModel] | None:
    """The table in ``Site``, ``list[Site]`` or ``Site | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((table for part in get_args(annotation) if (table := _table_of(part))), None)


_CHANGE = re.compile(r"(?P<sign>[x+]?)(?P<number>-?\d+(?:\.\d+)?)")


def changed(raw: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The tables with inputs set by their keys: ``sites.0.mw``, ``sites.delay_months`` (of all sites).

    A value ``x1.2`` multiplies what is there and ``+6`` adds to it.
    """
    result = copy.deepcopy(raw)
    for key, value in changes.items():
        _set(result, key.split("."), value, key)
    return result


def _set(node: Any, path: list[str], value: Any, key: str) -> None:
    head, rest = path[0], path[1:]
    if isinstance(node, list):
        chosen = node if not head.isdigit() else node[int(head) : int(head) + 1]
        if not chosen:
            raise BadInput(f"{key}: there are {len(node)} entries, the first is {key.split('.')[0]}.0")
        for item in chosen:
            _set(item, path if not head.isdigit() else rest, value, key)
        return
    if not isinstance(node, dict) or not head:
        raise BadInput(f"{key}: there is no such input")
    if rest:
        _set(node.setdefault(head, {}), rest, value, key)
    else:
        node[head] = _value(node.get(head), value, key)


def _value(old: Any, new: Any, key: str) -> Any:
    match = _CHANGE.fullmatch(new) if isinstance(new, str) else None
    if match is None:
        return {"true": True, "false": False}.get(new, new) if isinstance(new, str) else new
    number = Decimal(match["number"])
    if match["sign"] and not isinstance(old, int | Decimal):
        raise BadInput(f"{key}: {new} changes what the file does not set; set it there, or give a value")
    if match["sign"] == "x":
        number = old * number
    elif match["sign"] == "+":
        number = old + number
    return int(number) if number == number.to_integral_value() else number


def parse_changes(texts: list[str]) -> dict[str, Any]:
    """``KEY=VALUE`` from the command line."""
    changes: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip() or not value.strip():
            raise BadInput(f"--what-if {text}: write KEY=VALUE, such as customer.utilisation=0.8")
        changes[key.strip()] = value.strip()
    return changes


def number_at(raw: dict[str, Any], key: str) -> Decimal:
    """The number that a key names; of several, the first."""
    node: Any = raw
    for part in key.split("."):
        if isinstance(node, list):
            node = node[int(part)] if part.isdigit() else node[0].get(part)
        else:
            node = node.get(part) if isinstance(node, dict) else None
    try:
        return Decimal(str(node))
    except InvalidOperation as error:
        raise BadInput(f"{key}: the file sets no such number, {near(key, list(_numbers(raw)))}") from error


def _numbers(node: Any, before: str = "") -> Iterator[str]:
    """The keys of all numbers that a plan sets."""
    if isinstance(node, dict):
        for name, value in node.items():
            if before or name not in ("uncertain", "scenarios"):
                yield from _numbers(value, f"{before}.{name}" if before else name)
    elif isinstance(node, list):
        for place, value in enumerate(node):
            yield from _numbers(value, f"{before}.{place}")
    elif isinstance(node, int | Decimal) and not isinstance(node, bool):
        yield before

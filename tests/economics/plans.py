"""A plan small enough to compute by hand."""

from __future__ import annotations

import tomllib
from decimal import Decimal
from typing import Any

TEXT = """
name = "one site"
start = "2027-01"
years = 4
discount_rate = 0.1

[customer]
usd_per_mw_year = 12_000_000
years = 3

[[sites]]
name = "a"
mw = 10
promised_month = 0
lease_usd_per_kw_month = 100
lease_years = 4

[[capex]]
kind = "servers"
usd_per_mw = 20_000_000
life_years = 4
months_before = 0

[power]
load = 1.0
grid_usd_per_mwh = 50
"""


def raw_plan(**changes: Any) -> dict[str, Any]:
    return tomllib.loads(TEXT, parse_float=Decimal) | changes

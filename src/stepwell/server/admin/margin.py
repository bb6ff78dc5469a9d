"""``GET /admin/margin``: revenue, cost and margin by tenant over the last hour, for the page."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from stepwell.ledger.base import Store
from stepwell.ledger.reading.margin import Margin, margin, read_sums
from stepwell.ledger.reading.queries import Period, runs
from stepwell.ledger.reading.run_rates import rates_of
from stepwell.server.agents.sessions import require_ledger
from stepwell.server.errors import bad_request
from stepwell.server.service import service_of

MAX_PERIOD_S = 24 * 3_600
DEFAULT_PERIOD_S = 3_600


async def get_margin(request: Request) -> Response:
    """An operator's; ``period_s`` up to a day."""
    service = service_of(request)
    service.require_operator(request)
    require_ledger(service)
    text = request.query_params.get("period_s", str(DEFAULT_PERIOD_S))
    if not (text.isascii() and text.isdecimal() and len(text) <= 6 and 1 <= int(text) <= MAX_PERIOD_S):
        raise bad_request(f"'period_s' must be between 1 and {MAX_PERIOD_S}.", param="period_s")
    until_us = int(service.now_s() * 1e6)
    assert service.books is not None
    found = await service.books.ask(_of_period, Period(until_us - int(text) * 1_000_000, until_us))
    return JSONResponse({"object": "margin", "period_s": int(text), **_shown(found)})


def _of_period(store: Store, period: Period) -> Margin:
    sums = read_sums(store, period)
    seen = {flow.run for flow in sums.flows} | {one.run for one in sums.displaced}
    return margin(sums, rates_of(run for run in runs(store) if run.id in seen), ("tenant",))


def _shown(found: Margin) -> dict[str, Any]:
    lines = [
        {
            "tenant": " ".join(line.group),
            "requests": line.counts.requests,
            "revenue_microusd": line.revenue_microusd,
            "cost_microusd": line.cost_microusd,
            "margin_microusd": line.margin_microusd,
        }
        for line in found.lines
    ]
    machine = {kind.value: sum(costs.values()) for kind, costs in found.machine.items()}
    return {"data": lines, "machine_microusd": machine}

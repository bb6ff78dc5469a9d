"""``/admin/budgets``: what tenants, keys, sessions and agents may spend. For operators only."""

from __future__ import annotations

import hashlib
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from stepwell.ledger.budgets.book import BudgetState
from stepwell.ledger.settings import OPERATOR, Text, microusd
from stepwell.ledger.types import Budget, Scope
from stepwell.server.agents.sessions import exact, put_in_force, require_ledger
from stepwell.server.errors import bad_request
from stepwell.server.service import service_of
from stepwell.server.wire.body import parse, read_object
from stepwell.server.wire.paging import page_limit
from stepwell.server.wire.schema import Schema

MAX_PAGE = 1_000
DEFAULT_PAGE = 100


Dollars = Annotated[
    Decimal, BeforeValidator(exact, json_schema_input_type=float), Field(ge=0, le=10**12, allow_inf_nan=False)
]


class BudgetChange(Schema):
    """A budget to be in force from now on; neither soft nor hard takes it away."""

    scope: Literal["tenant", "key", "session", "agent"]
    tenant: Text
    name: Annotated[str, Field(max_length=255)] = ""
    soft_usd: Dollars | None = None
    hard_usd: Dollars | None = None


async def list_budgets(request: Request) -> Response:
    """All budgets in force, by scope, tenant and name: ``limit``, ``after``, ``tenant``."""
    service = service_of(request)
    service.require_operator(request)
    states = require_ledger(service).budgets.states(request.query_params.get("tenant"))
    after = request.query_params.get("after")
    if after is not None:
        at = next((number for number, state in enumerate(states) if _id(state) == after), None)
        if at is None:
            raise bad_request("'after' names no budget that is in force.", param="after")
        states = states[at + 1 :]
    page = states[: page_limit(request, default=DEFAULT_PAGE, most=MAX_PAGE)]
    return JSONResponse(
        {"object": "list", "data": [_budget(state) for state in page], "has_more": len(page) < len(states)}
    )


async def set_budget(request: Request) -> Response:
    """Put one in force, raise it, lower it or take it away. Answers how it stands."""
    service = service_of(request)
    service.require_operator(request)
    ledger = require_ledger(service)
    wanted = parse(BudgetChange, await read_object(request, service.settings, service.bodies, OPERATOR))
    scope, at_us = Scope(wanted.scope), int(service.now_s() * 1e6)
    soft, hard = microusd(wanted.soft_usd), microusd(wanted.hard_usd)
    await put_in_force(
        service, ledger, Budget(scope, wanted.tenant, wanted.name, soft, hard, at_us, OPERATOR)
    )
    state = ledger.budgets.state(scope, wanted.tenant, wanted.name)
    if state is None:
        removed = {"object": "budget", "scope": scope.value, "tenant": wanted.tenant, "name": wanted.name}
        return JSONResponse({**removed, "deleted": True})
    return JSONResponse(_budget(state))


def _id(state: BudgetState) -> str:
    return "budget_" + hashlib.sha256("\0".join(state.name).encode()).hexdigest()[:24]


def _budget(state: BudgetState) -> dict[str, Any]:
    return {
        "id": _id(state),
        "object": "budget",
        "scope": state.name.scope.value,
        "tenant": state.name.tenant,
        "name": state.name.name,
        "soft_usd": _usd(state.soft_microusd),
        "hard_usd": _usd(state.hard_microusd),
        "spent_usd": state.spent_microusd / 1e6,
        "held_usd": state.held_microusd / 1e6,
        "status": "reached" if state.reached else "warning" if state.warned else "ok",
    }


def _usd(microusd_or_none: int | None) -> float | None:
    return None if microusd_or_none is None else microusd_or_none / 1e6

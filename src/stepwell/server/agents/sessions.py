"""``/v1/sessions``: what a session has spent, what it may spend, and whether it goes on.

A key sees the sessions of its own tenant and sets their budgets; an operator's key sees all. The budgets of
tenants and of keys are the operator's alone (``admin_budgets``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from stepwell.errors import BadInput
from stepwell.ledger.base import Store
from stepwell.ledger.budgets.book import BudgetName, BudgetState
from stepwell.ledger.budgets.spending import actor_of
from stepwell.ledger.port import RunningBooks
from stepwell.ledger.reading.queries import join_sum, one_of, split_sum
from stepwell.ledger.settings import FROM_SETTINGS, OPERATOR
from stepwell.ledger.types import Budget, Scope
from stepwell.loop.snapshot import AgentView
from stepwell.server.callers.identity import clean
from stepwell.server.callers.keys import ApiKey
from stepwell.server.errors import ApiError, bad_request, clip, not_found
from stepwell.server.service import Service, service_of, who_asks
from stepwell.server.wire.body import parse, read_object
from stepwell.server.wire.paging import page_limit
from stepwell.server.wire.schema import Schema

MICROUSD_PER_CENT = 10_000
MAX_SESSION_BUDGETS = 10_000
"""Of one tenant, so that none can use up the room for budgets that all share."""


def exact(value: Any) -> Any:
    """A number of JSON as it was written, for amounts of money; all else is left to be refused."""
    return Decimal(repr(value)) if type(value) in (int, float) else value


Cents = Annotated[
    Decimal, BeforeValidator(exact, json_schema_input_type=float), Field(ge=0, le=10**14, allow_inf_nan=False)
]
Name = tuple[str, str]
"""A session's tenant and its id."""


class SpendControl(Schema):
    """OpenAI's ``spend_control``: a limit in USD cents, null for none. Fractions are fine here."""

    limit: Cents | None


class SessionUpdate(Schema):
    """What may be changed of a session."""

    spend_control: SpendControl | None = None


@dataclass(slots=True)
class Known:
    """A session, as far as the driver and the budgets know it."""

    agents: list[AgentView]
    budget: BudgetState | None = None


async def list_sessions(request: Request) -> Response:
    """Sessions in order of their ids: ``limit``, ``after``; operators may pick a ``tenant``."""
    service = service_of(request)
    ledger = require_ledger(service)
    key, own = who_asks(service, request)
    only = request.query_params.get("tenant") if key.operator else own
    limit, after = page_limit(request), request.query_params.get("after", "")
    known = await _known(service, ledger, only)
    names = sorted((name for name in known if name[1] > after), key=lambda name: (name[1], name[0]))
    page = _page(names, limit)
    with service.gate.errand(key):
        spent = await _spent(service, page)
    data = [_session(service, key, name, known[name], spent[name]) for name in page]
    return JSONResponse(
        {
            "object": "list",
            "data": data,
            "first_id": data[0]["id"] if data else None,
            "last_id": data[-1]["id"] if data else None,
            "has_more": len(page) < len(names),
        }
    )


async def get_session(request: Request) -> Response:
    """One session. An operator says whose (``tenant``) unless it is the operator's own."""
    service = service_of(request)
    ledger = require_ledger(service)
    key, name = _named(service, request)
    return JSONResponse(await _one(service, ledger, key, name))


async def update_session(request: Request) -> Response:
    """Set the budget of a session of one's own, known already or not. A raised one lets it go on."""
    service = service_of(request)
    service.require_open()
    ledger = require_ledger(service)
    key, name = _named(service, request)
    with service.gate.errand(key):
        body = await read_object(request, service.settings, service.bodies, key.tenant)
        wanted = parse(SessionUpdate, body)
        if "spend_control" in body:
            limit = wanted.spend_control.limit if wanted.spend_control is not None else None
            await _set_limit(service, ledger, key, name, limit)
    return JSONResponse(await _one(service, ledger, key, name, known=True))


def require_ledger(service: Service) -> RunningBooks:
    """Raises a 404 ``ApiError`` where no books are kept."""
    if service.ledger is None:
        raise not_found("This server keeps no ledger.", code="ledger_off")
    return service.ledger


async def put_in_force(service: Service, ledger: RunningBooks, budget: Budget) -> None:
    """Enter a budget. Raises ``ApiError``: 400 for one that makes no sense, 503 when it cannot be entered."""

    def enter(store: Store) -> None:
        ledger.set_budget(budget)

    assert service.books is not None
    try:
        await service.books.ask(enter)
    except BadInput as error:
        raise bad_request(f"{error}."[:500]) from error
    if budget.scope is Scope.SESSION:
        service.pauses.over(budget.tenant, budget.name)


async def _set_limit(
    service: Service, ledger: RunningBooks, key: ApiKey, name: Name, limit: Decimal | None
) -> None:
    """A soft limit that was set before stays where it makes sense."""
    tenant, session = name
    if not session or clean(session) != session:
        raise bad_request("A session id is at most 255 printable characters.", param="session_id")
    if not key.operator:
        await _require_own(service, BudgetName(Scope.SESSION, tenant, session))
    budgets = ledger.budgets
    before = budgets.state(Scope.SESSION, tenant, session)
    if before is None and _session_budgets(budgets.states(tenant)) >= MAX_SESSION_BUDGETS:
        raise bad_request(f"At most {MAX_SESSION_BUDGETS} sessions of a customer may have a budget.")
    hard = None if limit is None else int((limit * MICROUSD_PER_CENT).to_integral_value(ROUND_HALF_UP))
    soft = before.soft_microusd if before is not None else None
    if soft is not None and hard is not None and soft > hard:
        soft = None
    at_us, actor = int(service.now_s() * 1e6), key.id or tenant
    await put_in_force(service, ledger, Budget(Scope.SESSION, tenant, session, soft, hard, at_us, actor))


async def _require_own(service: Service, name: BudgetName) -> None:
    """What an operator has bounded, the customer may not raise."""
    assert service.books is not None
    if await service.books.ask(actor_of, name) in (OPERATOR, FROM_SETTINGS):
        raise ApiError(
            403,
            "The operator of this server has set the budget of this session; ask there to have it changed.",
            code="operator_budget",
        )


def _session_budgets(states: Iterable[BudgetState]) -> int:
    return sum(state.name.scope is Scope.SESSION for state in states)


def _named(service: Service, request: Request) -> tuple[ApiKey, Name]:
    """Whose session is meant: a customer's own, whatever the request says."""
    key, own = who_asks(service, request)
    tenant = request.query_params.get("tenant", own) if key.operator else own
    return key, (tenant, request.path_params["session_id"])


async def _known(service: Service, ledger: RunningBooks, tenant: str | None) -> dict[Name, Known]:
    """Sessions that have agents or a budget. As many as there are agents and budgets at most."""
    known: dict[Name, Known] = {}
    for view in await service.agent_lists.all():
        if view.session and tenant in (None, view.tenant):
            known.setdefault((view.tenant, view.session), Known([])).agents.append(view)
    for state in ledger.budgets.states(tenant):
        if state.name.scope is Scope.SESSION:
            known.setdefault((state.name.tenant, state.name.name), Known([])).budget = state
    return known


def _page(names: Sequence[Name], limit: int) -> Sequence[Name]:
    """At most ``limit``, and those of the same id as the last one: ``after`` could not name the rest."""
    end = min(limit, len(names))
    while 0 < end < len(names) and names[end][1] == names[end - 1][1]:
        end += 1
    return names[:end]


async def _one(
    service: Service, ledger: RunningBooks, key: ApiKey, name: Name, *, known: bool = False
) -> dict[str, Any]:
    """Raises a 404 ``ApiError`` for what is not known, or belongs to another tenant."""
    found = (await _known(service, ledger, name[0])).get(name)
    spent = await _spent(service, [name])
    if found is None and not spent[name] and not known:
        raise session_not_found(name[1])
    return _session(service, key, name, found or Known([]), spent[name])


def session_not_found(session: str) -> ApiError:
    return not_found(f"Session with id '{clip(session, 64)}' not found.", code="session_not_found")


async def _spent(service: Service, names: Sequence[Name]) -> dict[Name, int]:
    """What the books show as charged to these sessions, in micro-dollars."""
    assert service.books is not None
    return await service.books.ask(sessions_spent, names)


def sessions_spent(store: Store, names: Sequence[Name]) -> dict[Name, int]:
    """All of them in one question; 0 for those that are not in the books."""
    sessions = sorted({session for _, session in names})
    rows = store.rows(
        f"SELECT a.tenant, a.session, {split_sum('u.charge_microusd')} "
        f"FROM accounts a JOIN usage u ON u.account = a.id WHERE a.session {one_of(len(sessions))} "
        "GROUP BY a.tenant, a.session",
        sessions,
    )
    sums = {(tenant, session): join_sum(high, low) for tenant, session, high, low in rows}
    return {name: sums.get(name, 0) for name in names}


def _session(service: Service, key: ApiKey, name: Name, known: Known, spent_microusd: int) -> dict[str, Any]:
    budget = known.budget
    if budget is not None:
        spent_microusd = budget.spent_microusd
    hard = budget.hard_microusd if budget is not None else None
    return {
        "id": name[1],
        "object": "session",
        **({"tenant": name[0]} if key.operator else {}),
        "status": _status(service, name, known),
        "spend_control": {
            "limit": None if hard is None else _cents(hard),
            "consumed": _cents(spent_microusd),
        },
        "consumed_usd": spent_microusd / 1e6,
        "held_usd": budget.held_microusd / 1e6 if budget is not None else None,
        "agents": sorted(view.agent for view in known.agents),
    }


def _status(service: Service, name: Name, known: Known) -> str:
    """What runs may end also when the budget is spent."""
    if any(view.state != "idle" for view in known.agents):
        return "in_progress"
    return "budget_reached" if service.is_paused(*name) else "idle"


def _cents(microusd: int) -> int | float:
    whole, rest = divmod(microusd, MICROUSD_PER_CENT)
    return microusd / MICROUSD_PER_CENT if rest else whole

"""``/v1/agents``: where an agent's KV lies, when its next turn is expected, and why.

A key sees the agents of its own tenant; what belongs to others does not exist for it. An operator's
key sees all, with the tenant beside each.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from stepwell.loop.snapshot import AgentView
from stepwell.policy.types import Hint, Wait
from stepwell.server.callers.hints import read_agent_hint
from stepwell.server.errors import ApiError, bad_request, clip, not_found
from stepwell.server.service import Service, service_of, who_asks
from stepwell.server.wire.body import read_object
from stepwell.server.wire.paging import page_limit


async def list_agents(request: Request) -> Response:
    """Agents in order of their ids: ``limit``, ``after``; operators may pick a ``tenant``."""
    service = service_of(request)
    key, own = who_asks(service, request)
    only = request.query_params.get("tenant") if key.operator else own
    limit, after = page_limit(request), request.query_params.get("after", "")
    views = [v for v in await service.agent_lists.all() if only in (None, v.tenant) and v.agent > after]
    views.sort(key=lambda view: (view.agent, view.tenant))
    page = _page(views, limit)
    data = [agent_object(service, view, operator=key.operator) for view in page]
    return JSONResponse(
        {
            "object": "list",
            "data": data,
            "first_id": data[0]["id"] if data else None,
            "last_id": data[-1]["id"] if data else None,
            "has_more": len(page) < len(views),
        }
    )


async def get_agent(request: Request) -> Response:
    """One agent. An operator says whose (``tenant``) where two tenants have one of that name."""
    service = service_of(request)
    key, own = who_asks(service, request)
    agent = request.path_params["agent_id"]
    tenants = await _tenants_with(service, request, agent, own) if key.operator else [own]
    looked = await asyncio.to_thread(lambda: [service.driver.agent(tenant, agent) for tenant in tenants])
    found = [view for view in looked if view is not None]
    if not found:
        raise _unknown(agent)
    if len(found) > 1:
        names = ", ".join(clip(view.tenant, 64) for view in found[:8])
        raise bad_request(f"Several tenants have this agent ({names}): add ?tenant=NAME.", param="tenant")
    return JSONResponse(agent_object(service, found[0], operator=key.operator))


async def hint_agent(request: Request) -> Response:
    """More is known about what an agent of one's own waits for. Answers what was understood."""
    service = service_of(request)
    service.require_open()
    key, tenant = who_asks(service, request)
    agent = request.path_params["agent_id"]
    with service.gate.errand(key):
        body = await read_object(request, service.settings, service.bodies, tenant)
        view = await asyncio.to_thread(service.driver.agent, tenant, agent)
        if view is None:
            raise _unknown(agent)
        inner = body.get("agent_hint")
        hint = read_agent_hint(inner if isinstance(inner, dict) else body, view.session, agent)
        sold = _sells_retention(service, view)
        hint = replace(hint, retain_us=_retention(view, hint.retain_us, paid_only=sold))
        service.driver.hint(0, tenant, agent, hint, paid_only=sold)
    return JSONResponse({"id": agent, "object": "agent.hint", **_said(hint)})


def _retention(view: AgentView, asked_us: int | None, *, paid_only: bool) -> int | None:
    """How long the KV is kept: never longer than the turn has paid for, where keeping has a price. A longer
    time is asked for, held and charged with a turn."""
    if asked_us is None:
        return view.hint.retain_us
    if not paid_only:
        return asked_us
    return None if view.paid_us is None else min(asked_us, view.paid_us)


def _sells_retention(service: Service, view: AgentView) -> bool:
    """Whether any of the models keeps KV for money: the hint is for the agent's KV in all of them."""
    books = [model.ledger for model in service.offered if model.ledger is not None]
    return any(one.bills.sells_retention(view.service_tier) for one in books)


async def _tenants_with(service: Service, request: Request, agent: str, own: str) -> list[str]:
    asked = request.query_params.get("tenant")
    if asked is not None:
        return [asked]
    others = {view.tenant for view in await service.agent_lists.all() if view.agent == agent}
    return sorted(others | {own})


def _unknown(agent: str) -> ApiError:
    return not_found(f"Agent with id '{clip(agent, 64)}' not found.", code="agent_not_found")


def _page(views: Sequence[AgentView], limit: int) -> Sequence[AgentView]:
    """At most ``limit``, and those of the same id as the last one: ``after`` could not name the rest."""
    end = min(limit, len(views))
    while 0 < end < len(views) and views[end].agent == views[end - 1].agent:
        end += 1
    return views[:end]


def agent_object(service: Service, view: AgentView, *, operator: bool) -> dict[str, Any]:
    """An agent as the wire shows it; operators see whose it is."""
    held = {kv_tier.value: tokens for kv_tier, tokens in view.kv_tokens.items()}
    return {
        "id": view.agent,
        "object": "agent",
        **({"tenant": view.tenant} if operator else {}),
        "session_id": view.session or None,
        "parent_agent_id": view.parent_agent,
        "role": view.role or None,
        "model": view.model or service.model.text.name,
        "service_tier": view.service_tier,
        "status": agent_status(service, view),
        "context_tokens": view.tokens,
        "kv_tokens": {**held, "gone": max(0, view.tokens - sum(held.values()))},
        "turns": view.turns,
        "declared": _said(view.hint),
        "expected_at": None if view.expected_us is None else service.unix_s(view.expected_us),
        "why": view.why or None,
        "last_ttft_ms": None if view.last_ttft_us is None else view.last_ttft_us / 1_000,
    }


def agent_status(service: Service, view: AgentView) -> str:
    """Its state, or that its budget is spent."""
    paused = view.state == "idle" and service.is_paused(view.tenant, view.session, view.agent)
    return "budget_reached" if paused else view.state


def _said(hint: Hint) -> dict[str, Any]:
    """A hint in the words of ``agent_hint``."""
    return {
        "next": None if hint.wait is Wait.UNKNOWN else hint.wait.value,
        "expected_ms": None if hint.expected_us is None else hint.expected_us / 1_000,
        "after_agent": hint.after_agent,
        "retain_s": None if hint.retain_us is None else hint.retain_us / 1_000_000,
        "tool": hint.tool or None,
    }

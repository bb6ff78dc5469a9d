"""Limits of ``stepwell run``: those of the crew, others on the command line, and how a session goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from decimal import Decimal, InvalidOperation
from pathlib import Path

from stepwell.agents.crews.definition import Crew, SessionLimits
from stepwell.agents.crews.files import budget_microusd, parse_limits
from stepwell.agents.crews.values import require_known
from stepwell.agents.result import Result
from stepwell.agents.state import TURN_LIMIT
from stepwell.errors import BadInput

NAMES = [one.name for one in fields(SessionLimits) if one.name != "budget_microusd"]
"""What ``--limit`` takes."""
FINAL = frozenset({"invalid_output", "repeated_call", "interrupted"})
"""Ends that a resumed session has again, because they lie in what was said."""


def with_limits(crew: Crew, given: Sequence[str], budget: str | None) -> Crew:
    """The crew under ``NAME=VALUE`` limits and a budget in USD. Raises ``BadInput``.

    ``turns_per_agent`` holds for every role that says a smaller ``max_turns``.
    """
    data: dict[str, int] = {}
    for one in given:
        name, is_set, value = one.partition("=")
        if not is_set or not value.strip().isascii() or not value.strip().isdigit():
            raise BadInput(f"--limit {one}: write NAME=NUMBER, like turns_per_agent=24")
        require_known(name.strip(), NAMES, "--limit")
        data[name.strip()] = int(value)
    parse_limits(data, "--limit")
    roles = crew.roles
    if (turns := data.get("turns_per_agent")) is not None:
        roles = {
            name: replace(role, max_turns=max(role.max_turns, turns)) if role.max_turns else role
            for name, role in crew.roles.items()
        }
    limits = replace(crew.limits, **data)
    if budget is not None:
        limits = replace(limits, budget_microusd=_microusd(budget))
    return replace(crew, limits=limits, roles=roles)


def _microusd(budget: str) -> int | None:
    try:
        return budget_microusd(Decimal(budget), "--budget")
    except InvalidOperation as error:
        raise BadInput(f"--budget {budget} is no amount: write dollars, like 0.02") from error


def how_to_resume(session: Path, crew: Crew, result: Result | None = None) -> str:
    """How the session goes on, and what must be raised for that. Without a result it was stopped by hand."""
    if result is not None and result.status in FINAL:
        return f"The session is kept in {session}; it would end the same way again: ask anew with --ask."
    raised = "" if result is None else _raised(crew.limits, result.status)
    return f"The session is kept; to go on, run the same with {raised}--resume {session} instead of --ask."


def _raised(limits: SessionLimits, status: str) -> str:
    """The flag that lets it go on, with twice of what was not enough; empty where none is needed."""
    if status == TURN_LIMIT:
        return f"--limit turns_per_agent={2 * limits.turns_per_agent} "
    if status == "token_limit":
        return f"--limit tokens={2 * limits.tokens} "
    if status == "budget_reached" and limits.budget_microusd:
        return f"--budget {Decimal(2 * limits.budget_microusd) / 1_000_000:f} "
    return ""

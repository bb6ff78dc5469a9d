"""By what statements add up: the fields of an agent's account, alone or together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from stepwell.errors import BadInput
from stepwell.ledger.types import Account

Group = tuple[str, ...]
"""Values of the fields grouped by, in their order."""

FIELDS: Mapping[str, Callable[[Account], str]] = {
    "tenant": lambda account: account.tenant,
    "key": lambda account: account.key,
    "service-tier": lambda account: account.service_tier,
    "session": lambda account: account.session,
    "agent": lambda account: account.agent,
    "parent-agent": lambda account: account.parent_agent,
    "role": lambda account: account.role,
}
WITHIN_TENANT = ("key", "session", "agent", "parent-agent")
"""Names that mean something with their tenant's only."""


def parse_by(text: str, beyond: Sequence[str] = ()) -> tuple[str, ...]:
    """The fields of ``tenant,role``; a session's and an agent's tenant goes before them. ``beyond``: other
    words that are understood. Raises ``BadInput``."""
    known = [*FIELDS, *beyond]
    found = list(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in found:
        if name not in known:
            raise BadInput(f"--by {name!r}: group by {', '.join(known)}, or several with commas")
    if "tenant" not in found and any(name in WITHIN_TENANT for name in found):
        found.insert(0, "tenant")
    return tuple(found)


def group_of(account: Account, fields: Sequence[str]) -> Group:
    """Where an account's sums go."""
    return tuple(FIELDS[name](account) for name in fields)

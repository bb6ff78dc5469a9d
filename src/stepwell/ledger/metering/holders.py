"""The holders that a meter knows, and which of them have not been heard of for too long.

An agent whose prompt begins like all others holds a share of those blocks for as long as they are there,
which for a system prompt is for ever: without a bound a server would keep, and post storage for, every agent
that ever called. The policy remembers ``max_agents`` of them; the meter holds bytes for as many.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from stepwell.ledger.metering.holdings import Holder
from stepwell.ledger.types import Account


class Holders:
    """By account, the longest unheard of first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._by_account: dict[Account, Holder] = {}
        self._of_agent: dict[tuple[str, str], Holder] = {}

    def __iter__(self) -> Iterator[Holder]:
        return iter(tuple(self._by_account.values()))

    def __len__(self) -> int:
        return len(self._by_account)

    def of(self, account: Account, now_us: int) -> Holder:
        """The account's holder, a new one if there is none."""
        holder = self._by_account.get(account)
        if holder is None:
            holder = self._by_account[account] = Holder(account, now_us)
        return holder

    def heard(self, account: Account, now_us: int) -> Holder:
        """The same, of an account that calls now."""
        holder = self.of(account, now_us)
        self._by_account[account] = self._by_account.pop(account)
        return holder

    def succeed(self, holder: Holder) -> Holder | None:
        """An agent's context is this holder's from now on. Returns the one before it."""
        agent = (holder.account.tenant, holder.account.agent)
        before = self._of_agent.get(agent)
        self._of_agent[agent] = holder
        return before if before is not holder else None

    def surplus(self, busy: Collection[Account]) -> list[Holder]:
        """Holders that are to let go of their contexts, because there are more than may be; no busy one."""
        over = len(self._by_account) - self._most
        if over <= 0:
            return []
        return [holder for holder in list(self)[:over] if holder.account not in busy]

    def forget(self, holder: Holder) -> None:
        account = holder.account
        del self._by_account[account]
        if self._of_agent.get((account.tenant, account.agent)) is holder:
            del self._of_agent[account.tenant, account.agent]

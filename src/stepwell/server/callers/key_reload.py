"""API keys are read again while the server runs: on SIGHUP, and by ``POST /admin/keys/reload``."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from stepwell.ledger.types import Budget
from stepwell.server.callers.keys import KeyRing


@dataclass(slots=True)
class KeyReload:
    """Thread-safe. What is wrong with the new keys changes nothing."""

    keys: KeyRing
    read: Callable[[], KeyRing]
    """Reads the settings. Raises ``BadInput``."""
    set_budget: Callable[[Budget], None] | None = None
    """Enters a budget in the books; None: none are kept."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self) -> str:
        """What has changed, in one sentence. Raises ``BadInput`` or ``LedgerError``."""
        with self._lock:
            before = {key.id for key in self.keys.all()}
            bounds = {(one.tenant, one.name): one for one in self.keys.budgets()}
            self.keys.replace(self.read())
            now = {key.id for key in self.keys.all()}
            changed = [
                one
                for one in self.keys.budgets(time.time_ns() // 1000)
                if not _same(one, bounds.get((one.tenant, one.name)))
            ]
            if self.set_budget is not None:
                for budget in changed:
                    self.set_budget(budget)
        return f"{len(now)} API keys: {len(now - before)} new, {len(before - now)} gone"


def _same(one: Budget, other: Budget | None) -> bool:
    bounds = one.soft_microusd, one.hard_microusd
    return other is not None and bounds == (other.soft_microusd, other.hard_microusd)

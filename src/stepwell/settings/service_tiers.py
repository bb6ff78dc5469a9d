"""Service tiers as they stand in the settings file, and as the contracts that the policy keeps.

::

    [service_tiers.priority]
    weight = 16                                     # 1 to 1000: what its time is worth
    guaranteed = { step_tokens = 0.6, device = 0.4, host = 0.3, disk = 0.2 }   # of the machine; default 0
    borrowable = 1.0                                # how much of the guarantee others may use meanwhile
    cap = { device = 0.9 }                          # never more than this; default 1
    ttft_target_ms = 2000
    tpot_target_ms = 100
    max_wait_s = 10                                 # once it has waited so long, a turn goes first

Without any such table there are OpenAI's three: ``priority``, ``default`` and ``flex``. With one there
are only those that have a table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import ConfigDict, Field

from stepwell.policy.contracts import (
    DEFAULT_CONTRACTS,
    RESOURCES,
    WHOLE,
    Contract,
    Shares,
    validate_contracts,
)

MAX_SECONDS = 86_400
NOT_NAMES = {
    "auto": "it means the default of the key that asks",
    "fast": "it is another word for 'priority'",
}

Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Weight = Annotated[int, Field(ge=1, le=WHOLE)]
Milliseconds = Annotated[float, Field(gt=0, le=MAX_SECONDS * 1_000, allow_inf_nan=False)]
Seconds = Annotated[float, Field(gt=0, le=MAX_SECONDS, allow_inf_nan=False)]


@dataclass(frozen=True, slots=True)
class SharesEntry:
    """Fractions of the machine; what is not named takes the table's default."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    step_tokens: Fraction | None = None
    """Of compute."""
    device: Fraction | None = None
    """Of KV on the device."""
    host: Fraction | None = None
    """Of KV in host memory."""
    disk: Fraction | None = None
    """Of KV on disk."""

    def shares(self, default: int) -> Shares:
        """Per mille."""
        given = {name: getattr(self, name) for name in RESOURCES}
        return Shares(**{n: default if part is None else round(part * WHOLE) for n, part in given.items()})


@dataclass(frozen=True, slots=True)
class ServiceTierEntry:
    """One ``[service_tiers.NAME]`` table."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    weight: Weight = 1
    """What its time is worth, 1 to 1000: the heavier goes first."""
    guaranteed: SharesEntry = SharesEntry()
    """Fractions of the machine that are kept whenever it has demand; without any, none."""
    cap: SharesEntry = SharesEntry()
    """Fractions of the machine that it never passes; without any, all of it."""
    borrowable: Fraction = 1.0
    """How much of its guarantee others may use while it does not."""
    ttft_target_ms: Milliseconds | None = None
    """The time to first token that lighter service tiers leave room for."""
    tpot_target_ms: Milliseconds | None = None
    """The same for each further token."""
    max_wait_s: Seconds = 60.0
    """Once it has waited so long in all, a turn goes before all others."""
    keep_weight: Weight = 1
    """How much more a second spared to its agents counts when blocks on host and disk are compared."""

    def contract(self, name: str) -> Contract:
        """Raises ``ValueError`` with one sentence when it contradicts itself."""
        return Contract(
            name,
            weight=self.weight,
            guaranteed=self.guaranteed.shares(0),
            borrowable=round(self.borrowable * WHOLE),
            cap=self.cap.shares(WHOLE),
            ttft_target_us=_us(self.ttft_target_ms),
            tpot_target_us=_us(self.tpot_target_ms),
            max_wait_us=round(self.max_wait_s * 1_000_000),
            keep_weight=self.keep_weight,
        )


def _us(milliseconds: float | None) -> int | None:
    return None if milliseconds is None else round(milliseconds * 1_000)


def contracts(entries: Mapping[str, ServiceTierEntry]) -> tuple[Contract, ...]:
    """What the policy keeps. Raises ``ValueError``: one sentence that says which guarantees are too much."""
    for name in entries:
        _require_name(name)
    made = tuple(entry.contract(name) for name, entry in entries.items()) or DEFAULT_CONTRACTS
    validate_contracts(made)
    return made


def _require_name(name: str) -> None:
    if name in NOT_NAMES:
        raise ValueError(f"a service tier cannot be called {name!r}: {NOT_NAMES[name]}")
    if not (name.isascii() and name.replace("-", "").replace("_", "").isalnum() and len(name) <= 64):
        raise ValueError(f"{name[:64]!r} is no name for a service tier: use letters, digits, '-' and '_'")

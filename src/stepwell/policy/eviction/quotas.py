"""What each service tier holds on each KV tier, against its contract; and each tenant within one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from stepwell.policy.config import PolicyConfig
from stepwell.policy.contracts import WHOLE, Contract
from stepwell.policy.eviction.agent_groups import Ranking

_RESOURCE: Final = ("device", "host", "disk")
_SECOND_US: Final = 1_000_000
_WINDOW_S: Final = 64  # over which what a tenant has held is remembered, fading
_FAIR_PARTS: Final = 2  # a tenant's blocks count for less once it holds this many fair parts


@dataclass(slots=True)
class Holding:
    """One service tier on one KV tier. All counts are blocks."""

    name: str
    weight: int
    ranking: Ranking
    guaranteed: int
    reserved: int
    cap: int

    @property
    def is_over(self) -> bool:
        """Whether it holds more than it is guaranteed."""
        return self.ranking.blocks > self.guaranteed


class Quotas:
    """Rankings and counts by service tier."""

    def __init__(self, config: PolicyConfig) -> None:
        self._contracts = {contract.name: contract for contract in config.contracts}
        self._by_tenant: dict[tuple[str, int], dict[str, int]] = {}
        self._attained: dict[str, dict[str, int]] = {}
        """Per service tier and tenant: block-seconds of host memory over the window."""
        self._observed_us = 0
        self._config = config
        self.room = self._room()
        self._known: tuple[dict[str, Holding], ...] = ({}, {}, {})
        self._order: tuple[list[Holding], ...] = ([], [], [])
        self._rankings: tuple[list[Ranking], ...] = ([], [], [])
        self.names: list[str] = []
        """Service tiers seen, the lightest first."""
        for contract in config.contracts:
            self._add(contract)

    def _room(self) -> tuple[int, int, int]:
        """How many blocks each KV tier has room for."""
        config = self._config
        return (
            config.device_blocks,
            config.host_bytes // config.block_bytes,
            config.disk_bytes // config.disk_size_of(config.block_bytes),
        )

    def _measure_again(self) -> None:
        """Shares follow when the bounds have changed."""
        if self.room == (room := self._room()):
            return
        self.room = room
        for at, resource in enumerate(_RESOURCE):
            for holding in self._order[at]:
                contract = self._contracts[holding.name]
                holding.guaranteed, holding.reserved, holding.cap = _shares(contract, resource, room[at])

    def contract(self, service_tier: str) -> Contract:
        """Its contract; a service tier without configuration is owed nothing and weighs 1."""
        known = self._contracts.get(service_tier)
        if known is None:
            known = self._contracts[service_tier] = Contract(service_tier)
            self._add(known)
        return known

    def _add(self, contract: Contract) -> None:
        for at, resource in enumerate(_RESOURCE):
            holding = Holding(
                contract.name,
                contract.weight,
                Ranking(contract.weight if at == 0 else 1),
                *_shares(contract, resource, self.room[at]),
            )
            self._known[at][contract.name] = holding
            self._order[at].append(holding)
            self._order[at].sort(key=lambda h: (h.weight, h.name))
            self._rankings[at][:] = [h.ranking for h in self._order[at]]
        self.names = [holding.name for holding in self._order[0]]

    def holding(self, at: int, service_tier: str) -> Holding:
        """What a service tier holds on KV tier number ``at``."""
        known = self._known[at].get(service_tier)
        if known is None:
            self.contract(service_tier)
            known = self._known[at][service_tier]
        return known

    def blocks(self, at: int) -> int:
        """Blocks of agents on KV tier number ``at``."""
        return sum([holding.ranking.blocks for holding in self._order[at]])

    def ranking(self, at: int, service_tier: str) -> Ranking:
        return self.holding(at, service_tier).ranking

    def of(self, service_tier: str) -> tuple[tuple[Ranking, ...], tuple[dict[str, int], ...]]:
        """Per KV tier: its ranking, and how many blocks each of its tenants holds (see ``count``)."""
        places = range(len(_RESOURCE))
        counts = tuple([self._by_tenant.setdefault((service_tier, at), {}) for at in places])
        return tuple([self.ranking(at, service_tier) for at in places]), counts

    @staticmethod
    def count(holders: dict[str, int], tenant: str, step: int) -> None:
        """A block of the tenant's has come to (+1) or left (-1) a KV tier."""
        left = holders.get(tenant, 0) + step
        if left:
            holders[tenant] = left
        else:
            del holders[tenant]

    def all_rankings(self, at: int) -> list[Ranking]:
        """Those of every service tier on KV tier number ``at``, the lightest first."""
        return self._rankings[at]

    def observe(self, now_us: int) -> None:
        """Once a second: what each tenant has held of host memory over the last while, in block-seconds."""
        self._measure_again()
        seconds = min((now_us - self._observed_us) // _SECOND_US, _WINDOW_S)
        if seconds < 1:
            return
        self._observed_us = now_us
        for (name, at), holders in self._by_tenant.items():
            if at == 1:
                self._age(self._attained.setdefault(name, {}), holders, seconds)

    @staticmethod
    def _age(attained: dict[str, int], holders: dict[str, int], seconds: int) -> None:
        for tenant in [*attained, *(t for t in holders if t not in attained)]:
            before = attained.get(tenant, 0)
            after = before + (holders.get(tenant, 0) * _WINDOW_S - before) * seconds // _WINDOW_S
            if after > 0:
                attained[tenant] = after
            else:
                attained.pop(tenant, None)

    def held_of_part(self, service_tier: str, tenant: str) -> tuple[int, int]:
        """What the tenant holds or has held of its service tier's host memory, and what it may hold before
        its contexts count for less, both times the number of tenants there: a hundred agents of one tenant
        do not push out the one of another."""
        holders = self._by_tenant.get((service_tier, 1), {})
        held = holders.get(tenant, 0) * _WINDOW_S
        mine = max(held, self._attained.get(service_tier, {}).get(tenant, 0)) * len(holders)
        all_parts = self.ranking(1, service_tier).blocks * _WINDOW_S * _FAIR_PARTS
        return mine, all_parts

    def phases(self, at: int, taker: str) -> Iterator[list[Ranking]]:
        """Whose blocks go, one group of rankings after the other.

        Whichever is worth least, down to the guarantee; on the device a service tier's blocks count by
        its weight, so that a lighter one's go first unless they will be used so many times sooner.
        Blocks within a guarantee come last; admission does not count on them.
        """
        order = self._order[at]
        own = self.holding(at, taker) if taker else None
        if own is not None and own.ranking.blocks >= own.cap < self.room[at]:
            yield [own.ranking]
            return
        yield self.over(at) if own is None else [h.ranking for h in order if h is own or h.is_over]
        yield [h.ranking for h in order if h is not own and not h.is_over]

    def over(self, at: int) -> list[Ranking]:
        """Of the service tiers that hold more than they are guaranteed."""
        return [h.ranking for h in self._order[at] if h.ranking.blocks > h.guaranteed]

    def beyond_guarantee(self, at: int, service_tier: str) -> int:
        """How many blocks the service tier holds beyond what it is guaranteed; never less than 0."""
        holding = self.holding(at, service_tier)
        return max(0, holding.ranking.blocks - holding.guaranteed)

    def withheld(self, at: int, taker: str) -> int:
        """Blocks of room that ``taker`` cannot count on: what rests within another's guarantee, and
        what another has reserved and does not use."""
        total = 0
        for holding in self._order[at]:
            if holding.name != taker:
                ranking = holding.ranking
                owed = max(0, holding.guaranteed - (ranking.blocks - ranking.idle_blocks))
                total += max(min(owed, ranking.idle_blocks), holding.reserved - ranking.blocks)
        return total


def _shares(contract: Contract, resource: str, room: int) -> tuple[int, int, int]:
    """Guaranteed, reserved and capped blocks of a KV tier."""
    return (
        getattr(contract.guaranteed, resource) * room // WHOLE,
        contract.reserved(resource) * room // WHOLE,
        getattr(contract.cap, resource) * room // WHOLE,
    )

"""What each service tier holds on each KV tier, against its contract; and each tenant within one."""

from __future__ import annotations

from collections.abc import Iterator

from stepwell.policy.config import PolicyConfig
from stepwell.policy.contracts import WHOLE, Contract
from stepwell.policy.placements.groups import Ranking

_RESOURCE = ("device", "host", "disk")
_FAIR_PARTS = 2  # a tenant's blocks count for less once it holds this many fair parts


class Quotas:
    """Rankings and counts by service tier. Counts are blocks."""

    def __init__(self, config: PolicyConfig) -> None:
        self._contracts = {contract.name: contract for contract in config.contracts}
        self._rankings: dict[tuple[int, str], Ranking] = {}
        self._by_tenant: dict[tuple[str, int], dict[str, int]] = {}
        self._room = (
            config.device_blocks,
            config.host_bytes // config.block_bytes,
            config.disk_bytes // config.disk_size_of(config.block_bytes),
        )
        self.names: list[str] = []
        """Service tiers seen, the lightest first."""
        for name in self._contracts:
            self._add(name)

    def contract(self, service_tier: str) -> Contract:
        """Its contract; a service tier that nobody configured is owed nothing and weighs 1."""
        known = self._contracts.get(service_tier)
        if known is None:
            known = self._contracts[service_tier] = Contract(service_tier)
        return known

    def _add(self, name: str) -> None:
        self.names.append(name)
        self.names.sort(key=lambda n: (self.contract(n).weight, n))

    def ranking(self, at: int, service_tier: str) -> Ranking:
        known = self._rankings.get((at, service_tier))
        if known is None:
            known = self._rankings[at, service_tier] = Ranking()
            if service_tier not in self.names:
                self._add(service_tier)
        return known

    def count(self, service_tier: str, tenant: str, at: int, step: int) -> None:
        holders = self._by_tenant.setdefault((service_tier, at), {})
        left = holders.get(tenant, 0) + step
        if left:
            holders[tenant] = left
        else:
            del holders[tenant]

    def less_for_many(self, value: int, service_tier: str, tenant: str) -> int:
        """A tenant that holds more than its part of its service tier's host memory has its blocks
        valued down in proportion: a hundred agents of one do not push out the one of another."""
        holders = self._by_tenant.get((service_tier, 1), {})
        mine = holders.get(tenant, 0) * len(holders)
        all_parts = self.ranking(1, service_tier).blocks * _FAIR_PARTS
        return value * all_parts // mine if mine > all_parts else value

    def guaranteed(self, at: int, service_tier: str) -> int:
        share: int = getattr(self.contract(service_tier).guaranteed, _RESOURCE[at])
        return share * self._room[at] // WHOLE

    def cap(self, at: int, service_tier: str) -> int:
        share: int = getattr(self.contract(service_tier).cap, _RESOURCE[at])
        return share * self._room[at] // WHOLE

    def phases(self, at: int, taker: str) -> Iterator[list[str]]:
        """Whose blocks go, group by group of service tiers.

        On the device: lighter service tiers' down to their guarantee, then the taker's own, then
        heavier ones' above their guarantee. Below it: whichever is worth least, down to the guarantee.
        Blocks within a guarantee come last; admission does not count on them.
        """
        if taker and self.ranking(at, taker).blocks >= self.cap(at, taker) < self._room[at]:
            yield [taker]
            return
        others = [name for name in self.names if name != taker]
        over = [n for n in others if self.ranking(at, n).blocks > self.guaranteed(at, n)]
        within = [n for n in others if n not in over]
        if at or not taker:
            yield [*over, *([taker] if taker else [])]
        else:
            weight = self.contract(taker).weight
            yield [n for n in over if self.contract(n).weight < weight]
            yield [taker]
            yield [n for n in over if self.contract(n).weight >= weight]
        yield within

    def withheld(self, at: int, taker: str) -> int:
        """Blocks of room that ``taker`` cannot count on: what rests within another's guarantee, and
        what another has reserved and does not use."""
        total = 0
        for name in self.names:
            if name != taker:
                ranking, contract = self.ranking(at, name), self.contract(name)
                owed = max(0, self.guaranteed(at, name) - (ranking.blocks - ranking.resting))
                unused = contract.reserved(_RESOURCE[at]) * self._room[at] // WHOLE - ranking.blocks
                total += max(min(owed, ranking.resting), unused)
        return total

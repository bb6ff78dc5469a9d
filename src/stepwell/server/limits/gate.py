"""How many turns each may have in the server at once: places by service tier, tenant and key.

A *turn* is one answer that is generated: ``n`` choices of 32 prompts are ``32 n`` turns. They are counted
before anything is awaited. No request waits here, because a client that waits unseen cannot be counted, and
the scheduler has the queue. When there is no place left, contracts decide:

    kept free     the part of a guarantee that others may not borrow
    taken back    a turn within its service tier's guarantee of compute, or heavier than others that are
                  beyond theirs, takes the place of the youngest of the lightest that still waits
    shared        among tenants of one service tier the one with most turns gives up its youngest

A displaced request is answered 429 with ``retry-after``. What has begun to run everywhere is left alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from stepwell.loop.requests import Rejected
from stepwell.policy.contracts import DEFAULT_CONTRACTS, WHOLE, Contract, ContractBook
from stepwell.server.callers.keys import ApiKey
from stepwell.server.errors import ApiError, bad_request, rate_limited
from stepwell.server.settings import ServerSettings


class Held(Protocol):
    """The generations behind a place."""

    @property
    def waiting(self) -> int:
        """How many of them have not begun."""

    def abort(self, reason: Rejected) -> None:
        """End them all; their client is told why."""


@dataclass(slots=True, eq=False)
class Place:
    """What one request holds while it is inside."""

    key: ApiKey
    contract: Contract
    turns: int
    limits: dict[str, str] = field(default_factory=dict)
    """Headers that say how much room is left."""
    displaced: Rejected | None = None
    """Why it has no place any more."""
    held: Held | None = None
    """None: it is still being prepared."""

    def hold(self, held: Held) -> None:
        """Its generations have been handed to the driver. They end at once if the place is gone already."""
        self.held = held
        if self.displaced is not None:
            held.abort(self.displaced)

    def displace(self, reason: Rejected) -> None:
        self.displaced = reason
        if self.held is not None:
            self.held.abort(reason)

    @property
    def waiting(self) -> int:
        return self.turns if self.held is None else self.held.waiting


class Gate:
    """Counts turns from before tokenising until the last byte. Lives in the event loop's thread."""

    def __init__(self, settings: ServerSettings, contracts: Sequence[Contract] = DEFAULT_CONTRACTS) -> None:
        self._settings = settings
        self._book = ContractBook(contracts, ordered=True)
        self._places: dict[Place, None] = {}
        """In order of arrival."""
        self._by_key: Counter[str] = Counter()
        self._by_tenant: Counter[str] = Counter()
        self._by_service_tier: Counter[str] = Counter()
        self._errands: Counter[str] = Counter()
        self._errands_by_tier: Counter[str] = Counter()
        self._background: Counter[str] = Counter()
        self.displaced = 0
        """Requests that lost their place to others."""

    @property
    def inside(self) -> int:
        """Turns."""
        return self._by_tenant.total()

    @property
    def errands(self) -> int:
        return self._errands.total()

    def require_room(self, key: ApiKey) -> None:
        """Raises the 429 of ``enter`` while nothing is known of a request but its key."""
        contracts = [self._book.of(name) for name in (*key.service_tiers, key.default_service_tier)]
        if self._own_left(key) <= 0 or all(self._in_the_way(key, one, 1) is None for one in contracts):
            raise self._full(key)

    def weight(self, service_tier: str) -> int:
        """Of the service tier's contract."""
        return self._book.of(service_tier).weight

    @contextmanager
    def enter(self, key: ApiKey, service_tier: str, turns: int = 1) -> Iterator[Place]:
        """A place for ``turns`` answers. Raises ``ApiError``: a 429 when there is none, a 400 when there
        never will be."""
        contract = self._book.of(service_tier)
        most = min(self._limit(key), self._open_to(contract, Counter()))
        if turns > most:
            raise bad_request(
                f"The request asks for {turns} answers at once, and at most {most} may run.", param="n"
            )
        place = Place(key, contract, turns)
        in_the_way = self._in_the_way(key, contract, turns) if self._own_left(key) >= turns else None
        if in_the_way is None:
            raise self._full(key)
        for other in in_the_way:
            self._displace(other)
        self._add(place, 1)
        place.limits = self._limits(key)
        try:
            yield place
        finally:
            if place in self._places:
                self._add(place, -1)

    @contextmanager
    def errand(self, key: ApiKey) -> Iterator[None]:
        """A request that reads or writes something and generates nothing takes no turn's place. Raises a 429
        ``ApiError`` when there are too many: what heavier service tiers are guaranteed is not lent, because
        nothing that is under way can be taken back."""
        most, tier = self._settings.max_errands, self._heaviest(key)
        kept = [
            most * other.guaranteed.step_tokens // WHOLE - self._errands_by_tier[other.name]
            for other in map(self._book.of, self._book.names)
            if other.weight > tier.weight
        ]
        in_all = max(1, most - sum(max(0, places) for places in kept))
        with self._counted(
            self._errands, key.tenant, (in_all, most // 2), "Too many requests are under way."
        ):
            _count(self._errands_by_tier, tier.name, 1)
            try:
                yield
            finally:
                _count(self._errands_by_tier, tier.name, -1)

    def _heaviest(self, key: ApiKey) -> Contract:
        """The best that the key has paid for: an errand belongs to no turn."""
        return max(map(self._book.of, key.service_tiers), key=lambda contract: contract.weight)

    @contextmanager
    def background(self, tenant: str) -> Iterator[None]:
        """A response that goes on without a connection. Raises a 429 ``ApiError``."""
        most = self._settings.max_background_responses
        message = f"At most {most} background responses may run at once."
        with self._counted(self._background, tenant, (None, most), message):
            yield

    @contextmanager
    def _counted(
        self, counter: Counter[str], tenant: str, most: tuple[int | None, int], message: str
    ) -> Iterator[None]:
        in_all, of_one = most
        if counter[tenant] >= max(1, of_one) or (in_all is not None and counter.total() >= in_all):
            raise rate_limited(message, self._settings.retry_after_ms)
        _count(counter, tenant, 1)
        try:
            yield
        finally:
            _count(counter, tenant, -1)

    # --- room ---------------------------------------------------------------------------------

    def _in_the_way(self, key: ApiKey, contract: Contract, turns: int) -> list[Place] | None:
        """The places that must be given up for so many turns more; None: that would not be enough."""
        used, tenants = self._by_service_tier.copy(), self._by_tenant.copy()
        owed = used[contract.name] + turns <= self._guaranteed(contract)
        ours = tenants[key.tenant] + turns
        leaving = []
        candidates = iter(self._by_claim())
        while used.total() + turns > self._open_to(contract, used):
            place = next(candidates, None)
            if place is None:
                return None
            name, tenant = place.contract.name, place.key.tenant
            if place.contract is contract:
                yields = tenants[tenant] > ours
            else:
                beyond = used[name] > self._guaranteed(place.contract)
                yields = beyond and (owed or place.contract.weight < contract.weight)
            if yields:
                leaving.append(place)
                used[name] -= place.turns
                tenants[tenant] -= place.turns
        return leaving

    def _open_to(self, contract: Contract, used: Counter[str]) -> int:
        """Places, without those that other service tiers have and do not lend."""
        others = [self._book.of(name) for name in self._book.names if name != contract.name]
        kept = [self._share(one.reserved("step_tokens")) - used[one.name] for one in others]
        return self._settings.max_concurrent_requests - sum(max(0, places) for places in kept)

    def _by_claim(self) -> list[Place]:
        """Those that could go: the lightest first, then those that have not begun, then the youngest."""
        found = [place for place in reversed(self._places) if place.waiting > 0]
        found.sort(key=lambda place: (place.contract.weight, place.waiting < place.turns))
        return found

    def _guaranteed(self, contract: Contract) -> int:
        return self._share(contract.guaranteed.step_tokens)

    def _share(self, per_mille: int) -> int:
        return self._settings.max_concurrent_requests * per_mille // WHOLE

    def _displace(self, place: Place) -> None:
        self._add(place, -1)
        self.displaced += 1
        message = "Others with a better claim need the place; please try again."
        place.displace(Rejected("rate_limit_exceeded", message, self._settings.retry_after_ms))

    def _add(self, place: Place, sign: int) -> None:
        if sign > 0:
            self._places[place] = None
        else:
            del self._places[place]
        _count(self._by_key, place.key.id, sign * place.turns)
        _count(self._by_tenant, place.key.tenant, sign * place.turns)
        _count(self._by_service_tier, place.contract.name, sign * place.turns)

    # --- limits of one's own ------------------------------------------------------------------

    def _limit(self, key: ApiKey) -> int:
        """The most turns that a key may ever have."""
        own = (key.max_concurrent_requests, self._settings.max_concurrent_per_tenant)
        return min([self._settings.max_concurrent_requests, *(limit for limit in own if limit is not None)])

    def _own_left(self, key: ApiKey) -> int:
        """Turns that the key and its tenant may have besides those they have."""
        left = self._settings.max_concurrent_requests
        if key.max_concurrent_requests is not None:
            left = min(left, key.max_concurrent_requests - self._by_key[key.id])
        if self._settings.max_concurrent_per_tenant is not None:
            left = min(left, self._settings.max_concurrent_per_tenant - self._by_tenant[key.tenant])
        return left

    def _limits(self, key: ApiKey) -> dict[str, str]:
        """OpenAI's headers as far as they are true here: turns at once, of which nothing is ever reset. A key
        with limits per minute has those of ``rates.py`` in their place."""
        left = min(self._settings.max_concurrent_requests - self.inside, self._own_left(key))
        return {
            "x-ratelimit-limit-requests": str(self._limit(key)),
            "x-ratelimit-remaining-requests": str(max(0, left)),
        }

    def _full(self, key: ApiKey) -> ApiError:
        error = rate_limited(self._why_full(key), self._settings.retry_after_ms)
        error.headers |= self._limits(key)
        return error

    def _why_full(self, key: ApiKey) -> str:
        own, tenant = key.max_concurrent_requests, self._settings.max_concurrent_per_tenant
        if own is not None and own < self._settings.max_concurrent_requests:
            return f"This API key may have {own} requests running at once."
        if tenant is not None and self._by_tenant[key.tenant] >= tenant:
            return f"A tenant may have {tenant} requests running at once."
        return "The server has as many requests as it may have."


def _count(counter: Counter[str], name: str, by: int) -> None:
    """Counts, and forgets zeros."""
    counter[name] += by
    if counter[name] <= 0:
        del counter[name]

"""The meter: what every step of the machine cost, and whom.

A pure state machine beside the policy: it is told the time, what happened and what was decided, and says what
is to be posted. The same recording gives the same postings.

How the machine's time is split (``docs/ledger.md`` has the reasons):

batch   over its requests by the work each brought: its tokens, each weighed with what a token at that depth
        costs as the policy has measured it. The parts sum to the batch.
copies  between device and host: a load to the request it was made for, a store to who holds the block
rest    of the wall clock: ``idle`` when no request was there, else ``overhead``

Bytes that moved are split among who holds the block. Bytes that lie somewhere: ``holdings``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import sub

from stepwell.ledger.bills import BilledTokens, Bills
from stepwell.ledger.displaced import Displaced, shares
from stepwell.ledger.frames import RunningFrames
from stepwell.ledger.holders import Holders
from stepwell.ledger.holdings import Holder, Holdings
from stepwell.ledger.metered import Entries, Metered, Use, copied, customer_accounts, per_token, split
from stepwell.ledger.told import EngineReport, Untold, lines
from stepwell.ledger.types import (
    IDLE,
    MACHINE,
    MACHINE_RESOURCES,
    OVERHEAD,
    UNATTRIBUTED,
    Account,
    Cause,
    Kind,
    Position,
    Posting,
    Resource,
)
from stepwell.policy.config import PolicyConfig
from stepwell.policy.costs import Costs
from stepwell.policy.types import (
    Action,
    Adopt,
    BlockId,
    Computed,
    Drop,
    Elsewhere,
    Embedded,
    Event,
    Hinted,
    KvTier,
    Move,
    Moved,
    Open,
    OpenFailed,
    Piece,
    Plan,
    Progressed,
    Recovered,
    Refuse,
    RequestArrived,
    RequestCancelled,
    RequestId,
    Resized,
    Seal,
    StepFailed,
    Taken,
)

STORAGE_EVERY_US = 60_000_000
STORAGE = (Resource.DEVICE, Resource.HOST, Resource.DISK)
MOST_PAUSE_US = 3_600_000_000
_DEVICE, _EMBEDDING = KvTier.DEVICE, Resource.EMBEDDING
Line = tuple[Account, Account, Resource, Cause, RequestId]


class Meter:
    """Watches one run from its first step."""

    def __init__(
        self, config: PolicyConfig, bills: Bills, now_us: int, *, storage_every_us: int = STORAGE_EVERY_US
    ) -> None:
        """``storage_every_us``: how often the storage of agents that do nothing is posted."""
        self.config = config
        self.bills = bills
        self.holdings = Holdings(config.block_bytes, config.disk_overhead_bytes)
        self.requests: dict[RequestId, Metered] = {}
        self.totals: dict[str, int] = {resource.value: 0 for resource in MACHINE_RESOURCES}
        """What the machine has given since the run began."""
        self.clock_went_back_us = 0  # the furthest a step's time lay before the one before it: not counted
        self._capacity = (config.device_blocks * config.block_bytes, config.host_bytes, config.disk_bytes)
        self._storage_every_us = self._pause_us = storage_every_us
        self.due_us = now_us + storage_every_us
        """When storage is posted at the latest, whatever happens or does not."""
        self._now_us = now_us
        self._holders = Holders(config.max_agents)
        self.costs = Costs()  # of work, as measured: the same sums as the policy's
        self._running = RunningFrames(config.block_tokens)
        self._framed: dict[Holder, int] = {}  # frames of running turns after the last step
        self._accounted_us = 0
        self._untold: Untold | None = None
        self._free_byte_us = [0, 0, 0]
        self._displaced = Displaced(config.unit_tokens, config.max_ghost_units)
        self._loads: dict[BlockId, RequestId] = {}
        # For whom each move under way was decided: a block may be gone by the time it has ended.
        self._movers: dict[tuple[BlockId, KvTier], list[Account]] = {}
        self._sums: dict[Line, int] = {}
        self._entries = Entries(positions=[Position(IDLE, *self._capacity, now_us)])

    # --- what the driver tells ----------------------------------------------------------------

    def ran(self, computed: Computed, pieces: Sequence[Piece]) -> None:
        """A batch has run: split its time by the work that each piece brought, as far as was measured before
        it what such work costs."""
        token, depth = per_token(self.costs.prefill)
        works = [self._work(piece, token, depth) for piece in pieces]
        self._accounted_us += computed.duration_us
        for piece, part_us in zip(pieces, split(computed.duration_us, works), strict=True):
            metered = self.requests.get(piece.request)
            account = UNATTRIBUTED if metered is None else metered.holder.account
            self._add(MACHINE, account, Resource.COMPUTE, Cause.STEP, piece.request, part_us)
            if metered is not None:
                metered.compute_us += part_us
                if metered.spans:
                    self._displace(metered, piece, part_us)

    def told(self, report: EngineReport) -> None:
        """An engine with a loop of its own says what it has done. From the first time on time waits for that,
        and nothing is told by ``ran``."""
        self._untold = self._untold or Untold()
        for account, cause, one in lines(report):
            request = one.request if one.request in self.requests else 0
            self._add(MACHINE, account, one.resource, cause, request, one.amount)
            if one.resource is Resource.COMPUTE:
                self._untold.told_us += one.amount
            self._count(one.resource, one.amount)
        self._rest_untold(self._untold)

    def _rest_untold(self, untold: Untold) -> None:
        for account, rest_us in untold.rest():
            self._count(Resource.COMPUTE, rest_us)
            self._add(MACHINE, account, Resource.COMPUTE, Cause.REST, 0, rest_us)

    @staticmethod
    def _work(piece: Piece, token: int, depth: int) -> int:
        return piece.count * token + piece.count * (2 * piece.start + piece.count) // 2 * depth

    def step(self, now_us: int, events: Sequence[Event], plan: Plan) -> Entries:
        """One step of the policy: ``events`` went in, ``plan`` came out. What is to be posted now."""
        self._accounted_us += sum(e.duration_us for e in events if isinstance(e, Moved) and copied(e))
        self._pass(now_us, sum(e.duration_us for e in events if isinstance(e, Elsewhere)))
        taken = {one.request: one for one in plan.taken}
        for event in events:
            self._apply(event, taken)
        for action in plan.actions:
            self._carry_out(action)
            self._running.carry_out(action)
        for piece in plan.batch:
            self._running.run(piece)
        self._count_frames()
        self._end_requests()
        for event in events:
            if isinstance(event, Hinted):
                self._correct(event)
            elif isinstance(event, Embedded):
                self._embedded(event)
        if self._now_us >= self.due_us:
            self._store_all()
        return self._hand_over()

    def close(self) -> Entries:
        """The run ends with its last step: nothing until then is left uncounted. Requests still there are
        given back their holds."""
        self._sums.clear()  # a batch that no step came after: in flight, and in no recording
        if self._untold is not None:
            self._rest_untold(self._untold)
        for metered in self.requests.values():
            metered.reason = metered.reason or "server_overloaded"
        self._end_requests()
        self._store_all()
        for holder in self._holders:
            for pool in holder.pools:
                holder.accrued = [have + rest for have, rest in zip(holder.accrued, pool.carry, strict=True)]
                pool.carry = [0, 0, 0]
        self._store_all()
        return self._hand_over()

    def use_of(self, request: RequestId, now_us: int) -> Use | None:
        """What a request has used until now, asked when it ends; None when it is not known (any more)."""
        metered = self.requests.get(request)
        if metered is None:
            return None
        fresh = metered.holder.tell(max(now_us, metered.holder.since_us))
        device, host, disk = (a + b for a, b in zip(metered.stored, fresh, strict=True))
        return Use(metered.compute_us, (device, host, disk), metered.moved_bytes, metered.displaced_us)

    def check(self, booked_bytes: Sequence[int]) -> None:
        """Assert that the meter sees what the policy has booked on device, host and disk."""
        booked = list(booked_bytes)
        assert self.holdings.used == booked, f"metered {self.holdings.used}, booked {booked}"
        self.holdings.check(self._holders)

    # --- time ---------------------------------------------------------------------------------

    def _pass(self, now_us: int, elsewhere_us: int) -> None:
        """The time since the last step: what no batch and no copy took is rest, but for what the machine
        worked for another model, whose books have it."""
        passed_us = now_us - self._now_us
        if passed_us < 0:
            self.clock_went_back_us = max(self.clock_went_back_us, -passed_us)
            passed_us = 0
        self._now_us += passed_us
        if self._untold is not None:  # such an engine has no room of ours either
            self._untold.passed(passed_us, busy=bool(self.requests))
            return
        rest_us = max(0, passed_us - self._accounted_us - elsewhere_us)
        self._count(Resource.COMPUTE, self._accounted_us + rest_us)
        self._accounted_us = 0
        self._add(MACHINE, OVERHEAD if self.requests else IDLE, Resource.COMPUTE, Cause.REST, 0, rest_us)
        for at, (capacity, used) in enumerate(zip(self._capacity, self.holdings.used, strict=True)):
            given = max(capacity, used)  # a disk that is found too full at a start gives what lies there
            self._count(STORAGE[at], given * passed_us)
            self._free_byte_us[at] += (given - used) * passed_us

    def _count(self, resource: Resource, amount: int) -> None:
        self.totals[resource.value] += amount

    # --- events -------------------------------------------------------------------------------

    def _apply(self, event: Event, taken: Mapping[RequestId, Taken]) -> None:
        match event:
            case RequestArrived(request):
                mine = taken.get(request)
                if mine is not None:
                    self._arrived(event, mine)
                else:  # refused, or gone again in the same step
                    self._entries.settled.append((request, 0))
            case Progressed():
                self._progressed(event)
            case RequestCancelled(request, reason):
                self._ends((request,), reason)
            case StepFailed(requests):
                self._ends(requests, "server_error")
            case Moved():
                self._moved(event)
            case Computed():
                self.costs.saw_step(event)
            case OpenFailed():
                self._running.open_failed(event)
            case Resized(host_bytes, disk_bytes):
                self._capacity = (self._capacity[0], host_bytes, disk_bytes)
                self._store_free()
            case Recovered(blocks):
                for meta in blocks:
                    owner = self._holders.of(Account(Kind.AGENT, tenant=meta.tenant), self._now_us)
                    self.holdings.found(owner, meta, self._now_us)

    def _arrived(self, event: RequestArrived, taken: Taken) -> None:
        self._pause_us = self._storage_every_us // 2
        self.due_us = min(self.due_us, self._now_us + self._storage_every_us)
        holder = self._holders.heard(Account.of(taken.caller), self._now_us)
        busy = next((other for other in self.requests.values() if other.holder is holder), None)
        self._store(holder, busy)
        metered = Metered(event, holder, self._now_us, list(event.units), total=event.prompt_tokens)
        self.requests[event.request] = metered
        metered.held_microusd = self.bills.hold_of(event)
        customer, held = customer_accounts(event.caller.tenant)
        self._add(customer, held, Resource.MONEY, Cause.HOLD, event.request, metered.held_microusd)

    def _progressed(self, event: Progressed) -> None:
        metered = self.requests.get(event.request)
        if metered is None:
            return
        metered.total = event.total
        metered.units.extend(event.units)
        if not metered.ttft_us and event.total > metered.arrival.prompt_tokens:
            metered.ttft_us = self._now_us - metered.arrived_us
        metered.reason = event.finished or metered.reason

    def _ends(self, requests: Iterable[RequestId], reason: str) -> None:
        for request in requests:
            if (metered := self.requests.get(request)) is not None:
                metered.reason = metered.reason or reason

    # --- bytes that moved ---------------------------------------------------------------------

    def _moved(self, event: Moved) -> None:
        self._pay_for(event)
        if event.ok:
            return
        if KvTier.DISK in (event.source, event.target) or event.target is _DEVICE:
            self._lost(event.block, event.target, 0)

    def _pay_for(self, event: Moved) -> None:
        """Its bytes, and its time where the loop stood still for it."""
        resource = Resource(f"{event.source.value}_{event.target.value}_bytes")
        size_bytes = event.size_bytes if event.ok else 0
        self._count(resource, size_bytes)
        loaded_for = self._loads.pop(event.block, 0) if event.target is _DEVICE else 0
        metered = self.requests.get(loaded_for)
        request = 0 if metered is None else metered.arrival.request
        decided_for = self._movers.pop((event.block, event.target), [])
        payers = self.holdings.holders_of(event.block) if metered is None else (metered.holder,)
        accounts = [holder.account for holder in payers] or decided_for or [UNATTRIBUTED]
        even = [1] * len(accounts)
        for account, part in zip(accounts, split(size_bytes, even), strict=True):
            self._add(MACHINE, account, resource, Cause.MOVE, request, part)
        if metered is not None:
            metered.moved_bytes += size_bytes
            metered.compute_us += event.duration_us  # only loads are made for a request
        if copied(event):
            for account, part in zip(accounts, split(event.duration_us, even), strict=True):
                self._add(MACHINE, account, Resource.COMPUTE, Cause.MOVE, request, part)

    # --- actions ------------------------------------------------------------------------------

    def _carry_out(self, action: Action) -> None:
        match action:
            case Seal(request, block) | Adopt(request, block):
                self.holdings.sealed(self._maker(request), block, self._now_us)
                self._displaced.back(block.units)
            case Move(block, _, target):
                holders = self.holdings.holders_of(block.id)
                self._movers[block.id, target] = [holder.account for holder in holders]
                self.holdings.came(block.id, target, self._now_us)
                if target is _DEVICE:
                    self._loads[block.id] = 0
            case Drop(block_id, tier, beneficiary):
                self._lost(block_id, tier, beneficiary)
            case Open():
                self._open(action)
            case Refuse(request, code):
                self._ends((request,), code)

    def _maker(self, request: RequestId) -> Holder:
        metered = self.requests.get(request)
        return self._holders.of(UNATTRIBUTED, self._now_us) if metered is None else metered.holder

    def _open(self, action: Open) -> None:
        metered = self.requests.get(action.request)
        if metered is None:
            return
        for block, request in self._loads.items():
            self._loads[block] = request or action.request
        self.holdings.turn_to(metered.holder, action.blocks, self._now_us)
        self._follow(metered)
        if not metered.opened:
            metered.opened = True
            metered.cached_tokens = action.cached_tokens
        metered.recomputed_tokens += action.recomputed_tokens
        if action.recomputed_tokens:
            metered.spans = self._displaced.spans(metered.units, action, metered.holder.account)

    def _follow(self, metered: Metered) -> None:
        """An agent that comes back under another key or service tier holds its context as that."""
        before = self._holders.succeed(metered.holder)
        if before is not None:
            self.holdings.turn_to(before, (), self._now_us)

    def _count_frames(self) -> None:
        frames: dict[Holder, int] = {}
        before = self._framed
        for request, count in self._running.counts():
            holder = self._maker(request)
            frames[holder] = frames.get(holder, 0) + count
        for holder in [holder for holder in before if holder not in frames]:
            self.holdings.frames(holder, 0, self._now_us)
        for holder, count in frames.items():
            if count != before.get(holder, 0):
                self.holdings.frames(holder, count * self.config.block_bytes, self._now_us)
        self._framed = frames

    # --- displaced ----------------------------------------------------------------------------

    def _lost(self, block: BlockId, kv_tier: KvTier, beneficiary: RequestId) -> None:
        """A copy has gone; when it was the last one, remember who got the room, if anybody did."""
        held = self.holdings.gone(block, kv_tier, self._now_us)
        winner = self.requests.get(beneficiary)
        if held is not None and winner is not None:
            self._displaced.lost(held.meta.units, winner.holder.account)
        elif held is not None:
            self._displaced.back(held.meta.units)

    def _displace(self, metered: Metered, piece: Piece, part_us: int) -> None:
        """Post to the holder that got the room what it cost to compute those tokens again."""
        victim, request = metered.holder.account, piece.request
        for winner, again_us in shares(metered.spans, piece, part_us):
            metered.displaced_us += again_us
            self._add(victim, winner, Resource.DISPLACED, Cause.DISPLACED, request, again_us)
        metered.spans = [span for span in metered.spans if span.stop > piece.start + piece.count]

    # --- storage ------------------------------------------------------------------------------

    def _store(self, holder: Holder, metered: Metered | None = None) -> None:
        """Post what a holder has stored until now; within a request, for it."""
        byte_us = holder.take(self._now_us)
        request = 0 if metered is None else metered.arrival.request
        for at, amount in enumerate(byte_us):
            self._add(MACHINE, holder.account, STORAGE[at], Cause.STORAGE, request, amount)
            if metered is not None:
                metered.stored[at] += amount
        if any(byte_us):
            self._entries.positions.append(Position(holder.account, *holder.holds(), self._now_us))

    def _store_all(self) -> None:
        """While nobody calls, more and more seldom."""
        self._pause_us = min(2 * self._pause_us, max(MOST_PAUSE_US, self._storage_every_us))
        self.due_us = self._now_us + self._pause_us
        busy = {metered.holder.account: metered for metered in self.requests.values()}
        for holder in self._holders.surplus(busy):
            self.holdings.turn_to(holder, (), self._now_us)
        for holder in self._holders:
            self._store(holder, busy.get(holder.account))
            if not holder.pools and not holder.frame_bytes and holder.account not in busy:
                self._holders.forget(holder)
                self._entries.positions.append(Position(holder.account, 0, 0, 0, self._now_us))
        self._store_free()

    def _store_free(self) -> None:
        """Post the room that nobody has used until now."""
        for at, free in enumerate(self._free_byte_us):
            self._add(MACHINE, IDLE, STORAGE[at], Cause.REST, 0, free)
        self._free_byte_us = [0, 0, 0]
        device, host, disk = (max(0, free) for free in map(sub, self._capacity, self.holdings.used))
        self._entries.positions.append(Position(IDLE, device, host, disk, self._now_us))

    # --- ends ---------------------------------------------------------------------------------

    def _end_requests(self) -> None:
        for request, metered in list(self.requests.items()):
            if metered.reason:
                self._store(metered.holder, metered)
                self._settle(metered)
                del self.requests[request]

    def _settle(self, metered: Metered) -> None:
        """The hold becomes what it was really worth; the rest goes back."""
        arrival, request = metered.arrival, metered.arrival.request
        usage = self.bills.settle(
            arrival,
            metered.holder.account,
            BilledTokens(
                metered.cached_tokens, metered.total - arrival.prompt_tokens, metered.recomputed_tokens
            ),
            metered.reason if metered.opened or metered.reason != "stop" else "cancelled",
            self._now_us,
            opened=metered.opened,
            ttft_us=metered.ttft_us,
            e2e_us=self._now_us - metered.arrived_us,
        )
        charge = usage.charge_microusd
        customer, held = customer_accounts(arrival.caller.tenant)
        self._add(held, self.bills.revenue, Resource.MONEY, Cause.SETTLE, request, charge)
        rest = metered.held_microusd - charge
        self._add(customer, held, Resource.MONEY, Cause.HOLD, request, max(0, -rest))
        self._add(held, customer, Resource.MONEY, Cause.RELEASE, request, max(0, rest))
        self._entries.usage.append(usage)
        self._entries.settled.append((request, charge))

    def _correct(self, event: Hinted) -> None:
        """An answer turned out to be for a tool and not for a person, or the other way round."""
        usage = self.bills.correct(event, self._now_us)
        if usage is None:
            return
        self._entries.usage.append(usage)
        customer, _ = customer_accounts(usage.account.tenant)
        more, revenue = usage.charge_microusd, self.bills.revenue
        debit, credit = (customer, revenue) if more > 0 else (revenue, customer)
        self._add(debit, credit, Resource.MONEY, Cause.CORRECTION, usage.request, abs(more))

    def _embedded(self, event: Embedded) -> None:
        self._count(_EMBEDDING, event.spent_us)
        self._add(MACHINE, account := Account.of(event.caller), _EMBEDDING, Cause.STEP, 0, event.spent_us)
        if not event.tokens:  # the time of what a client did not wait for
            return
        usage, (customer, _) = self.bills.embedded(event, self._now_us), customer_accounts(account.tenant)
        self._add(customer, self.bills.revenue, Resource.MONEY, Cause.SETTLE, 0, usage.charge_microusd)
        self._entries.usage.append(usage)

    # --- postings -----------------------------------------------------------------------------

    def _add(
        self, debit: Account, credit: Account, resource: Resource, cause: Cause, request: int, amount: int
    ) -> None:
        """Amounts of one step between the same accounts for the same cause are one posting."""
        assert amount >= 0, f"{resource} from {debit} to {credit} is negative"
        if amount:
            line = (debit, credit, resource, cause, request)
            self._sums[line] = self._sums.get(line, 0) + amount

    def _hand_over(self) -> Entries:
        if not (self._sums or self._entries.usage or self._entries.settled):
            return Entries()  # positions alone can wait: they say nothing new before something is posted
        entries, self._entries = self._entries, Entries()
        sums, self._sums = self._sums, {}
        for (debit, credit, resource, cause, request), amount in sums.items():
            entries.postings.append(Posting(debit, credit, resource, amount, cause, request))
        return entries

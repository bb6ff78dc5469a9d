"""The meter: what every step of the machine cost, and for which account.

A pure state machine beside the policy: it is told the time, what happened and what was decided, and says what
is to be posted. The same recording gives the same postings.

How the machine's time is split (``docs/ledger.md`` has the reasons):

batch   over its requests by the work each brought: its tokens, each weighed with what a token at that depth
        costs as the policy has measured it. The parts sum to the batch.
copies  between device and host: a load to the request it was made for, a store to the holders of the block
rest    of the wall clock: ``idle`` when no request was there, else ``overhead``

Bytes that moved are split among the holders of the block. ``holdings`` counts bytes that lie somewhere, and
``storage`` posts them; ``charging`` posts money; ``draft`` collects the postings of a step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import add

from stepwell.basics.per_tier import PerTier
from stepwell.ledger.metering.charging import Charging
from stepwell.ledger.metering.displaced import Displaced, shares
from stepwell.ledger.metering.draft import PostingDraft
from stepwell.ledger.metering.frames import RunningFrames
from stepwell.ledger.metering.holders import Holders
from stepwell.ledger.metering.holdings import Holder, Holdings
from stepwell.ledger.metering.metered import (
    Entries,
    Metered,
    Use,
    copied,
    per_token,
    split,
    work_of,
)
from stepwell.ledger.metering.storage import STORAGE_EVERY_US, StoragePoster
from stepwell.ledger.metering.told import EngineReport, Untold, lines
from stepwell.ledger.pricing.bills import Bills
from stepwell.ledger.types import (
    IDLE,
    MACHINE,
    OVERHEAD,
    UNATTRIBUTED,
    Account,
    Cause,
    Kind,
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

_DEVICE = KvTier.DEVICE


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
        self.clock_went_back_us = 0
        """The furthest that a step's time lay before the time of the step before it; it is not counted."""
        self.costs = Costs()
        """Of work, as measured: the same sums as the policy's."""
        self._now_us = now_us
        self._draft = PostingDraft()
        self._holders = Holders(config.max_agents)
        self._storage = StoragePoster(
            config, self._draft, self.holdings, self._holders, now_us, storage_every_us
        )
        self._charging = Charging(bills, self._draft)
        self._running = RunningFrames(config.block_tokens)
        self._framed: dict[Holder, int] = {}
        """Frames of running turns after the last step."""
        self._accounted_us = 0
        self._untold: Untold | None = None
        self._displaced = Displaced(config.unit_tokens, config.max_ghost_units)
        self._loads: dict[BlockId, RequestId] = {}
        """Loads under way, and the request that each was made for."""
        self._movers: dict[tuple[BlockId, KvTier], list[Account]] = {}
        """The accounts for which each move under way was decided: a block may be gone by its end."""

    @property
    def totals(self) -> dict[str, int]:
        """What the machine has given since the run began, by resource."""
        return self._draft.totals

    @property
    def due_us(self) -> int:
        """When storage is posted at the latest, whatever happens or does not."""
        return self._storage.due_us

    # --- what the driver tells ----------------------------------------------------------------

    def ran(self, computed: Computed, pieces: Sequence[Piece]) -> None:
        """A batch has run: split its time by the work that each piece brought, as far as was measured before
        it what such work costs."""
        token, depth = per_token(self.costs.prefill)
        works = [work_of(piece, token, depth) for piece in pieces]
        self._accounted_us += computed.duration_us
        for piece, part_us in zip(pieces, split(computed.duration_us, works), strict=True):
            metered = self.requests.get(piece.request)
            account = UNATTRIBUTED if metered is None else metered.holder.account
            self._draft.add(MACHINE, account, Resource.COMPUTE, Cause.STEP, piece.request, part_us)
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
            self._draft.add(MACHINE, account, one.resource, cause, request, one.amount)
            if one.resource is Resource.COMPUTE:
                self._untold.told_us += one.amount
            self._draft.count(one.resource, one.amount)
        self._rest_untold(self._untold)

    def _rest_untold(self, untold: Untold) -> None:
        for account, rest_us in untold.rest():
            self._draft.count(Resource.COMPUTE, rest_us)
            self._draft.add(MACHINE, account, Resource.COMPUTE, Cause.REST, 0, rest_us)

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
                self._charging.correct(event, self._now_us)
            elif isinstance(event, Embedded):
                self._charging.embedded(event, self._now_us)
        if self._now_us >= self._storage.due_us:
            self._storage.post_all(self.requests.values(), self._now_us)
        return self._draft.hand_over()

    def close(self) -> Entries:
        """The run ends with its last step: nothing until then is left uncounted. Requests still there are
        given back their holds."""
        self._draft.drop_sums()  # a batch that no step came after: in flight, and in no recording
        if self._untold is not None:
            self._rest_untold(self._untold)
        for metered in self.requests.values():
            metered.reason = metered.reason or "server_overloaded"
        self._end_requests()
        self._storage.close(self._now_us)
        return self._draft.hand_over()

    def use_of(self, request: RequestId, now_us: int) -> Use | None:
        """What a request has used until now, asked when it ends; None when it is not known (any more)."""
        metered = self.requests.get(request)
        if metered is None:
            return None
        fresh = metered.holder.tell(max(now_us, metered.holder.since_us))
        stored = PerTier(*map(add, metered.stored, fresh))
        return Use(metered.compute_us, stored, metered.moved_bytes, metered.displaced_us)

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
        self._draft.count(Resource.COMPUTE, self._accounted_us + rest_us)
        self._accounted_us = 0
        account = OVERHEAD if self.requests else IDLE
        self._draft.add(MACHINE, account, Resource.COMPUTE, Cause.REST, 0, rest_us)
        self._storage.passed(passed_us)

    # --- events -------------------------------------------------------------------------------

    def _apply(self, event: Event, taken: Mapping[RequestId, Taken]) -> None:
        match event:
            case RequestArrived(request):
                mine = taken.get(request)
                if mine is not None:
                    self._arrived(event, mine)
                else:  # refused, or gone again in the same step
                    self._draft.entries.settled.append((request, 0))
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
                self._storage.resized(host_bytes, disk_bytes, self._now_us)
            case Recovered(blocks, elsewhere):
                for meta in blocks:
                    owner = self._holders.of(Account(Kind.AGENT, tenant=meta.tenant), self._now_us)
                    self.holdings.found(owner, meta, self._now_us, elsewhere=elsewhere)

    def _arrived(self, event: RequestArrived, taken: Taken) -> None:
        self._storage.request_arrived(self._now_us)
        holder = self._holders.heard(Account.of(taken.caller), self._now_us)
        busy = next((other for other in self.requests.values() if other.holder is holder), None)
        self._storage.post(holder, self._now_us, busy)
        metered = Metered(event, holder, self._now_us, list(event.units), total=event.prompt_tokens)
        self.requests[event.request] = metered
        self._charging.hold(metered)

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
        self._draft.count(resource, size_bytes)
        loaded_for = self._loads.pop(event.block, 0) if event.target is _DEVICE else 0
        metered = self.requests.get(loaded_for)
        request = 0 if metered is None else metered.arrival.request
        decided_for = self._movers.pop((event.block, event.target), [])
        payers = self.holdings.holders_of(event.block) if metered is None else (metered.holder,)
        accounts = [holder.account for holder in payers] or decided_for or [UNATTRIBUTED]
        even = [1] * len(accounts)
        for account, part in zip(accounts, split(size_bytes, even), strict=True):
            self._draft.add(MACHINE, account, resource, Cause.MOVE, request, part)
        if metered is not None:
            metered.moved_bytes += size_bytes
            metered.compute_us += event.duration_us  # only loads are made for a request
        if copied(event):
            for account, part in zip(accounts, split(event.duration_us, even), strict=True):
                self._draft.add(MACHINE, account, Resource.COMPUTE, Cause.MOVE, request, part)

    # --- actions ------------------------------------------------------------------------------

    def _carry_out(self, action: Action) -> None:
        match action:
            case Seal(request, block) | Adopt(request, block):
                self.holdings.sealed(self._maker(request), block, self._now_us)
                self._displaced.back(block.units)
            case Move(block, source, target):
                if source is _DEVICE:
                    self.holdings.leaves_device(block)
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
        """A copy has gone; when it was the last one, remember which request got the room, if any did."""
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
            self._draft.add(victim, winner, Resource.DISPLACED, Cause.DISPLACED, request, again_us)
        metered.spans = [span for span in metered.spans if span.stop > piece.start + piece.count]

    # --- ends ---------------------------------------------------------------------------------

    def _end_requests(self) -> None:
        for request, metered in list(self.requests.items()):
            if metered.reason:
                self._storage.post(metered.holder, self._now_us, metered)
                self._charging.settle(metered, self._now_us)
                del self.requests[request]

"""Many replicas on one clock: every one runs the real policy, and the fleet's own router sends turns to them.

Events are taken in the order of their times: a turn that comes, a batch that ends, a transfer, a fault. A
replica whose batch is under way when a turn is sent to it does not run that batch again after that moment, so
no replica ever acts on what it could not know yet.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from stepwell.fleet.prefixes import CUTS, PromptPrefix
from stepwell.fleet.routers import Router
from stepwell.fleet.state import Fleet, Ticket
from stepwell.fleet.types import NodeState, RoutedTurn, RoutingCosts
from stepwell.ledger.pricing.prices import PriceBook
from stepwell.policy.config import PolicyConfig
from stepwell.policy.scheduler import Scheduler
from stepwell.policy.types import Event, Hinted, KvTier, RequestArrived, RequestCancelled, RequestId
from stepwell.simulate.accelerator import Accelerator
from stepwell.simulate.books import MachineBooks
from stepwell.simulate.hardware import MachineModel
from stepwell.simulate.llamacpp_costs import LlamaCppCosts
from stepwell.simulate.machine import ComingTurn, Due, Machine, TurnSource
from stepwell.simulate.meter import SimulatedMeter

RETRY_US = 1_000_000
"""After this long a turn that no replica took is tried again."""
Model = MachineModel | Accelerator | LlamaCppCosts


@dataclass(frozen=True, slots=True)
class Fault:
    """Something breaks at ``at_us`` and is well again ``for_us`` later."""

    kind: Literal["lost", "slow-disk"]
    replica: int
    at_us: int
    for_us: int
    factor: int = 10
    """Of a slow disk: so many times slower."""


@dataclass(frozen=True, slots=True)
class ReplicaSite:
    """What all replicas have in common."""

    config: PolicyConfig
    model: Model
    prices: PriceBook | None = None
    """None: no books are kept."""
    model_name: str = "model"
    bounded: bool = False
    told_costs: bool = False
    """The policy begins with the machine's own bandwidths. Its prior for a disk is 0.5 GB/s, at which a fast
    accelerator computes rather than loads, and so would never learn better."""


@dataclass(slots=True, eq=False)
class Replica:
    """One replica, through all its lives."""

    number: int
    name: str
    machine: Machine
    books: MachineBooks | None
    past: list[tuple[Machine, MachineBooks | None]] = field(default_factory=list)
    """Earlier lives, which a fault has ended."""
    tickets: dict[RequestId, Ticket] = field(default_factory=dict)
    up: bool = True
    model: Model | None = None
    """Its own figures while a fault changes them."""
    life: int = 0


class _Outlet:
    """A machine's source: turns come from the cluster, and ends go to it."""

    def __init__(self, cluster: Cluster, number: int) -> None:
        self.cluster, self.number = cluster, number

    def start(self) -> Iterable[Due]:
        return ()

    def ended(self, call: ComingTurn, request: RequestId, now_us: int, reason: str) -> Iterable[Due]:
        return self.cluster.ended(self.number, call, request, now_us, reason)


class Cluster:
    """One run of a source over ``count`` replicas."""

    def __init__(
        self,
        source: TurnSource,
        site: ReplicaSite,
        count: int,
        router: Router,
        *,
        faults: Sequence[Fault] = (),
        costs: RoutingCosts | None = None,
        on_end: Callable[[int, int], None] | None = None,
    ) -> None:
        """``on_end`` hears of every turn that has ended: how many have, and the time."""
        self.source, self.site, self.router = source, site, router
        weights = {contract.name: contract.weight for contract in site.config.contracts}
        self.fleet = Fleet((f"r{n}" for n in range(count)), costs=costs, weights=weights)
        for node in self.fleet.nodes.values():
            node.kv_tokens = _kv_tokens(site.config)
        self.now_us = self.ended_turns = self.retried = 0
        self._on_end = on_end
        self._order = 0
        self._dues: list[tuple[int, int, ComingTurn | Event | Fault | _Back, int | None, int]] = []
        """When, order, what, the replica it concerns, and (of a turn) when it was first sent."""
        self._wakes: list[tuple[int, int, int]] = []
        """When, number and life of a replica that wants to act."""
        self._sent: list[tuple[int, RequestId]] = []
        """By number of the turn in order of its coming: the replica and its number there."""
        self.replicas = [self._replica(number) for number in range(count)]
        for fault in faults:
            self._push(fault.at_us, fault, fault.replica)
        for at_us, what in source.start():
            self._push(at_us, what)

    # --- the clock ----------------------------------------------------------------------------

    def run(self, until_us: int | None = None) -> None:
        """Until every turn has ended, or nothing more is due before ``until_us``."""
        while self._dues or self._wakes:
            due_us = self._dues[0][0] if self._dues else None
            if until_us is not None and self._next_us() > until_us:
                break
            if self._wakes and (due_us is None or self._wakes[0][0] < due_us):
                at_us, number, life = heapq.heappop(self._wakes)
                self._act(self.replicas[number], at_us, life)
            else:
                at_us, _, what, number_or_none, since_us = heapq.heappop(self._dues)
                self.now_us = max(self.now_us, at_us)
                self._take(what, number_or_none, since_us)
        for replica in self.replicas:
            replica.machine.loop.close()

    def _next_us(self) -> int:
        return min(queue[0][0] for queue in (self._dues, self._wakes) if queue)

    def _push(
        self, at_us: int, what: ComingTurn | Event | Fault | _Back, number: int | None = None, since: int = -1
    ) -> None:
        self._order += 1
        heapq.heappush(self._dues, (at_us, self._order, what, number, at_us if since < 0 else since))

    def _act(self, replica: Replica, at_us: int, life: int) -> None:
        if not replica.up or life != replica.life:
            return
        wanted_us = replica.machine.next_us()
        if wanted_us is None or wanted_us > at_us:
            return  # an older wish; the newer one is in the queue
        self.now_us = max(self.now_us, at_us)
        replica.machine.act(wanted_us)
        self._wish(replica)

    def _wish(self, replica: Replica) -> None:
        wanted_us = replica.machine.next_us()
        if wanted_us is not None:
            heapq.heappush(self._wakes, (max(wanted_us, self.now_us), replica.number, replica.life))

    # --- what comes ---------------------------------------------------------------------------

    def _take(self, what: ComingTurn | Event | Fault | _Back, number: int | None, since_us: int) -> None:
        if isinstance(what, ComingTurn):
            self._send(what, since_us)
        elif isinstance(what, Fault):
            self._break(what)
        elif isinstance(what, _Back):
            self._mend(self.replicas[what.fault.replica], what.fault)
        elif number is not None:
            self._tell(self.replicas[number], what)
        else:
            self._tell_by_number(what)

    def _send(self, call: ComingTurn, since_us: int) -> None:
        turn = _turn_of(call.arrival(0), self.site.config.unit_tokens)
        choice = self.router.choose(self.fleet, turn, self.now_us)
        if choice is None:
            self.retried += 1
            self._push(self.now_us + RETRY_US, call, None, since_us)
            return
        replica = self.replicas[int(choice.node[1:])]
        request = replica.machine.deliver(self.now_us, call, since_us)
        replica.tickets[request] = self.fleet.sent(turn, choice, self.now_us)
        self._sent.append((replica.number, request))
        self._wish(replica)

    def _tell(self, replica: Replica, event: Event) -> None:
        if replica.up:
            replica.machine.deliver(self.now_us, event)
            self._wish(replica)

    def _tell_by_number(self, event: Event) -> None:
        """An event that names a turn by the order in which turns come, as a recording does."""
        if isinstance(event, Hinted | RequestCancelled):
            if not 0 < event.request <= len(self._sent):
                return
            number, request = self._sent[event.request - 1]
            self._tell(self.replicas[number], replace(event, request=request))
        else:
            self._tell(self.replicas[0], event)

    def ended(
        self, number: int, call: ComingTurn, request: RequestId, now_us: int, reason: str
    ) -> list[tuple[int, Event]]:
        """A turn has ended on a replica. What follows for that replica is returned; turns are routed."""
        replica = self.replicas[number]
        ticket = replica.tickets.pop(request)
        if reason == "stop":
            live = replica.machine.live[request]
            self.fleet.ended(
                ticket,
                now_us,
                context_tokens=live.total,
                generated_tokens=live.generated,
                cached_tokens=live.cached,
            )
        else:
            self.fleet.refused(ticket, now_us)
        self.ended_turns += 1
        if self._on_end is not None:
            self._on_end(self.ended_turns, now_us)
        own: list[tuple[int, Event]] = []
        for at_us, what in self.source.ended(call, request, now_us, reason):
            if isinstance(what, ComingTurn):
                self._push(at_us, what)
            else:
                own.append((at_us, what))
        return own

    # --- faults -------------------------------------------------------------------------------

    def _break(self, fault: Fault) -> None:
        replica = self.replicas[fault.replica]
        self._push(self.now_us + fault.for_us, _Back(fault), fault.replica)
        if fault.kind == "slow-disk":
            model = replica.machine.model
            assert isinstance(model, Model)
            replica.machine.model = replace(
                model,
                read_bytes_per_s=max(1, model.read_bytes_per_s // fault.factor),
                write_bytes_per_s=max(1, model.write_bytes_per_s // fault.factor),
            )
        elif replica.up:
            self._lose(replica)

    def _lose(self, replica: Replica) -> None:
        """The process ends: its KV is gone, and its turns are sent again, to wherever the router says."""
        machine = replica.machine
        replica.up = False
        replica.life += 1
        machine.now_us = max(machine.now_us, self.now_us)
        machine.loop.close()
        replica.past.append((machine, replica.books))
        self.fleet.lost(replica.name)
        replica.tickets.clear()
        for call, since_us in machine.unfinished():
            self.retried += 1
            self._push(self.now_us, call, None, since_us)

    def _mend(self, replica: Replica, fault: Fault) -> None:
        if fault.kind == "slow-disk":
            replica.machine.model = self.site.model
        elif not replica.up:
            replica.machine, replica.books = self._life(replica.number)
            replica.up = True
            self.fleet.state(replica.name, NodeState.READY)

    # --- replicas -----------------------------------------------------------------------------

    def _replica(self, number: int) -> Replica:
        machine, books = self._life(number)
        return Replica(number, f"r{number}", machine, books)

    def _life(self, number: int) -> tuple[Machine, MachineBooks | None]:
        site = self.site
        books = None
        if site.prices is not None:
            books = MachineBooks(site.config, site.prices, site.model_name, self.now_us)
        scheduler = Scheduler(site.config)
        if site.told_costs:
            _tell_costs(scheduler, site.model)
        machine = Machine(
            scheduler,
            site.model,
            _Outlet(self, number),
            SimulatedMeter(site.model, site.config.unit_tokens),
            bounded=site.bounded,
            books=books,
            now_us=self.now_us,
        )
        return machine, books

    def lives(self) -> list[tuple[Machine, MachineBooks | None]]:
        """Every life of every replica."""
        return [life for r in self.replicas for life in (*r.past, (r.machine, r.books))]


@dataclass(frozen=True, slots=True)
class _Back:
    """A fault is over."""

    fault: Fault


def _kv_tokens(config: PolicyConfig) -> int:
    """What a replica can hold, on all its KV tiers."""
    below = (config.host_bytes + config.disk_bytes) // config.block_bytes
    return (config.device_blocks + below) * config.block_tokens


def _tell_costs(scheduler: Scheduler, model: Model) -> None:
    """What one block takes between KV tiers, as the policy keeps it."""
    block_bytes = scheduler.config.block_bytes
    copy_us = model.copy_us_per_block
    for route, duration_us in (
        ((KvTier.DISK, KvTier.HOST), model.read_us(block_bytes)),
        ((KvTier.HOST, KvTier.DISK), model.write_us(block_bytes)),
        ((KvTier.HOST, KvTier.DEVICE), copy_us),
        ((KvTier.DEVICE, KvTier.HOST), copy_us),
    ):
        scheduler.context.costs.ns_per_kib[route] = duration_us * 1000 * 1024 // block_bytes


def _turn_of(arrival: RequestArrived, unit_tokens: int) -> RoutedTurn:
    """What a front end would know of it."""
    caller, units = arrival.caller, arrival.units
    cuts = [cut // unit_tokens for cut in CUTS if unit_tokens <= cut <= len(units) * unit_tokens]
    counts = sorted({*cuts, len(units)} - {0})
    return RoutedTurn(
        caller.tenant, caller.service_tier, caller.session, caller.agent, caller.parent_agent,
        tuple([PromptPrefix(units[count - 1].hex(), count * unit_tokens) for count in counts]),
        arrival.prompt_tokens, arrival.max_new_tokens,
    )  # fmt: skip

"""The rules. All are stateless: the same fleet and turn give the same choice."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from stepwell.fleet.nodes import FleetNode
from stepwell.fleet.rendezvous import score
from stepwell.fleet.state import NOWHERE, Fleet
from stepwell.fleet.types import HeldTokens, RoutedTurn, RoutingChoice


class Router(Protocol):
    """Which node serves a turn."""

    name: str

    def choose(
        self, fleet: Fleet, turn: RoutedTurn, now_us: int, avoid: Iterable[str] = ()
    ) -> RoutingChoice | None:
        """A node that takes turns and is not in ``avoid`` (those that were tried); None where there is none.
        Changes nothing: say ``fleet.sent`` when the turn really goes there."""
        ...


class RoundRobin:
    """A yardstick: each node in its turn, whatever it holds and however long its queue."""

    name = "round-robin"

    def choose(
        self, fleet: Fleet, turn: RoutedTurn, now_us: int, avoid: Iterable[str] = ()
    ) -> RoutingChoice | None:
        nodes = fleet.candidates(turn, now_us, avoid)
        if not nodes:
            return None
        return _choice(fleet.holders(turn), turn, nodes[fleet.sent_turns % len(nodes)], "turn", 0.0)


class LeastLoaded:
    """A yardstick: the node with the least work outstanding, whatever it holds."""

    name = "least-loaded"

    def choose(
        self, fleet: Fleet, turn: RoutedTurn, now_us: int, avoid: Iterable[str] = ()
    ) -> RoutingChoice | None:
        nodes = fleet.candidates(turn, now_us, avoid)
        if not nodes:
            return None
        rates = fleet.rates(now_us)
        costs = {node.name: _wait_us(fleet, turn, node, rates) for node in nodes}
        best = min(nodes, key=lambda node: (costs[node.name], -score(turn.home, node.name, node.weight)))
        return _choice(fleet.holders(turn), turn, best, "load", costs[best.name])


class KvAffine:
    """The node that is expected to end the turn first: what it has to do before, then what it lacks of the
    turn's KV, at the speed it has shown. Among nodes that cost about the same, or more by what their KV is
    worth, the one with most of it, then the first by rendezvous: agents of which nothing is known keep
    together by session, and several front ends agree. This is rendezvous hashing with bounded loads (after
    Mirrokni, Thorup and Zadimoghaddam 2016), with the bound in time.
    """

    name = "kv-affine"

    def __init__(self, slack: float = 2.0, patience: float = 8.0) -> None:
        self.slack = slack
        """How much dearer than the cheapest node a turn's home may be, in works of the turn itself."""
        self.patience = patience
        """How much longer, in waits for the cheapest node, one may let wait that has all of the prompt where
        that has nothing; for half of it half as long, so load wins over a small match. To move costs more
        than this turn: where many wait, room is short, and the KV takes it on one more node. From ``stepwell
        bench affinity``."""

    def choose(
        self, fleet: Fleet, turn: RoutedTurn, now_us: int, avoid: Iterable[str] = ()
    ) -> RoutingChoice | None:
        nodes = fleet.candidates(turn, now_us, avoid)
        if not nodes:
            return None
        rates = fleet.rates(now_us)
        holders = fleet.holders(turn)
        held, costs, own = {}, {}, {}
        for node in nodes:
            there = holders.get(node.name, NOWHERE)[0]
            held[node.name] = min(turn.prompt_tokens, sum(there))
            own[node.name] = fleet.work(turn, there) * rates[node.name]
            costs[node.name] = _wait_us(fleet, turn, node, rates) + own[node.name]
        cheapest = min(nodes, key=lambda node: costs[node.name])
        least, slack = costs[cheapest.name], self.slack * own[cheapest.name]
        patience = slack + self.patience * (least - own[cheapest.name])
        near = []
        for node in nodes:
            gain = (held[node.name] - held[cheapest.name]) / turn.prompt_tokens
            if costs[node.name] <= least + (gain * patience if gain else slack):
                near.append(node)
        best = max(near, key=lambda node: (held[node.name], score(turn.home, node.name, node.weight)))
        reason = holders.get(best.name, NOWHERE)[1] or (
            "home" if len(near) > 1 or len(nodes) == 1 else "load"
        )
        return _choice(holders, turn, best, reason, costs[best.name])


def _wait_us(fleet: Fleet, turn: RoutedTurn, node: FleetNode, rates: Mapping[str, float]) -> float:
    return node.ahead(turn.service_tier, fleet.weights) * rates[node.name]


def _choice(
    holders: Mapping[str, tuple[HeldTokens, str]],
    turn: RoutedTurn,
    node: FleetNode,
    reason: str,
    cost_us: float,
) -> RoutingChoice:
    held = holders.get(node.name, NOWHERE)[0]
    most = max((sum(there) for there, _ in holders.values()), default=0)
    limit = turn.prompt_tokens
    why = "pinned" if turn.pinned is not None else reason
    return RoutingChoice(node.name, why, min(limit, sum(held)), min(limit, most), round(cost_us))


ROUTERS: Mapping[str, Router] = {router.name: router for router in (KvAffine(), LeastLoaded(), RoundRobin())}
"""By name; the first is the one that is meant to be used."""

"""All that routing knows, brought up to date by what is told; ``Router.choose`` reads it and changes nothing.

It is soft: a front end that begins with an empty one serves every turn rightly, only less well until the
nodes have told where their agents are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from operator import mul

from stepwell.basics.per_tier import NOTHING
from stepwell.fleet.nodes import FleetNode, rates
from stepwell.fleet.places import Places
from stepwell.fleet.types import HeldTokens, NodeState, RoutedTurn, RoutingChoice, RoutingCosts

DEFAULT_WEIGHTS: Mapping[str, int] = {"priority": 16, "default": 4, "flex": 1}
"""As in ``policy.contracts.DEFAULT_CONTRACTS``."""
NOWHERE = (NOTHING, "")


@dataclass(frozen=True, slots=True)
class Ticket:
    """A turn that went to a node; give it back when the turn ends."""

    turn: RoutedTurn
    node: str
    work: float
    knew_agent: bool
    knew_session: bool
    life: int


class Fleet:
    """Nodes by name, and where agents lie."""

    def __init__(
        self,
        nodes: Iterable[str] = (),
        *,
        costs: RoutingCosts | None = None,
        weights: Mapping[str, int] = DEFAULT_WEIGHTS,
        max_agents: int = 1_000_000,
    ) -> None:
        self.costs = costs or RoutingCosts()
        self.weights = weights
        self.places = Places(max_agents)
        self.nodes: dict[str, FleetNode] = {}
        self.sent_turns = 0
        self._lives: dict[str, int] = {}
        for name in nodes:
            self.add(name)

    def add(self, name: str, weight: float = 1.0, state: NodeState = NodeState.READY) -> FleetNode:
        """A node joins. A name that is there already keeps what is known of it."""
        node = self.nodes.get(name)
        if node is None:
            node = FleetNode(name, weight, state)
            self.nodes[name] = node
            self._lives[name] = 0
        return node

    def remove(self, name: str) -> None:
        """A node leaves for good."""
        self.places.lost(name)
        self.nodes.pop(name, None)

    def candidates(self, turn: RoutedTurn, now_us: int, avoid: Iterable[str] = ()) -> list[FleetNode]:
        """Nodes that may take the turn, in the order in which they joined."""
        tried = frozenset(avoid)
        if turn.pinned is not None:
            node = self.nodes.get(turn.pinned)
            return [node] if node is not None and node.takes(now_us) and node.name not in tried else []
        return [node for node in self.nodes.values() if node.takes(now_us) and node.name not in tried]

    def work(self, turn: RoutedTurn, held: HeldTokens) -> float:
        """What is to be done for the turn on a node that holds ``held`` of its prompt."""
        costs = self.costs
        missing = max(0, turn.prompt_tokens - sum(held))
        load: float = sum(map(mul, held, costs.loaded))
        return missing + load + turn.max_new_tokens * costs.generated

    def rates(self, now_us: int) -> Mapping[str, float]:
        """Microseconds for a unit of work, by node."""
        return rates(self.nodes.values(), now_us, self.costs.prior_us_per_token)

    def holders(self, turn: RoutedTurn) -> Mapping[str, tuple[HeldTokens, str]]:
        """The nodes that have some of the prompt, and how that is known: ``kv``, ``session`` or ``prefix``.
        What is known of the agent itself goes before what others have sent there; they are never added up."""
        found: dict[str, tuple[HeldTokens, str]] = {}
        place = self.places.find((turn.tenant, turn.agent)) if turn.agent else None
        if place is not None and place.held:
            found = {node: (held, "kv") for node, held in place.held.items()}
        elif turn.session and (known := self.places.of_session(turn.tenant, turn.session)):
            shared = int(turn.prompt_tokens * self.places.shared_fraction(turn.tenant))
            found = dict.fromkeys(known, (NOTHING._replace(device=shared), "session"))
        for name, node in self.nodes.items() if turn.prefixes else ():
            sent, (there, how) = node.prefixes.matched(turn.tenant, turn.prefixes), found.get(name, NOWHERE)
            if how != "kv" and sent > sum(there):
                found[name] = NOTHING._replace(device=sent), "prefix"
        return found

    def sent(self, turn: RoutedTurn, choice: RoutingChoice, now_us: int) -> Ticket:
        """The turn went to the chosen node."""
        work = self.work(turn, self.holders(turn).get(choice.node, NOWHERE)[0])
        node = self.nodes[choice.node]
        node.sent(turn.service_tier, work, now_us)
        node.prefixes.sent(turn.tenant, turn.prefixes, node.kv_tokens)
        self.sent_turns += 1
        known = bool(turn.agent) and self.places.find((turn.tenant, turn.agent)) is not None
        return Ticket(
            turn,
            choice.node,
            work,
            known,
            bool(turn.session) and choice.node in self.places.of_session(turn.tenant, turn.session),
            self._lives[choice.node],
        )

    def ended(
        self, ticket: Ticket, now_us: int, *, context_tokens: int, generated_tokens: int, cached_tokens: int
    ) -> None:
        """The turn was answered. ``context_tokens``: its prompt and what was generated."""
        turn, node = ticket.turn, self.nodes.get(ticket.node)
        if node is None or self._lives[ticket.node] != ticket.life:
            return
        prompt_tokens = max(1, context_tokens - generated_tokens)
        computed = max(0, prompt_tokens - cached_tokens)
        really = computed + generated_tokens * self.costs.generated
        node.ended(turn.service_tier, ticket.work, really, now_us)
        node.answered()
        if ticket.knew_session and not ticket.knew_agent:
            self.places.learn_shared(turn.tenant, cached_tokens, prompt_tokens)
        if turn.agent:
            name = (turn.tenant, turn.agent)
            self.places.put(
                name, turn.session, context_tokens, ticket.node, NOTHING._replace(device=context_tokens)
            )

    def refused(self, ticket: Ticket, now_us: int) -> None:
        """The node answered, but did not do it (a bad request, a full queue, a client that left)."""
        self._undo(ticket, now_us)

    def failed(self, ticket: Ticket, now_us: int) -> None:
        """The node did not answer."""
        node = self.nodes.get(ticket.node)
        if node is not None and self._lives[ticket.node] == ticket.life:
            self._undo(ticket, now_us)
            node.failed(now_us)

    def state(self, name: str, state: NodeState) -> None:
        """What the health check says."""
        node = self.nodes[name]
        if state is NodeState.READY and node.state is not NodeState.READY:
            node.answered()
        node.state = state

    def lost(self, name: str, *, keep_disk: bool = False) -> None:
        """The node's process has ended: what it held in memory is gone, and so is what it was doing."""
        node = self.nodes[name]
        node.state = NodeState.DOWN
        node.restarted()
        self._lives[name] += 1
        self.places.lost(name, keep_disk=keep_disk)

    def _undo(self, ticket: Ticket, now_us: int) -> None:
        node = self.nodes.get(ticket.node)
        if node is not None and self._lives[ticket.node] == ticket.life:
            node.ended(ticket.turn.service_tier, ticket.work, 0.0, now_us)

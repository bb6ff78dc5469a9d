"""Ray Serve's prefix-aware router as a rule beside ours: Ray's own prefix tree, asked as its router asks it.

``PrefixCacheAffinityRouter`` lives in a replica of Ray Serve and cannot be called without one. What it
decides with is ``PrefixTree``, which is a plain object and is used as it is. Around it the router does this
(Ray 2.60, its defaults): of the nodes that match most of the prompt's text the one with the shortest queue;
where less than a tenth matches, the nodes to which least text was sent; the text is inserted when the turn
has been sent. Load never counts otherwise (``imbalanced_threshold`` is infinite), and nothing is ever taken
out of the tree.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Any

from stepwell.errors import StepwellError
from stepwell.fleet.state import NOWHERE, Fleet
from stepwell.fleet.types import RoutedTurn, RoutingChoice

MATCH_RATE = 0.1
_SIGNS = 4
"""Of text for each unit of a prompt: two units that differ share none of them, but by chance."""
_FIRST_SIGN, _SIGN_BITS = 0x4E00, 14


def text_of(units: Sequence[bytes]) -> str:
    """A prompt's text as far as a prefix tree is concerned: equal as far as the prompts are."""
    return "".join([_signs(unit) for unit in units])


def _signs(unit: bytes) -> str:
    number = int.from_bytes(blake2b(unit, digest_size=8).digest(), "big")
    mask = (1 << _SIGN_BITS) - 1
    return "".join([chr(_FIRST_SIGN + (number >> (_SIGN_BITS * n) & mask)) for n in range(_SIGNS)])


class RayPrefix:
    """A ``Router``. ``text`` is the prompt of the turn that is asked for next."""

    name = "ray-prefix"

    def __init__(self, nodes: Sequence[str]) -> None:
        self.text = ""
        self._tree = _tree()
        self._tree.add_tenants(list(nodes), time.time())
        self._clock_s = 0.0

    def choose(
        self, fleet: Fleet, turn: RoutedTurn, now_us: int, avoid: Iterable[str] = ()
    ) -> RoutingChoice | None:
        nodes = {node.name: node for node in fleet.candidates(turn, now_us, avoid)}
        if not nodes:
            return None
        matched, holders = self._tree.prefix_match(self.text, sorted(nodes))
        if len(matched) < MATCH_RATE * len(self.text) or not self.text:
            holders = self._tree.get_smallest_tenants()
        wanted = sorted(name for name in holders or nodes if name in nodes) or sorted(nodes)
        chosen = min(wanted, key=lambda name: nodes[name].in_flight)
        self._clock_s += 1e-6
        self._tree.insert(self.text, chosen, now_us / 1e6 + self._clock_s)
        held = fleet.holders(turn).get(chosen, NOWHERE)[0]
        return RoutingChoice(chosen, "prefix", min(turn.prompt_tokens, sum(held)))


def _tree() -> Any:
    try:
        from ray.llm._internal.serve.routing_policies.prefix_aware.prefix_tree import PrefixTree
    except ImportError as error:
        raise StepwellError(
            "Ray's prefix tree is not here: run this in the environment of 'make test-ray', as "
            ".venv-ray/bin/stepwell bench affinity"
        ) from error
    return PrefixTree()

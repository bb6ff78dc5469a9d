"""Which agents may go on where another one has ended.

Agents of a crew often ask the same, one a little later than the other: three readers of one document, which
all turn its pages. When the first of them says that it is done, what it has read is about to be read by the
others. (Of one that only seems to be done nothing is inherited: that gained nothing in our own crews.) An
*heir* of an agent is another one whose context is the beginning of that agent's, but for the last block: it
has not gone another way. How often heirs do go on with what was left is learned per tenant.
"""

from __future__ import annotations

from typing import Final

from stepwell.policy.block_index import Block
from stepwell.policy.eviction.agent_groups import Group
from stepwell.policy.eviction.kin import Kin
from stepwell.policy.eviction.value import ACTIVE, CERTAIN, DEAD

_AT_WORK: Final = 1 << 20
"""The value of what an agent with an open turn will use a second from now."""
_MOST_TENANTS: Final = 1_000


class Heirs:
    """Agents that may inherit from those that are done, and what their tenants' agents did so far."""

    def __init__(self, most_agents: int) -> None:
        self._left_by = Kin(most_agents)
        self._seen: dict[str, tuple[int, int]] = {}
        """Per tenant: how many heirs went on with what was left, and how many there were."""

    def inherit(self, left: Group, dead_below: int) -> int:
        """What holding the context of an agent that does not come back itself is worth for its heirs. Sets
        its chance of use to theirs; below ``dead_below`` (of 2**20) it is dead."""
        left.fork, heirs = _others_at_the_end(left)
        if not heirs:
            return DEAD
        for one in heirs:
            self._left_by.add(one.record.tenant, one.record.agent, left)
        went_on, all_of_them = self._seen.get(left.record.tenant, (0, 0))
        part = CERTAIN * (went_on + 1) // (all_of_them + 2)
        heir = max(heirs, key=lambda one: (one.value, -one.seq))
        chance = heir.chance * part >> 20
        if chance < dead_below:
            return DEAD
        left.chance = chance
        return max(1, (heir.value if heir.value < ACTIVE else _AT_WORK) * part >> 20)

    def went_on(self, heir: Group) -> list[Group]:
        """The heir's context has grown: note whether it is with what was left. Returns the agents that left
        it."""
        tenant = heir.record.tenant
        others = self._left_by.take(tenant, heir.record.agent)
        for left in others:
            went_on, all_of_them = self._seen.get(tenant, (0, 0))
            if tenant in self._seen or len(self._seen) < _MOST_TENANTS:
                follows = 0 < left.fork < len(left.path) and heir in left.path[left.fork].holders
                self._seen[tenant] = went_on + follows, all_of_them + 1
        return others


def _others_at_the_end(left: Group) -> tuple[int, list[Group]]:
    """How many blocks some other agent holds as well; and those whose contexts end there or a block later."""
    path = left.path
    low, high = 0, len(path)
    while low < high:  # a holder of a block holds those before it
        middle = (low + high) // 2
        if _others(path[middle], left):
            low = middle + 1
        else:
            high = middle
    if not low or low == len(path):
        return 0, []
    return low, [other for other in _others(path[low - 1], left) if len(other.path) <= low + 1]


def _others(block: Block, left: Group) -> list[Group]:
    """The other agents that hold the block and are themselves expected back."""
    return [one for one in block.holders if one is not left and one.value > DEAD and not one.fork]

"""The shipped eviction rule as a formula: pure functions over integers, and every margin by name.

    value(agent)   = index x keep_weight, less in proportion for a tenant that holds more than its part
    key(agent, t)  = value x what it costs to get a token back from one KV tier below t
    index          = expected returns per time held (Gittins; see ``gaps.index_of``)

The agent with the smallest key on a KV tier gives up its deepest block first. Between service tiers the keys
on the device are multiplied by the contract's ``weight`` first (``quotas.py``). ``next_use.py`` keeps the
books that feed these functions. Units: chances are of 2**20, rates are per 2**40 us.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

CERTAIN: Final = 1 << 20
"""A chance of 1."""
ACTIVE: Final = 1 << 100
"""The value of an agent with an open turn: above that of every idle one."""
DEAD: Final = 0
"""The value of what hardly ever comes back: below that of everything else."""


@dataclass(frozen=True, slots=True)
class EvictionTuning:
    """Margins and bounds of an eviction policy. None is a secret of the block manager."""

    disk_margin: int = 2
    """A record makes room only for a block worth this many times more, or writing would never end."""
    promote_margin: int = 2
    """What comes up ahead of use must be worth this many times more than what goes for it."""
    promotions_in_flight: int = 4
    """Few, so that a read that a turn waits for never stands behind many."""
    clean_search: int = 64
    """Cold host blocks looked at for one with a copy elsewhere before one without is given up."""
    write_search: int = 128
    """Cold host blocks looked at in a step for some to write to disk."""
    write_refusals: int = 4
    """Of the disk, after which a step tries no more."""
    write_behind_above: int = 2
    """Writing ahead of need begins once 1 / this of the host pool is full, and covers as much of it."""
    write_gain: int = 2
    """How many times over a write must be paid for by what it is expected to save."""
    write_chance: int = CERTAIN >> 5
    """Below this chance of return a block is dead: it is never written, and leaves every KV tier first."""
    roomy: int = 8
    """While the disk has room, what a write may save counts this many times over."""
    promote_chance: int = CERTAIN >> 2
    """Below this chance an agent's blocks are not fetched ahead."""
    promote_agents: int = 4
    """Agents that are promoted from at a time."""
    promote_search: int = 64
    """Of the most valuable agents on disk, how many are looked at for that."""
    revalue_per_search: int = 8
    """Heads of a ranking that are valued anew before a victim is named."""
    timers_per_step: int = 64
    """Agents valued anew in a step because their idle period has reached the next bin."""
    stale_fraction: int = 8
    """A value is stale when the idle period has gone on for 1 / this of its length since."""
    least_stale_us: int = 20_000
    """A value younger than this is never stale."""


def agent_value(index: int, keep_weight: int, tenant_held: int, tenant_part: int) -> int:
    """What holding an idle agent's context is worth.

    ``tenant_held`` and ``tenant_part``: what its tenant holds and what it may hold before its contexts
    count for less, in one unit (block-seconds); beyond the part the value falls in proportion.
    """
    value = index * keep_weight
    return value * tenant_part // tenant_held if tenant_held > tenant_part else value


def eviction_key(value: int, cost_below: int) -> int:
    """The place in the ranking of one KV tier: the smallest goes first."""
    return value * cost_below


def joint_index(learned: int, declared: int, declared_chance: int) -> int:
    """The index of an idle period with a declaration: the declared one, or what was learned as far as
    the declaration leaves a chance that it will not come true."""
    return max(declared, learned * (CERTAIN - declared_chance) >> 20)


def joint_chance(learned: int, declared: int) -> int:
    """The chance of return when either the declaration or what was learned may come true."""
    return declared + ((CERTAIN - declared) * learned >> 20)


def pays_for_write(chance: int, saved_us: int, written_us: int, gain: int) -> bool:
    """Whether the time a block on disk is expected to save is more than ``gain`` times its write."""
    return saved_us * chance >> 20 > written_us * gain


def is_stale(valued_at_us: int, idle_since_us: int, now_us: int, tuning: EvictionTuning) -> bool:
    """Whether an idle period has gone on for long enough that its value should be looked at again."""
    stale_us = max(tuning.least_stale_us, (valued_at_us - idle_since_us) // tuning.stale_fraction)
    return now_us - valued_at_us > stale_us

"""How long agents wait between turns: learned online on a logarithmic scale, told as a rate of return.

A rest is watched bin by bin: how many rests reached a bin of time, and in how many the agent came
back there. Rests that are still going on, or that never end, count for every bin they reached, and half for
the one that they are in (the actuaries' estimator; Kaplan and Meier, 1958): so agents that never come back
are learned as well, and the oldest bin is not taken for one in which all agents come back.

What it is worth to keep a context is then its *index*: the best ratio, over all times T at which one
might give up waiting, of the chance that the agent comes back before T to the time for which the
memory is held until then, ``max over T of P(R <= T) / E[min(R, T)]`` (Gittins' index of a bandit that
pays once; for a return at a known time it is 1 / R, which ranks as Belady does).

All integers: rates are per 2**40 us.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from math import isqrt
from typing import Final

RATE_ONE: Final = 1 << 40
"""A return that is certain in one microsecond."""
_ONE: Final = 1 << 20  # a probability of 1
_BEST: Final = _ONE * RATE_ONE
_PARENT_WEIGHT: Final = 6  # how many observations the next wider class counts as
_FADE_AT: Final = 2_000  # rests in a bin, after which old ones count half
_FIRST_EDGE_BITS: Final = 13  # 8 ms: an agent that returns sooner never was away
MIDDLE: Final = 512
"""The middle of a bin, whose width is 1024."""
N_BINS: Final = 50  # half octaves: 8 ms to 3 days
_RATIO_ONE: Final = 1024
_RATIO_BINS: Final = 48  # quarter octaves of actual / declared: 1/32 to 128


def _time_edges() -> tuple[int, ...]:
    return (0, *(isqrt(1 << (2 * _FIRST_EDGE_BITS + k)) for k in range(N_BINS - 1)))


def _ratio_edges() -> tuple[int, ...]:
    first = _RATIO_ONE // 32
    return (0, *(isqrt(isqrt(first**4 << k)) for k in range(_RATIO_BINS - 1)))


TIME_EDGES_US: Final = _time_edges()
"""Where each bin of a gap begins."""
RATIO_EDGES: Final = _ratio_edges()
"""Where each bin of actual / declared begins; 1024 is 1."""


@dataclass(slots=True)
class GapClass:
    """Rests of one kind: how many reached each bin, and how many ended in it."""

    bins: int
    parent: GapClass | None = None
    shared: int | None = None
    """How many of its rests, the first ones, count in the parent as well; None: all of them."""
    reached: list[int] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)
    inside: list[int] = field(default_factory=list)
    """Of those that reached a bin: how many are in it now, or left this class there. They count half."""
    open_ended: bool = False
    """Of a prior: its last bins are so far away that no rest may have come to them yet."""
    places: list[int] = field(default_factory=list)
    """Where in each bin rests ended, of 1024, summed: as if two had ended in its middle before."""
    told_above: int = 0
    version: int = 0
    _hazards: list[int] = field(default_factory=list)
    _chances: dict[int, int] = field(default_factory=dict)
    """Of ``_hazards``, as far as they were asked for: the chance to come back in a bin or after it."""
    _worths: dict[int, int] = field(default_factory=dict)
    """Likewise: the index at the beginning of a bin."""
    _due_version: int = 0
    """From this version on what was worked out of it is too old."""
    _news_from: int = 0
    _news_to: int = -1
    """The bins in which something was counted since ``_hazards``."""
    _above: list[int] | None = None
    """The parent's hazards that ``_hazards`` were worked out with."""
    _before: list[int] | None = None
    """What ``_hazards`` were before they were worked out last."""
    _changed: tuple[int, int] = (0, 0)
    """The first and the last bin in which they may differ since."""

    def __post_init__(self) -> None:
        self.reached = self.reached or [0] * self.bins
        self.ended = self.ended or [0] * self.bins
        self.places = self.places or [2 * MIDDLE] * self.bins
        self.inside = self.inside or [0] * self.bins
        self._news_from = self.bins

    @property
    def ended_in_all(self) -> int:
        """Rests of this class that ended, old ones counting less."""
        return sum(self.ended)

    def begin(self) -> None:
        """A rest begins."""
        if self.reached[0] >= _FADE_AT:
            self.reached = [n // 2 for n in self.reached]
            self.ended = [n // 2 for n in self.ended]
            self.places = [n // 2 + MIDDLE for n in self.places]
            self.inside = [n // 2 for n in self.inside]
            self._news_from, self._news_to = 0, self.bins - 1
        self.reached[0] += 1
        self.inside[0] += 1
        self._note(0, 0)
        self.version += 1
        if self._counts_above():
            assert self.parent is not None
            self.parent.begin()

    def outlast(self, first: int, now_in: int) -> None:
        """A rest that was in bin ``first`` has come to bin ``now_in``."""
        for k in range(first + 1, now_in + 1):
            self.reached[k] += 1
        self.inside[first] = max(0, self.inside[first] - 1)
        self.inside[now_in] += 1
        self._note(first, now_in)
        self.version += 1
        if self._counts_above():
            assert self.parent is not None
            self.parent.outlast(first, now_in)

    def _note(self, first: int, last: int) -> None:
        """Something has changed in bins ``first`` to ``last``."""
        if first < self._news_from:
            self._news_from = first
        if last > self._news_to:
            self._news_to = last

    def _counts_above(self) -> bool:
        """Whether the parent learns from this rest too; a prior, which has no parent, never learns."""
        if self.parent is None or self.parent.parent is None:
            return False
        return self.shared is None or self.told_above <= self.shared

    def place(self, k: int) -> int:
        """Where in bin ``k`` rests end, of 1024, as a mean."""
        mean = self.places[k] // (self.ended[k] + 2)
        return mean if mean < 2 * MIDDLE else 2 * MIDDLE - 1

    def end(self, k: int, place: int = MIDDLE) -> None:
        """A rest has ended in bin ``k``, to which it had come, at ``place`` of 1024."""
        self.ended[k] += 1
        self.places[k] += place
        self.inside[k] = max(0, self.inside[k] - 1)
        self._note(k, k)
        self.version += 1
        if self._counts_above():
            assert self.parent is not None
            self.told_above += 1
            self.parent.end(k, place)

    def hazards(self) -> list[int]:
        """Per bin: the chance (of 2**20) that a rest which reached it ends in it."""
        one: GapClass | None = self
        while one is not None:
            if one.version >= one._due_version:
                return self._brought_up_to_date()
            one = one.parent
        return self._hazards

    def _brought_up_to_date(self) -> list[int]:
        """``hazards`` where this class or a wider one has learned enough since it was asked last."""
        above = None if self.parent is None else self.parent._brought_up_to_date()
        if self.version >= self._due_version:
            self._due_version = self.version + 1 + self.version // 32
            self._hazards, self._chances, self._worths = self._rates_anew(above), {}, {}
        return self._hazards

    def chance(self, k: int) -> int:
        """The chance (of 2**20) that a rest which reached bin ``k`` ends before the last one."""
        hazards = self.hazards()
        known = self._chances.get(k)
        if known is None:
            alive = _ONE
            for hazard in hazards[k:-1]:
                if hazard:
                    alive -= alive * hazard >> 20
            known = self._chances[k] = _ONE - alive
        return known

    def worth(self, k: int, edges: tuple[int, ...]) -> int:
        """The index of a rest that has just reached bin ``k`` of ``edges``."""
        hazards = self.hazards()
        known = self._worths.get(k)
        if known is None:
            known = self._worths[k] = index_of(hazards, edges, edges[k], self)
        return known

    def peek(self) -> list[int]:
        """What ``hazards`` would answer, for readers outside the policy: nothing is brought up to date,
        because a decision must not depend on what was looked at."""
        if self.version < self._due_version:
            return self._hazards
        above = None if self.parent is None else self.parent.peek()
        return self._rates(above)

    def _rates(self, above: list[int] | None) -> list[int]:
        if above is None:
            return [
                min(_ONE, e * _ONE // r) if r else 0 for e, r in zip(self.ended, self.reached, strict=True)
            ]
        exposed = [n - i // 2 for n, i in zip(self.reached, self.inside, strict=True)]
        if self.parent is not None and self.parent.open_ended:
            above = self._as_it_went(exposed, above)
        known = zip(self.ended, exposed, above, strict=True)
        return [min(_ONE, (e * _ONE + a * _PARENT_WEIGHT) // (r + _PARENT_WEIGHT)) for e, r, a in known]

    def _as_it_went(self, exposed: list[int], prior: list[int]) -> list[int]:
        """A prior of times, lowered to what the class did in the bins before each: where hardly a rest has
        been yet, it is taken to go on like that. A bin counts 3/4 of the next one; one return is added."""
        lowered, came, expected = [], 0, 0
        for e, r, a in zip(self.ended, exposed, prior, strict=True):
            came, expected = came * 3 // 4 + e * _ONE, expected * 3 // 4 + r * a
            lowered.append(min(a, a * (came + _ONE) // (expected + _ONE)))
        return lowered

    def _rates_anew(self, above: list[int] | None) -> list[int]:
        """``_rates``, worked out only for the bins in which something has changed since ``_hazards``."""
        first, last = self._news_from, self._news_to
        parent = self.parent
        if above is None or parent is None or not self._hazards:
            first, last = 0, self.bins - 1
        elif above is not self._above:
            if parent._before is not self._above:
                first, last = 0, self.bins - 1
            else:
                first, last = min(first, parent._changed[0]), max(last, parent._changed[1])
        if parent is not None and parent.open_ended:
            last = self.bins - 1  # what came before a bin counts there
        self._news_from, self._news_to, self._above = self.bins, -1, above
        self._before, self._changed = self._hazards, (first, last)
        if above is None or parent is None or parent.open_ended or (first == 0 and last == self.bins - 1):
            return self._rates(above)
        rates = [*self._hazards]
        for k in range(first, last + 1):
            exposed = self.reached[k] - self.inside[k] // 2 + _PARENT_WEIGHT
            rate = (self.ended[k] * _ONE + above[k] * _PARENT_WEIGHT) // exposed
            rates[k] = rate if rate < _ONE else _ONE
        return rates


def bin_of(edges: tuple[int, ...], value: int) -> int:
    """The bin that ``value``, which is 0 or more, lies in."""
    return bisect_right(edges, value) - 1


def index_of(hazards: list[int], edges: tuple[int, ...], elapsed: int, kind: GapClass | None = None) -> int:
    """Gittins' index of a rest that has lasted ``elapsed``, in units of the edges.

    Within a bin the return is taken to be where those of its ``kind`` were, or at its middle; in a bin that
    is over in part, halfway through what is left of it. The last bin has no end: an agent that outlasts all
    others is not expected any more.
    """
    k, last = bin_of(edges, elapsed), len(edges) - 1
    alive, returned, held, best = _ONE, 0, 0, 0
    most_held = _BEST  # held for longer, it would be no better if all that are left came back at once
    start = elapsed
    while k < last and alive > 16:
        first, end, hazard = edges[k], edges[k + 1], hazards[k]
        width = end - start
        if start > first:  # part of the bin is over: less is left of its chance
            hazard = hazard * width // (end - first)
        gone = alive * hazard >> 20
        if gone:
            returned += gone
            if kind is None or start > first:
                held += (alive - gone // 2) * width
            else:
                held += (alive - gone) * width + (gone * width * kind.place(k) >> 10)
            rate = returned * RATE_ONE // (held or 1)
            if rate > best:
                best = rate
                most_held = _BEST // (best + 1)
            if held > most_held:
                break
        else:
            held += alive * width
        alive -= gone
        start = end
        k += 1
    return best


def expected_left(hazards: list[int], edges: tuple[int, ...], elapsed: int) -> int | None:
    """The median of the time still to wait, in units of the edges; None: rather never."""
    alive = _ONE
    for k in range(bin_of(edges, elapsed), len(edges) - 1):
        alive -= alive * hazards[k] >> 20
        if alive <= _ONE // 2:
            return max(0, (edges[k] + edges[k + 1]) // 2 - elapsed)
    return None


def prior_gaps(per_bin: int, typical_us: int, last_us: int) -> GapClass:
    """A hazard of ``per_bin`` (of 2**20) from the typical gap to the last one. Below the typical gap it
    falls with the length of the bins: a small chance in a very short time would be a high rate."""
    prior = GapClass(N_BINS, open_ended=True)
    prior.reached = [_ONE] * N_BINS
    for k, edge in enumerate(TIME_EDGES_US):
        prior.ended[k] = per_bin * min(edge, typical_us) // typical_us if edge <= last_us else per_bin // 10
    return prior


def prior_ratios() -> GapClass:
    """Before a tenant's declarations were compared with what happened: right within a factor of two."""
    prior = GapClass(_RATIO_BINS)
    prior.reached = [_ONE] * _RATIO_BINS
    prior.ended = [_prior_ratio_hazard(edge) for edge in RATIO_EDGES]
    return prior


def _prior_ratio_hazard(edge: int) -> int:
    if edge < _RATIO_ONE // 2:
        return _ONE // 200
    return _ONE // 3 if edge < 2 * _RATIO_ONE else _ONE // 16

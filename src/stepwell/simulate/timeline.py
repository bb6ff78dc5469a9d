"""When which turn held which units: what a run leaves behind for the lower bound of ``bound.py``.

An *episode* is one stay of a turn on the device, from the step that opened it to the one that closed it; a
turn that is preempted and resumed has two. An episode counts once its known tokens are computed (it is
*ready*): from then on it holds all of its units.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from stepwell.policy.types import RequestId


@dataclass(slots=True, eq=False)
class Episode:
    """One stay on the device. ``units`` names all full units that the turn will ever have."""

    units: Sequence[bytes]
    needed: int
    """Units that it could have begun with when it opened: all that were known, but for that of the last
    token, which is computed for the sake of the next one."""
    ready_us: int
    closed_us: int = 0
    held: int = 0
    """Units that were known when it closed."""


@dataclass(slots=True, eq=False)
class Timeline:
    """The episodes of one run, in the order in which they became ready."""

    unit_tokens: int
    episodes: list[Episode] = field(default_factory=list)
    _open: dict[RequestId, int] = field(default_factory=dict)
    """Units to begin with at the opening, of turns that are not ready."""
    _ready: dict[RequestId, Episode] = field(default_factory=dict)

    def opened(self, request: RequestId, known_tokens: int) -> None:
        self._open[request] = (known_tokens - 1) // self.unit_tokens

    def ready(self, request: RequestId, units: Sequence[bytes], now_us: int) -> None:
        """The turn has a next token: all that was known is computed."""
        needed = self._open.pop(request, None)
        if needed is not None:
            self._ready[request] = Episode(units, needed, now_us)
            self.episodes.append(self._ready[request])

    def grew(self, request: RequestId, known_tokens: int) -> None:
        """So many tokens of the turn are known when it leaves."""
        episode = self._ready.get(request)
        if episode is not None:
            episode.held = min(known_tokens // self.unit_tokens, len(episode.units))

    def closed(self, request: RequestId, now_us: int) -> None:
        self._open.pop(request, None)
        episode = self._ready.pop(request, None)
        if episode is not None:
            episode.closed_us = now_us


class NoTimeline(Timeline):
    """Keeps nothing: no bound is asked for, and a day of turns would fill the memory."""

    def opened(self, request: RequestId, known_tokens: int) -> None:
        pass

    def ready(self, request: RequestId, units: Sequence[bytes], now_us: int) -> None:
        pass

    def grew(self, request: RequestId, known_tokens: int) -> None:
        pass

    def closed(self, request: RequestId, now_us: int) -> None:
        pass

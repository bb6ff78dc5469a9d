"""Where a request's time went: every microsecond from submit to end has one cause.

``Story`` is a stopwatch that always runs under exactly one cause, so the causes add up to the whole by
construction. Times are the loop's clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stepwell.basics.per_tier import PerTier
from stepwell.policy.types import RequestArrived, RequestId, WaitCause

ARRIVAL = "arrival"
"""Until the loop has ended the step that it was in, and hears of the request."""
LOAD = "load"
"""Its blocks are copied from host memory to the device."""
PREFILL = "prefill"
"""It has a place and its prompt is computed, in steps that it shares with others."""
DECODE = "decode"
"""It has a place and generates, in steps that it shares with others."""
PASSED_OVER = "passed_over"
"""It has a place, and the step went to others."""
WAITING = (ARRIVAL, *(cause.value for cause in WaitCause))
CAUSES = (*WAITING, LOAD, PASSED_OVER, PREFILL, DECODE)
MOST_SPANS = 32
"""Of a story: the newest are kept one by one, all of them in the sums."""


@dataclass(frozen=True, slots=True)
class NamedRequest:
    """A request by the names under which people know it."""

    request: RequestId
    tenant: str = ""
    service_tier: str = ""
    session: str = ""
    agent: str = ""


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of time with one cause; ``rule`` says why ``behind`` went first."""

    start_us: int
    """From submit."""
    lasted_us: int
    cause: str
    behind: NamedRequest | None = None
    rule: str = ""


@dataclass(frozen=True, slots=True)
class Timing:
    """The sums of a request that has ended: microseconds by cause, nothing left over."""

    total_us: int
    causes_us: Mapping[str, int]

    @property
    def waited_us(self) -> int:
        return self._sum(*WAITING)

    def phases_ms(self) -> dict[str, float]:
        """The causes in four parts, for a log line: milliseconds, which add up to the total."""
        loaded_us = self._sum(WaitCause.DISK.value, LOAD)
        computed_us, decoded_us = self._sum(PREFILL), self._sum(DECODE)
        passed_us = self._sum(PASSED_OVER)
        queued_us = self.total_us - loaded_us - computed_us - decoded_us - passed_us
        phases = {"queued_ms": queued_us, "loaded_ms": loaded_us, "computed_ms": computed_us}
        phases |= {"decoded_ms": decoded_us, "passed_over_ms": passed_us}
        return {name: us / 1000 for name, us in phases.items() if us or name != "passed_over_ms"}

    def _sum(self, *causes: str) -> int:
        return sum(self.causes_us.get(cause, 0) for cause in causes)

    def as_json(self) -> dict[str, Any]:
        """Milliseconds, as ``usage.timing`` has them; the causes add up to the total."""
        return {
            "total_ms": self.total_us / 1000,
            "waited_ms": self.waited_us / 1000,
            "causes_ms": {name: us / 1000 for name, us in self.causes_us.items()},
        }


@dataclass(slots=True)
class Story:
    """One request from submit to its end."""

    names: NamedRequest
    submitted_us: int
    name: str = ""
    """The id of the HTTP request it came with."""
    cause: str = ARRIVAL
    behind: NamedRequest | None = None
    rule: str = ""
    since_us: int = 0
    causes_us: dict[str, int] = field(default_factory=dict)
    spans: deque[Span] = field(default_factory=lambda: deque(maxlen=MOST_SPANS))
    preempted_by: deque[NamedRequest] = field(default_factory=lambda: deque(maxlen=MOST_SPANS))
    preemptions: int = 0
    from_tokens: PerTier[int] | None = None
    """Tokens that were found when it got its first place."""
    prompt_tokens: int = 0
    ended_us: int | None = None
    finish: str = ""

    @classmethod
    def of(cls, arrival: RequestArrived, now_us: int) -> Story:
        caller = arrival.caller
        own = caller.tenant, caller.service_tier, caller.session, caller.agent
        names = NamedRequest(arrival.request, *own)
        return cls(names, now_us, since_us=now_us, prompt_tokens=arrival.prompt_tokens)

    def goes_on(self, cause: str, now_us: int, behind: NamedRequest | None = None, rule: str = "") -> None:
        """From now on its time has another cause; after its end nothing counts any more."""
        if self.ended_us is None:
            self._close_span(now_us)
            self.cause, self.behind, self.rule = cause, behind, rule

    def took(self, cause: str, us: int, now_us: int) -> None:
        """Of the time since the last change, up to ``us`` had another cause."""
        us = min(us, now_us - self.since_us)
        if self.ended_us is None and us > 0:
            self._add(cause, us, None, "")
            self.since_us += us

    def end(self, now_us: int, finish: str) -> None:
        if self.ended_us is None:
            self._close_span(now_us)
            self.ended_us, self.finish = now_us, finish

    def _close_span(self, now_us: int) -> None:
        us = max(0, now_us - self.since_us)
        if us:
            self._add(self.cause, us, self.behind, self.rule)
        self.since_us += us

    def _add(self, cause: str, us: int, behind: NamedRequest | None, rule: str) -> None:
        self.causes_us[cause] = self.causes_us.get(cause, 0) + us
        last = self.spans[-1] if self.spans else None
        if last is not None and (last.cause, last.behind, last.rule) == (cause, behind, rule):
            self.spans[-1] = Span(last.start_us, last.lasted_us + us, cause, behind, rule)
        else:
            self.spans.append(Span(self.since_us - self.submitted_us, us, cause, behind, rule))

    def timing(self, now_us: int) -> Timing:
        """As of now, or of its end."""
        causes = dict(self.causes_us)
        if self.ended_us is None and (us := now_us - self.since_us) > 0:
            causes[self.cause] = causes.get(self.cause, 0) + us
        ordered = {name: causes[name] for name in CAUSES if name in causes}
        return Timing(sum(ordered.values()), ordered)

"""Why a request took as long as it did: an observer that turns plans into stories.

Everything it knows it reads off events and plans, so a recording tells the same as the live loop did. It
keeps the requests that are under way, and the last ``MOST_ENDED`` that have ended.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import islice
from typing import Any

from stepwell.basics.per_tier import NOTHING
from stepwell.loop.requests import found_tokens
from stepwell.loop.timing import DECODE, LOAD, PASSED_OVER, PREFILL, NamedRequest, Story, Timing
from stepwell.policy.types import (
    Action,
    BlockId,
    Close,
    Event,
    KvTier,
    Move,
    Moved,
    Open,
    OpenFailed,
    Plan,
    Progressed,
    Refuse,
    RequestArrived,
    RequestCancelled,
    RequestId,
    StepFailed,
    Taken,
    WaitCause,
)

MOST_ENDED = 2_000
MOST_TOLD = 20
_NEWEST = 64  # a request that has ended before its name could be said is among so many


class Explainer:
    """Thread-safe: the loop reports, the server asks."""

    def __init__(self, most_ended: int = MOST_ENDED) -> None:
        self._lock = threading.Lock()
        self._open: dict[RequestId, Story] = {}
        self._running: dict[RequestId, Story] = {}
        self._ended: deque[Story] = deque(maxlen=most_ended)
        self._loading: dict[BlockId, RequestId] = {}

    # --- told by the driver -------------------------------------------------------------------

    def submitted(self, arrival: RequestArrived, now_us: int) -> None:
        """A request was handed over; the loop hears of it with its next step."""
        with self._lock:
            self._open[arrival.request] = Story.of(arrival, now_us)

    def named(self, requests: Iterable[RequestId], name: str) -> None:
        """They came with one HTTP request, whose id this is."""
        with self._lock:
            for request in requests:
                story = self._open.get(request)
                if story is None:
                    newest = islice(reversed(self._ended), _NEWEST)
                    story = next((one for one in newest if one.names.request == request), None)
                if story is not None:
                    story.name = name

    def ended(self, request: RequestId, now_us: int, finish: str) -> Timing | None:
        """Its last token is there, or it is given up: where its time went."""
        with self._lock:
            story = self._end(request, now_us, finish)
            return None if story is None else story.timing(now_us)

    def decided(self, now_us: int, events: Sequence[Event], plan: Plan) -> None:
        with self._lock:
            for event in events:
                self._happened(event, now_us)
            for taken in plan.taken:
                self._taken(taken)
            for waits in plan.waits:
                if (story := self._open.get(waits.request)) is not None:
                    story.goes_on(waits.cause.value, now_us, self._named(waits.behind), waits.rule)
            self._loading.clear()
            loads: list[BlockId] = []
            for action in plan.actions:
                self._acted(action, loads, now_us)
            self._shared(plan, now_us)

    def close(self, now_us: int) -> None:
        with self._lock:
            for request in list(self._open):
                self._end(request, now_us, "stopped")

    # --- events and plans ---------------------------------------------------------------------

    def _happened(self, event: Event, now_us: int) -> None:
        match event:
            case Progressed(request, finished=str(finish)):
                self._end(request, now_us, finish)
            case Progressed():
                self._progressed(event, now_us)
            case Moved(block, target=KvTier.DEVICE):
                story = self._open.get(self._loading.get(block, 0))
                if story is not None:
                    story.took(LOAD, event.duration_us, now_us)
            case RequestArrived():
                self._open.setdefault(event.request, Story.of(event, now_us))
            case RequestCancelled(request, reason):
                self._end(request, now_us, reason)
            case StepFailed(requests):
                for request in requests:
                    self._end(request, now_us, "failed")
            case OpenFailed(request):
                self._waits_again(request, now_us, "load_failed")
            case _:
                pass

    def _progressed(self, event: Progressed, now_us: int) -> None:
        story = self._running.get(event.request)
        if story is not None and story.cause == PREFILL and event.total - event.computed == 1:
            story.goes_on(DECODE, now_us)

    def _taken(self, taken: Taken) -> None:
        """The policy recognises agents that do not say their name."""
        story = self._open.get(taken.request)
        if story is not None and not story.names.agent:
            story.names = replace(story.names, agent=taken.caller.agent)

    def _acted(self, action: Action, loads: list[BlockId], now_us: int) -> None:
        match action:
            case Move(target=KvTier.DEVICE):
                loads.append(action.block.id)
            case Open():
                self._opened(action, loads, now_us)
            case Close(request, True, by):
                if (story := self._open.get(request)) is not None:
                    story.preemptions += 1
                    if (other := self._named(by)) is not None:
                        story.preempted_by.append(other)
                self._waits_again(request, now_us, "preempted", by)
            case Close(request):
                self._running.pop(request, None)
            case Refuse(request, code):
                self._end(request, now_us, code)
            case _:
                pass

    def _opened(self, action: Open, loads: list[BlockId], now_us: int) -> None:
        story = self._open.get(action.request)
        if story is None:
            return
        story.goes_on(PREFILL, now_us)
        self._running[action.request] = story
        if story.from_tokens is None:
            story.from_tokens = found_tokens(action)
        wanted = frozenset(action.blocks)
        self._loading.update((block, action.request) for block in loads if block in wanted)

    def _waits_again(self, request: RequestId, now_us: int, rule: str, by: RequestId = 0) -> None:
        self._running.pop(request, None)
        if (story := self._open.get(request)) is not None:
            story.goes_on(WaitCause.QUEUE.value, now_us, self._named(by), rule)

    def _shared(self, plan: Plan, now_us: int) -> None:
        """Which of the running requests have no part in this step."""
        pieces = {piece.request: piece for piece in plan.batch}
        for request, story in self._running.items():
            piece = pieces.get(request)
            if piece is None and story.cause != PASSED_OVER:
                story.goes_on(PASSED_OVER, now_us)
            elif piece is not None and story.cause == PASSED_OVER:
                story.goes_on(DECODE if piece.start >= story.prompt_tokens else PREFILL, now_us)

    def _end(self, request: RequestId, now_us: int, finish: str) -> Story | None:
        story = self._open.pop(request, None)
        self._running.pop(request, None)
        if story is not None:
            story.end(now_us, finish)
            self._ended.append(story)
        return story

    def _named(self, request: RequestId) -> NamedRequest | None:
        story = self._open.get(request)
        return None if story is None else story.names

    # --- asked by the server ------------------------------------------------------------------

    def find(self, what: str, now_us: int, most: int = MOST_TOLD) -> list[dict[str, Any]]:
        """Stories of an HTTP request, of the loop's own request number, or of an agent or a session by its
        name: those under way first, then the newest that have ended."""
        with self._lock:
            stories = [*reversed(self._open.values()), *reversed(self._ended)]
            ids = {one.names.request: one.name for one in stories}
            return [told(one, now_us, ids) for one in stories if _is(one, what)][:most]

    def all_ended(self) -> list[Story]:
        with self._lock:
            return list(self._ended)


def _is(story: Story, what: str) -> bool:
    one = story.names
    return (
        what in (story.name, one.agent, one.session, str(one.request)) or what == f"{one.tenant}:{one.agent}"
    )


def told(story: Story, now_us: int, ids: Mapping[RequestId, str]) -> dict[str, Any]:
    """A story as JSON. ``ids``: the HTTP ids of other requests, as far as they are remembered."""

    def named(one: NamedRequest) -> dict[str, Any]:
        return {"request_id": ids.get(one.request, ""), **asdict(one)}

    timing = story.timing(now_us)
    return {
        "request_id": story.name,
        **asdict(story.names),
        "state": story.cause if story.ended_us is None else "ended",
        "finish": story.finish,
        "prompt_tokens": story.prompt_tokens,
        "cached_tokens": (story.from_tokens or NOTHING)._asdict(),
        "preemptions": story.preemptions,
        "preempted_by": [named(one) for one in story.preempted_by],
        **timing.as_json(),
        "spans": [
            {
                "start_ms": span.start_us / 1000,
                "lasted_ms": span.lasted_us / 1000,
                "cause": span.cause,
                "behind": None if span.behind is None else named(span.behind),
                "rule": span.rule,
            }
            for span in story.spans
        ],
    }

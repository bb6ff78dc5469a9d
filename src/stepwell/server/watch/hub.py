"""One picture for all watchers: taken as ``/v1/agents`` takes it, while there are watchers, and never else.

A reader that is behind gets the newest whole frame and not what it has missed, so a slow one holds no
memory: there is one frame per view, however many read it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

from stepwell.ledger.base import Store
from stepwell.ledger.reading.queries import join_sum, one_of, split_sum
from stepwell.loop.rarely import Rarely
from stepwell.loop.snapshot import AgentView, Snapshot
from stepwell.server.agents.routes import agent_object, agent_status
from stepwell.server.errors import ApiError, rate_limited
from stepwell.server.service import Service
from stepwell.server.watch.frames import POINT_EVERY_S, Row, View, event
from stepwell.server.watch.ticker import AgentName, Happening, Refusals, happenings

log = logging.getLogger("stepwell.server")

COSTS_EVERY_S = 5.0
MAX_NAMES = 500
"""Sessions in one question to the books."""
BACK_OFF_S = 5.0
LINGER_S = 900.0
"""A view outlives its last watcher for so long, so that a page that is opened again still has its charts."""
REST = 150
"""A look is followed by a rest of so many times what it cost, however many agents and watchers there are: so
all of it stays below one percent of a core."""
WRITE_S = 60e-6
"""What it costs to send a frame to one watcher (``stepwell bench watchers``)."""
LONGEST_REST_S = 5.0
STILL_THERE = b": keep-alive\n\n"

ViewName = str | None
"""A tenant, or None for everything."""
Costs = dict[AgentName, int]


class Hub:
    """All watchers of one server. Lives in its event loop."""

    def __init__(self, service: Service, refusals: Refusals) -> None:
        self._service = service
        self._refusals = refusals
        self._views: dict[ViewName, View] = {}
        self._tick = asyncio.Event()
        self._entered = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._seen: Mapping[AgentName, AgentView] = {}
        """The picture before. What has not changed is the same object in the next one."""
        self._epoch_s = 0.0
        self._look_s = 0.0
        """What the last frames took of this thread's time."""
        self._costs: Costs = {}
        self._costs_due_s = 0.0
        self._complain = Rarely(log)

    @property
    def watchers(self) -> int:
        return sum(view.watchers for view in self._views.values())

    def enter(self, name: ViewName) -> View:
        """Take a place. Raises a 429 ``ApiError`` when there is none; ``leave`` gives it back."""
        limits = self._service.settings
        own = self._views[name].watchers if name in self._views else 0
        if self.watchers >= limits.max_watchers or own >= limits.max_watchers_per_tenant:
            raise rate_limited("This server has as many watchers as it may have.", limits.retry_after_ms)
        view = self._views.setdefault(name, View(name, self._about(name)))
        view.watchers += 1
        self._entered.set()
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())
        return view

    def leave(self, view: View) -> None:
        view.watchers -= 1
        view.left_s = asyncio.get_running_loop().time()

    async def frames(self, view: View, may_see: Callable[[], str | None]) -> AsyncIterator[bytes]:
        """Events for one watcher. ``may_see`` says why it may not any more, or None."""
        seen = 0
        while True:
            if view.seq == seen:
                await self._tick.wait()  # comes at least every keep_alive_s: no timer for each watcher
            why = "server_overloaded" if self._service.draining else may_see()
            if why is not None:
                yield event("end", view.seq, {"reason": why})
                return
            if view.seq == seen:
                yield STILL_THERE
                continue
            behind = view.seq != seen + 1 or seen == 0
            seen, frame = view.seq, view.full() if behind else view.difference
            yield frame

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._wake()

    def _about(self, name: ViewName) -> Row:
        text = self._service.text_model
        return {
            "object": "watch.frame",
            "operator": name is None,
            **({} if name is None else {"tenant": name}),
            "model": text.name,
            "context_tokens": text.context_tokens,
            "interval_s": self._service.settings.watch_interval_s,
            "ledger": self._service.ledger is not None,
            "keyed": self._service.keys.required,
            "library": self._service.library is not None,
        }

    async def _run(self) -> None:
        """As long as there is a view. What fails is tried again later: a screen must not end a server."""
        while self._views and not self._service.draining:
            self._entered.clear()
            try:
                await self._looked()
                pause_s = self._pause_s(self._look_s)
            except Exception as error:  # noqa: BLE001
                self._complain.warning(self._service.driver.now_us(), "watchers see no news", error)
                pause_s = BACK_OFF_S
            self._wake()
            await self._rest(pause_s)
        self._wake()
        self._seen = {}

    def _pause_s(self, look_s: float) -> float:
        """Until the next look, after one that took so much of this thread's time."""
        if not self.watchers:
            return POINT_EVERY_S
        bound_s = REST * (look_s + WRITE_S * self.watchers)
        return max(self._service.settings.watch_interval_s, min(bound_s, LONGEST_REST_S))

    async def _looked(self) -> None:
        """Look once; while that takes long, watchers hear that their stream still lives."""
        look = asyncio.ensure_future(self._look())
        try:
            while not (await asyncio.wait({look}, timeout=self._service.settings.keep_alive_s))[0]:
                self._wake()
        finally:
            look.cancel()
        look.result()

    async def _rest(self, pause_s: float) -> None:
        """Until the next look is due, or a watcher enters."""
        clock, alive_s = asyncio.get_running_loop().time, self._service.settings.keep_alive_s
        until_s = clock() + pause_s
        while (left_s := until_s - clock()) > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._entered.wait(), min(left_s, alive_s))
                return
            if left_s > alive_s:
                self._wake()

    def _wake(self) -> None:
        tick, self._tick = self._tick, asyncio.Event()
        tick.set()

    async def _look(self) -> None:
        service = self._service
        snapshot = await service.agent_lists.snapshot()
        await self._ask_for_costs(snapshot.agents)
        began_s = time.thread_time()
        self._show(snapshot)
        self._look_s = time.thread_time() - began_s

    def _show(self, snapshot: Snapshot) -> None:
        """The next frame of every view. It awaits nothing, so its time is its own."""
        at = round(self._service.now_s(), 3)
        after = self._kept(snapshot.agents)
        news = [*happenings(self._seen, after), *self._refusals.take()]
        for name, view in list(self._views.items()):
            if view.watchers == 0 and asyncio.get_running_loop().time() - view.left_s > LINGER_S:
                del self._views[name]
                continue
            own = [v for v in after.values() if name in (None, v.tenant)]
            lines = [_line(one, at, name) for one in news if name in (None, one.tenant)]
            view.update(at, snapshot, own, self._rows(name, own), lines)
        self._seen = after

    def _kept(self, views: Sequence[AgentView]) -> dict[AgentName, AgentView]:
        """By name, and as the same object where nothing has changed; all anew when a clock was set, because
        the world's times of all of them are others then."""
        epoch_s, before = self._service.unix_s(0), self._seen
        if epoch_s != self._epoch_s:
            self._epoch_s, before = epoch_s, {}
        found = {}
        for view in views:
            name = (view.tenant, view.agent)
            old = before.get(name)
            found[name] = old if old == view and old is not None else view
        return found

    def _rows(self, name: ViewName, views: Sequence[AgentView]) -> dict[AgentName, Row]:
        """Rows of a view; one that has not changed stays the same object, and costs nothing more."""
        before, rows = self._views[name].rows, {}
        for view in views:
            key = (view.tenant, view.agent)
            old, cost = before.get(key), self._costs.get(key)
            if (
                old is not None
                and self._seen.get(key) is view
                and old["cost_microusd"] == cost
                and old["status"] == agent_status(self._service, view)
            ):
                rows[key] = old
                continue
            row = agent_object(self._service, view, operator=name is None)
            row["cost_microusd"] = cost
            rows[key] = old if old == row and old is not None else row
        return rows

    async def _ask_for_costs(self, views: Sequence[AgentView]) -> None:
        """What each agent has been charged; now and then, and not at all where the books cannot be read."""
        books, now_s = self._service.books, asyncio.get_running_loop().time()
        if books is None or books.ledger is None or now_s < self._costs_due_s:
            return
        self._costs_due_s = now_s + COSTS_EVERY_S
        sessions = sorted({view.session for view in views})[-MAX_NAMES:]
        try:
            self._costs = await books.ask(agents_spent, sessions)
        except ApiError:
            self._costs = {}


def _line(happening: Happening, at: float, name: ViewName) -> Row:
    return happening.line(at, operator=name is None)


def agents_spent(store: Store, sessions: Sequence[str]) -> Costs:
    """What the books show as charged to the agents of these sessions, in micro-dollars."""
    rows = store.rows(
        f"SELECT a.tenant, a.agent, {split_sum('u.charge_microusd')} "
        f"FROM accounts a JOIN usage u ON u.account = a.id WHERE a.session {one_of(len(sessions))} "
        "GROUP BY a.tenant, a.agent",
        sessions,
    )
    return {(tenant, agent): join_sum(high, low) for tenant, agent, high, low in rows}

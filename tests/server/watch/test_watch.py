"""``/v1/watch``: whole frames, differences, slow readers, bounds, tenants apart, keys taken away."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.errors import BadInput
from stepwell.loop.requests import Rejected
from stepwell.loop.snapshot import AgentView, Snapshot
from stepwell.policy.types import KvTier
from stepwell.server.agents.routes import agent_object
from stepwell.server.callers.keys import KeyEntry, KeyRing
from stepwell.server.run import BackgroundServer
from stepwell.server.service import Service
from stepwell.server.settings import ServerSettings
from stepwell.server.watch import hub as hub_module
from stepwell.server.watch.frames import POINT_EVERY_S, View, differences
from stepwell.server.watch.routes import AGAIN_S, AskedAgain
from stepwell.server.watch.ticker import Refusals, happenings
from stepwell.tiers.base import TierUsage
from tests.server.fakes import INFO, FakeDriver, FakeText, null_driver, says, serving, until
from tests.server.ledgers import bearer as books_bearer
from tests.server.ledgers import keeping
from tests.server.wire import CHAT, error_of, get, http, post

QUICK = ServerSettings(port=0, drain_s=5.0, keep_alive_s=0.2, watch_interval_s=0.02)


def ring() -> KeyRing:
    return KeyRing(
        [
            KeyEntry(tenant="acme", key="sk-acme"),
            KeyEntry(tenant="rival", key="sk-rival"),
            KeyEntry(tenant="house", key="sk-operator", operator=True),
        ]
    )


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer sk-{key}"}


@contextmanager
def node(settings: ServerSettings = QUICK, keys: KeyRing | None = None) -> Iterator[BackgroundServer]:
    driver = null_driver()
    driver.start()
    try:
        with serving(driver, driver.text, settings, keys or ring()) as server:
            yield server
    finally:
        driver.stop(5.0)


Event = tuple[str, int, dict[str, Any]]


@contextmanager
def watching(
    server: BackgroundServer, key: str = "operator", path: str = "/v1/watch"
) -> Iterator[Iterator[Event]]:
    with http(server, **bearer(key)) as client, client.stream("GET", path) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield parsed(answer)


def parsed(answer: httpx2.Response) -> Iterator[Event]:
    name, seq = "", 0
    for line in answer.iter_lines():
        if line.startswith("event: "):
            name = line[7:]
        elif line.startswith("id: "):
            seq = int(line[4:])
        elif line.startswith("data: "):
            yield name, seq, json.loads(line[6:])


def chat(server: BackgroundServer, key: str, agent: str, session: str = "run") -> None:
    headers = {**bearer(key), "x-session-id": session, "x-agent-id": agent}
    assert post(server, "/v1/chat/completions", CHAT, **headers).status_code == 200


class Screen:
    """What a watcher that follows the events has in front of it."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], dict[str, Any]] = {}
        self.state: dict[str, Any] = {}
        self.seq = 0
        self.ticker: list[dict[str, Any]] = []

    def name(self, row: dict[str, Any]) -> tuple[str, str]:
        return row.get("tenant", ""), row["id"]

    def hear(self, event: Event) -> None:
        kind, seq, data = event
        assert seq == data["seq"]
        if kind == "full":
            self.rows = {self.name(row): row for row in data["agents"]}
            self.ticker = data["ticker"]
            self.state = {}
        else:
            assert kind == "diff"
            assert seq == self.seq + 1, "a difference follows what it differs from"
            for row in data.get("agents", {}).get("changed", ()):
                self.rows[self.name(row)] = {**self.rows.get(self.name(row), {}), **row}
            for row in data.get("agents", {}).get("gone", ()):
                del self.rows[self.name(row)]
            self.ticker += data.get("ticker", [])
        self.state |= {k: v for k, v in data.items() if k not in ("agents", "ticker", "history", "point")}
        self.seq = seq

    def follow(self, events: Iterator[Event], agent: str) -> dict[str, Any]:
        """Until an agent is idle."""
        for event in events:
            self.hear(event)
            for row in self.rows.values():
                if row["id"] == agent and row["status"] == "idle":
                    return row
        raise AssertionError("the stream ended")


def test_a_watcher_sees_what_the_list_shows() -> None:
    with node() as server:
        chat(server, "acme", "one")
        with watching(server) as events:
            first = next(events)
            assert first[0] == "full"
            screen = Screen()
            screen.hear(first)
            chat(server, "acme", "two")
            row = screen.follow(events, "run/two")
            assert row["cost_microusd"] is None

            def shown_and_listed() -> tuple[dict[str, Any], dict[str, Any]]:
                listed = get(server, "/v1/agents/run/two", **bearer("operator")).json()
                return {**row, "why": "", "cost_microusd": None}, {**listed, "why": "", "cost_microusd": None}

            for _ in range(20):  # its KV may still be moving: the two are looked at one after the other
                shown, listed = shown_and_listed()
                if shown == listed:
                    break
                screen.hear(next(events))
                row = screen.follow(events, "run/two")
            assert shown == listed
            assert screen.state["kv_tiers"]["device"]["limit_bytes"] > 0
            assert screen.state["kv_token_bytes"] > 0
            assert screen.state["counters"]["generation_tokens"] > 0


def test_a_tenant_sees_itself_only_and_nothing_of_the_machine() -> None:
    with node() as server:
        chat(server, "rival", "secret", session="merger")
        with watching(server, "acme") as events:
            screen = Screen()
            chat(server, "acme", "mine")
            screen.follow(events, "run/mine")
            assert [name[1] for name in screen.rows] == ["run/mine"]
            told = json.dumps([screen.rows[name] for name in screen.rows] + [screen.state, screen.ticker])
            assert "merger" not in told and "rival" not in told and "secret" not in told
            assert set(screen.state["kv_tiers"]["device"]) == {"agent_tokens"}
            assert "counters" not in screen.state
        with watching(server, "acme", "/v1/watch?tenant=rival") as events:
            assert next(events)[2]["tenant"] == "acme"
        with watching(server, "operator", "/v1/watch?tenant=rival") as events:
            assert [row["session_id"] for row in next(events)[2]["agents"]] == ["merger"]


def test_a_key_that_is_taken_away_ends_its_stream_and_no_other() -> None:
    keys = ring()
    with node(keys=keys) as server, watching(server, "acme") as mine, watching(server, "rival") as theirs:
        assert next(mine)[0] == "full"
        assert next(theirs)[0] == "full"
        keys.replace(KeyRing([KeyEntry(tenant="rival", key="sk-rival")]))
        kind, _, data = list(mine)[-1]
        assert (kind, data) == ("end", {"reason": "invalid_api_key"})
        chat(server, "rival", "goes-on")
        assert next(theirs)[0] == "diff"
        assert get(server, "/v1/watch", **bearer("acme")).status_code == 401


def test_keys_are_not_switched_off_by_reading_them_again() -> None:
    keys = ring()
    with pytest.raises(BadInput, match="restart"):
        keys.replace(KeyRing())
    assert keys.required


def test_watchers_are_bounded_and_give_their_place_back() -> None:
    settings = replace(QUICK, max_watchers=3, max_watchers_per_tenant=2)
    with node(settings) as server:
        hub = server.app.state.watch
        with watching(server, "acme") as one, watching(server, "acme") as two:
            next(one)
            next(two)
            full = get(server, "/v1/watch", **bearer("acme"))
            assert full.status_code == 429
            assert error_of(full)["code"] == "rate_limit_exceeded"
            with watching(server, "rival") as three:
                next(three)
                assert get(server, "/v1/watch", **bearer("operator")).status_code == 429
        until(lambda: hub.watchers == 0)
        with watching(server, "acme") as again:
            assert next(again)[0] == "full"


def test_all_watchers_of_a_view_share_one_picture() -> None:
    class Counting(FakeDriver):
        looks = 0

        def snapshot(self) -> Snapshot:
            self.looks += 1
            return super().snapshot()

    driver = Counting(says("x"))
    settings = replace(QUICK, watch_interval_s=3_600.0)
    with serving(driver, FakeText(INFO), settings) as server:
        lists = server.service.agent_lists
        with http(server) as client:
            for _ in range(5):
                with client.stream("GET", "/v1/watch") as answer:
                    assert next(parsed(answer))[0] == "full"
                    lists._good_until_s = float("inf")
        assert driver.looks == 1


def test_rows_of_agents_that_have_not_changed_are_not_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def counted(service: Service, view: AgentView, *, operator: bool) -> dict[str, Any]:
        made.append(view.agent)
        return agent_object(service, view, operator=operator)

    monkeypatch.setattr(hub_module, "agent_object", counted)
    with node() as server:
        for name in ("one", "two"):
            chat(server, "acme", name)
        hub = server.app.state.watch
        with watching(server) as events:
            next(events)
            until(lambda: hub._views[None].seq > 3)
            made.clear()
            seq = hub._views[None].seq
            until(lambda: hub._views[None].seq > seq + 5)
            assert len(made) <= 2, "their KV may still have moved"
            hub._epoch_s -= 1.0  # a clock was set: the world's times are all others
            until(lambda: {"run/one", "run/two"} <= set(made))


def test_who_asks_is_looked_up_when_keys_change_or_time_has_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    driver, now_s = FakeDriver(says("x")), 100.0
    # Not the function itself: everything else has a clock of its own, the server's end among it.
    monkeypatch.setattr("stepwell.server.watch.routes.time", SimpleNamespace(monotonic=lambda: now_s))
    with serving(driver, FakeText(INFO), QUICK, ring()) as server:
        asked: list[str | None] = []
        said: list[str | None] = [None]
        again = AskedAgain(server.service, lambda: asked.append(said[0]) or said[0])
        assert [again() for _ in range(5)] == [None] * 5 and asked == []
        server.service.keys.replace(ring())
        assert again() is None and len(asked) == 1
        now_s += AGAIN_S
        said[0] = "invalid_api_key"
        assert [again(), again()] == ["invalid_api_key"] * 2 and len(asked) == 2


def test_while_a_look_takes_long_a_stream_still_lives() -> None:
    go_on = threading.Event()

    class Slow(FakeDriver):
        def snapshot(self) -> Snapshot:
            go_on.wait(120.0)
            return super().snapshot()

    settings = replace(QUICK, keep_alive_s=0.02)
    with serving(Slow(says("x")), FakeText(INFO), settings) as server, http(server) as client:
        try:
            with client.stream("GET", "/v1/watch") as answer:
                lines = answer.iter_lines()
                assert next(lines) == ": keep-alive"
                go_on.set()
                assert "event: full" in lines
        finally:
            go_on.set()


def test_a_server_that_goes_down_ends_its_watchers() -> None:
    with node() as server, watching(server, "acme") as events:
        next(events)
        server.service.draining = True
        assert list(events)[-1][2] == {"reason": "server_overloaded"}
        assert get(server, "/v1/watch", **bearer("acme")).status_code == 503


def test_the_driver_s_failure_is_no_end() -> None:
    class Failing(FakeDriver):
        fails = 1

        def snapshot(self) -> Snapshot:
            if self.fails:
                self.fails -= 1
                raise RuntimeError("not now")
            return super().snapshot()

    with (
        serving(Failing(says("x")), FakeText(INFO), QUICK) as server,
        watching(server) as events,
    ):
        server.app.state.watch._entered.set()  # the pause after a failure is long
        with http(server) as client, client.stream("GET", "/v1/watch"):
            assert next(events)[0] == "full"


def test_refusals_and_costs_are_shown(tmp_path: Path) -> None:
    settings = ServerSettings(port=0, drain_s=5.0, watch_interval_s=0.02)
    with keeping(tmp_path, server_settings=settings) as kept:
        headers = {**books_bearer("acme"), "x-session-id": "run", "x-agent-id": "payer"}
        assert post(kept.server, "/v1/chat/completions", CHAT, **headers).status_code == 200
        kept.at_rest()
        charged = kept.charged_microusd()
        assert charged > 0
        with watching(kept.server, "acme") as events:
            screen = Screen()
            row = screen.follow(events, "run/payer")
            assert row["cost_microusd"] == charged


def test_what_the_driver_refuses_is_in_the_ticker() -> None:
    driver = FakeDriver(says(Rejected("flex_unavailable", "No room.", 10)))
    with serving(driver, FakeText(INFO), QUICK) as server, watching(server) as events:
        screen = Screen()
        screen.hear(next(events))
        assert post(server, "/v1/chat/completions", CHAT).status_code == 429
        while not screen.ticker:
            screen.hear(next(events))
        assert (screen.ticker[0]["kind"], screen.ticker[0]["detail"]) == ("refused", "flex_unavailable")


def view(device: int, host: int = 0, state: str = "idle", turns: int = 1) -> AgentView:
    kv = {KvTier.DEVICE: device, KvTier.HOST: host, KvTier.DISK: 0}
    return AgentView("acme", "default", "run", "a", None, state, 100, kv, turns, None)


@pytest.mark.parametrize(
    ("before", "after", "kind"),
    [
        (view(100), view(40, 60), "evicted"),
        (view(100), view(40), "evicted"),
        (view(0, 100), view(0, 40), "evicted"),
        (view(0, 100), view(100, 0), "came_back"),
        (view(100, state="running"), view(100, state="preempted"), "preempted"),
        (view(100), view(100), None),
        (view(0, 100), view(100, 0, turns=2), None),
    ],
)
def test_what_happened_is_read_from_two_pictures(
    before: AgentView, after: AgentView, kind: str | None
) -> None:
    name = ("acme", "a")
    assert [one.kind for one in happenings({name: before}, {name: after})] == ([kind] if kind else [])


ROWS = st.dictionaries(
    st.tuples(st.sampled_from("xy"), st.sampled_from("abc")),
    st.fixed_dictionaries({"status": st.sampled_from(["idle", "running"]), "turns": st.integers(0, 2)}),
)


def named(rows: dict[tuple[str, str], dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    return {name: {"id": name[1], "tenant": name[0], **row} for name, row in rows.items()}


@given(st.lists(ROWS, min_size=1, max_size=6))
def test_frames_and_differences_lead_to_the_same_screen(
    pictures: list[dict[tuple[str, str], dict[str, Any]]],
) -> None:
    snapshot = Snapshot(0, 0, 0, {tier: TierUsage(1, 2, 3) for tier in KvTier}, (), {"steps": 1})
    shown, told = View(None, {}), Screen()
    for number, rows in enumerate(pictures):
        shown.update(float(number), snapshot, (), named(rows), ())
        whole = json.loads(shown.full().decode().partition("data: ")[2])
        if number == 0:
            told.hear(("full", 1, whole))
        else:
            told.hear(("diff", number + 1, json.loads(shown.difference.decode().partition("data: ")[2])))
        assert told.rows == named(rows)
        changed, gone = differences(named(rows), named(rows), with_tenant=True)
        assert not changed and not gone


def test_a_reader_that_is_behind_gets_the_newest_frame_whole() -> None:
    async def read() -> list[str]:
        driver = FakeDriver(says("x"))
        with serving(driver, FakeText(INFO), QUICK) as server:
            hub = server.app.state.watch
            shown = View(None, {})
            snapshot = driver.snapshot()
            shown.update(1.0, snapshot, (), {}, ())
            frames = hub.frames(shown, lambda: None)
            got = [await anext(frames)]
            shown.update(2.0, snapshot, (), {}, ())
            got.append(await anext(frames))
            for at in (3.0, 4.0, 5.0):
                shown.update(at, snapshot, (), {}, ())
            got.append(await anext(frames))
            await frames.aclose()
        return [frame.split(b"\n")[0].decode() + " " + frame.split(b"\n")[1].decode() for frame in got]

    assert asyncio.run(read()) == ["event: full id: 1", "event: diff id: 2", "event: full id: 5"]


def test_looks_that_cost_more_come_more_rarely_within_bounds() -> None:
    """So watchers cost the same small share of a core, however many agents they see."""
    service = SimpleNamespace(settings=ServerSettings(watch_interval_s=1.0), now_s=lambda: 0.0)
    hub = hub_module.Hub(cast("Service", service), Refusals())
    assert hub._pause_s(0.001) == POINT_EVERY_S  # nobody watches
    hub._views[None] = View(None, {}, watchers=1)
    assert hub._pause_s(0.001) == 1.0
    assert hub._pause_s(0.010) == pytest.approx(hub_module.REST * (0.010 + hub_module.WRITE_S))
    hub._views[None].watchers = 100
    assert hub._pause_s(0.010) == pytest.approx(hub_module.REST * (0.010 + 100 * hub_module.WRITE_S))
    assert hub._pause_s(10.0) == hub_module.LONGEST_REST_S

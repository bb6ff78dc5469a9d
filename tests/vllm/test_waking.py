"""The two sockets by which a vLLM engine is woken and hears of hints, without vLLM."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from stepwell.policy.types import Hint, Wait
from stepwell.settings.file import load
from stepwell.vllm.engine_meter import VARIABLE as REPORT
from stepwell.vllm.waking import VARIABLE, WAKE, EngineEar, Waker, WakerOf, engine_ear, send, tell_hint


class Engine:
    """What vLLM's client is asked, and that it was."""

    def __init__(self, *, dead: bool = False) -> None:
        self.asked, self.dead = asyncio.Event(), dead
        self.times = 0

    async def is_sleeping(self) -> bool:
        self.times += 1
        self.asked.set()
        if self.dead:
            raise RuntimeError("the engine has died")
        return False


def test_hints_reach_the_engine(tmp_path: Path) -> None:
    ear = EngineEar(tmp_path)
    tell_hint(tmp_path, "acme", "a", Hint(Wait.TOOL, 2_000_000, retain_us=5_000_000, tool="ls"))
    tell_hint(tmp_path, "acme", "b", Hint(Wait.AGENT, after_agent="a"))
    (first, said), (second, after) = ear.hints()
    assert (first.tenant, first.agent, said.expected_us, said.wait) == ("acme", "a", 2_000_000, Wait.TOOL)
    assert said.tool == "ls"
    assert (second.agent, after.after_agent) == ("b", "a")
    (path,) = tmp_path.glob("hints-*")
    send(path, b"not JSON")
    send(path, b"[]")
    assert ear.hints() == []
    ear.close()
    assert not tmp_path.exists()
    tell_hint(tmp_path, "acme", "a", Hint())  # nobody hears it, and nobody waits


def test_every_rank_of_an_engine_hears_a_hint_and_none_that_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is a process of its own, and which of them has an agent's KV they alone know."""
    ranks = []
    for number in range(3):
        monkeypatch.setattr(os, "getpid", lambda number=number: 100 + number)
        ranks.append(EngineEar(tmp_path))
    killed = ranks.pop()._socket
    assert killed is not None
    killed.close()
    tell_hint(tmp_path, "acme", "a", Hint(Wait.TOOL, tool="ls"))
    assert [[hint.tool for _, hint in one.hints()] for one in ranks] == [["ls"], ["ls"]]
    assert len(list(tmp_path.glob("hints-*"))) == 2
    ranks[0].close()
    assert tmp_path.exists()
    ranks[1].close()
    assert not tmp_path.exists()


def test_an_engine_that_asks_is_woken(tmp_path: Path) -> None:
    asyncio.run(asks(tmp_path))


async def asks(tmp_path: Path) -> None:
    engine, ear = Engine(), EngineEar(tmp_path)
    waker = Waker(tmp_path / WAKE, engine.is_sleeping)
    ear.ask_to_be_woken(600_000)
    send(tmp_path / WAKE, b"nonsense")
    ear.ask_to_be_woken(0)
    await asyncio.wait_for(engine.asked.wait(), 30)
    assert engine.times == 1
    waker.close()
    ear.close()


def test_an_alarm_that_was_asked_for_is_not_lost_to_an_earlier_one(tmp_path: Path) -> None:
    """A hint wakes the engine at once, and what it had asked for before still comes."""
    asyncio.run(asks_twice(tmp_path))


async def asks_twice(tmp_path: Path) -> None:
    engine, ear = Engine(), EngineEar(tmp_path)
    waker = Waker(tmp_path / WAKE, engine.is_sleeping)
    for in_ms in (300, 0, 200):
        ear.ask_to_be_woken(in_ms)
    for times in (1, 2):
        await asyncio.wait_for(engine.asked.wait(), 30)
        assert engine.times == times
        engine.asked.clear()
    waker.close()
    ear.close()


def test_what_rings_while_the_engine_answers_wakes_it_once_more(tmp_path: Path) -> None:
    """It may have looked before a hint was there."""
    asyncio.run(rings_meanwhile(tmp_path))


async def rings_meanwhile(tmp_path: Path) -> None:
    engine, answered = Engine(), asyncio.Event()

    async def slow() -> bool:
        await engine.is_sleeping()
        await answered.wait()
        return False

    waker = Waker(tmp_path / WAKE, slow)
    send(tmp_path / WAKE, b"0")
    await asyncio.wait_for(engine.asked.wait(), 30)
    engine.asked.clear()
    for _ in range(3):
        send(tmp_path / WAKE, b"0")
    answered.set()
    await asyncio.wait_for(engine.asked.wait(), 30)
    assert engine.times == 2
    waker.close()


def test_an_ear_tells_whether_there_is_anything_to_hear(tmp_path: Path) -> None:
    ear = EngineEar(tmp_path)
    assert not ear.hears()
    tell_hint(tmp_path, "acme", "a", Hint(Wait.TOOL))
    assert ear.hears()
    assert ear.hears()
    assert len(ear.hints()) == 1
    assert not ear.hears()
    ear.close()
    assert not ear.hears()


def test_an_engine_that_has_died_is_asked_again(tmp_path: Path) -> None:
    asyncio.run(asks_a_dead_one(tmp_path))


async def asks_a_dead_one(tmp_path: Path) -> None:
    engine = Engine(dead=True)
    waker = Waker(tmp_path / WAKE, engine.is_sleeping)
    for _ in range(2):
        engine.asked.clear()
        send(tmp_path / WAKE, b"0")
        await asyncio.wait_for(engine.asked.wait(), 30)
    assert (engine.times, waker.woken) == (2, 0)
    waker.close()


def test_the_middleware_makes_one_waker_when_there_is_an_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    asyncio.run(one_waker())
    monkeypatch.delenv(VARIABLE)
    assert engine_ear() is None


async def one_waker() -> None:
    class State:
        engine_client = Engine()

    class App:
        state = State()

    of = WakerOf()
    of.see({"type": "lifespan"})
    assert of.waker is None
    of.see({"type": "http", "app": App()})
    made = of.waker
    of.see({"type": "http", "app": App()})
    assert made is not None
    assert of.waker is made
    made.close()


def test_what_processes_of_vllm_are_told_is_no_setting_that_nobody_knows(tmp_path: Path) -> None:
    """``StepwellOwners`` reads the settings there."""
    assert load(None, {}, {VARIABLE: str(tmp_path), REPORT: str(tmp_path / "told")}) == load(None, {}, {})

"""Nodes as processes: started again when they end, taken over by the next front end, stopped for certain."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from stepwell.errors import StepwellError
from stepwell.gateway import processes
from stepwell.gateway.processes import NodeProcess, Supervisor

SLEEPS = (sys.executable, "-c", "import time; time.sleep(60)", "stepwell")
STUBBORN = (
    sys.executable,
    "-c",
    "import signal, time; signal.signal(15, signal.SIG_IGN); print('on', flush=True); time.sleep(60)",
    "stepwell",
)
needs_proc = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="no /proc here")


def process(tmp_path: Path, command: tuple[str, ...] = SLEEPS) -> NodeProcess:
    return NodeProcess("a", tmp_path / "a", "127.0.0.1", 0, {"PATH": os.environ["PATH"]}, command)


def test_a_node_that_ends_is_started_again_and_those_who_wait_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "FIRST_PAUSE_S", 0.01)

    async def go() -> None:
        one, lost, again = process(tmp_path), asyncio.Event(), asyncio.Event()
        one.start()
        keeper = asyncio.create_task(Supervisor(one, lost.set, again.set).run())
        first = one.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await asyncio.wait_for(again.wait(), 20)
        assert lost.is_set() and one.pid != first and one.alive() and one.starts == 2
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)
        await one.stop(20)
        assert not one.alive()

    asyncio.run(go())


@needs_proc
def test_the_next_front_end_takes_a_node_over(tmp_path: Path) -> None:
    async def go() -> None:
        one = process(tmp_path)
        one.start()
        other = process(tmp_path)
        assert other.adopt() and (other.pid, other.port) == (one.pid, one.port)
        assert other.alive()
        assert one._child is not None
        reaper = asyncio.create_task(asyncio.to_thread(one._child.wait))  # init's part, had its parent gone
        await other.stop(20)
        await reaper
        assert not other.alive() and not process(tmp_path).adopt()

    asyncio.run(go())


@needs_proc
def test_a_process_in_the_middle_of_its_start_is_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between ``exec`` and its first instruction a process has neither a command line nor an environment."""
    one, read, early = process(tmp_path), Path.read_bytes, ["cmdline", "environ", "environ"]

    def as_the_kernel_does(path: Path) -> bytes:
        if path.name in early:
            early.remove(path.name)
            return b""
        return read(path)

    async def go() -> None:
        one.start()
        monkeypatch.setattr(Path, "read_bytes", as_the_kernel_does)
        assert process(tmp_path).adopt()
        await one.stop(20)

    asyncio.run(go())
    assert early == []


@needs_proc
def test_a_number_that_is_somebody_elses_by_now_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    note = tmp_path / "a" / processes.NOTE
    for text in (
        f'{{"pid": {os.getpid()}, "port": 1}}',
        "{",
        '{"pid": "x"}',
        '{"pid": 999999999, "port": 1}',
    ):
        note.write_text(text, encoding="utf-8")
        assert not process(tmp_path).adopt()


def test_a_node_that_does_not_heed_is_killed(tmp_path: Path) -> None:
    async def go() -> None:
        one = process(tmp_path, STUBBORN)
        one.start()
        for _ in range(400):
            if one.last_words() == "on":
                break
            await asyncio.sleep(0.05)
        await one.stop(0.1)
        assert not one.alive()

    asyncio.run(go())


def test_a_command_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(StepwellError, match="node a cannot be started"):
        process(tmp_path, (str(tmp_path / "none"),)).start()

"""A command that is told to stop stops, wherever Python happens to be."""

from __future__ import annotations

import asyncio
import os
import signal
import weakref
from collections.abc import Iterator

import pytest

from stepwell.console.stopping import told_to_stop


@pytest.fixture(autouse=True)
def handler_of_ctrl_c() -> Iterator[None]:
    """As in a terminal, however the tests were started."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Thing:
    """Anything that a weak reference can be to."""


def stop() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def stop_in_a_callback() -> None:
    """Where Python prints what is raised and goes on."""
    thing = Thing()
    kept = weakref.ref(thing, lambda _: stop())
    del thing
    assert kept() is None


@pytest.mark.parametrize("how", [stop, stop_in_a_callback])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_plain_block_ends_as_interrupted(how: object) -> None:
    assert callable(how)
    with pytest.raises(KeyboardInterrupt), told_to_stop():
        how()


@pytest.mark.parametrize("how", [stop, stop_in_a_callback])
def test_a_task_is_cancelled_at_once(how: object) -> None:
    """It is cancelled where it waits, and what it has to put away it puts away."""
    seen: list[str] = []

    async def work() -> None:
        assert callable(how)
        try:
            how()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    with pytest.raises(KeyboardInterrupt), told_to_stop():
        asyncio.run(work())
    assert seen == ["cancelled"]


def test_a_program_that_ignores_ctrl_c_stops_at_once() -> None:
    """What a script starts in the background does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    async def work() -> None:
        stop()
        await asyncio.Event().wait()

    with pytest.raises(KeyboardInterrupt), told_to_stop():
        asyncio.run(work())


def test_the_handler_of_before_is_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with told_to_stop():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before

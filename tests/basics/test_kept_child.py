"""A child that is kept: late, dead, talkative or mad, and started again with patience."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from stepwell.basics.kept_child import MOST_PAUSE_S, ChildAway, KeptChild
from stepwell.basics.line_child import LineChild

ENV = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
LONG_S = 60.0


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def child(clock: Clock) -> Iterator[KeptChild]:
    made = KeptChild("tests.basics.echo_child", env=ENV, now_s=clock)
    yield made
    made.close()


def ask(child: KeptChild, question: bytes, limit_s: float = LONG_S, most_bytes: int = 1_000) -> bytes:
    return child.ask(question, limit_s, most_bytes, bytes)


def test_it_is_kept_between_questions(child: KeptChild) -> None:
    assert child.starts == 0 and not child.lives and child.pid is None
    assert ask(child, b"say 1") == b"say 1"
    first = child.pid
    assert ask(child, b"say 2") == b"say 2"
    assert (child.starts, child.pid) == (1, first)
    child.close()
    assert not child.lives
    assert ask(child, b"say 3") == b"say 3"


def test_one_that_died_between_questions_is_started_again(child: KeptChild) -> None:
    ask(child, b"say 1")
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    assert ask(child, b"say 2") == b"say 2"
    assert child.starts == 2


def test_a_late_answer_is_not_waited_for_and_the_next_one_is_another_childs(child: KeptChild) -> None:
    with pytest.raises(ChildAway, match=r"not answered within 0\.05 s"):
        ask(child, b"sleep", 0.05)
    assert not child.lives
    assert ask(child, b"say 1") == b"say 1"


def test_a_long_answer_and_nonsense_end_it(child: KeptChild) -> None:
    with pytest.raises(ChildAway, match="too long"):
        ask(child, b"long 100000")
    with pytest.raises(ChildAway, match="its answer is none"):
        child.ask(b"say x", LONG_S, 100, int)


def test_what_dies_of_every_question_is_tried_twice_and_then_with_patience(
    child: KeptChild, clock: Clock
) -> None:
    with pytest.raises(ChildAway, match="it has ended"):
        ask(child, b"leave")
    assert child.starts == 2
    with pytest.raises(ChildAway, match="failed 2 times and is started again in 1 s"):
        ask(child, b"say 1")
    assert child.starts == 2, "nobody starts it for every question"
    pauses = []
    for _ in range(10):
        clock.now_s = child._not_before_s
        with pytest.raises(ChildAway):
            ask(child, b"sleep", 0.01)
        pauses.append(child._not_before_s - clock.now_s)
    assert pauses[:4] == [2, 4, 8, 16] and pauses[-1] == MOST_PAUSE_S
    clock.now_s += MOST_PAUSE_S
    assert ask(child, b"say 1") == b"say 1"
    with pytest.raises(ChildAway, match="not answered"):
        ask(child, b"sleep", 0.01)
    assert ask(child, b"say 1") == b"say 1", "an answer makes all failures good"


def test_one_that_does_not_begin_is_told_apart(clock: Clock) -> None:
    def begin(child: LineChild) -> None:
        child.ask(b"leave", LONG_S, 100)

    broken = KeptChild("tests.basics.echo_child", env=ENV, begin=begin, now_s=clock)
    with pytest.raises(ChildAway, match="ends before it is ready") as raised:
        broken.start()
    assert raised.value.starting
    missing = KeptChild("tests.no_such_module", env=ENV, now_s=clock)
    with pytest.raises(ChildAway, match="ends before it is ready"):
        ask(missing, b"say 1")

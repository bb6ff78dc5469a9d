"""The walk of a streamed chat request through the code, as it is executed: what a reader steps into.

Nothing here lists what calls what. A profiler stands at the *hand-overs* below and looks at the stack when
the request comes by: from the route's handler, or from where its thread begins, down to the hand-over. Taken
in the order of the hand-overs, functions that were not on the walk yet are the next *stops*. A *visit* is a
run of stops in one file, and a *return* is a visit to a file that the reader has left before.

    python -m tests.server.walk
"""

from __future__ import annotations

import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import stepwell
from stepwell.loop.requests import Delta
from stepwell.policy.types import RequestArrived
from tests.server.ledgers import bearer, keeping
from tests.server.wire import CHAT, post

ROOT = Path(stepwell.__file__).parent
HANDLER = "chat_completions"
"""What comes before it is middleware, the same for every route."""
UNNAMED = ("<genexpr>", "<listcomp>", "<dictcomp>")
AROUND = ("server/middleware.py", "server/limits/connections.py", "server/wire/sse.py")
"""At the top of a stack: what carries every answer and knows nothing of this one."""


class Stop(NamedTuple):
    """A function that the reader steps into."""

    file: str
    function: str


Locals = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class HandOver:
    """A place where the request passes on: ``function`` is called with what is the request's."""

    what: str
    file: str
    function: str
    is_it: Callable[[Locals], bool] = lambda given: True
    after: str = ""
    """The hand-over that must have been, where others come by here too."""


def _arrives(given: Locals) -> bool:
    return isinstance(given["event"], RequestArrived)


def _is_text(given: Locals) -> bool:
    return isinstance(given["output"], Delta)


def _reads_text(given: Locals) -> bool:
    return isinstance(given["arrival"].output, Delta)


def _writes_text(given: Locals) -> bool:
    return bool(given["delta"].get("content"))


def _has_text(given: Locals) -> bool:
    choices = given["data"].get("choices")
    return bool(choices) and bool(choices[0]["delta"].get("content"))


def _has_usage(given: Locals) -> bool:
    return bool(given["batch"].usage)


PLACED = "the policy gives it a place on the device"
HAND_OVERS = (
    HandOver("the body is read", "server/wire/body.py", "read_body"),
    HandOver("it is known who calls", "server/callers/identity.py", "identify"),
    HandOver("the body is checked", "server/wire/body.py", "parse"),
    HandOver("it has a place in the server", "server/limits/gate.py", "Gate._add"),
    HandOver("its prompt is made", "server/generation/prompts.py", "chat_prompt"),
    HandOver("it is put together for the loop", "server/generation/turns.py", "Ask.generations"),
    HandOver("the most that it may cost is held", "ledger/budgets/book.py", "BudgetBook.reserve"),
    HandOver("the loop is told", "loop/inbox.py", "Inbox.put", _arrives),
    HandOver("the policy is told", "policy/scheduler.py", "Scheduler._arrived"),
    HandOver(PLACED, "policy/admission.py", "Admission._open"),
    HandOver("it is in a batch", "policy/batch.py", "BatchBuilder.build", after=PLACED),
    HandOver("the engine runs the batch", "engines/null.py", "NullEngine.run"),
    HandOver("it has its first token", "loop/live.py", "LiveRequest.take"),
    HandOver("the text leaves the loop's thread", "server/backends/bridge.py", "Bridge._deliver", _is_text),
    HandOver(
        "the text is with the request again", "server/backends/bridge.py", "Generations.put", _reads_text
    ),
    HandOver("the text is a chunk", "server/chat/answer.py", "ChatShape._chunk", _writes_text),
    HandOver("the chunk is bytes", "server/wire/sse.py", "event", _has_text),
    HandOver("its charge is known", "ledger/pricing/bills.py", "Bills.settle"),
    HandOver("its postings are handed over", "ledger/stores/writer.py", "LedgerWriter.submit", _has_usage),
)


class Walk:
    """The stops, in the order in which they are come to."""

    def __init__(self, stacks: Mapping[str, Sequence[Stop]]) -> None:
        """``stacks``: of each hand-over that was seen, outermost function first."""
        self.missing = [one.what for one in HAND_OVERS if one.what not in stacks]
        """Hand-overs that were not seen."""
        self.stops = list(dict.fromkeys(stop for one in HAND_OVERS for stop in stacks.get(one.what, ())))
        self.visits = [file for file, _ in groupby(stop.file for stop in self.stops)]
        self.returns = len(self.visits) - len(set(self.visits))

    def __str__(self) -> str:
        lines = [
            f"{file:24} {', '.join(stop.function.replace('.<locals>', '') for stop in stops)}"
            for file, stops in groupby(self.stops, key=lambda stop: stop.file)
        ]
        counts = len(self.stops), len(self.visits), self.returns
        return "\n".join([*lines, "{} functions, {} visits to files, {} of them returns".format(*counts)])


def _stack(frame: FrameType | None) -> list[Stop]:
    found: list[Stop] = []
    while frame is not None:
        code, path = frame.f_code, Path(frame.f_code.co_filename)
        if path.is_relative_to(ROOT) and code.co_name not in UNNAMED:
            found.append(Stop(path.relative_to(ROOT).as_posix(), code.co_qualname))
            if code.co_name == HANDLER:
                break
        frame = frame.f_back
    found.reverse()
    while len(found) > 1 and found[0].file in AROUND:
        del found[0]
    return found


@contextmanager
def watched(stacks: dict[str, list[Stop]]) -> Iterator[None]:
    """Threads that start meanwhile are looked at."""
    by_place = {(str(ROOT / one.file), one.function): one for one in HAND_OVERS}

    def look(frame: FrameType, event: str, _: object) -> None:
        one = by_place.get((frame.f_code.co_filename, frame.f_code.co_qualname)) if event == "call" else None
        if one is None or one.what in stacks or (one.after and one.after not in stacks):
            return
        if one.is_it(frame.f_locals):
            stacks[one.what] = _stack(frame)

    threading.setprofile(look)
    try:
        yield
    finally:
        threading.setprofile(None)  # type: ignore[arg-type]


def walk_of_a_request() -> Walk:
    """One streamed answer of a whole server on the null engine, with books."""
    stacks: dict[str, list[Stop]] = {}
    body = CHAT | {"stream": True, "max_tokens": 4}
    with tempfile.TemporaryDirectory() as directory, watched(stacks), keeping(Path(directory)) as kept:
        answer = post(kept.server, "/v1/chat/completions", body, **bearer("acme"))
        assert answer.status_code == 200, answer.text
        kept.at_rest()
    return Walk(stacks)


if __name__ == "__main__":
    sys.stdout.write(f"{walk_of_a_request()}\n")

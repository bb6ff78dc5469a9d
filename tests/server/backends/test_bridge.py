"""Between the driver's thread and the event loop: order, merging, ends."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from stepwell.basics.per_tier import NOTHING
from stepwell.engines.base import SamplingParams
from stepwell.loop.requests import (
    Admitted,
    Delta,
    Finished,
    Generation,
    Output,
    Preempted,
    Rejected,
    Sink,
    TokenInfo,
)
from stepwell.policy.types import RequestId
from stepwell.server.backends.bridge import Arrival, Bridge, Generations
from tests.server.fakes import HOLD, FakeDriver, says

ADMITTED = Admitted(0, NOTHING, 0)
FINISHED = Finished("stop", None, 1, 1, 0, 0, 0, 0)
LOST = Rejected("server_error", "Lost.")


def generation() -> Generation:
    return Generation((1, 2), 8, SamplingParams())


def letter(number: int) -> Delta:
    return Delta(chr(97 + number % 26), (TokenInfo(number),))


async def drain(batch: Generations) -> list[Arrival]:
    found = []
    while not batch.over:
        arrival = await batch.next()
        assert arrival is not None
        found.append(arrival)
    return found


def text_of(outputs: Sequence[Output]) -> str:
    return "".join(output.text for output in outputs if isinstance(output, Delta))


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.booleans()), max_size=40))
def test_merging_loses_nothing_and_keeps_order(steps: list[tuple[int, bool, bool]]) -> None:
    """Deltas and preemptions of three generations, read now and then."""

    async def run() -> None:
        batch = Generations(Bridge(FakeDriver(says())), [generation()] * 3)
        batch.requests = [0, 1, 2]
        sent: dict[int, list[Output]] = {0: [], 1: [], 2: []}
        read: dict[int, list[Output]] = {0: [], 1: [], 2: []}
        for number, (index, preempted, read_one) in enumerate(steps):
            output: Output = Preempted() if preempted else letter(number)
            sent[index].append(output)
            batch.put(Arrival(index, output))
            if read_one and (arrival := await batch.next(0.0)) is not None:
                read[arrival.index].append(arrival.output)
        for index in range(3):
            batch.put(Arrival(index, FINISHED))
        for arrival in await drain(batch):
            read[arrival.index].append(arrival.output)
        for index in range(3):
            assert text_of(read[index]) == text_of(sent[index])
            tokens = [t for o in read[index] if isinstance(o, Delta) for t in o.tokens]
            assert tokens == [t for o in sent[index] if isinstance(o, Delta) for t in o.tokens]
            assert read[index][-1] == FINISHED

    asyncio.run(run())


def test_a_reader_that_sleeps_holds_one_delta() -> None:
    async def run() -> int:
        batch = Generations(Bridge(FakeDriver(says())), [generation()])
        batch.put(Arrival(0, ADMITTED))
        for number in range(1_000):
            batch.put(Arrival(0, letter(number)))
        return len(batch._arrivals)

    assert asyncio.run(run()) == 2


def test_outputs_arrive_from_another_thread_in_order() -> None:
    async def run() -> list[Output]:
        bridge = Bridge(FakeDriver(says("abc", Preempted(), "def")))
        with bridge.open([generation()]) as batch:
            outputs = [arrival.output for arrival in await drain(batch)]
        assert bridge.live == 0
        return outputs

    outputs = asyncio.run(run())
    assert isinstance(outputs[0], Admitted)
    assert isinstance(outputs[-1], Finished)
    assert text_of(outputs) == "abcdef"


def test_silence_is_noticed() -> None:
    async def run() -> None:
        driver = FakeDriver(says(HOLD))
        with Bridge(driver).open([generation()]) as batch:
            assert await batch.next(0.0) is None

    asyncio.run(run())


def test_leaving_cancels_what_still_runs_and_only_that() -> None:
    async def run() -> FakeDriver:
        driver = FakeDriver(lambda prompt, g: ("x",) if len(driver.submitted) == 1 else ("x", HOLD, "y"))
        bridge = Bridge(driver)
        with bridge.open([generation(), generation()]) as batch:
            ended = False
            while not ended:
                arrival = await batch.next()
                ended = arrival is not None and isinstance(arrival.output, Finished)
        assert bridge.live == 0
        return driver

    driver = asyncio.run(run())
    assert driver.cancelled == {1}


def test_everybody_is_told_at_the_end() -> None:
    async def run() -> list[Output]:
        driver = FakeDriver(says("x", HOLD))
        bridge = Bridge(driver)
        with bridge.open([generation(), generation()]) as batch:
            bridge.abort_all(LOST)
            outputs = [arrival.output for arrival in await drain(batch)]
        assert driver.cancelled == {0, 1}
        assert bridge.live == 0
        return outputs

    assert asyncio.run(run())[-2:] == [LOST, LOST]


def test_every_output_is_observed_also_of_those_who_left() -> None:
    seen: list[Output] = []

    async def run() -> None:
        driver = FakeDriver(says("x", HOLD))
        bridge = Bridge(driver, lambda generation, output: seen.append(output))
        with bridge.open([generation()]):
            pass
        await asyncio.to_thread(driver.wait_until_idle)
        await asyncio.sleep(0)

    asyncio.run(run())
    assert isinstance(seen[-1], Finished)
    assert seen[-1].reason == "cancelled"


def test_a_driver_that_outlives_the_loop() -> None:
    driver = FakeDriver(says(HOLD, "late"))

    async def run() -> None:
        Bridge(driver).open([generation()])

    asyncio.run(run())
    driver.release.set()
    driver.wait_until_idle()
    assert driver.running == 0, "the driver's thread has ended in spite of the loop that is gone"


class AtOnce(FakeDriver):
    """Says everything before ``submit`` returns."""

    def submit(self, generation: Generation, sink: Sink) -> RequestId:
        for output in OUTPUTS[generation.prompt[0]]:
            sink(output)
        self.submitted.append(generation)
        return len(self.submitted)


OUTPUTS: dict[int, list[Output]] = {
    0: [Admitted(1, NOTHING, 0), Delta("x", ())],
    1: [LOST],
    2: [Admitted(1, NOTHING, 0), Delta("x", ()), LOST],
}


def test_what_is_refused_at_once_is_known_at_once() -> None:
    def refused(*kinds: int) -> bool:
        driver = AtOnce(says())
        asked = [Generation((kind,), 8, SamplingParams()) for kind in kinds]
        return Bridge(driver).open(asked).refused is LOST

    async def run() -> list[bool]:
        return [refused(*kinds) for kinds in ((0,), (1,), (0, 1), (2,), (0, 2), (2, 1))]

    # What was lost after it had begun is a failure of its stream, not a refusal.
    assert asyncio.run(run()) == [False, True, True, False, False, True]

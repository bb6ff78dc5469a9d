"""A server and its clients in one thread and in virtual time: all is real but the clock and the engine.

The event loop's clock is the node's. While any agent has something to do it stands still; when all wait, the
driver takes a step, which lets the time pass that the null engine says it takes, or the clock goes on to the
next timer. Programs, HTTP application, driver and policy are those of a server, and an hour costs seconds.
"""

from __future__ import annotations

import asyncio
import heapq
import selectors
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar, cast

import httpx2

from stepwell.basics.clock import ManualClock
from stepwell.bench.node import Door
from stepwell.engines.base import AnswerPart, SamplingParams, Span
from stepwell.engines.null import END_TOKEN, NullConfig, NullEngine, NullText
from stepwell.errors import StepwellError
from stepwell.launch import assemble
from stepwell.loop.driver import Driver
from stepwell.loop.requests import Generation, Sink
from stepwell.policy.scheduler import Scheduler
from stepwell.policy.types import BlockId, KvTier, Moved, RequestId
from stepwell.server.app import create_app
from stepwell.server.settings import ServerSettings
from stepwell.settings.file import PolicySettings, Settings
from stepwell.simulate.hardware import MachineModel
from stepwell.tiers.base import Tiers
from stepwell.tiers.memory import MemoryTiers

Result = TypeVar("Result")
Script = Callable[[Generation, int], bytes]
"""The answer to an agent's turn; turns of an agent count from 0."""
CALL = "call "
"""How a script begins an answer that calls a function: ``call NAME {...}``."""
TOKEN_BYTES = 16
"""What the null engine keeps for a token, in place of the model's."""


class ScriptedEngine(NullEngine):
    """Says what it is told, token by token, in the time of the modelled machine."""

    def __init__(self, config: NullConfig, clock: ManualClock) -> None:
        super().__init__(config, clock)
        self.answers: dict[RequestId, bytes] = {}

    def _choose(self, request: RequestId, draw: int, sampling: SamplingParams) -> int:
        answer, done = self.answers[request], self._generated[request]
        return answer[done] if done < len(answer) else END_TOKEN

    def forget(self, request: RequestId) -> None:
        self.answers.pop(request, None)
        super().forget(request)


class ScriptedReader:
    """A line ``call NAME {...}`` is a call of a function that was offered; every other answer is content."""

    thought: Sequence[Span] = ()

    def __init__(self, functions: Mapping[str, Mapping[str, Any]]) -> None:
        self._functions = functions
        self._held = ""

    def add(self, text: str) -> list[AnswerPart]:
        self._held += text
        begun = self._held[: len(CALL)]
        return [] if self._functions and CALL.startswith(begun) else self._content()

    def finish(self) -> list[AnswerPart]:
        word, name, arguments = (*self._held.split(" ", 2), "", "")[:3]
        if f"{word} " != CALL or name not in self._functions:
            return self._content()
        self._held = ""
        return [AnswerPart("call", name), AnswerPart("arguments", arguments)]

    def _content(self) -> list[AnswerPart]:
        text, self._held = self._held, ""
        return [AnswerPart("content", text)] if text else []


class ScriptedText(NullText):
    """The null engine's text has no calls; what a script says may be one."""

    def reader(
        self,
        functions: Mapping[str, Mapping[str, Any]],
        opening: str = "",
        *,
        constrained: bool = False,
    ) -> ScriptedReader:
        return ScriptedReader(functions)


class ScriptedDriver(Driver):
    """Tells its engine what to answer."""

    script: Script
    turns_of: dict[str, int]

    def submit(self, generation: Generation, sink: Sink) -> RequestId:
        request = super().submit(generation, sink)
        assert isinstance(self.engine, ScriptedEngine)
        number = self.turns_of.get(generation.caller.agent, 0)
        self.turns_of[generation.caller.agent] = number + 1
        self.engine.answers[request] = self.script(generation, number)
        return request


class TimedTiers(Door):
    """``MemoryTiers`` whose disk takes time on the node's clock: one queue for reads, one for writes."""

    def __init__(self, inner: MemoryTiers, model: MachineModel, clock: ManualClock) -> None:
        super().__init__(inner)
        self._model, self._clock = model, clock
        self._held: list[tuple[int, int, Moved]] = []
        self._free_at_us = {KvTier.HOST: 0, KvTier.DISK: 0}
        self._order = 0

    def next_us(self) -> int | None:
        """When the next transfer ends."""
        return self._held[0][0] if self._held else None

    def poll(self) -> list[Moved]:
        for moved in self._inner.poll():
            self._hold(moved)
        ended = []
        while self._held and self._held[0][0] <= self._clock.now_us():
            ended.append(heapq.heappop(self._held)[2])
        return ended

    def _hold(self, moved: Moved) -> None:
        size_bytes = moved.size_bytes * self._model.token_bytes // TOKEN_BYTES
        reads = moved.target is KvTier.HOST
        took_us = self._model.read_us(size_bytes) if reads else self._model.write_us(size_bytes)
        ends_us = max(self._clock.now_us(), self._free_at_us[moved.target]) + took_us
        self._free_at_us[moved.target] = ends_us
        self._order += 1
        heapq.heappush(self._held, (ends_us, self._order, replace(moved, duration_us=took_us)))

    def drop(self, block: BlockId, tier: KvTier) -> None:
        """What is on its way there does not arrive."""
        self._inner.drop(block, tier)
        self._held = [
            (
                at_us,
                order,
                replace(moved, ok=False) if (moved.block, moved.target) == (block, tier) else moved,
            )
            for at_us, order, moved in self._held
        ]


class VirtualNode:
    """Driver, policy and HTTP application around a scripted engine with the costs of ``model``."""

    def __init__(
        self, script: Script, model: MachineModel, *, device: int, host: int, disk: int, policy: str
    ) -> None:
        """``device``, ``host`` and ``disk`` are blocks."""
        self.clock = ManualClock()
        engine = ScriptedEngine(
            NullConfig(
                device_blocks=device,
                token_bytes=TOKEN_BYTES,
                prefill_us_per_token=model.prefill_us_per_token,
                depth_ns_per_token=model.depth_ns_per_token,
                decode_us_per_step=model.decode_us_per_step,
                decode_us_per_sequence=model.decode_us_per_sequence,
                copy_us_per_block=model.copy_us_per_block,
            ),
            self.clock,
        )
        size_bytes = engine.info.block_bytes
        self.tiers = TimedTiers(MemoryTiers(host * size_bytes, disk * size_bytes), model, self.clock)
        tiers = cast("Tiers", self.tiers)
        settings = Settings(policy=PolicySettings(name=policy))
        text = ScriptedText(engine.info)
        config = assemble.policy_config(settings, engine.info, tiers)
        self.driver = ScriptedDriver(engine, text, tiers, Scheduler(config), clock=self.clock)
        self.driver.script, self.driver.turns_of = script, {}
        app = create_app(self.driver, text, ServerSettings(max_concurrent_requests=4_096))
        self._app = app

    def connect(self) -> httpx2.AsyncBaseTransport:
        """A way to the server without sockets."""
        return httpx2.ASGITransport(app=self._app)

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run a program in the node's time to its end."""
        with asyncio.Runner(loop_factory=lambda: VirtualLoop(self)) as runner:
            return runner.run(work)

    def pass_until(self, deadline_us: int | None, woken: Callable[[], bool]) -> None:
        """Let time pass until a waiter outside is woken or the deadline is there."""
        while True:
            wake_at_us = self.driver.step()
            if woken():
                return
            now_us = self.clock.now_us()
            if deadline_us is not None and deadline_us <= now_us:
                return
            times = (deadline_us, wake_at_us, self.tiers.next_us())
            known = [time_us for time_us in times if time_us is not None]
            if not known:
                raise StepwellError("all agents wait and nothing will happen any more")
            self.clock.sleep_us(max(0, min(known) - now_us))


class _VirtualSelector(selectors.DefaultSelector):
    """Passes virtual time where a loop would wait."""

    node: VirtualNode

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout <= 0:
            return super().select(0)
        found: list[tuple[selectors.SelectorKey, int]] = []

        def woken() -> bool:
            found.extend(super(_VirtualSelector, self).select(0))
            return bool(found)

        deadline_us = None if timeout is None else self.node.clock.now_us() + max(1, round(timeout * 1e6))
        self.node.pass_until(deadline_us, woken)
        return found


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop on the node's clock. What would run in a thread runs at once, so that every run is the same."""

    def __init__(self, node: VirtualNode) -> None:
        selector = _VirtualSelector()
        selector.node = node
        super().__init__(selector)
        self._node = node

    def time(self) -> float:
        return self._node.clock.now_us() / 1e6

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Do it now."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - what waits for it gets it
            future.set_exception(error)
        return future

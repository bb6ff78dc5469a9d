"""The machine must not drift from the driver: the same small life, the same decisions, hash by hash."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from stepwell.basics.clock import ManualClock
from stepwell.engines.base import SamplingParams
from stepwell.engines.null import NullConfig, NullEngine, NullText
from stepwell.loop.driver import Driver
from stepwell.loop.requests import Delta, Finished, Generation, Output, Rejected
from stepwell.policy.chain import TokenChain, root_hash
from stepwell.policy.config import PolicyConfig
from stepwell.policy.decisions import DecisionLog
from stepwell.policy.scheduler import Scheduler
from stepwell.policy.types import Caller, Event, Plan, RequestArrived, RequestCancelled, RequestId
from stepwell.simulate.hardware import MachineModel
from stepwell.simulate.machine import Due, Machine
from stepwell.simulate.meter import SimulatedMeter
from stepwell.tiers.memory import MemoryTiers

MODEL = MachineModel(
    prefill_us_per_token=900,
    depth_ns_per_token=700,
    decode_us_per_step=4_000,
    decode_us_per_sequence=1_500,
    copy_us_per_block=130,
    read_bytes_per_s=2_000_000,
    write_bytes_per_s=1_000_000,
    token_bytes=8,
    instant_disk=True,
)
TIERS = ("priority", "default", "flex")


class LoggedScheduler(Scheduler):
    """Keeps the hash of every step that was about something."""

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__(config)
        self.log = DecisionLog()
        self.kinds: dict[str, int] = {}

    def step(self, now_us: int, events: Sequence[Event]) -> Plan:
        plan = super().step(now_us, events)
        if events or plan.actions or plan.batch:
            self.log.add(now_us, plan)
        for action in plan.actions:
            name = type(action).__name__
            self.kinds[name] = self.kinds.get(name, 0) + 1
        return plan


@dataclass
class Script:
    """What one agent says: its prompt's growth per turn, its pauses, and what it was answered."""

    agent: str
    service_tier: str
    starts_us: int
    added: list[list[int]]
    new_tokens: int
    gap_us: int
    prompts: list[list[int]] = field(default_factory=list)
    answers: list[list[int]] = field(default_factory=list)


def scripts(agents: int) -> list[Script]:
    """Half of them begin with the same words; contexts grow past the device."""
    made = []
    for number in range(agents):
        first = [50, *range(60, 90)] if number % 2 else [50 + number, *range(70, 95)]
        added = [first, *([100 + number + turn, *range(30, 38 + turn)] for turn in range(3))]
        made.append(
            Script(
                f"a{number}",
                TIERS[number % 3],
                20_000 * number,
                added,
                5 + number % 4,
                90_000 + 7_000 * number,
            )
        )
    return made


def config(disk: int, state: int = 0, **more: Any) -> PolicyConfig:
    """``state``: bytes of the model's running state, if it has one."""
    block_bytes = 16 * MODEL.token_bytes + state
    return PolicyConfig(
        block_tokens=16,
        unit_tokens=16 if state else 4,
        checkpoint_bytes=state,
        device_blocks=10,
        block_bytes=block_bytes,
        token_bytes=MODEL.token_bytes,
        host_bytes=12 * block_bytes,
        disk_bytes=disk * block_bytes,
        context_tokens=160,
        reserve_tokens=8,
        step_tokens=48,
        **more,
    )


# --- the driver -------------------------------------------------------------------------------


class Live:
    """The scripts on a driver with the null engine."""

    def __init__(self, cast: list[Script], settings: PolicyConfig) -> None:
        self.clock = ManualClock()
        null = NullConfig(
            device_blocks=settings.device_blocks,
            block_tokens=settings.block_tokens,
            token_bytes=MODEL.token_bytes,
            prefill_us_per_token=MODEL.prefill_us_per_token,
            depth_ns_per_token=MODEL.depth_ns_per_token,
            decode_us_per_step=MODEL.decode_us_per_step,
            decode_us_per_sequence=MODEL.decode_us_per_sequence,
            copy_us_per_block=MODEL.copy_us_per_block,
            checkpoint_bytes=settings.checkpoint_bytes,
            device_states=settings.device_states,
        )
        engine = NullEngine(null, self.clock)
        tiers = MemoryTiers(
            settings.host_bytes,
            settings.disk_bytes,
            read_bytes_per_s=MODEL.read_bytes_per_s,
            write_bytes_per_s=MODEL.write_bytes_per_s,
        )
        self.scheduler = LoggedScheduler(settings)
        self.driver = Driver(
            engine, NullText(engine.info), tiers, self.scheduler, clock=self.clock, strict=True
        )
        self.root = root_hash(engine.info.fingerprint, "local")
        self.due: list[tuple[int, int, Script]] = []
        self.order = 0
        for script in cast:
            self.expect(script.starts_us, script)

    def expect(self, at_us: int, script: Script) -> None:
        self.order += 1
        heapq.heappush(self.due, (at_us, self.order, script))

    def run(self) -> None:
        for _ in range(20_000):
            while self.due and self.due[0][0] <= self.clock.now_us():
                self.submit(heapq.heappop(self.due)[2])
            wake_us = self.driver.step()
            if wake_us is not None and wake_us <= self.clock.now_us():
                continue
            if self.scheduler.block_manager.writes_in_flight or self.scheduler.block_manager.reads_in_flight:
                continue
            if not self.due:
                return
            self.clock.sleep_us(min(self.due[0][0], wake_us or 1 << 62) - self.clock.now_us())
        raise AssertionError("the driver does not come to rest")

    def submit(self, script: Script) -> None:
        turn = len(script.prompts)
        before = [*script.prompts[-1], *script.answers[-1]] if turn else []
        script.prompts.append([*before, *script.added[turn]])
        script.answers.append([])

        def sink(output: Output) -> None:
            if isinstance(output, Delta):
                script.answers[-1] += [info.token for info in output.tokens]
            assert not isinstance(output, Rejected)
            if isinstance(output, Finished) and len(script.prompts) < len(script.added):
                self.expect(self.clock.now_us() + script.gap_us, script)

        self.driver.submit(
            Generation(
                prompt=tuple(script.prompts[-1]),
                max_new_tokens=script.new_tokens,
                sampling=SamplingParams(temperature=0.0),
                caller=Caller("local", script.service_tier, agent=script.agent),
            ),
            sink,
        )


# --- the machine ------------------------------------------------------------------------------


class ScriptCall:
    """One turn whose tokens are known from the driver's run."""

    def __init__(self, script: Script, turn: int, root: bytes, unit_tokens: int) -> None:
        self.script, self.turn, self.new_tokens = script, turn, script.new_tokens
        self.unit_tokens = unit_tokens
        self.prompt = script.prompts[turn]
        self.chain = TokenChain(root, unit_tokens, [*self.prompt, *script.answers[turn]])

    def arrival(self, request: RequestId) -> RequestArrived:
        return RequestArrived(
            request=request,
            caller=Caller("local", self.script.service_tier, agent=self.script.agent),
            prompt_tokens=len(self.prompt),
            max_new_tokens=self.new_tokens,
            units=tuple(self.chain.units[: len(self.prompt) // self.unit_tokens]),
        )

    def units(self, unit_tokens: int) -> list[bytes]:
        return self.chain.units

    def tail(self, n_tokens: int) -> bytes:
        return self.chain.name(n_tokens)


class Scripts:
    """The scripts as a source for the machine."""

    def __init__(self, cast: list[Script], root: bytes, unit_tokens: int = 4) -> None:
        self.cast, self.root, self.unit_tokens = cast, root, unit_tokens

    def start(self) -> Iterator[Due]:
        for script in self.cast:
            yield script.starts_us, ScriptCall(script, 0, self.root, self.unit_tokens)

    def ended(self, call: Any, request: RequestId, now_us: int, reason: str) -> Iterator[Due]:
        if call.turn + 1 < len(call.script.added):
            yield (
                now_us + call.script.gap_us,
                ScriptCall(call.script, call.turn + 1, self.root, self.unit_tokens),
            )


@pytest.mark.parametrize(
    ("disk", "state", "states"), [(0, 0, 0), (30, 0, 0), (0, 200, 0), (30, 200, 0), (0, 200, 3), (30, 200, 3)]
)
def test_driver_and_machine_decide_the_same(disk: int, state: int, states: int) -> None:
    cast, settings = scripts(9), config(disk, state, device_states=states)
    live = Live(cast, settings)
    live.run()
    scheduler = LoggedScheduler(settings)
    machine = Machine(
        scheduler,
        MODEL,
        Scripts(cast, live.root, settings.unit_tokens),
        SimulatedMeter(MODEL, settings.unit_tokens),
        strides=False,
        strict=True,
    )
    machine.run()
    assert scheduler.kinds["Move"] > 20 and scheduler.kinds["Drop"] > 20, (
        "the life was too easy to tell anything"
    )
    assert scheduler.kinds == live.scheduler.kinds
    assert scheduler.log.plans == live.scheduler.log.plans
    assert scheduler.log.digest == live.scheduler.log.digest


@pytest.mark.parametrize(("disk", "state"), [(0, 0), (30, 0), (30, 200)])
def test_strides_change_nothing(disk: int, state: int) -> None:
    """Taking steps that decide nothing in one go ends at the same time, with the same figures. (Under a
    eviction that does not look at the clock: Stepwell's own values agents anew as time passes.)"""
    cast, settings = scripts(9), config(disk, state, eviction="lru")
    Live(cast, settings).run()
    meters = []
    for strides in (False, True):
        meter = SimulatedMeter(MODEL, settings.unit_tokens)
        machine = Machine(
            LoggedScheduler(settings), MODEL, Scripts(cast, b"", settings.unit_tokens), meter, strides=strides
        )
        machine.run()
        ends = [(t.ttft_us, t.done_us) for t in meter.turns.values()]
        figures = (machine.now_us, meter.prefill_tokens, meter.decode_tokens, meter.again_us, ends)
        meters.append((figures, machine.steps))
    assert meters[0][0] == meters[1][0]
    assert meters[1][1] < meters[0][1], "no stride was taken: the test says nothing"


def test_a_cancelled_turn_ends() -> None:
    """A cancel reaches the policy and the source, and nothing is left running."""
    cast, settings = scripts(2), config(30)
    live = Live(cast, settings)
    live.run()

    class Cancelling(Scripts):
        ends: list[str] = []  # noqa: RUF012

        def start(self) -> Iterator[Due]:
            yield from super().start()
            yield 15_000, RequestCancelled(1)

        def ended(self, call: Any, request: RequestId, now_us: int, reason: str) -> Iterator[Due]:
            self.ends.append(reason)
            return iter(())

    source = Cancelling(cast, live.root)
    meter = SimulatedMeter(MODEL, 4)
    Machine(LoggedScheduler(settings), MODEL, source, meter, strict=True).run()
    assert source.ends == ["cancelled", "stop"]
    assert meter.turns[1].reason == "cancelled"

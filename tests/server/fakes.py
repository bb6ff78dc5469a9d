"""A driver that says what a script tells it, and a node on the null engine; both behind a real socket."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from stepwell.basics.clock import MonotonicClock
from stepwell.basics.per_tier import PerTier
from stepwell.engines.base import EngineInfo, RenderedChat, TextModel
from stepwell.engines.llamacpp.chat.json_reader import JsonReader
from stepwell.engines.llamacpp.chat.reader import MarkReader
from stepwell.engines.null import END_TOKEN, VOCAB_SIZE, NullConfig, NullEngine, NullText
from stepwell.loop.driver import Driver
from stepwell.loop.requests import (
    Admitted,
    Delta,
    Finished,
    Generation,
    Preempted,
    Rejected,
    Scored,
    Sink,
    TokenInfo,
)
from stepwell.loop.snapshot import AgentView, Snapshot
from stepwell.policy.config import PolicyConfig
from stepwell.policy.scheduler import Scheduler
from stepwell.policy.types import Hint, KvTier, RequestId
from stepwell.recording.file import Recorder
from stepwell.server.callers.keys import KeyRing
from stepwell.server.run import BackgroundServer
from stepwell.server.settings import ServerSettings
from stepwell.tiers.base import TierUsage
from stepwell.tiers.local import LocalTiers

MODEL = "tiny"
PATIENCE_S = 20.0
"""How long a test waits for what must happen; never how long something may take."""


def until(happened: Callable[[], object]) -> None:
    """Wait for another thread, with the patience of a test."""
    give_up = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < give_up, "it did not happen"
        time.sleep(0.001)


INFO = EngineInfo(
    model=MODEL,
    fingerprint="fake",
    context_tokens=4_096,
    block_tokens=16,
    device_blocks=256,
    max_sequences=16,
    block_bytes=16,
    token_bytes=1,
    vocab_size=VOCAB_SIZE,
)


def call(name: str, /, **arguments: Any) -> str:
    """A tool call as the fake model writes it, in Hermes' syntax."""
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


class FakeText(NullText):
    """One token a byte; tool calls in Hermes' syntax."""

    template = "<think></think>"
    """Which marks its answers may hold."""
    opening = ""
    """What its prompts open for the answer."""

    def render_chat(self, *args: Any, **options: Any) -> RenderedChat:
        return replace(super().render_chat(*args, **options), opening=self.opening)

    def reader(
        self,
        functions: Mapping[str, Mapping[str, Any]],
        opening: str = "",
        *,
        constrained: bool = False,
    ) -> Any:
        if constrained:
            return JsonReader(functions)
        return MarkReader(functions, self.template, opening, calls=bool(functions))


class Hold:
    """A step of a script: wait until the test lets go, or the client leaves."""


HOLD = Hold()
Step = str | Hold | Preempted | Rejected | Finished
Script = Callable[[str, Generation], Sequence[Step]]


def says(*steps: Step) -> Script:
    return lambda prompt, generation: steps


@dataclass
class FakeDriver:
    """Obeys ``requests.py``: outputs in order, from other threads, one token a byte."""

    script: Script
    submitted: list[Generation] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)
    cached: tuple[int, int, int] = (0, 0, 0)
    hinted: list[tuple[RequestId, str, str, Hint]] = field(default_factory=list)
    refusal: str | None = None
    """What ``validate`` says."""
    enforces: bool = False
    """Whether its answers are taken to obey their schemas."""
    serves = True

    def __post_init__(self) -> None:
        self.info = replace(INFO, enforces=self.enforces)
        self.release = threading.Event()
        self.cancelled: set[RequestId] = set()
        self.changed = threading.Condition()
        self.running = 0
        self.stopped_with: float | None = None

    def now_us(self) -> int:
        return MonotonicClock().now_us()

    def validate(self, generation: Generation) -> None:
        if self.refusal is not None:
            raise ValueError(self.refusal)
        if max(generation.prompt) >= VOCAB_SIZE:
            raise ValueError("that token does not exist")

    def submit(self, generation: Generation, sink: Sink) -> RequestId:
        request = len(self.submitted)
        self.submitted.append(generation)
        prompt = bytes(token for token in generation.prompt if token < END_TOKEN).decode()
        self.prompts.append(prompt)
        steps = self.script(prompt, generation)
        with self.changed:
            self.running += 1
            self.changed.notify_all()
        threading.Thread(target=self._perform, args=(request, generation, steps, sink), daemon=True).start()
        return request

    def cancel(self, request: RequestId, reason: str = "cancelled") -> None:
        self.cancelled.add(request)

    def named(self, requests: Sequence[RequestId], name: str) -> None:
        """Nothing explains it."""

    def why(self, what: str) -> list[dict[str, Any]]:
        return []

    @property
    def views(self) -> list[AgentView]:
        kv_tokens = {KvTier.DEVICE: 5, KvTier.HOST: 2, KvTier.DISK: 0}
        return [AgentView("local", "default", "run", "lead", None, "idle", 7, kv_tokens, 1, 1_000)]

    def agent(self, tenant: str, agent: str) -> AgentView | None:
        return next((view for view in self.views if (view.tenant, view.agent) == (tenant, agent)), None)

    def hint(
        self, request: RequestId, tenant: str, agent: str, hint: Hint, *, paid_only: bool = False
    ) -> None:
        self.hinted.append((request, tenant, agent, hint))

    def snapshot(self) -> Snapshot:
        usage = {tier: TierUsage(10, 100, 1) for tier in KvTier}
        counters = {
            "prompt_tokens_host": 2,
            "generation_tokens": 3,
            "evictions_device_host": 4,
            "preemptions": 1,
        }
        return Snapshot(1, self.running, 0, usage, self.views, counters)

    def stop(self, drain_s: float = 30.0) -> None:
        self.stopped_with = drain_s

    def wait_until_running(self) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self.running > 0, PATIENCE_S), "nothing was submitted"

    def wait_until_idle(self) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self.running == 0, PATIENCE_S), "generations still run"

    def _perform(self, request: RequestId, generation: Generation, steps: Sequence[Step], sink: Sink) -> None:
        try:
            self._play(request, generation, steps, sink)
        finally:
            with self.changed:
                self.running -= 1
                self.changed.notify_all()

    def _play(self, request: RequestId, generation: Generation, steps: Sequence[Step], sink: Sink) -> None:
        if steps and isinstance(steps[0], Rejected):
            sink(steps[0])
            return
        if steps and isinstance(steps[0], Hold):
            self._hold(request)
        sink(Admitted(request, PerTier(*self.cached), queue_us=1_000))
        if (n_top := generation.sampling.prompt_logprobs) is not None:
            first, *rest = generation.prompt
            top = tuple((97 + i, -1.0 - i) for i in range(n_top))
            sink(Scored((TokenInfo(first), *(TokenInfo(token, -0.5, top) for token in rest))))
        if generation.prewarm:
            sink(Finished("stop", None, len(generation.prompt), 0, 0, 2_000, 2_000, 0))
            return
        made, reason = 0, "stop"
        for step in steps:
            if isinstance(step, Hold):
                self._hold(request)
            if request in self.cancelled:
                reason = "cancelled"
                break
            if isinstance(step, Rejected | Finished):
                sink(step)
                return
            if isinstance(step, Preempted):
                sink(step)
            if isinstance(step, str):
                made, full = self._say(step, made, generation, sink)
                if full:
                    reason = "length"
                    break
        sink(Finished(reason, None, len(generation.prompt), made, 0, 2_000, 4_000, 0))

    def _say(self, text: str, made: int, generation: Generation, sink: Sink) -> tuple[int, bool]:
        for character in text:
            infos = tuple(_info(byte, generation) for byte in character.encode())
            made += len(infos)
            sink(Delta(character, infos))
            if made >= generation.max_new_tokens:
                return made, True
        return made, False

    def _hold(self, request: RequestId) -> None:
        give_up = time.monotonic() + PATIENCE_S
        while not self.release.wait(0.002) and request not in self.cancelled:
            assert time.monotonic() < give_up, "nobody let go"


def _info(token: int, generation: Generation) -> TokenInfo:
    wanted = generation.sampling.logprobs
    if wanted is None:
        return TokenInfo(token)
    return TokenInfo(token, -0.5, tuple((97 + i, -1.0 - i) for i in range(wanted)))


@contextmanager
def serving(
    driver: Driver,
    text: TextModel | None = None,
    settings: ServerSettings | None = None,
    keys: KeyRing | None = None,
) -> Iterator[BackgroundServer]:
    """A server on loopback; shorter patience than for people."""
    settings = settings or ServerSettings(port=0, drain_s=5.0, keep_alive_s=5.0)
    with BackgroundServer(driver, text or FakeText(INFO), settings, keys) as server:
        yield server


def null_driver(
    config: NullConfig | None = None,
    host_bytes: int = 1 << 20,
    max_waiting: int = 64,
    max_agents: int | None = None,
    record: Path | None = None,
) -> Driver:
    """The real driver and policy on the null engine, not started."""
    engine = NullEngine(config or NullConfig(model=MODEL, block_tokens=16, device_blocks=256))
    info = engine.info
    policy = PolicyConfig(
        block_tokens=info.block_tokens,
        unit_tokens=16,
        device_blocks=info.device_blocks,
        block_bytes=info.block_bytes,
        token_bytes=info.token_bytes,
        host_bytes=host_bytes,
        disk_bytes=0,
        context_tokens=info.context_tokens,
        max_running=info.max_sequences,
        max_waiting=max_waiting,
        step_tokens=64,
        max_agents=max_agents or 10_000,
    )
    recorders = [Recorder(record, policy)] if record is not None else []
    tiers = LocalTiers(host_bytes, None)
    return Driver(engine, NullText(info), tiers, Scheduler(policy), observers=recorders)


@contextmanager
def null_node(config: NullConfig | None = None, keys: KeyRing | None = None) -> Iterator[BackgroundServer]:
    """A whole server: HTTP, driver, policy, host tier, null engine."""
    driver = null_driver(config)
    driver.start()
    try:
        with serving(driver, driver.text, keys=keys) as server:
            yield server
    finally:
        driver.stop(5.0)

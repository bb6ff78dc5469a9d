"""The same greedy turns in two arms, compared: tokens, bits of logits, and the batches they ran in.

In the reference every block stays on the device; in the other arm idle blocks are moved about. Rounds are
lockstep: all requests of a round are queued before the first step, so both arms run the same batches, which
floating-point sums depend on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from stepwell.bench.harness import scratch
from stepwell.bench.node import TurnLog, driver_for, gathered, load_engine, turn_of
from stepwell.bench.schedule import Contexts, PlannedTurn, Round, ScheduleShape, rounds
from stepwell.console.progress import Ticker
from stepwell.console.report import Verdict
from stepwell.engines.base import BatchItem, Engine, Sampled, TextModel
from stepwell.loop.driver import Driver
from stepwell.policy.types import KvTier, RequestId
from stepwell.tiers.base import Buffer, Tiers

HOST_BYTES = 4 << 30
DISK_BYTES = 8 << 30
_SHOWN_DIFFERENCES = 20

WrapTiers = Callable[[Tiers], Tiers]
Load = Callable[..., tuple[Engine, TextModel]]
"""As ``node.load_engine``."""


@dataclass(frozen=True, slots=True)
class TurnResult:
    """What one turn gave in one arm. ``logits`` holds a digest per sampled token (None: not shown);
    ``batches`` is a digest of every batch of its round: which requests were in it, where, and
    with how many tokens."""

    agent: int
    prompt_tokens: int
    tokens: tuple[int, ...]
    logits: tuple[str, ...] | None
    batches: str
    from_device: int
    from_host: int
    from_disk: int


@dataclass(slots=True)
class Comparison:
    """Two arms side by side."""

    model: str
    turns: int = 0
    sampled: int = 0
    logits_compared: int = 0
    token_differences: int = 0
    logit_differences: int = 0
    batch_differences: int = 0
    """Turns whose batches were not the same in both arms: nothing can be said about their logits."""
    reference_moved: int = 0
    """Tokens that came from host or disk in the arm that should keep everything on the device."""
    from_host: int = 0
    from_disk: int = 0
    first: list[str] = field(default_factory=list)
    control: dict[str, Any] | None = None

    def add(self, number: int, reference: TurnResult, moved: TurnResult) -> None:
        self.turns += 1
        self.sampled += len(reference.tokens)
        self.from_host += moved.from_host
        self.from_disk += moved.from_disk
        self.reference_moved += reference.from_host + reference.from_disk
        self.batch_differences += reference.batches != moved.batches
        if reference.tokens != moved.tokens:
            self.token_differences += 1
            self._note(number, reference, "tokens", reference.tokens, moved.tokens)
        if reference.logits is not None and moved.logits is not None:
            self.logits_compared += len(reference.logits)
            if reference.logits != moved.logits:
                self.logit_differences += 1
                self._note(number, reference, "logits", reference.logits, moved.logits)

    def _note(self, number: int, turn: TurnResult, what: str, ours: Any, theirs: Any) -> None:
        if len(self.first) < _SHOWN_DIFFERENCES:
            place = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), -1)
            self.first.append(f"turn {number}, agent {turn.agent}: {what} differ from output {place} on")


def same_verdicts(name: str, comparison: Comparison) -> list[Verdict]:
    """Tokens, bits of logits and batches may not differ."""
    logits = comparison.logit_differences if comparison.logits_compared else None
    turns = f"turns of {comparison.turns:,}"
    return [
        Verdict(f"{name}: {turns} whose tokens differ", comparison.token_differences, 0),
        Verdict(f"{name}: turns whose logits differ in any bit", logits, 0),
        Verdict(f"{name}: turns whose batches were not the same", comparison.batch_differences, 0),
    ]


@dataclass(frozen=True, slots=True)
class ArmsJob:
    """Both arms for one model. ``wrap`` lets a test stand between the driver and the tiers."""

    model: str
    turns: int
    seed: int
    device_kv_tokens: int
    threads: int | None = None
    shape: ScheduleShape = field(default_factory=ScheduleShape)
    wrap: WrapTiers = lambda tiers: tiers
    load: Load = load_engine

    def run(self, progress: Ticker, samples: list[dict[str, Any]]) -> Comparison:
        """Run both arms and compare them; every turn of both is added to ``samples``."""
        reference = self._arm(progress, "everything on the device", None)
        moved = self._arm(progress, "demoted after every round", reference)
        comparison = Comparison(self.model)
        for number, (one, other) in enumerate(zip(reference, moved, strict=True)):
            comparison.add(number, one, other)
            both = {"device": asdict(one), "demoted": asdict(other)}
            samples.append({"model": self.model, "turn": number, **both})
        return comparison

    def _arm(self, progress: Ticker, what: str, reference: Sequence[TurnResult] | None) -> list[TurnResult]:
        progress.phase(f"{self.model}: {what}", self.turns)
        with scratch("exactness") as disk, self.life(disk) as node:
            return node.arm(reference, first_host_then_disk(reference), progress)

    @contextmanager
    def life(self, disk: Path) -> Iterator[NodeLife]:
        """A node's life on this disk, from loading the model to its end."""
        engine, text = self.load(self.model, device_kv_tokens=self.device_kv_tokens, threads=self.threads)
        watch = EngineWatch(engine)
        with driver_for(
            engine,
            text,
            host_bytes=HOST_BYTES,
            disk_bytes=DISK_BYTES,
            disk_dir=disk,
            wrap=lambda tiers: gathered(self.wrap(tiers)),
            always_load=True,
        ) as driver:
            yield NodeLife(self, driver, watch, text)


@dataclass(frozen=True, slots=True)
class NodeLife:
    """A node that is up."""

    job: ArmsJob
    driver: Driver
    watch: EngineWatch
    text: TextModel

    def arm(
        self, reference: Sequence[TurnResult] | None, demotion: Demotion, progress: Ticker
    ) -> list[TurnResult]:
        """The whole schedule, once."""
        job, text = self.job, self.text
        tokenize = partial(text.tokenize, add_bos=False, parse_special=False)
        plan = rounds(job.turns, job.seed, job.shape, tokenize)
        return Arm(self.driver, self.watch, reference, demotion).run(plan, progress)


Demotion = Callable[[int], KvTier | None]
"""Where all idle blocks go after a round, by how many turns have ended. Never a mixture: blocks from host are
there at once, those from disk a step later, and the requests of one round would start apart."""


def first_host_then_disk(reference: Sequence[TurnResult] | None) -> Demotion:
    """Nowhere in the arm that is the reference itself."""
    if reference is None:
        return lambda ended: None
    return lambda ended: KvTier.DISK if ended >= len(reference) // 2 else KvTier.HOST


class Arm:
    """One pass over the schedule. With a reference, its answers are put into the contexts, so that
    one difference does not make everything after it differ too."""

    def __init__(
        self, driver: Driver, watch: EngineWatch, reference: Sequence[TurnResult] | None, demotion: Demotion
    ) -> None:
        self._driver = driver
        self._watch = watch
        self._reference = reference
        self._demotion = demotion
        self._contexts = Contexts()
        self._results: list[TurnResult] = []

    def run(self, plan: Iterable[Round], progress: Ticker) -> list[TurnResult]:
        for turns in plan:
            self._round(turns)
            tier = self._demotion(len(self._results))
            if tier is not None:
                self._driver.demote_idle(tier)
            progress.advance(len(turns))
        return self._results

    def _round(self, turns: Round) -> None:
        prompts = [self._contexts.prompt(turn) for turn in turns]
        logs = [TurnLog() for _ in turns]
        requests = [
            self._driver.submit(turn_of(prompt, turn.output_tokens, f"agent-{turn.agent}"), log)
            for turn, prompt, log in zip(turns, prompts, logs, strict=True)
        ]
        self._driver.run_until_idle()
        batches = self._watch.batches()
        for turn, prompt, request, log in zip(turns, prompts, requests, logs, strict=True):
            result = self._result(turn, prompt, request, log, batches)
            answer = result.tokens if self._reference is None else self._reference[len(self._results)].tokens
            self._contexts.answered(turn, prompt, answer)
            self._results.append(result)

    def _result(
        self, turn: PlannedTurn, prompt: Sequence[int], request: RequestId, log: TurnLog, batches: str
    ) -> TurnResult:
        assert log.admitted is not None
        assert log.finished is not None, "a turn of the benchmark did not end"
        return TurnResult(
            agent=turn.agent,
            prompt_tokens=len(prompt),
            tokens=tuple(log.tokens),
            logits=self._watch.logits(request),
            batches=batches,
            from_device=log.admitted.cached.device,
            from_host=log.admitted.cached.host,
            from_disk=log.admitted.cached.disk,
        )


class EngineWatch:
    """Sees every batch that an engine runs and, if it shows them, the logits that come out."""

    def __init__(self, engine: Engine) -> None:
        self._shows_logits = hasattr(engine, "watch_logits")  # the null engine has none
        self._logits: dict[RequestId, list[str]] = {}
        self._batches = hashlib.blake2b(digest_size=8)
        self._callers: dict[RequestId, int] = {}
        """Requests of this round in the order in which they came: another life gives other numbers."""
        self._run = engine.run
        if self._shows_logits:
            setattr(engine, "watch_logits", self._saw_logits)  # noqa: B010  (not in the contract)
        setattr(engine, "run", self._run_watched)  # noqa: B010  (a method of this one engine)

    def _run_watched(self, batch: Sequence[BatchItem]) -> list[Sampled]:
        items = [(self._caller(item.request), item.start, len(item.tokens)) for item in batch]
        self._batches.update(repr(items).encode())
        return self._run(batch)

    def _caller(self, request: RequestId) -> int:
        return self._callers.setdefault(request, len(self._callers))

    def _saw_logits(self, request: RequestId, logits: Buffer) -> None:
        digest = hashlib.blake2b(logits, digest_size=16).hexdigest()
        self._logits.setdefault(request, []).append(digest)

    def batches(self) -> str:
        """Digest of the batches since the last call."""
        digest = self._batches.hexdigest()
        self._batches = hashlib.blake2b(digest_size=8)
        self._callers.clear()
        return digest

    def logits(self, request: RequestId) -> tuple[str, ...] | None:
        return tuple(self._logits.pop(request, ())) if self._shows_logits else None

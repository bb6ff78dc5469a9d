"""``stepwell bench exactness``: a cache that moved must not change a token, nor a bit of a logit.

Two arms run the same greedy turns, one model at a time. In the first every block stays on the
device. In the second every idle block is pushed down after every round, to host in the first half of
the run and to disk in the second, and comes back for the next round wherever there is room. Rounds
are lockstep: all requests of a round are queued before the first step, so both arms run the same
batches, which floating-point sums depend on.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number
from rich.console import Console

from stepwell.bench.common import (
    JsonOption,
    OptionalPositive,
    QuickOption,
    Report,
    Ticker,
    Verdict,
    report_console,
    require_writable,
    table,
    ticker,
)
from stepwell.bench.node import NULL_MODEL, GatheredTiers, TurnLog, driver_for, load_engine, turn_of
from stepwell.bench.schedule import Contexts, PlannedTurn, Round, Shape, rounds
from stepwell.engines.base import BatchItem, Engine, Sampled, TextModel
from stepwell.errors import BadInput
from stepwell.loop.driver import Driver
from stepwell.models import resolve_model
from stepwell.policy.types import KvTier, RequestId
from stepwell.tiers.base import Buffer, Tiers

HOST_BYTES = 4 << 30
DISK_BYTES = 8 << 30
ZOO_TURNS = 24
_SHOWN_DIFFERENCES = 20

WrapTiers = Callable[[Tiers], Tiers]
Load = Callable[..., tuple[Engine, TextModel]]
"""As ``node.load_engine``."""


@dataclass(frozen=True, slots=True)
class TurnResult:
    """What one turn gave in one arm. ``logits`` holds a digest per sampled token (None: not shown);
    ``batches`` is a digest of every batch of its round: who was in it, where, with how many tokens."""

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


def main(
    *,
    quick: QuickOption = False,
    json_file: JsonOption = None,
    model: Annotated[str | None, Parameter(show_default=False)] = None,
    turns: OptionalPositive = None,
    seed: int = 20261122,
    device_kv_tokens: Annotated[int, Parameter(validator=Number(gte=1024))] = 6144,
    threads: OptionalPositive = None,
    control: bool = True,
    zoo: Annotated[
        list[str] | None, Parameter(consume_multiple=True, negative="", show_default=False)
    ] = None,
    page: Annotated[Path | None, Parameter(show_default=False)] = None,
) -> int:
    """Check that demotion to host and disk changes no token and no bit of a logit.

    Runs the same greedy turns with every block on the device, and with every idle block pushed to host or
    disk after every round; alone and in batches.
    Example: stepwell bench exactness --turns 200 --model smollm2
    Example: stepwell bench exactness --zoo kinds mamba llama:q4_k_m

    Exit code 0: everything is identical; 1: something differs.

    Parameters
    ----------
    model
        smollm2, gemma3, null or the path of a GGUF file (default: smollm2 and then gemma3).
    turns
        Turns per model (default 1000; 40 with --quick).
    seed
        Another seed makes another schedule.
    device_kv_tokens
        Device KV of both arms.
    threads
        Threads of the engine (default: the cores there are).
    control
        Also show what happens when blocks are put back wherever there is room, without care.
    zoo
        Tiny random models instead, one for each architecture that llama.cpp runs, or those named here, as
        ARCHITECTURE[:VARIANT...]; "kinds" names the short list. 24 turns each, one thread (10 minutes).
    page
        With --zoo: write the table of verdicts into this page, between its two zoo marks.
    """
    require_writable(json_file)
    if page is not None and zoo is None:
        raise BadInput("--page is for --zoo: it takes the table of the zoo")
    if zoo is not None:
        return _zoo(zoo, page, json_file, turns or ZOO_TURNS, seed, device_kv_tokens, threads or 1)
    models = [model] if model else (["smollm2"] if quick else ["smollm2", "gemma3"])
    count = turns or (40 if quick else 1000)
    for name in models:
        if name != NULL_MODEL:
            resolve_model(name)  # a missing model is said before an hour of work with the other one
    settings = {"models": models, "turns": count, "seed": seed, "device_kv_tokens": device_kv_tokens}
    settings |= {"shape": asdict(Shape()), "threads": threads}
    report = Report("exactness", settings)
    console = report_console(json_file)
    with ticker() as progress:
        for name in models:
            job = Job(name, count, seed, device_kv_tokens, threads)
            comparison = job.run(progress, report.samples)
            if control and name != NULL_MODEL:
                comparison.control = _control(name, threads, progress)
            report.results[name] = asdict(comparison)
            report.verdicts += verdicts(comparison)
            report.notes += _notes(comparison)
    _show(console, report)
    report.finish(console, json_file)
    return 1 if report.missed else 0


def _zoo(
    names: Sequence[str],
    page: Path | None,
    json_file: Path | None,
    turns: int,
    seed: int,
    device_kv_tokens: int,
    threads: int,
) -> int:
    from stepwell.bench.zoo.child import Wishes
    from stepwell.bench.zoo.run import run, write_page

    console = report_console(json_file)
    wishes = Wishes("", turns, seed, device_kv_tokens, threads)
    with ticker() as progress:
        report = run(console, progress, names, wishes)
    if page is not None:
        write_page(page, report.samples)
    report.finish(console, json_file)
    return 1 if report.missed else 0


@dataclass(frozen=True, slots=True)
class Job:
    """Both arms for one model. ``wrap`` lets a test stand between the driver and the tiers."""

    model: str
    turns: int
    seed: int
    device_kv_tokens: int
    threads: int | None = None
    shape: Shape = field(default_factory=Shape)
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
        engine, text = self.load(self.model, device_kv_tokens=self.device_kv_tokens, threads=self.threads)
        watch = _Watch(engine)
        with (
            tempfile.TemporaryDirectory(prefix="stepwell-exactness-") as directory,
            driver_for(
                engine,
                text,
                host_bytes=HOST_BYTES,
                disk_bytes=DISK_BYTES,
                disk_dir=Path(directory),
                wrap=lambda tiers: GatheredTiers(self.wrap(tiers)),
                always_load=True,
            ) as driver,
        ):
            plan = rounds(
                self.turns,
                self.seed,
                self.shape,
                lambda words: text.tokenize(words, add_bos=False, parse_special=False),
            )
            return _Arm(driver, watch, reference).run(plan, progress)


class _Arm:
    """One pass over the schedule. With a reference, its answers are put into the contexts, so that
    one difference does not make everything after it differ too."""

    def __init__(self, driver: Driver, watch: _Watch, reference: Sequence[TurnResult] | None) -> None:
        self._driver = driver
        self._watch = watch
        self._reference = reference
        self._contexts = Contexts()
        self._results: list[TurnResult] = []

    def run(self, plan: Iterable[Round], progress: Ticker) -> list[TurnResult]:
        for turns in plan:
            self._round(turns)
            if self._reference is not None:
                # First everything to host, later everything to disk, never a mixture: blocks from host are
                # there at once, those from disk a step later, and their requests would start apart.
                halfway = len(self._results) >= len(self._reference) // 2
                self._driver.demote_idle(KvTier.DISK if halfway else KvTier.HOST)
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
            from_device=log.admitted.cached_device_tokens,
            from_host=log.admitted.cached_host_tokens,
            from_disk=log.admitted.cached_disk_tokens,
        )


class _Watch:
    """Sees every batch that an engine runs and, if it shows them, the logits that come out."""

    def __init__(self, engine: Engine) -> None:
        self._shows_logits = hasattr(engine, "watch_logits")  # the null engine has none
        self._logits: dict[RequestId, list[str]] = {}
        self._batches = hashlib.blake2b(digest_size=8)
        self._run = engine.run
        if self._shows_logits:
            setattr(engine, "watch_logits", self._saw_logits)  # noqa: B010  (not in the contract)
        setattr(engine, "run", self._run_watched)  # noqa: B010  (a method of this one engine)

    def _run_watched(self, batch: Sequence[BatchItem]) -> list[Sampled]:
        self._batches.update(repr([(item.request, item.start, len(item.tokens)) for item in batch]).encode())
        return self._run(batch)

    def _saw_logits(self, request: RequestId, logits: Buffer) -> None:
        digest = hashlib.blake2b(logits, digest_size=16).hexdigest()
        self._logits.setdefault(request, []).append(digest)

    def batches(self) -> str:
        """Digest of the batches since the last call."""
        digest = self._batches.hexdigest()
        self._batches = hashlib.blake2b(digest_size=8)
        return digest

    def logits(self, request: RequestId) -> tuple[str, ...] | None:
        return tuple(self._logits.pop(request, ())) if self._shows_logits else None


def _control(model: str, threads: int | None, progress: Ticker) -> dict[str, Any]:
    from stepwell.bench.raw_llamacpp import misplaced_blocks

    progress.phase(f"{model}: control, blocks put back without care")
    return misplaced_blocks(resolve_model(model).path, threads)


def verdicts(comparison: Comparison) -> list[Verdict]:
    """Nothing may differ, and something must really have moved: an empty test proves nothing."""
    name = comparison.model
    logits = float(comparison.logit_differences) if comparison.logits_compared else None
    return [
        Verdict(
            f"{name}: turns of {comparison.turns:,} whose tokens differ", comparison.token_differences, 0
        ),
        Verdict(f"{name}: turns whose logits differ in any bit", logits, 0),
        Verdict(f"{name}: turns whose batches were not the same", comparison.batch_differences, 0),
        Verdict(f"{name}: tokens that came back from host", comparison.from_host, 1, at_most=False),
        Verdict(f"{name}: tokens that came back from disk", comparison.from_disk, 1, at_most=False),
    ]


def _notes(comparison: Comparison) -> list[str]:
    notes = [f"{comparison.model}: {line}" for line in comparison.first]
    if comparison.reference_moved:
        notes.append(
            f"{comparison.model}: {comparison.reference_moved:,} tokens came back from below the device in "
            "the arm that should keep them there: give it more --device-kv-tokens"
        )
    if comparison.control:
        notes.append(f"{comparison.model}: control: {comparison.control['sentence']}")
    return notes


def _show(console: Console, report: Report) -> None:
    columns = ("model", "turns", "tokens compared", "logits compared", "from host", "from disk", "differ")
    rows = []
    for name, found in report.results.items():
        figures = [found[key] for key in ("turns", "sampled", "logits_compared", "from_host", "from_disk")]
        differ = found["token_differences"] + found["logit_differences"]
        rows.append([name, *(f"{figure:,}" for figure in figures), str(differ)])
    console.print(table("On the device against demoted after every round", columns, rows))

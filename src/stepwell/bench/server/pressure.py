"""``stepwell bench pressure``: twelve agents in too little KV memory, against having enough of it.

The same workload runs against one server after the other, never two at a time: ours with little
device KV, ours with KV for everybody, and with ``--peer`` llama.cpp's own server with the same two.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import httpx2
from cyclopts import Parameter
from cyclopts.validators import Number
from rich.table import Table

from stepwell.basics.this_machine import usable_cores
from stepwell.bench.client import ClientsFigures, TurnSample, run_clients, warm_up
from stepwell.bench.harness import (
    NULL_MODEL,
    BenchRun,
    ModelOption,
    ThreadsOption,
    bench,
    numbers_of,
    require_real,
    scratch,
)
from stepwell.bench.scraped import scraped
from stepwell.bench.servers import ServerArm, StartedServer, llama_server, our_server, running
from stepwell.bench.workload import Pressure
from stepwell.console.options import (
    Flag,
    OptionalPositive,
    Positive,
    size_bytes,
)
from stepwell.console.output import table
from stepwell.console.progress import Ticker
from stepwell.console.report import Report, Verdict
from stepwell.engines.models import resolve_model
from stepwell.errors import BadInput, StepwellError

LIMIT_TOTAL_OF_ROOMY = 1.05
LIMIT_TTFT_OF_PEER = 0.2
LIMIT_TOTAL_OF_PEER = 0.5
FULL = Pressure()
RESTARTED = ", restarted"
QUICK = Pressure(agents=6, turns=2, clients=2, document_words=80, role_words=80, output_tokens=8)


@dataclass(slots=True)
class ArmResult(ClientsFigures):
    """What one server did, over all rounds."""

    arm: ServerArm
    totals_s: list[float] = field(default_factory=list)
    samples: list[TurnSample] = field(default_factory=list)
    tokens_by_source: dict[str, int] = field(default_factory=dict)
    """Prompt tokens as our server counts them: computed, device, host, disk. Empty for the peer."""
    recompute_tax: float | None = None
    below_bytes: int | None = None
    """KV on host and disk at the end of the last round; of the peer it is not known."""
    prefill_tokens_per_s: list[float] = field(default_factory=list)
    """Of the warm-up request alone: shows whether both servers compute equally quickly."""
    peak_rss_bytes: int | None = None
    error: str | None = None
    """The server itself failed; its samples, if any, count for nothing."""

    @property
    def total_s(self) -> float:
        return median(self.totals_s)

    def as_json(self) -> dict[str, Any]:
        figures: dict[str, Any] = {"name": self.arm.name, "failed": self.failed, "error": self.error}
        figures["device_kv_tokens"] = self.arm.device_kv_tokens
        if self.usable:
            for label, later in (("turn_1", False), ("later_turns", True)):
                figures[f"ttft_{label}_p50_s"] = self.ttft_s(50, later_turns=later)
                figures[f"ttft_{label}_p95_s"] = self.ttft_s(95, later_turns=later)
            figures["total_s"] = self.total_s
        figures |= {
            "totals_s": self.totals_s,
            "computed_prompt_tokens": self.computed_tokens,
            "cached_prompt_tokens": sum(sample.cached_tokens for sample in self.samples),
            "prompt_tokens_by_source": self.tokens_by_source,
            "recompute_tax": self.recompute_tax,
            "below_device_bytes": self.below_bytes,
            "prefill_tokens_per_s": self.prefill_tokens_per_s,
            "peak_rss_bytes": self.peak_rss_bytes,
        }
        return figures


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class PressureFlags:
    """The servers that are measured, but for their model."""

    device_kv_tokens: str | None = None
    """Sizes of device KV to try, comma separated (default 8192,4096,2048)."""
    everybody_tokens: OptionalPositive = None
    """Device KV of the runs that have enough (default 65536)."""
    host_kv: str = "8GiB"
    """Host KV of our server, and cache of llama.cpp's."""
    disk_kv: str = "0"
    """Disk KV of our server, in a temporary directory."""
    peer: Flag = False
    """Also measure llama.cpp's own server (package xllamacpp), with the same memory."""
    peer_binary: Path | None = None
    """Measure this llama-server instead of the package."""
    peer_tuned: Flag = False
    """Also measure llama.cpp's server with settings that suit this workload better than its defaults."""
    private_first: Flag = False
    """Put the private role before the document, so that no two agents share a prefix."""
    restarted: Flag = False
    """Let our servers do the same work again after a restart, with the disk that they left (--disk-kv)."""
    rounds: Positive = 1
    """Repeat everything, in turned order; medians are quoted."""
    threads: ThreadsOption = None
    checkpoint_growth: Annotated[int | None, Parameter(validator=Number(gte=0))] = None
    """Setting of our servers, for models with a running state: 0 keeps it in every block."""

    def workload(self, *, quick: bool) -> Pressure:
        return replace(QUICK if quick else FULL, share_prefix=not self.private_first)

    def plan(self, model: str, workload: Pressure, *, quick: bool) -> _Plan:
        """What is measured. Raises ``BadInput``."""
        wanted = self.device_kv_tokens
        wanted = ("512" if quick else "8192,4096,2048") if wanted is None else wanted
        sizes = numbers_of("--device-kv-tokens", wanted, "tokens of device KV", 256, 1 << 40)
        size_bytes("--host-kv", self.host_kv)
        if size_bytes("--disk-kv", self.disk_kv) == 0 and self.restarted:
            raise BadInput(
                "--restarted: nothing outlives a restart without --disk-kv, such as --disk-kv 1GiB"
            )
        peer = self.peer or self.peer_tuned or self.peer_binary is not None
        if peer and model == NULL_MODEL:
            raise BadInput(
                "--peer needs a real model: llama.cpp's server has no engine that computes nothing"
            )
        return _Plan(
            model=model,
            sizes=sizes,
            everybody_tokens=self.everybody_tokens or (4096 if quick else 65536),
            host_kv=self.host_kv,
            disk_kv=self.disk_kv,
            peer=peer,
            peer_binary=self.peer_binary,
            peer_tuned=self.peer_tuned,
            restarted=self.restarted,
            threads=self.threads or usable_cores(),
            clients=workload.clients,
            agents=workload.agents,
            checkpoint_growth=self.checkpoint_growth,
        )


AS_KEPT = PressureFlags()


@bench("pressure")
def main(run: BenchRun, *, model: ModelOption = "gemma3", flags: PressureFlags = AS_KEPT) -> None:
    """Run twelve agents in too little KV memory, and against having enough of it.

    Twelve agents share a document of 350 words, each has a private role of 350 words and takes four
    turns of 16 tokens; four clients at a time, over HTTP. One server after the other does the same work.

    Example: ``stepwell bench pressure --peer --json pressure.json``
    """
    workload = flags.workload(quick=run.quick)
    plan = flags.plan(model, workload, quick=run.quick)
    require_real(model)
    results = _measure(plan, workload, flags.rounds, run.progress)
    fill(run, plan, workload, flags.rounds, results)
    run.show(*_tables(results))


@dataclass(frozen=True, slots=True)
class _Plan:
    """What to measure, decided before anything is started."""

    model: str
    sizes: tuple[int, ...]
    everybody_tokens: int
    host_kv: str
    disk_kv: str
    peer: bool
    peer_binary: Path | None
    peer_tuned: bool
    restarted: bool
    threads: int
    clients: int
    agents: int
    checkpoint_growth: int | None = None

    @property
    def variables(self) -> dict[str, str]:
        """Of the servers' environment."""
        growth = self.checkpoint_growth
        return {} if growth is None else {"STEPWELL_POLICY_CHECKPOINT_GROWTH": str(growth)}

    def arms(self, disk_dir: Path) -> list[list[ServerArm]]:
        """Every server to measure, in order; what starts again stands behind what it follows."""
        ours, peers = [], []
        everybody = self.everybody_tokens
        for name, size in (
            *((f"{one:,}", one) for one in self.sizes),
            (f"everybody ({everybody:,})", everybody),
        ):
            starts = ("", RESTARTED)[: 1 + self.restarted]
            ours.append([self._ours(f"stepwell {name}{again}", size, disk_dir) for again in starts])
        for tuned in (False, True)[: (1 + self.peer_tuned) * self.peer]:
            word = "llama.cpp tuned" if tuned else "llama.cpp"
            peers += [self._peer(f"{word} {size:,}", size, self.clients, tuned) for size in self.sizes]
            peers.append(self._peer(f"{word} everybody ({everybody:,})", everybody, self.agents, tuned))
        return [*ours, *([peer] for peer in peers)]

    def _ours(self, name: str, tokens: int, disk_dir: Path) -> ServerArm:
        return our_server(
            name, self.model, device_kv_tokens=tokens, host_kv=self.host_kv, disk_kv=self.disk_kv,
            disk_dir=disk_dir / str(tokens), threads=self.threads,
        )  # fmt: skip

    def _peer(self, name: str, tokens: int, parallel: int, tuned: bool) -> ServerArm:
        return llama_server(
            name, resolve_model(self.model).path, device_kv_tokens=tokens, parallel=parallel,
            cache_ram_mib=size_bytes("--host-kv", self.host_kv) >> 20, threads=self.threads,
            binary=self.peer_binary, tuned=tuned,
        )  # fmt: skip


def _measure(plan: _Plan, workload: Pressure, rounds: int, progress: Ticker) -> list[ArmResult]:
    results: dict[str, ArmResult] = {}
    for number in range(rounds):
        with scratch("pressure") as directory:
            arms = plan.arms(directory)
            for arm in chain.from_iterable(arms if number % 2 == 0 else arms[::-1]):
                result = results.setdefault(arm.name, ArmResult(arm))
                progress.phase(f"round {number + 1}/{rounds}: {arm.name}", workload.agents * workload.turns)
                _run_arm(arm, result, workload, progress, plan.variables if arm.is_ours else {})
    return list(results.values())


def _run_arm(
    arm: ServerArm, result: ArmResult, workload: Pressure, progress: Ticker, variables: Mapping[str, str]
) -> None:
    """One server, one round. A server that fails is a line in the report, not the end of it."""
    try:
        with (
            running(arm, variables=variables) as server,
            httpx2.Client(base_url=arm.base_url, timeout=600, trust_env=False) as http,
        ):
            name = _model_name(http)
            result.prefill_tokens_per_s.append(warm_up(http, name, workload))
            before = _metrics(http) if arm.is_ours else {}
            samples, total_s = run_clients(arm.base_url, name, workload, lambda sample: progress.advance())
            result.samples += samples
            result.totals_s.append(total_s)
            if arm.is_ours:
                _note_sources(result, before, _metrics(http))
            _note_memory(result, server)
    except (StepwellError, httpx2.HTTPError) as error:
        result.error = f"{type(error).__name__}: {error}"


def _note_memory(result: ArmResult, server: StartedServer) -> None:
    seen = server.peak_rss_bytes()
    if seen is not None:
        result.peak_rss_bytes = max(seen, result.peak_rss_bytes or 0)


def _model_name(http: httpx2.Client) -> str:
    listing = http.get("/v1/models").json()
    return str(listing["data"][0]["id"])


def _metrics(http: httpx2.Client) -> dict[str, float]:
    """Our server's counters; labels other than the source are summed over."""
    totals: dict[str, float] = {}
    for one in scraped(http):
        source = one.labels.get("source") or one.labels.get("kv_tier")
        key = f"{one.name}:{source}" if source else one.name
        totals[key] = totals.get(key, 0.0) + one.value
    return totals


def _note_sources(result: ArmResult, before: dict[str, float], after: dict[str, float]) -> None:
    def grown(key: str) -> float:
        return after.get(key, 0.0) - before.get(key, 0.0)

    result.below_bytes = sum(int(after.get(f"stepwell_kv_bytes:{tier}", 0)) for tier in ("host", "disk"))
    for source in ("computed", "device", "host", "disk"):
        tokens = int(grown(f"stepwell_prompt_tokens_total:{source}"))
        result.tokens_by_source[source] = result.tokens_by_source.get(source, 0) + tokens
    computed = grown("stepwell_prompt_tokens_total:computed") + grown("stepwell_generation_tokens_total")
    if computed > 0:
        result.recompute_tax = grown("stepwell_recomputed_tokens_total") / computed


def fill(report: Report, plan: _Plan, workload: Pressure, rounds: int, results: Sequence[ArmResult]) -> None:
    """Settings, figures, verdicts and notes."""
    report.settings = {"workload": asdict(workload), "rounds": rounds}
    plain = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(plan).items()}
    report.settings |= plain | {"commands": {one.arm.name: _shown(one.arm.command) for one in results}}
    report.results = {"arms": [result.as_json() for result in results]}
    report.samples = [
        {"arm": result.arm.name, **sample.as_json()} for result in results for sample in result.samples
    ]
    report.verdicts = verdicts(plan.sizes, plan.everybody_tokens, results)
    report.notes = list(_notes(results))


def _shown(command: Sequence[str]) -> str:
    """The command without this machine's paths."""
    return " ".join([Path(command[0]).name, *command[1:]])


def verdicts(sizes: Sequence[int], everybody: int, results: Sequence[ArmResult]) -> list[Verdict]:
    """The three targets for every size, and the first one after a restart. An arm that failed leaves its
    target unreached, not unmeasured."""
    by_name = {result.arm.name: result for result in results}
    roomy = by_name.get(f"stepwell everybody ({everybody:,})")
    made = []
    for size in sizes:
        ours, peer = by_name.get(f"stepwell {size:,}"), by_name.get(f"llama.cpp {size:,}")
        for what, other, figure, limit in (
            ("total, against our own run with KV for everybody", roomy, _total, LIMIT_TOTAL_OF_ROOMY),
            (
                "TTFT p50 of turns after the first, against llama.cpp's server",
                peer,
                _ttft,
                LIMIT_TTFT_OF_PEER,
            ),
            ("total, against llama.cpp's server", peer, _total, LIMIT_TOTAL_OF_PEER),
        ):
            made.append(Verdict(f"{size:,} tokens: {what}", _ratio(ours, other, figure), limit, "x"))
        if warm := by_name.get(f"stepwell {size:,}{RESTARTED}"):
            what = f"{size:,} tokens, restarted: total, against KV for everybody, restarted"
            roomy_too = by_name.get(f"stepwell everybody ({everybody:,}){RESTARTED}")
            made.append(Verdict(what, _ratio(warm, roomy_too, _total), LIMIT_TOTAL_OF_ROOMY, "x"))
    return made


def _total(result: ArmResult) -> float:
    return result.total_s


def _ttft(result: ArmResult) -> float:
    return result.ttft_s(50)


def _ratio(ours: ArmResult | None, other: ArmResult | None, figure: Any) -> float | None:
    """Ours over theirs. Infinite when we failed; None when there is nothing to compare with."""
    if ours is None or other is None or not other.usable:
        return None
    if not ours.usable:
        return float("inf")
    return float(figure(ours) / figure(other))


def _notes(results: Sequence[ArmResult]) -> Iterator[str]:
    for result in results:
        if result.error:
            yield f"{result.arm.name}: {result.error}"
        elif result.failed:
            first = next(sample.error for sample in result.samples if sample.error)
            yield f"{result.arm.name}: {result.failed} of {len(result.samples)} turns failed, first: {first}"
    speeds = {
        kind: [speed for r in results if r.arm.is_ours is kind for speed in r.prefill_tokens_per_s]
        for kind in (True, False)
    }
    if speeds[True] and speeds[False]:
        yield (
            f"bare prefill of a lone prompt: ours {median(speeds[True]):.0f} tokens/s, "
            f"llama.cpp's server {median(speeds[False]):.0f}"
        )


def _tables(results: Sequence[ArmResult]) -> list[Table]:
    """What clients felt, and where the prompt tokens came from."""
    times = ("server", "total s", "TTFT 1 p50", "p95", "TTFT 2+ p50", "p95", "failed")
    tokens = ("server", "computed", "device", "host", "disk", "tax", "peak MiB", "KV below, KiB")
    felt = "The same work, one server after the other (TTFT of first turns, of later turns; s)"
    return [
        table(felt, times, [_times(result) for result in results]),
        table("Prompt tokens by where they came from", tokens, [_tokens(result) for result in results]),
    ]


def _times(result: ArmResult) -> list[str]:
    failed = str(result.failed) if result.error is None else "all"
    if not result.usable:
        return [result.arm.name, *["-"] * 5, failed]
    ttfts = [
        f"{result.ttft_s(percent, later_turns=later):.2f}" for later in (False, True) for percent in (50, 95)
    ]
    return [result.arm.name, f"{result.total_s:.1f}", *ttfts, failed]


def _tokens(result: ArmResult) -> list[str]:
    sources = result.tokens_by_source
    if sources:
        tokens = [f"{sources[source]:,}" for source in ("computed", "device", "host", "disk")]
    else:
        cached = sum(sample.cached_tokens for sample in result.samples)
        tokens = [f"{result.computed_tokens:,}", f"(cached {cached:,})", "", ""]
    tax = "" if result.recompute_tax is None else f"{100 * result.recompute_tax:.1f}%"
    memory = "" if result.peak_rss_bytes is None else f"{result.peak_rss_bytes >> 20:,}"
    below = "" if result.below_bytes is None else f"{result.below_bytes >> 10:,}"
    return [result.arm.name, *tokens, tax, memory, below]

"""``stepwell bench hints``: the same crews with hints and without, in a quarter of the memory they want."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Annotated, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from stepwell.basics.this_machine import usable_cores
from stepwell.bench.crews.hint_live import run_live
from stepwell.bench.crews.hint_work import Crews, run_crews, script
from stepwell.bench.crews.hints_report import (
    HINTS,
    LRU,
    POLICIES,
    ROOM,
    SILENT,
    HintsOutcome,
    HintsPlace,
    outcome_of,
    outcome_table,
    verdicts,
)
from stepwell.bench.crews.virtual import VirtualNode
from stepwell.bench.harness import BenchRun, RealModelOption, ThreadsOption, bench, require_real
from stepwell.console.options import NotNegative, OptionalPositive
from stepwell.console.progress import Ticker
from stepwell.simulate.hardware import MachineModel

BLOCK_TOKENS = 64
AMPLE_TOKENS = 1 << 22
LIVE_AMPLE_TOKENS = 65_536
FULL = Crews()
QUICK = Crews(crews=3, starts_s=40.0)
LIVE = Crews(
    crews=2, readers=4, rounds=1, turns=(3, 4), role_words=60, passage_words=160, result_words=(20, 40),
    lookup_ms=300, crawl_ms=6_000, starts_s=4.0,
)  # fmt: skip
LIVE_QUICK = replace(
    LIVE, crews=2, turns=(2, 2), role_words=20, passage_words=40, result_words=(5, 10), crawl_ms=1_000,
    starts_s=0.5,
)  # fmt: skip
ARMS = {"null": (HINTS, SILENT, LRU), "llamacpp": (HINTS, SILENT)}
WANTS: dict[str, Callable[[HintsOutcome], int]] = {
    "all": lambda outcome: outcome.all_tokens,
    "live": lambda outcome: outcome.live_tokens,
}
Share = Annotated[float, Parameter(validator=Number(gt=0, lte=1))]
SharesDown = Annotated[float, Parameter(validator=Number(gte=0, lte=4))]


@bench("hints")
def main(
    run: BenchRun,
    *,
    engine: Literal["null", "llamacpp"] = "null",
    model: RealModelOption = "smollm2",
    crews: OptionalPositive = None,
    within_s: OptionalPositive = None,
    rounds: OptionalPositive = None,
    of: Literal["all", "live"] = "all",
    device: Share = 0.25,
    host: SharesDown = 0.0625,
    disk: SharesDown = 0.0625,
    threads: ThreadsOption = None,
    seed: NotNegative = 1,
) -> None:
    """Measure what it is worth that the runtime tells the server what each agent waits for, and how long.

    Planned crews of readers with a quick and a slow tool, a writer and a verifier, all at once, with device
    KV for a quarter of what they want to keep. Arms: hints; no hints, so that the server goes by what it
    sees and learns; no hints and plain LRU (not live). On the null engine in virtual time, with the costs
    of SmolLM2 on two cores; or live with a model.

    Example: ``stepwell bench hints --json hints.json``; live: ``stepwell bench hints --engine llamacpp``

    Parameters
    ----------
    engine
        null (virtual time: everything but engine and clock is real), or llamacpp (live, a few minutes).
    crews
        How many crews (default: 8 on the null engine, 2 live).
    within_s
        Crews begin within so many seconds (default: 60 on the null engine, which is then about half busy
        with room for all; 4 live).
    rounds
        Seeds on the null engine, rounds live (default: 3, live 2; quick: 1).
    of
        What the shares are shares of: all (the contexts of all agents together), or live (the most that
        those of agents that may come back come to at one time, which is harder: some of it must be lost).
    device
        Device KV, as a share.
    host
        Host KV, likewise.
    disk
        Disk KV, likewise.
    seed
        Seed of the first round; the next have the numbers after it (live: all have this one).
    """
    live = engine == "llamacpp"
    if live:
        require_real(model)
    work = {(False, False): FULL, (False, True): QUICK, (True, False): LIVE, (True, True): LIVE_QUICK}
    chosen = replace(work[live, run.quick], seed=seed)
    chosen = replace(chosen, crews=crews or chosen.crews, starts_s=within_s or chosen.starts_s)
    shares = {"device": device, "host": host, "disk": disk}
    rounds = rounds or (1 if run.quick else 2 if live else 3)
    run.settings = {"engine": engine, "crews": asdict(chosen), "of": of, "shares": shares, "rounds": rounds}
    run.settings |= {"model": model} if live else {"machine_model": asdict(MachineModel())}
    player = partial(_live, model, threads or usable_cores()) if live else _virtual
    outcomes = measure(chosen, rounds, shares, player, ARMS[engine], run.progress, of)
    fill(run, outcomes, f"{engine}, device {device:g} of {of}")


Run = Callable[[str, Crews, HintsPlace], HintsOutcome]


def measure(
    work: Crews,
    rounds: int,
    shares: dict[str, float],
    run: Run,
    arms: Sequence[str],
    progress: Ticker,
    of: str = "all",
) -> list[HintsOutcome]:
    """With room for all first, which says what the crews want; then the arms, whose order turns with the
    round so that none always comes first. Live runs differ by themselves and keep their seed."""
    new_seeds = run is _virtual
    outcomes: list[HintsOutcome] = []
    place = None
    for number in range(rounds):
        this = replace(work, seed=work.seed + number) if new_seeds else work
        if place is None or new_seeds:
            progress.phase(f"round {number + 1} of {rounds}: room for all")
            outcomes.append(run(ROOM, this, HintsPlace(0, 0, 0, 0)))
            place = place_for(WANTS[of](outcomes[-1]), shares)
        first = number % len(arms)
        for arm in (*arms[first:], *arms[:first]):
            progress.phase(f"round {number + 1} of {rounds}: {arm}")
            outcomes.append(replace(run(arm, this, place), seed=work.seed + number))
    return outcomes


def place_for(want_tokens: int, shares: dict[str, float]) -> HintsPlace:
    """Shares of what is wanted, in whole blocks; host and disk in bytes of the modelled machine."""
    blocks = {name: int(want_tokens * share) // BLOCK_TOKENS for name, share in shares.items()}
    block_bytes = BLOCK_TOKENS * MachineModel().token_bytes
    device_tokens = max(blocks["device"], 8) * BLOCK_TOKENS
    return HintsPlace(want_tokens, device_tokens, blocks["host"] * block_bytes, blocks["disk"] * block_bytes)


def _virtual(arm: str, work: Crews, place: HintsPlace) -> HintsOutcome:
    model = MachineModel()
    block_bytes = BLOCK_TOKENS * model.token_bytes
    node = VirtualNode(
        script(work),
        model,
        device=(place.device_tokens or AMPLE_TOKENS) // BLOCK_TOKENS,
        host=place.host_bytes // block_bytes,
        disk=place.disk_bytes // block_bytes,
        policy=POLICIES[arm],
    )
    done = node.run(run_crews(work, "http://127.0.0.1", node.connect, hints=arm in (ROOM, HINTS)))
    return outcome_of(arm, work.seed, done, node.clock.now_us() / 1e6, node.driver.snapshot().counters)


def _live(model: str, threads: int, arm: str, work: Crews, place: HintsPlace) -> HintsOutcome:
    given = place if place.device_tokens else replace(place, device_tokens=LIVE_AMPLE_TOKENS)
    return run_live(arm, work, model, given, threads, policy=POLICIES[arm], hints=arm in (ROOM, HINTS))


def fill(run: BenchRun, outcomes: Sequence[HintsOutcome], name: str) -> None:
    """Figures, verdicts and the table."""
    first = outcomes[0]
    title = (
        f"{name}: {first.turns:,} turns a run; contexts of all agents {first.all_tokens:,} tokens, of those "
        f"that may come back at most {first.live_tokens:,} (medians over rounds)"
    )
    run.show(outcome_table(title, outcomes))
    run.results = {"outcomes": [one.as_json() for one in outcomes]}
    run.samples = [{"arm": one.arm, "seed": one.seed, "crew_s": list(one.crew_s)} for one in outcomes]
    run.verdicts = list(verdicts(name, outcomes))

"""``stepwell bench speculate``: speculative decoding by prompt lookup off and on, on turns that copy.

Every agent gets a small program and is told to write it once more with one function renamed. Two nodes, one
that checks guesses and one that does not, answer the same turns alternately; only the time after all prompts
are computed counts. Agents keep their names over the rounds: how many guesses to check is learned by agent.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from statistics import median
from typing import Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number

from stepwell.basics.this_machine import usable_cores
from stepwell.bench.harness import BenchRun, RealModelOption, ThreadsOption, bench, require_real
from stepwell.bench.node import TurnLog, driver_for, load_engine, turn_of
from stepwell.console.options import OptionalPositive
from stepwell.console.output import sheet
from stepwell.console.progress import Ticker
from stepwell.console.report import Verdict
from stepwell.engines.base import TextModel
from stepwell.loop.driver import Driver

LEAST_SPEEDUP = 1.0
"""On one agent alone; more is for the model, the machine and the text to say."""
COLUMNS = {
    "agents at once": "{agents}",
    "off": "{off_tokens_per_s:.1f}",
    "on": "{on_tokens_per_s:.1f}",
    "on over off": "{speedup:.2f}x",
    "guesses that were right": "{accepted_tokens:,} of {drafted_tokens:,}",
    "the same tokens": "{same_answers} of {answers}",
}
_VERBS = ("load", "merge", "count", "check", "write", "parse", "clean", "split", "rank", "join")
_NOUNS = ("rows", "orders", "names", "prices", "files", "users", "dates", "words", "marks", "paths")


@dataclass(slots=True)
class Arms:
    """What the rounds of one number of agents gave: tokens per second off and on."""

    agents: int
    off: list[float] = field(default_factory=list)
    on: list[float] = field(default_factory=list)
    answers: int = 0
    same: int = 0
    """Answers with the same tokens in both arms."""
    drafted: int = 0
    accepted: int = 0
    generated: int = 0

    @property
    def speedup(self) -> float:
        """Median over the rounds of on over the off right beside it."""
        return median([on / off for on, off in zip(self.on, self.off, strict=True)])

    def as_json(self) -> dict[str, Any]:
        return {
            "agents": self.agents,
            "off_tokens_per_s": median(self.off),
            "on_tokens_per_s": median(self.on),
            "speedup": self.speedup,
            "answers": self.answers,
            "same_answers": self.same,
            "drafted_tokens": self.drafted,
            "accepted_tokens": self.accepted,
            "generated_tokens": self.generated,
        }


@bench("speculate")
def main(
    run: BenchRun,
    *,
    model: RealModelOption = "smollm2",
    agents: Annotated[tuple[int, ...], Parameter(validator=Number(gte=1, lte=16))] = (1, 8),
    draft_tokens: Annotated[int, Parameter(validator=Number(gte=1, lte=32))] = 16,
    output_tokens: Annotated[int, Parameter(validator=Number(gte=16, lte=2000))] = 160,
    rounds: OptionalPositive = None,
    threads: ThreadsOption = None,
) -> None:
    """Measure speculative decoding (``policy.draft_tokens``) off and on, on turns that copy.

    A code-edit task: write a program once more with one function renamed, greedily, for one agent and for
    eight at once, in alternating rounds. Says tokens per second, the share of guesses that were right, and
    how many answers have the same tokens in both arms.

    Example: ``stepwell bench speculate --agents 1 --rounds 3``

    Parameters
    ----------
    agents
        How many agents edit at once; several numbers are measured one after the other.
    draft_tokens
        Most guesses that one turn has checked in a step.
    output_tokens
        Tokens of each answer.
    rounds
        Rounds each way (default 6; 2 with --quick).
    """
    require_real(model)
    rounds = rounds or (2 if run.quick else 6)
    output_tokens = min(output_tokens, 64) if run.quick else output_tokens
    run.settings = {
        "model": model, "draft_tokens": draft_tokens, "output_tokens": output_tokens, "rounds": rounds,
        "agents": list(agents), "threads": threads or usable_cores(),
    }  # fmt: skip
    found = [Arms(count) for count in agents]
    for arms in found:
        _measure(arms, model, (draft_tokens, output_tokens, rounds), threads, run.progress)
        run.results[f"{arms.agents} agents"] = arms.as_json()
        run.samples += [
            {"agents": arms.agents, "off_tokens_per_s": off, "on_tokens_per_s": on}
            for off, on in zip(arms.off, arms.on, strict=True)
        ]
    run.verdicts = verdicts(found)
    title = "Code edits, tokens per second (medians over rounds)"
    run.show(sheet(title, COLUMNS, run.results.values()))


def verdicts(found: list[Arms]) -> list[Verdict]:
    """It must not cost speed, for one agent or many; what it brings is in the table."""
    text = "tokens per second with guesses over without, {} at once"
    return [
        Verdict(text.format(arms.agents), arms.speedup, LEAST_SPEEDUP, "x", at_most=False) for arms in found
    ]


def program(draw: random.Random) -> tuple[str, str]:
    """A made-up program, and the name of one of its functions."""
    names = draw.sample([f"{verb}_{noun}" for verb in _VERBS for noun in _NOUNS], 3)
    lines = []
    for name in names:
        limit, step = draw.randrange(10, 99), draw.randrange(2, 9)
        lines += [
            f"def {name}(items, limit={limit}):",
            "    result = []",
            "    for item in items:",
            f"        if item.value > limit and item.rank % {step} == 0:",
            f"            result.append((item.{name.split('_')[1]}, item.value))",
            "    return result",
            "",
        ]
    return "\n".join(lines), names[1]


def prompt_for(text: TextModel, seed: int) -> list[int]:
    """One turn of the task in the model's chat format, or as plain text where it has none."""
    code, old = program(random.Random(seed))
    ask = f"Write this program once more with {old} renamed to {old}_new. Change nothing else.\n\n"
    said = f"{ask}```python\n{code}```"
    if not text.has_chat_template:
        return text.tokenize(f"{said}\n\nThe new program:\n\n```python\n", add_bos=True, parse_special=False)
    rendered = text.render_chat([{"role": "user", "content": said}])
    return text.tokenize_chat(rendered) + text.tokenize("```python\n", add_bos=False, parse_special=False)


def _measure(
    arms: Arms, model: str, shape: tuple[int, int, int], threads: int | None, progress: Ticker
) -> None:
    draft_tokens, output_tokens, rounds = shape
    room = 64 * (arms.agents * (-(-(700 + output_tokens) // 64) + 1) + 4)
    engines = [load_engine(model, device_kv_tokens=room, threads=threads) for _ in range(2)]
    (plain, text), (drafting, _) = engines
    rows = drafting.info.draft_rows
    progress.phase(f"{model}: {arms.agents} at once", rounds + 1)
    with (
        driver_for(plain, text, host_bytes=0) as off,
        driver_for(drafting, text, host_bytes=0, draft_tokens=draft_tokens, step_draft_tokens=rows) as on,
    ):
        for number in range(rounds + 1):
            prompts = [prompt_for(text, 100 * number + agent) for agent in range(arms.agents)]
            # Which goes first changes, so that what one leaves in the processor's caches helps both alike.
            order = (on, off) if number % 2 else (off, on)
            ran = {id(driver): _round(driver, prompts, output_tokens) for driver in order}
            if number:  # the first round warms up, and shows what a step takes
                _add(arms, ran[id(off)], ran[id(on)])
            progress.advance()


def _round(driver: Driver, prompts: list[list[int]], output_tokens: int) -> tuple[float, list[TurnLog]]:
    """Tokens per second from where every agent has its first token, and what each of them got."""
    logs = [TurnLog() for _ in prompts]
    for number, (prompt, log) in enumerate(zip(prompts, logs, strict=True)):
        driver.submit(turn_of(prompt, output_tokens, f"agent-{number}"), log)
    while not all(log.tokens for log in logs):
        driver.step()
    before, started = sum(len(log.tokens) for log in logs), time.perf_counter()
    while not all(log.finished for log in logs):
        driver.step()
    seconds = time.perf_counter() - started
    driver.run_until_idle()
    return (sum(len(log.tokens) for log in logs) - before) / seconds, logs


def _add(arms: Arms, off: tuple[float, list[TurnLog]], on: tuple[float, list[TurnLog]]) -> None:
    arms.off.append(off[0])
    arms.on.append(on[0])
    for plain, drafted in zip(off[1], on[1], strict=True):
        assert drafted.finished is not None
        arms.answers += 1
        arms.same += plain.tokens == drafted.tokens
        arms.generated += len(drafted.tokens)
        arms.drafted += drafted.finished.drafted_tokens
        arms.accepted += drafted.finished.accepted_tokens

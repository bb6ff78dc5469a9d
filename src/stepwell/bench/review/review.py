"""``stepwell bench review``: the weekly review against the same model with the table in its prompt."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number
from rich.console import Console

from stepwell.agents.servers import Servers
from stepwell.bench.harness import BenchRun, bench, scratch
from stepwell.bench.kept_rows import KeptRows
from stepwell.bench.review.arms import Told, Transport, ours, scripted_servers, table_in_prompt
from stepwell.bench.review.judge import Judged
from stepwell.bench.review.mutations import MUTATIONS, missed
from stepwell.bench.review.weeks import made_week
from stepwell.console.options import FileOption, Positive
from stepwell.console.output import sheet
from stepwell.console.progress import Ticker
from stepwell.console.report import Verdict
from stepwell.errors import BadInput
from stepwell.launch.crew_servers import Given, addresses, opened
from stepwell.review.crew import Level
from stepwell.review.digest import digest
from stepwell.review.facts import Facts
from stepwell.review.page import ReviewPage
from stepwell.review.sample import sample
from stepwell.review.wording import LANGUAGES
from stepwell.review.writer import from_templates

SCRIPTED, TEMPLATES = "scripted", "templates"
OURS, TABLE = "ours", "table in the prompt"
TOLD = ("faults", "numerals", "sentences", "chosen", "written", "fallbacks", "printed", "otherwise",
        "tokens", "cost_microusd", "wall_s")  # fmt: skip
Count = Annotated[int, Parameter(validator=Number(gte=0))]
Week = tuple[str, str, str, str]
"""Model, arm, level and name."""
Weeks = KeptRows[Week, Told]


@dataclass(slots=True)
class ReviewWork:
    """A week to be written."""

    name: str
    facts: Facts
    unfit: set[str]
    """Contradictions that it holds."""


@dataclass(slots=True)
class Sum:
    """An arm over its weeks."""

    model: str
    arm: str
    level: str
    weeks: int = 0
    told: Told = field(default_factory=lambda: Told(Judged()))

    def add(self, told: Told) -> None:
        self.weeks += 1
        self.told.judged.add(told.judged)
        for name in TOLD:
            setattr(self.told, name, getattr(self.told, name) + getattr(told, name))

    def as_row(self) -> dict[str, Any]:
        told = self.told
        row = {"model": self.model, "arm": self.arm, "level": self.level, "weeks": self.weeks}
        row |= told.judged.as_row()
        return row | {name: getattr(told, name) for name in TOLD}


@bench("review")
def main(
    run: BenchRun,
    *,
    weeks: Count = 50,
    model: tuple[str, ...] = (),
    model_weeks: Count = 3,
    level: Level = "choose",
    within_s: Positive = 600,
    keep: FileOption = None,
    mutate: Count = 0,
) -> int:
    """Measure what our crew prints against the same model with the table in its prompt.

    The sample week and made weeks: holidays, missing replies, splits, revisions, contradictions, sources
    that differ. The same judge reads both arms in English; ours is verified in both languages as well. The
    scripted larger model writes well and slips in one sentence of ten, in both arms.

        stepwell bench review --quick
        stepwell bench review --model smollm2 --model gemma3 --model-weeks 5 --keep weeks.jsonl
        stepwell bench review --weeks 0 --mutate 1000

    Parameters
    ----------
    weeks
        Made weeks beside the sample week (quick: 6).
    model
        Models that run here, smollm2 or gemma3, beside the scripted one. May be given several times.
    model_weeks
        On how many weeks those run, the sample week first.
    level
        What our crew does with them: choose or write. The scripted model words sentences (write).
    within_s
        Time limit of a model, in seconds: a week that is not finished by then does not count.
    keep
        Add each week of a model that runs here to this file of JSON lines as it ends. Weeks that are in it
        already are not run again, so a run that was stopped goes on where it stood.
    mutate
        Change a page in a single place so many times in each language (a digit, a sign, a date, a raw byte,
        the trace, a word), and count what the verifier does not find.
    """
    kept = kept_weeks(keep)
    if level == "templates":
        raise BadInput("--level templates asks no model: say choose or write")
    count = min(weeks, 6) if run.quick else weeks
    run.settings = {"weeks": count, "models": list(model), "level": level, "mutate": mutate}
    works = _works(count, run.progress)
    sums = asyncio.run(_scripted(works, run.progress))
    for name in model:
        sums += _modelled(name, works[:model_weeks], level, within_s, kept, run)
    lost = _mutated(mutate, run.progress)
    _fill(run, works, sums, lost)
    return 1 if any(one.told.faults for one in sums if one.arm == OURS) or any(lost.values()) else 0


def kept_weeks(path: Path | None) -> Weeks:
    """What came of each week, in a file of JSON lines; without a file nothing is kept. ``BadInput``."""
    names = ("model", "arm", "level", "week")

    def read(row: Any) -> tuple[Week, Told]:
        model, arm, level, week = (row[name] for name in names)
        told = row["told"]
        return (model, arm, level, week), Told(**(told | {"judged": Judged(**told["judged"])}))

    def line(week: Week, told: Told) -> object:
        return {**dict(zip(names, week, strict=True)), "told": asdict(told)}

    return KeptRows(path, read, line)


def _works(count: int, progress: Ticker) -> list[ReviewWork]:
    progress.phase("making the weeks", count + 1)
    week, replies = sample()
    works = [ReviewWork("sample", digest(week, replies)[0], {"weekday", "product_agrees", "start", "claim"})]
    for seed in range(count):
        made = made_week(seed)
        works.append(
            ReviewWork(f"{made.kind} {made.week.friday}", digest(made.week, made.replies())[0], made.unfit)
        )
        progress.advance()
    return works


async def _scripted(works: Sequence[ReviewWork], progress: Ticker) -> list[Sum]:
    """Templates alone, and both arms with the scripted model."""
    alone = Sum(TEMPLATES, OURS, "templates")
    chose, wrote = Sum(SCRIPTED, OURS, "choose"), Sum(SCRIPTED, OURS, "write")
    other = Sum(SCRIPTED, TABLE, "")
    progress.phase("templates and the scripted model", len(works))
    servers, client = scripted_servers()
    async with client:
        for work in works:
            alone.add(await ours(work.facts, None, "templates"))
            chose.add(await ours(work.facts, servers, "choose"))
            wrote.add(await ours(work.facts, servers, "write"))
            other.add(await table_in_prompt(work.facts, "http://127.0.0.1:9", SCRIPTED, Transport()))
            progress.advance()
    return [alone, chose, wrote, other]


def _modelled(
    name: str,
    works: Sequence[ReviewWork],
    level: Level,
    within_s: int,
    kept: KeptRows[Week, Told],
    run: BenchRun,
) -> list[Sum]:
    """Both arms with a model that runs here."""
    mine, other = Sum(name, OURS, level), Sum(name, TABLE, "")
    run.progress.phase(f"{name}: {len(works)} weeks in both arms", len(works))

    async def write(url: str, addressed: Any) -> None:
        async with opened(addressed, "none", 0) as servers:
            with suppress(TimeoutError):
                async with asyncio.timeout(within_s):
                    for work in works:
                        told, against = await both(work.name, work.facts, url, servers)
                        mine.add(told)
                        other.add(against)
                        run.progress.advance()

    async def both(week: str, facts: Facts, url: str, servers: Servers) -> tuple[Told, Told]:
        served = servers.places[0].model
        return (
            await told((name, OURS, level, week), lambda: ours(facts, servers, level)),
            await told((name, TABLE, "", week), lambda: table_in_prompt(facts, url, served, None)),
        )

    async def told(week: Week, write: Callable[[], Awaitable[Told]]) -> Told:
        return kept.known[week] if week in kept.known else kept.keep(week, await write())

    console = Console(stderr=True, highlight=False)
    with (
        scratch("review") as place,
        addresses(Given(), {name: "the bench"}, place, console) as addressed,
    ):
        asyncio.run(write(addressed[0].url, addressed))
    if mine.weeks < len(works):
        run.show(f"{name}: {mine.weeks} of {len(works)} weeks ended within {within_s} s; those count")
    return [mine, other]


def _mutated(count: int, progress: Ticker) -> dict[str, int]:
    """Per kind and language how many changes were not found."""
    if not count:
        return {}
    facts = digest(*sample())[0]
    lost = {}
    for language in LANGUAGES:
        text = ReviewPage(facts, from_templates(facts), language).html()
        for number, name in enumerate(MUTATIONS):
            share = (count + number) // len(MUTATIONS)
            progress.phase(f"{share} single changes: {name}, {language}", 1)
            lost[f"{name}, {language}: of {share}"] = missed(text, name, share, 1)
            progress.advance()
    return lost


def _fill(run: BenchRun, works: Sequence[ReviewWork], sums: Sequence[Sum], lost: Mapping[str, int]) -> None:
    rows = run.samples = [one.as_row() for one in sums]
    run.show(sheet("What is printed", COLUMNS, [_line(row) for row in rows]))
    held = sum(len(work.unfit) for work in works)
    found = sum(len(work.unfit & {one.kind for one in work.facts.conflicts}) for work in works)
    invented = sum(len({one.kind for one in work.facts.conflicts} - work.unfit) for work in works)
    run.results = {"arms": rows, "contradictions": {"held": held, "found": found, "not_held": invented}}
    run.results["not_found_of_single_changes"] = dict(lost)
    run.show(f"contradictions: {found} of {held} found, {invented} that are none, in {len(works)} weeks")
    run.show(*(f"single changes not found, {name}: {count}" for name, count in lost.items()))
    mine = [row for row in rows if row["arm"] == OURS and row["weeks"]]
    wrong = sum(row[name] for row in mine for name in (*WRONG, "faults"))
    said = min(_percent(row, "said", "must") for row in mine)
    otherwise = min(_percent(row, "otherwise", "printed") for row in mine if row["level"] == "choose")
    run.verdicts = [
        Verdict("wrong or untraced of all that ours prints", wrong, 0),
        Verdict("must-say facts that ours says", said, 95, " %", at_most=False),
        Verdict("contradictions found", 100 * found / max(held, 1), 100, " %", at_most=False),
        *([Verdict("single changes not found", sum(lost.values()), 0)] if lost else []),
        Verdict("sentences that templates alone would not have printed", otherwise, 60, " %", at_most=False),
    ]


WRONG = ("wrong_numbers", "wrong_directions", "wrong_dates")
COLUMNS = {
    "model, arm": "{name}",
    "weeks": "{weeks}",
    "numbers wrong": "{wrong_numbers}/{numbers}",
    "directions": "{wrong_directions}/{directions}",
    "dates": "{wrong_dates}/{dates}",
    "must said": "{must_percent:.1f} %",
    "own": "{own_percent:.0f} %",
    "otherwise": "{otherwise_percent:.0f} %",
    "fell back": "{fell_back}",
    "tokens/week": "{tokens_a_week:,.0f}",
    "s/week": "{s_a_week:.1f}",
}


def _percent(row: Mapping[str, Any], part: str, whole: str) -> float:
    return 100 * int(row[part]) / max(int(row[whole]), 1)


def _line(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row of an arm; what only ours has is None of the other."""
    weeks, ours = max(row["weeks"], 1), row["arm"] == OURS
    own = 100 * (int(row["chosen"]) + int(row["written"])) / max(int(row["sentences"]), 1)
    return {
        **row,
        "name": f"{row['model']}, {row['arm']}" + (f" ({row['level']})" if row["level"] else ""),
        "must_percent": _percent(row, "said", "must"),
        "own_percent": own if ours else None,
        "otherwise_percent": _percent(row, "otherwise", "printed") if ours else None,
        "fell_back": row["fallbacks"] if ours else None,
        "tokens_a_week": row["tokens"] / weeks,
        "s_a_week": row["wall_s"] / weeks,
    }

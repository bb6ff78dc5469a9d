"""``stepwell review write | fetch | verify | explain``: the weekly review, written from data."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import date
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console

from stepwell.agents.crews.definition import Crew
from stepwell.agents.crews.files import load_crew
from stepwell.agents.crews.profile import PRO, apply, find_profile
from stepwell.commands.signals import LOG, held
from stepwell.console.options import JsonOption
from stepwell.console.output import write_json
from stepwell.errors import BadInput
from stepwell.launch.crew_servers import Addressed, Given, addresses, default_model, opened
from stepwell.review.appendix import add_costs, add_last_week, add_signals
from stepwell.review.blocks import document_of
from stepwell.review.crew import ORDER, STYLE, Level, Newsroom, Spent, review_crew
from stepwell.review.digest import digest
from stepwell.review.facts import Facts
from stepwell.review.folder import replies_of
from stepwell.review.formulas import explain as explained
from stepwell.review.markdown import markdown
from stepwell.review.page import ReviewPage
from stepwell.review.pdf import pdf
from stepwell.review.sample import SAMPLE_WEEK, sample
from stepwell.review.theme import QUOTES, Theme, add_theme, read_theme
from stepwell.review.verifier import verify as verified
from stepwell.review.week import Week, week_of
from stepwell.review.wording import LANGUAGES, Language
from stepwell.review.writer import Draft, from_templates

ServerOption = Annotated[tuple[str, ...], Parameter(negative="")]
From = Annotated[Path | None, Parameter(name="--from")]


def write(
    *,
    week: str = SAMPLE_WEEK,
    from_: From = None,
    lang: str = "en,zh",
    out: Path = Path("out/review"),
    level: Level = "templates",
    server: ServerOption = (),
    model: str = "",
    key: str | None = None,
    seed: int = 0,
    crew: Path | None = None,
    profile: str = PRO,
    theme: Path | None = None,
    signals: Path | None = None,
    json_file: JsonOption = None,
) -> int:
    """Write the review of a week: an HTML page in each language, every number traced to its bytes.

    Beside each page lie the same text as Markdown and PDF, and its trace as JSON. Last week's review, where
    it lies in the same folder, stands beside this one. Without ``--from`` it is the sample week, whose levels
    are made up; the page says so.

        stepwell review write
        stepwell review fetch --week 2026-01-16 --into january
        stepwell review write --week 2026-01-16 --from january --lang en
        stepwell review write --level write --server http://127.0.0.1:8000 --theme data-centres.pdf

    Parameters
    ----------
    week:
        A day of the week, as YYYY-MM-DD.
    from_:
        The folder that ``stepwell review fetch`` filled; files of your own may lie in it too.
    lang:
        ``en``, ``zh``, or both with a comma between them.
    out:
        The folder for the pages.
    level:
        Who writes: ``templates`` alone; ``choose``, a model orders each section's sentences and chooses a
        form for each, in both languages; ``write``, it words them in English. It never writes a number; what
        does not pass falls back to the template.
    server:
        Where the crew's model is, as for ``stepwell run``; without it, one is started.
    model:
        The model of the crew.
    key:
        The server's API key; else OPENAI_API_KEY.
    seed:
        Of the crew's sampling.
    crew:
        A crew of your own with the roles of examples/crews/review.toml, in TOML or YAML. [the one that ships]
    profile:
        ``pro``, the crew as it is written; ``flash``, without planner and critic; or another of the crew's.
    theme:
        A document of your own (PDF, Markdown, HTML or text): sentences of it stand in the review, word for
        word, as the document's; at ``choose`` and ``write`` the crew's analyst says which.
    signals:
        A log of ``stepwell signals run``: its newest head and the week's signals stand in the review. [the
        log of ``stepwell signals run`` where there is one]
    json_file:
        Write what was counted as JSON; ``-`` is the standard output.
    """
    languages = _languages(lang)
    asked = week_of(week)
    facts, refused = _facts(asked, from_)
    _with_signals(facts, signals, asked, refused)
    quoted = None if theme is None else read_theme(theme)
    staff = _staff(crew, profile)
    draft, spent = _drafted(facts, level, Given.of(server, key), model, seed, quoted, staff)
    out.mkdir(parents=True, exist_ok=True)
    pages: dict[str, str] = {}
    numerals = faults = 0
    add_costs(facts, spent)
    for language in languages:
        beside = _with_last_week(facts, out, asked, language)
        data = ReviewPage(beside, draft, language).html().encode()
        path = out / f"review-{asked.friday}.{language}.html"
        _keep(path, data)
        verdict = verified(data)
        numerals, faults = numerals + verdict.numerals, faults + len(verdict.faults)
        pages[language] = str(path)
        quiet = str(json_file) == "-"
        for fault in verdict.faults[: 0 if quiet else None]:
            print(f"{path}: {fault}")
    results = [one.result for one in spent]
    figures = {
        "week": week,
        "pages": pages,
        "level": level,
        **_counted(draft),
        "turns": sum(one.turns for one in results),
        "tokens": sum(one.prompt_tokens + one.visible_tokens + one.intermediate_tokens for one in results),
        "cost_usd": sum(one.cost_microusd or 0 for one in results) / 1e6,
        "numerals": numerals,
        "untraced": faults,
        "conflicts": len(facts.conflicts),
        "missing": sum(bool(cell.missing) for cell in facts.cells.values()),
        "refused": refused,
    }
    write_json(json_file, figures)
    if str(json_file) != "-":
        _summary(figures)
    return 1 if faults else 0


def verify(page: Path, *, json_file: JsonOption = None) -> int:
    """Check a review from its page alone: every number against its bytes, every word between them.

        stepwell review verify out/review/review-2025-12-12.en.html

    It exits with 1 where anything does not hold, and says what.

    Parameters
    ----------
    page:
        The HTML file of a review.
    json_file:
        Write the verdict as JSON; ``-`` is the standard output.
    """
    try:
        data = page.read_bytes()
    except OSError as error:
        raise BadInput(f"{page} cannot be read: {error.strerror}") from error
    verdict = verified(data)
    if json_file is not None:
        row = {
            "holds": verdict.holds,
            "cells": verdict.cells,
            "marks": verdict.marks,
            "faults": verdict.faults,
        }
        write_json(json_file, row | {"numerals": verdict.numerals})
    if str(json_file) != "-":
        for fault in verdict.faults:
            print(fault)
        end = "all hold" if verdict.holds else f"{len(verdict.faults)} do not hold"
        print(f"{verdict.numerals} numerals in {verdict.marks} marks of {verdict.cells} cells: {end}")
    return 0 if verdict.holds else 1


def explain(cell: str = "", *, week: str = SAMPLE_WEEK, from_: From = None) -> int:
    """Say how a figure of a review came to be; without its name, list the figures.

        stepwell review explain w.SPX.change

    Parameters
    ----------
    cell:
        The figure's id, which the page shows where the pointer is.
    week:
        A day of the week, as YYYY-MM-DD.
    from_:
        The folder that ``stepwell review fetch`` filled.
    """
    facts, _ = _facts(week_of(week), from_)
    if cell and cell not in facts.cells:
        raise BadInput(f"there is no figure {cell}; 'stepwell review explain' without one lists them")
    lines = explained(facts, cell) if cell else sorted(facts.cells)
    print("\n".join(lines))
    return 0


def _keep(path: Path, page: bytes) -> None:
    """The page, and beside it Markdown, PDF and trace, which are made from its bytes."""
    document = document_of(page)
    path.write_bytes(page)
    path.with_suffix(".md").write_text(markdown(document), encoding="utf-8")
    path.with_suffix(".pdf").write_bytes(pdf(document))
    trace = json.dumps(document.trace, ensure_ascii=False, indent=1) + "\n"
    path.with_suffix(".trace.json").write_text(trace, encoding="utf-8")


def _with_signals(facts: Facts, log: Path | None, week: Week, refused: list[str]) -> None:
    """The log that is named has to be one; the usual one stands in every review where it is there."""
    if log is not None:
        add_signals(facts, held(log), week)
    elif LOG.exists():
        try:
            add_signals(facts, held(LOG), week)
        except BadInput as error:
            refused.append(str(error))


def _with_last_week(facts: Facts, out: Path, week: Week, language: Language) -> Facts:
    """The facts, with those of last week's page in this language where it lies in the folder and holds."""
    path = out / f"review-{week.before().friday}.{language}.html"
    beside = facts.copy()
    try:
        found = path.exists() and add_last_week(beside, path.read_bytes(), week)
    except (OSError, BadInput):
        found = False
    return beside if found else facts


def _counted(draft: Draft) -> dict[str, int]:
    return {
        "sentences": draft.count,
        "chosen": draft.chosen,
        "joined": draft.joints,
        "written": draft.written,
        "sent_back": draft.sent_back,
        "fallbacks": draft.fallbacks,
    }


def _drafted(
    facts: Facts, level: Level, given: Given, model: str, seed: int, theme: Theme | None, staff: Crew
) -> tuple[Draft, list[Spent]]:
    if level == "templates":
        if given or model:
            raise BadInput("--level templates needs no model: say --level choose or write")
        if theme is not None:
            add_theme(facts, theme, theme.ranked[:QUOTES])
        return from_templates(facts), []
    wanted = model or (given.default() if given else default_model())
    console = Console(stderr=True, highlight=False)
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stepwell-review-")))
        models = {role.model or wanted: f"the role {role.name}" for role in staff.used_roles}
        addressed = stack.enter_context(addresses(given, models, scratch, console))
        return asyncio.run(_newsroom(facts, level, addressed, given.api_key, seed, theme, staff))


async def _newsroom(
    facts: Facts,
    level: Level,
    addressed: Sequence[Addressed],
    key: str,
    seed: int,
    theme: Theme | None,
    staff: Crew,
) -> tuple[Draft, list[Spent]]:
    async with opened(addressed, key, seed) as servers:
        room = Newsroom(facts, servers, words=level == "write", crew=staff)
        draft = await room.draft()
        if theme is not None:
            add_theme(facts, theme, await room.quotes(theme))
        return draft, room.spent


def _staff(path: Path | None, profile: str) -> Crew:
    """The crew under its profile. Raises ``BadInput``."""
    staff = review_crew() if path is None else load_crew(path)
    if lacking := [name for name in (ORDER, STYLE) if name not in staff.roles]:
        raise BadInput(
            f"--crew {path}: a review needs the roles analyst and stylist; {lacking[0]} is not there"
        )
    return apply(staff, find_profile(staff, profile))


def _languages(text: str) -> list[Language]:
    wanted = [part.strip() for part in text.split(",")]
    if not wanted or any(part not in LANGUAGES for part in wanted):
        raise BadInput(f"--lang {text}: give en, zh, or en,zh")
    return [language for language in LANGUAGES if language in wanted]


def _facts(week: Week, folder: Path | None) -> tuple[Facts, list[str]]:
    if folder is not None:
        return digest(week, replies_of(folder))
    if week != Week(date.fromisoformat(SAMPLE_WEEK)):
        raise BadInput(
            f"only the sample week {SAMPLE_WEEK} is shipped: fetch another, and name its folder with --from"
        )
    return digest(*sample())


def _summary(figures: dict[str, object]) -> None:
    for language, path in figures["pages"].items():  # type: ignore[attr-defined]
        print(f"{language}  {path}")
    for sentence in figures["refused"]:  # type: ignore[attr-defined]
        print(f"not used: {sentence}")
    if figures["level"] != "templates":
        print(
            f"crew: {figures['chosen']} forms chosen, {figures['joined']} statements joined, "
            f"{figures['written']} sentences worded, {figures['sent_back']} sent back, "
            f"{figures['fallbacks']} fell back to templates, "
            f"{figures['turns']} turns, {figures['tokens']} tokens, ${figures['cost_usd']:.6f}"
        )
    print(
        f"{figures['sentences']} sentences; {figures['numerals']} numerals, "
        f"{figures['untraced']} untraced or wrong; "
        f"{figures['conflicts']} checks of what does not fit; {figures['missing']} facts missing"
    )

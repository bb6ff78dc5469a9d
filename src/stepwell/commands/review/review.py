"""``stepwell review write | fetch | verify | explain``: the weekly review, written from data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from stepwell.agents.result import Result
from stepwell.commands.review.signals import LOG, held
from stepwell.commands.review.writers import TEMPLATES_ALONE, Writers, drafted
from stepwell.console.options import ResultOption
from stepwell.console.output import write_json
from stepwell.errors import BadInput
from stepwell.review.appendix import add_costs, add_last_week, add_signals
from stepwell.review.blocks import document_of
from stepwell.review.digest import digest
from stepwell.review.facts import Facts
from stepwell.review.folder import replies_of
from stepwell.review.formulas import explain as explained
from stepwell.review.markdown import markdown
from stepwell.review.page import ReviewPage
from stepwell.review.pdf import pdf
from stepwell.review.sample import SAMPLE_WEEK, sample
from stepwell.review.theme import read_theme
from stepwell.review.verifier import Verification
from stepwell.review.verifier import verify as verified
from stepwell.review.week import Week, week_of
from stepwell.review.wording import LANGUAGES, Language
from stepwell.review.writer import Draft

From = Annotated[Path | None, Parameter(name="--from")]


def write(
    *,
    week: str = SAMPLE_WEEK,
    from_: From = None,
    lang: str = "en,zh",
    out: Path = Path("out/review"),
    writers: Writers = TEMPLATES_ALONE,
    theme: Path | None = None,
    signals: Path | None = None,
    json_file: ResultOption = None,
) -> int:
    """Write the review of a week: an HTML page in each language, every number traced to its bytes.

    The same text as Markdown and PDF, and its trace as JSON, are written beside each page. If last week's
    review is in the same folder, it is shown beside this one. Without ``--from`` the sample week is reviewed,
    whose levels are made up; the page says so.

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
    theme:
        A document of your own (PDF, Markdown, HTML or text): sentences of it stand in the review, word for
        word, as the document's; at ``choose`` and ``write`` the crew's analyst says which.
    signals:
        A log of ``stepwell signals run``: its newest head and the week's signals stand in the review. [the
        log of ``stepwell signals run`` where there is one]
    """
    languages, asked = _languages(lang), week_of(week)
    facts, refused = _facts(asked, from_)
    _with_signals(facts, signals, asked, refused)
    quoted = None if theme is None else read_theme(theme)
    draft, spent = drafted(facts, writers, quoted)
    out.mkdir(parents=True, exist_ok=True)
    add_costs(facts, spent)
    pages = {one: out / f"review-{asked.friday}.{one}.html" for one in languages}
    verdicts = [_written(pages[one], _with_last_week(facts, out, asked, one), draft, one) for one in pages]
    figures: dict[str, object] = {"week": week, "pages": {one: str(path) for one, path in pages.items()}}
    figures |= {"level": writers.level, **_counted(draft), **_costs([one.result for one in spent])}
    figures |= {**_checked(facts, verdicts), "refused": refused}
    write_json(json_file, figures)
    if str(json_file) != "-":
        for path, verdict in zip(pages.values(), verdicts, strict=True):
            print(*(f"{path}: {fault}\n" for fault in verdict.faults), sep="", end="")
        _summary(figures)
    return 1 if figures["untraced"] else 0


def _checked(facts: Facts, verdicts: Sequence[Verification]) -> dict[str, int]:
    """How much was checked, and what is wrong or was not there."""
    return {
        "numerals": sum(one.numerals for one in verdicts),
        "untraced": sum(len(one.faults) for one in verdicts),
        "conflicts": len(facts.conflicts),
        "missing": sum(bool(cell.missing) for cell in facts.cells.values()),
    }


def verify(page: Path, *, json_file: ResultOption = None) -> int:
    """Check a review from its page alone: every number against its bytes, every word between them.

    It exits with 1 where anything does not hold, and says what. Example:

        stepwell review verify out/review/review-2025-12-12.en.html

    Parameters
    ----------
    page:
        The HTML file of a review.
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

    Example: ``stepwell review explain w.SPX.change``

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


def _written(path: Path, facts: Facts, draft: Draft, language: Language) -> Verification:
    """The review in a language as a page and what lies beside it, and whether all in it holds."""
    page = ReviewPage(facts, draft, language).html().encode()
    _keep(path, page)
    return verified(page)


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


def _costs(results: Sequence[Result]) -> dict[str, float]:
    """What the crew's work came to."""
    tokens = sum(one.prompt_tokens + one.visible_tokens + one.intermediate_tokens for one in results)
    cost_usd = sum(one.cost_microusd or 0 for one in results) / 1e6
    return {"turns": sum(one.turns for one in results), "tokens": tokens, "cost_usd": cost_usd}


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

"""What a fit found, for people (Markdown with a chart) and for machines (JSON)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepwell.agents.crews.definition import Crew
from stepwell.agents.crews.profile import PRO, Profile, apply, dump
from stepwell.errors import BadInput
from stepwell.fit.ablation import Worth
from stepwell.fit.chart import draw, frontier
from stepwell.fit.compare import Finding, findings, percent, show
from stepwell.fit.memo import MemoCounts
from stepwell.fit.outcomes import SINGLE, Evaluation, show_cost
from stepwell.fit.search import FITTED, Search, SearchStep
from stepwell.fit.statistics import Estimate

PROFILE_FILE, REPORT_FILE, CHART_FILE, JSON_FILE = "fitted.toml", "report.md", "frontier.svg", "report.json"
RULE = """A part of the profile (an agent, a sample, a longer answer, an unpriced token) goes when the
profile costs no more without it and, where an accuracy is asked for, still reaches it; where it is missed
anyway, or a cost is asked for, when the part is not shown to pay: the 95 % interval of its paired gain does
not lie above zero. Models are chosen by what is asked for alone. In the end the cheapest of all candidates
that reaches the accuracy is taken, or the most accurate within the cost. All of this was decided on the half
to fit on."""


@dataclass(frozen=True, slots=True)
class Fit:
    """A search that has ended, and one look at the held-out half."""

    search: Search
    fitted: Evaluation
    """On the half to fit on."""
    held_out: Sequence[Evaluation]
    """Single call, flash, pro, fitted."""
    counts: MemoCounts
    remembered: bool
    """Whether turns were remembered at all."""
    served: str
    """Models and servers, in words."""

    @property
    def in_money(self) -> bool:
        return self.search.in_money

    @property
    def title(self) -> str:
        search = self.search
        return f"{search.evaluator.crew.name} on {search.evaluator.tasks.name}"

    def findings(self) -> list[Finding]:
        """On the held-out half."""
        return findings(self.held_out, self.search.draws)

    def profile_toml(self) -> str:
        assert self.fitted.profile is not None
        return dump(self.fitted.profile)

    @property
    def dropped(self) -> list[str]:
        assert self.fitted.profile is not None
        return dropped(self.search.evaluator.crew, self.fitted.profile)

    def chart(self) -> str:
        named = (SINGLE, "flash", PRO, FITTED)
        return draw(
            f"What accuracy costs: {self.title}", self.search.tried, self.held_out, self.in_money, named
        )


def write(fit: Fit, directory: Path) -> list[Path]:
    """Profile, report, chart and figures. Raises ``BadInput`` where they cannot be written."""
    files = {
        PROFILE_FILE: fit.profile_toml(),
        REPORT_FILE: markdown(fit),
        CHART_FILE: fit.chart(),
        JSON_FILE: json.dumps(as_json(fit), indent=1) + "\n",
    }
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (directory / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise BadInput(f"--out {directory} cannot be written: {error.strerror}") from error
    return [directory / name for name in files]


# --- for people ------------------------------------------------------------------------------------


def markdown(fit: Fit) -> str:
    """The report; its chart is the file beside it."""
    search = fit.search
    sections = [
        f"# Profile for {fit.title}",
        _summary(fit),
        f"![Accuracy against cost]({CHART_FILE})",
        f"## On the held-out half ({len(fit.held_out[0].outcomes)} items)",
        evaluation_table(fit.held_out, fit.in_money),
        "\n".join(f"- {one.line()}" for one in fit.findings()),
        "## What every part is worth",
        f"The whole crew (pro) with the part, less the same without it, on the {len(search.items)} items to "
        "fit on. p: how likely such a difference is where there is none.",
        worth_table(search.worths, fit.in_money),
        "## What was decided, and why",
        RULE,
        step_table(search.steps, fit.in_money),
        "## The frontier",
        "Candidates that no other one beats in both accuracy and cost, on the half to fit on.",
        evaluation_table(frontier(search.tried, fit.in_money), fit.in_money),
        f"## All {len(search.tried)} candidates",
        evaluation_table(search.tried, fit.in_money),
        "## The fitted profile",
        f"```toml\n{fit.profile_toml()}```",
    ]
    return "\n\n".join(sections) + "\n"


def _summary(fit: Fit) -> str:
    search = fit.search
    fitted = next(one for one in fit.held_out if one.label == FITTED)
    asked = fit.counts.asked
    memory = f"{asked:,} turns were asked, {fit.counts.remembered:,} remembered from before"
    if not fit.remembered:
        memory = f"{asked:,} turns were asked; none were remembered"
    cost = show_cost(fitted.mean_cost(fit.in_money), fit.in_money)
    lines = (
        f"Asked for: {search.target.says()}. On the half to fit on: {verdict(fit)}.",
        f"Held out: {_accuracy(fitted)} right at {cost} per item.",
        f"Chosen: {search.chosen_label}. Dropped: {', '.join(fit.dropped) or 'nothing'}.",
        f"Served: {fit.served}.",
        f"{memory}. Costs are those of a fresh run of each profile: a remembered turn counts with what it "
        "cost when it was asked.",
    )
    return "\n".join(f"- {line}" for line in lines)


def verdict(fit: Fit) -> str:
    """Whether the target was reached where the search could see."""
    word = (
        "reached" if fit.search.reaches(fit.fitted) else "not reached by any candidate; this is the nearest"
    )
    cost = show_cost(fit.fitted.mean_cost(fit.in_money), fit.in_money)
    return f"{word} ({100 * fit.fitted.share:.1f} % at {cost})"


def dropped(crew: Crew, profile: Profile) -> list[str]:
    """Agents of the crew as it is written that take no turns in a profile of it."""
    spared = apply(crew, profile).dropped
    return [f"the {name}" for name in crew.roles if name in spared and name not in crew.dropped]


def _accuracy(one: Evaluation) -> str:
    accuracy = one.accuracy
    return f"{100 * accuracy.value:.1f} % ({_bounds(percent(accuracy))})"


def _bounds(estimate: Estimate | None, digits: int = 1) -> str:
    if estimate is None or estimate.low is None or estimate.high is None:
        return "not bounded"
    return f"{estimate.low:,.{digits}f} to {estimate.high:,.{digits}f}"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown; the first column is text, the others are figures."""
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


COLUMNS = ("profile", "right", "95 % interval", "intermediate", "visible", "prompt", "turns")


def evaluation_columns(in_money: bool) -> tuple[str, ...]:
    """The heads of ``evaluation_rows``; tokens and turns are per item, dollars per thousand items."""
    return (*COLUMNS, "USD per 1,000" if in_money else "tokens per item")


def evaluation_rows(evaluations: Sequence[Evaluation], in_money: bool) -> list[tuple[str, ...]]:
    return [
        (
            one.label,
            f"{100 * one.share:.1f} %",
            _bounds(percent(one.accuracy)),
            f"{one.mean(lambda item: item.intermediate_tokens):.1f}",
            f"{one.mean(lambda item: item.visible_tokens):.1f}",
            f"{one.mean(lambda item: item.prompt_tokens):.0f}",
            f"{one.mean(lambda item: item.turns):.1f}",
            _cost(one.mean_cost(in_money), in_money),
        )
        for one in evaluations
    ]


def _cost(cost: float, in_money: bool) -> str:
    """Dollars for a thousand items: one item costs too little to be read."""
    return f"{cost / 1_000:.4f}" if in_money else f"{cost:,.0f}"


def evaluation_table(evaluations: Sequence[Evaluation], in_money: bool) -> str:
    return table(evaluation_columns(in_money), evaluation_rows(evaluations, in_money))


def worth_table(worths: Sequence[Worth], in_money: bool) -> str:
    unit = "USD" if in_money else "tokens"
    rate = f"right answers more per {'USD' if in_money else 'million tokens'}"
    heads = ("part", "gain in points", "95 % interval", "p", f"costs, {unit} per item")
    columns = (*heads, rate, "95 % interval")
    rows = [
        (
            one.change.part,
            f"{100 * one.gain.value:+.1f}",
            _bounds(percent(one.gain)),
            f"{one.chance:.3f}",
            show_cost(one.cost.value, in_money).split()[0],
            *_rate_cells(one, in_money),
        )
        for one in worths
    ]
    return table(columns, rows) if rows else "There is no part that could be spared."


def _rate_cells(one: Worth, in_money: bool) -> tuple[str, str]:
    rate = one.per_million()
    if rate is None:
        saves = "it saves money" if in_money else "it saves tokens"
        return ("it costs nothing" if one.cost.value == 0 else saves), ""
    return f"{rate.value:,.0f}", _bounds(rate, 0)


def step_table(steps: Sequence[SearchStep], in_money: bool) -> str:
    rows = [
        (
            f"{step.worth.change.part}: {step.worth.change.done}",
            "yes" if step.taken else "no",
            show(percent(step.worth.gain), " points"),
            show_cost(step.worth.cost.value, in_money),
            step.why,
        )
        for step in steps
    ]
    columns = ("change", "made", "gain of what is spared", "saves per item", "why")
    return table(columns, rows) if rows else "There was nothing to change."


# --- for machines ----------------------------------------------------------------------------------


def as_json(fit: Fit) -> dict[str, Any]:
    """Every figure of the report, and every item of the held-out half."""
    search = fit.search
    return {
        "crew": search.evaluator.crew.name,
        "tasks": search.evaluator.tasks.name,
        "target": {"accuracy": search.target.accuracy, "cost_microusd": search.target.cost_microusd},
        "reached": search.reaches(fit.fitted),
        "served": fit.served,
        "turns_asked": fit.counts.asked,
        "turns_remembered": fit.counts.remembered,
        "profile": fit.profile_toml(),
        "chosen": search.chosen_label,
        "dropped": fit.dropped,
        "held_out": [one.as_json(items=True) for one in fit.held_out],
        "findings": [one.as_json() for one in fit.findings()],
        "worths": [_worth_json(one, fit.in_money) for one in search.worths],
        "steps": [_step_json(step, fit.in_money) for step in search.steps],
        "candidates": [one.as_json() for one in search.tried],
        "frontier": [one.label for one in frontier(search.tried, fit.in_money)],
    }


def _worth_json(one: Worth, in_money: bool) -> dict[str, Any]:
    rate = one.per_million()
    return {
        "part": one.change.part,
        "gain": _estimate(one.gain),
        "cost_per_item": _estimate(one.cost),
        "cost_unit": "microusd" if in_money else "tokens",
        "right_answers_per_usd" if in_money else "right_answers_per_million_tokens": rate and _estimate(rate),
        "chance": one.chance,
    }


def _step_json(step: SearchStep, in_money: bool) -> dict[str, Any]:
    return _worth_json(step.worth, in_money) | {
        "done": step.worth.change.done,
        "taken": step.taken,
        "why": step.why,
    }


def _estimate(estimate: Estimate) -> dict[str, float | None]:
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high}

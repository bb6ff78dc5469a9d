"""What is printed before the first run and after the last."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from stepwell.basics.units import format_size
from stepwell.console.fitting import fitted
from stepwell.demo.cost_table import cost_sentences, cost_table
from stepwell.demo.figures import DemoFigures, marks, same_answers
from stepwell.demo.record import Capacity, DemoCustomer
from stepwell.demo.tables import TextTable, comparison_table, notes, service_tier_table

PLAIN_WIDTH = 132
"""Without a terminal lines are not wrapped for us, and a log should not be folded at 80."""


def make_console() -> Console:
    """Standard output; wide when it is a file or a pipe."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PLAIN_WIDTH)


def say(console: Console, line: str, style: str = "") -> None:
    """A line of plain text, whatever brackets are in it."""
    console.print(line, style=style or None, markup=False, highlight=False, soft_wrap=True)


def print_plan(
    console: Console, customers: tuple[DemoCustomer, ...], agents: int, turns: int, capacity: Capacity
) -> None:
    """Which agents will do what, and how little memory there is for it."""
    for customer in customers:
        say(console, f"{customer.name} ({customer.service_tier}) asks: {' Then: '.join(customer.questions)}")
    share = capacity.device_tokens / capacity.held_tokens
    say(
        console,
        f"{agents} agents in {len(customers)} crews, {turns} turns. Together they will hold up to "
        f"{capacity.held_tokens:,} "
        f"tokens of KV ({format_size(capacity.held_tokens * capacity.token_bytes)}), a prefix that a crew "
        "shares counted once.",
    )
    say(
        console,
        f"Device KV is {capacity.device_tokens:,} tokens ({format_size(capacity.limit_bytes('device'))}), "
        f"{share:.0%} of that; "
        f"host memory may take {format_size(capacity.host_bytes)}, disk {format_size(capacity.disk_bytes)}.",
    )
    say(console, "")
    say(
        console, "To see: three crews answer from the document, each answer with the passage it rests on; and"
    )
    say(console, "how the KV of agents that wait moves to host memory and disk and comes back uncomputed.")
    say(console, "")


def print_report(console: Console, figures: DemoFigures) -> None:
    """Answers, tables, and what one must know about them."""
    _answers(console, figures)
    for run in figures.runs:
        _print_table(console, service_tier_table(run))
    if len(figures.runs) == 2:
        _print_table(console, comparison_table(figures.runs[0], figures.runs[1]))
    for note in notes(figures):
        console.print(Text(f"- {note}", style="bright_black"), highlight=False)
    _print_costs(console, figures)


def _print_costs(console: Console, figures: DemoFigures) -> None:
    """What it cost and earned: the table that closes the demo."""
    run = figures.runs[0]
    table = cost_table(run, figures.customers)
    if table is None:
        return
    _print_table(console, table)
    for sentence in cost_sentences(run):
        console.print(Text(sentence), highlight=False)


def _answers(console: Console, figures: DemoFigures) -> None:
    """Each with the passage it rests on, and how many are right."""
    for customer in figures.customers:
        given = figures.runs[0].answers.get(customer.name.lower(), ())
        known = [answer.right for answer in given if answer.right is not None]
        score = f": {sum(known)} of {len(known)} right" if known else ""
        say(console, f"\n{customer.name} ({customer.service_tier}){score}", "bold")
        for answer in given:
            say(console, f"  {answer.question}")
            say(console, f"    {answer.text or '(no answer)'}{' (WRONG)' if answer.right is False else ''}")
            if answer.passage:
                place = (
                    f"{figures.document.name}, {answer.heading}" if answer.heading else figures.document.name
                )
                say(console, f"    rests on {place}: {answer.passage}", "bright_black")
    if right := marks(figures.runs):
        say(console, f"\n{sum(right)} of {len(right)} right, checked against the answers that ship.", "bold")
    if len(figures.runs) == 2:
        same, count = same_answers(*figures.runs)
        say(console, f"{same} of {count} answers are the same without KV tiers.")


def _print_table(console: Console, table: TextTable) -> None:
    made = Table(
        title=table.title, title_justify="left", title_style="bold", box=None, header_style="bright_black"
    )
    for number, column in enumerate(table.columns):
        made.add_column(column, justify="right" if number else "left")
    for number, row in enumerate(table.rows):
        made.add_row(*row, style="bold" if number in table.strong else None)
    say(console, "")
    console.print(fitted(console, made))


def print_end(console: Console, figures: DemoFigures, html: Path, json: Path | None, total_s: float) -> None:
    """Where everything is, how long it took, and the result."""
    say(console, "")
    if json is not None:
        say(console, f"All figures: {json}")
    say(console, f"The picture: {html}")
    say(console, f"Total time {total_s:.0f} s. {figures.result[:1].upper()}{figures.result[1:]}", "bold")

"""``stepwell signals run | log | verify | score``: rules on paper, fixed before and kept for good."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from stepwell.console.options import HtmlOption, ResultOption
from stepwell.console.output import write_json
from stepwell.errors import BadInput
from stepwell.review.signals.log import Line, Writer, faults, read
from stepwell.review.signals.page import page
from stepwell.review.signals.record import closes_of, data_faults, record, tried
from stepwell.review.signals.rules import RULES, Closes, Rule
from stepwell.review.signals.score import (
    Score,
    earned,
    forward_positions,
    held_all_along,
    hindsight_positions,
    score,
)

LOG = Path("out/signals/signals.jsonl")
Prices = Annotated[Path, Parameter(name="--prices")]


def run(*, prices: Prices, log: Path = LOG, rule: tuple[str, ...] = ()) -> int:
    """Compute each rule's signal of the newest session, and those that were missed, and keep them in the log.

    Paper only. A rule is written down with its parameters and its source before its first signal; each
    signal acts one session later. What is written after that session has closed is marked as late.

        stepwell signals run --prices prices-SPX.csv
        stepwell signals run --prices prices-SPX.csv --rule trend --log spx.jsonl

    Parameters
    ----------
    prices:
        Closes of one instrument, as prices-NAME.csv with the columns Date and Close.
    log:
        The log; it is begun where there is none, with a key of its own beside it (NAME.key, for you alone).
    rule:
        Only these rules. [all]
    """
    chosen = _rules(rule)
    instrument, closes = closes_of(prices)
    writer = Writer(log)
    added: list[Line] = []
    for one in chosen:
        added.extend(record(writer, one, instrument, closes, datetime.now(UTC)))
    for line in added:
        if line["kind"] == "rule":
            print(f"fixed   {line['name']} on {instrument}: {line['rule']}")
    signals = [line for line in added if line["kind"] == "signal"]
    for one in chosen:
        if newest := [line for line in writer.lines if _is_of(line, one, instrument)]:
            print(f"{one.name}: holds {newest[-1]['position']} from the close of {newest[-1]['acts']}")
        else:
            print(f"{one.name}: too few sessions to say anything")
    forward = sum(line["forward"] for line in signals)
    print(
        f"{len(signals)} signals added, {forward} of them forward; {len(writer.lines)} lines, "
        f"head {writer.lines[-1]['hash']}"
    )
    return 0


PageOption = Annotated[HtmlOption, Parameter(help="Write it as a page, with every signal.")]


def log(
    *, log: Path = LOG, html: PageOption = None, prices: Path | None = None, json_file: ResultOption = None
) -> int:
    """Show the log: the rules that were tried, and their newest signals.

    Examples, on the screen and as a page:

        stepwell signals log
        stepwell signals log --html signals.html --prices prices-SPX.csv

    Parameters
    ----------
    log:
        The log.
    prices:
        Closes, for what the rules would have earned, on the page.
    """
    lines = held(log)
    if html is not None:
        html.parent.mkdir(parents=True, exist_ok=True)
        html.write_text(page(lines, _scores(lines, prices) if prices else []), encoding="utf-8")
    write_json(json_file, {"lines": list(lines)})
    if str(json_file) == "-":
        return 0
    for fixed, line in tried(list(lines)).items():
        said = [one for one in lines if one["kind"] == "signal" and one["rule"] == fixed]
        forward = sum(one["forward"] for one in said)
        print(
            f"{line['name']} on {line['instrument']}: {len(said)} signals, {forward} forward; {line['says']}"
        )
    print(f"{len(lines)} lines, head {lines[-1]['hash']}")
    return 0


def verify(
    *,
    log: Path = LOG,
    prices: Path | None = None,
    key: str = "",
    head: str = "",
    json_file: ResultOption = None,
) -> int:
    """Check a log: the chain, the signatures and, with closes, every signal again.

    It exits with 1 where anything does not hold, and says what. Example:

        stepwell signals verify --prices prices-SPX.csv --head 5f0c...

    Parameters
    ----------
    log:
        The log.
    prices:
        Closes of the instrument; each signal is computed again from those up to its session.
    key:
        The public key that has to have signed it. [the one in its first line]
    head:
        A head that was seen before, as a review prints it: the log has to contain it.
    """
    lines = read(log)
    found = list(faults(lines, key))
    if head and head not in {line.get("hash") for line in lines}:
        found.append(f"the head {head} is not in the log")
    if prices is not None and not found:
        instrument, closes = closes_of(prices)
        for rule in RULES.values():
            found.extend(data_faults(lines, rule, instrument, closes))
    write_json(json_file, {"holds": not found, "lines": len(lines), "faults": found})
    if str(json_file) != "-":
        for fault in found:
            print(fault)
        end = "all hold" if not found else f"{len(found)} faults"
        print(f"{len(lines)} lines: {end}; head {lines[-1].get('hash') if lines else 'none'}")
    return 1 if found else 0


def score_(*, prices: Prices, log: Path = LOG, json_file: ResultOption = None) -> int:
    """What the signals would have earned on paper, after costs, beside holding the instrument.

    Only forward signals count. Beside them stands what the rule would have said in hindsight, which was known
    when it was chosen. All rules that were tried are counted, because the best of many is good by chance.

        stepwell signals score --prices prices-SPX.csv

    Parameters
    ----------
    prices:
        Closes of the instrument, up to now.
    log:
        The log.
    """
    lines = held(log)
    rows = _scores(lines, prices)
    trials = len(tried(list(lines)))
    write_json(json_file, {"rules_tried": trials, "scores": rows})
    if str(json_file) != "-":
        for row in rows:
            print(_sentence(row))
        print(f"{trials} rules were tried; on paper only, and no advice")
    return 0


def held(path: Path) -> Sequence[Line]:
    """The lines of a log that holds. Raises ``BadInput``."""
    lines = read(path)
    if not lines:
        raise BadInput(f"{path} is empty: 'stepwell signals run' begins it")
    if fault := next(faults(lines), ""):
        raise BadInput(f"{path} does not hold: {fault}; 'stepwell signals verify' says all")
    return lines


def _rules(names: tuple[str, ...]) -> list[Rule]:
    if unknown := [name for name in names if name not in RULES]:
        raise BadInput(f"--rule {unknown[0]}: the rules are {', '.join(RULES)}")
    return [rule for name, rule in RULES.items() if not names or name in names]


def _is_of(line: Line, rule: Rule, instrument: str) -> bool:
    return bool(line["kind"] == "signal" and line["rule"] == rule.hash(instrument))


def _scores(lines: Sequence[Line], prices: Path) -> list[dict[str, Any]]:
    instrument, closes = closes_of(prices)
    rows = []
    for rule in RULES.values():
        forward = forward_positions(lines, rule.hash(instrument))
        rows.append(_row(rule, closes, forward, "forward"))
        rows.append(_row(rule, closes, hindsight_positions(rule, closes), "in hindsight"))
    return rows


def _row(rule: Rule, closes: Closes, said: Mapping[date, Decimal], kind: str) -> dict[str, Any]:
    returns, traded = earned(said, closes, rule.cost_basis_points)
    mine, held = score(returns, traded), score(held_all_along(closes, [day for day, _ in returns]))
    row: dict[str, Any] = {"rule": rule.name, "signals": kind}
    return row | mine.as_row() | {"hold_total": held.total, "verdict": _verdict(mine, held)}


def _verdict(mine: Score, held: Score) -> str:
    if mine.total is None or held.total is None:
        return "too few returns to say"
    if mine.total == held.total:
        return "as much as holding"
    return "more than holding" if mine.total > held.total else "loses to holding"


def _sentence(row: dict[str, Any]) -> str:
    head = f"{row['rule']}, {row['signals']}: {row['returns']} returns"
    if row["total"] is None:
        return f"{head}, {row['verdict']}"
    sharpe = "none" if row["sharpe"] is None else f"{row['sharpe']:.2f}"
    return (
        f"{head}, {row['total']:+.2f} % after costs, holding {row['hold_total']:+.2f} %, deepest fall "
        f"{row['max_drawdown']:.2f} %, Sharpe ratio {sharpe}: {row['verdict']}"
    )

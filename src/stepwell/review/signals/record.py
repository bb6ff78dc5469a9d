"""A day's signals into the log: first the rule, fixed by its hash; then what it says, once for each session.

A signal that is written before the next session closes is *forward*. One that is written later, because no
run was made in time, could have been chosen with its outcome in view: it is kept, marked, and counts for
nothing. Of sessions before the rule was fixed there are no signals at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, time
from pathlib import Path
from zoneinfo import ZoneInfo

from stepwell.errors import BadInput
from stepwell.review.facts import Facts
from stepwell.review.signals.log import Line, Writer
from stepwell.review.signals.rules import Closes, Rule, digest_of, looks_ahead
from stepwell.review.sources.base import Reply
from stepwell.review.sources.prices import PriceFiles
from stepwell.review.week import session_after

CLOSE = time(16, 0, tzinfo=ZoneInfo("America/New_York"))


def closes_of(path: Path) -> tuple[str, Closes]:
    """The instrument of ``prices-NAME.csv``, and its closes in order. Raises ``StepwellError``."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from error
    if not path.name.startswith("prices-"):
        raise BadInput(f"{path.name}: name the file after its instrument, as in prices-SPX.csv")
    facts = Facts()
    PriceFiles().read(facts, Reply("prices", path.name, data, datetime.now(UTC).date()))
    if facts.conflicts:
        raise BadInput(f"{path.name}: a session has two closes")
    found = sorted((cell.observed, cell.number) for cell in facts.under("idx.") if cell.observed)
    if not found:
        raise BadInput(f"{path.name} has no close in it")
    return path.name.removeprefix("prices-").partition(".")[0].upper(), found


def record(log: Writer, rule: Rule, instrument: str, closes: Closes, now: datetime) -> Iterator[Line]:
    """The lines that were added: the rule where it is new, and a signal for each session since."""
    if ahead := looks_ahead(rule, closes):
        raise BadInput(f"the rule {rule.name} says something else of {ahead[0]} once later closes are known")
    fixed = rule.hash(instrument)
    if not any(line["kind"] == "rule" and line["rule"] == fixed for line in log.lines):
        yield log.append({"kind": "rule", "rule": fixed, "recorded": _stamp(now), **rule.fixed(instrument)})
    done = [line["session"] for line in log.lines if line["kind"] == "signal" and line["rule"] == fixed]
    for number in _due(closes, max(done, default=""), now):
        day = closes[number][0]
        position = rule.decide(closes[: number + 1], rule.parameters)
        if position is None:
            continue
        acts = session_after(day)
        yield log.append(
            {
                "kind": "signal",
                "rule": fixed,
                "session": str(day),
                "acts": str(acts),
                "position": str(position),
                "data": digest_of(closes[: number + 1]),
                "recorded": _stamp(now),
                "forward": now < datetime.combine(acts, CLOSE),
            }
        )


def _due(closes: Closes, last: str, now: datetime) -> list[int]:
    """Sessions that have closed since the last signal; the newest alone where there is none yet."""
    closed = [number for number, (day, _) in enumerate(closes) if datetime.combine(day, CLOSE) <= now]
    return [number for number in closed if str(closes[number][0]) > last] if last else closed[-1:]


def data_faults(lines: list[Line], rule: Rule, instrument: str, closes: Closes) -> Iterator[str]:
    """Signals of a rule that the closes do not give again, and those that are marked as forward wrongly."""
    fixed, known = rule.hash(instrument), {str(day): number for number, (day, _) in enumerate(closes)}
    for line in lines:
        if line["kind"] != "signal" or line["rule"] != fixed:
            continue
        number = known.get(line["session"])
        where = f"line {line['n']}: {rule.name} of {line['session']}"
        if number is None:
            yield f"{where}: there is no close of that session"
            continue
        before = closes[: number + 1]
        if digest_of(before) != line["data"]:
            yield f"{where}: the closes up to it have changed since"
        elif str(rule.decide(before, rule.parameters)) != line["position"]:
            yield f"{where}: it says {line['position']}, and the rule does not"
        yield from _time_faults(line, where)


def _time_faults(line: Line, where: str) -> Iterator[str]:
    acts = date.fromisoformat(line["acts"])
    written = datetime.fromisoformat(line["recorded"])
    if acts != session_after(date.fromisoformat(line["session"])):
        yield f"{where}: it does not act one session later"
    if line["forward"] is not (written < datetime.combine(acts, CLOSE)):
        yield f"{where}: it is not as forward as it says"


def tried(lines: list[Line]) -> Mapping[str, Line]:
    """Every rule that was ever fixed, by its hash: the number of trials."""
    return {line["rule"]: line for line in lines if line["kind"] == "rule"}


def _stamp(now: datetime) -> str:
    return now.astimezone(UTC).isoformat(timespec="seconds")

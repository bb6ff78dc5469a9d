"""``stepwell review query``: SQL over the facts of one week or of many."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from stepwell.console.options import ResultOption
from stepwell.console.output import write_json
from stepwell.errors import BadInput
from stepwell.review.digest import digest
from stepwell.review.facts import Facts
from stepwell.review.folder import replies_of
from stepwell.review.sample import sample
from stepwell.review.sources.base import Reply
from stepwell.review.store import TABLES, as_text, ask
from stepwell.review.week import Week, week_of

From = Annotated[tuple[str, ...], Parameter(name="--from")]


def query(sql: str = "", /, *, from_: From = (), json_file: ResultOption = None) -> int:
    """Ask the facts of weeks with SQL: cells, the raw replies they were read from, and what does not fit.

    DuckDB answers, in its own dialect. Without ``--from`` it is the sample week; without SQL the tables are
    listed. A vintage is a condition: ``known_since <= '2025-12-05'`` is what was known by that day.

        stepwell review query "SELECT id, value FROM cells WHERE id LIKE 'w.%.change'"
        stepwell review query --from 2026-01-09=january-9 --from 2026-01-16=january-16 \\
            "SELECT week, number FROM cells WHERE id = 'w.SPX.change' ORDER BY week"

    Parameters
    ----------
    sql:
        One statement.
    from_:
        WEEK=DIR: a day of the week and the folder that ``stepwell review fetch`` filled; may be given several
        times.
    """
    if not sql:
        for text in TABLES.values():
            print(" ".join(text.split()).removeprefix("CREATE TABLE "))
        return 0
    answer = ask(_weeks(from_), sql)
    if json_file is not None:
        rows = [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]
        write_json(json_file, {"rows": json.loads(json.dumps(rows, default=_plain)), "more": answer.more})
    if str(json_file) != "-":
        for line in as_text(answer) if answer.columns else ():
            print(line)
        more = "; there are more" if answer.more else ""
        print(f"{len(answer.rows)} rows{more}")
    return 0


def _plain(value: object) -> object:
    return value.hex() if isinstance(value, bytes) else str(value)


def _weeks(given: tuple[str, ...]) -> list[tuple[date, Facts]]:
    if not given:
        week, replies = sample()
        return [(week.friday, _facts(week, replies, "the sample"))]
    found: list[tuple[date, Facts]] = []
    for text in given:
        day, equals, folder = text.partition("=")
        if not equals:
            raise BadInput(f"--from {text}: write WEEK=DIR, as in 2026-01-16=january")
        week = week_of(day)
        found.append((week.friday, _facts(week, replies_of(Path(folder)), folder)))
    return found


def _facts(week: Week, replies: Iterable[Reply], place: str) -> Facts:
    """What could not be used is told: rows of it are missing in every answer."""
    facts, refused = digest(week, replies)
    for sentence in refused:
        print(f"{place}: not used: {sentence}", file=sys.stderr)
    return facts

"""A period cut into days, weeks or months, as they begin where the reader is."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from stepwell.errors import BadInput
from stepwell.ledger.base import Store
from stepwell.ledger.reading.queries import LAST_US, Period

UNITS = ("day", "week", "month")
MOST_PARTS = 1_000


def zone_of(name: str) -> tzinfo:
    """A time zone by its IANA name (``Europe/Berlin``). Raises ``BadInput``."""
    if name.upper() == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise BadInput(
            f"{name[:64]!r} is no time zone that is known here: write one like Europe/Berlin or UTC"
        ) from error


def unit_of(fields: Sequence[str]) -> str | None:
    """The unit of time among the fields of ``--by``. Raises ``BadInput`` for two."""
    units = [name for name in fields if name in UNITS]
    if len(units) > 1:
        raise BadInput(f"--by {','.join(units)}: group by one of {', '.join(UNITS)}")
    return units[0] if units else None


def parts(store: Store, period: Period, unit: str, zone: tzinfo = UTC) -> list[tuple[str, Period]]:
    """The parts of a period, by their ISO names (``2026-11-29``, ``2026-W48``, ``2026-11``). Open ends are
    those of the books. Raises ``BadInput`` for more than ``MOST_PARTS``."""
    first_us, last_us = _ends(store, period)
    if first_us is None or last_us is None:
        return []
    found: list[tuple[str, Period]] = []
    start = _begin(_moment(first_us, zone), unit)
    while (start_us := _us(start)) <= last_us:
        following = _next(start, unit)
        since_us, until_us = max(start_us, period.since_us), min(_us(following), period.until_us)
        found.append((name_of(start, unit), Period(since_us, until_us)))
        if len(found) > MOST_PARTS:
            raise BadInput(f"--by {unit}: the period has more than {MOST_PARTS:,} of them; narrow --since")
        start = following
    return found


def month(text: str, zone: tzinfo = UTC) -> Period:
    """Of ``2026-11``. Raises ``BadInput``."""
    try:
        start = datetime.strptime(text, "%Y-%m").replace(tzinfo=zone)
    except ValueError as error:
        raise BadInput(f"--month {text!r} is no month: write 2026-11") from error
    return Period(_us(start), _us(_next(start, "month")))


def name_of(start: datetime, unit: str) -> str:
    if unit == "week":
        year, week, _ = start.isocalendar()
        return f"{year}-W{week:02d}"
    return f"{start:%Y-%m}" if unit == "month" else f"{start:%Y-%m-%d}"


def _ends(store: Store, period: Period) -> tuple[int | None, int | None]:
    found: list[int] = []
    for table in ("usage", "entries"):
        where, values = period.where("r")
        ((first, last),) = store.rows(f"SELECT MIN(at_us), MAX(at_us) FROM {table} r WHERE {where}", values)
        found += [int(at_us) for at_us in (first, last) if at_us is not None]
    return min(found, default=None), max(found, default=None)


def day_after_s(at_s: int, zone: tzinfo) -> int:
    """When the day after that of ``at_s`` begins. Where there is no midnight, because clocks are put forward
    at it, a day begins at that moment."""
    return _us(_next(_begin(_moment(at_s * 1_000_000, zone), "day"), "day")) // 1_000_000


def hour_after_s(at_s: int, zone: tzinfo) -> int:
    """When the hour after that of ``at_s`` begins."""
    offset = _moment(at_s * 1_000_000, zone).utcoffset() or timedelta()
    return at_s + 3_600 - (at_s + offset // timedelta(seconds=1)) % 3_600


def _begin(moment: datetime, unit: str) -> datetime:
    day = moment.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    if unit == "week":
        return day - timedelta(days=day.weekday())
    return day.replace(day=1) if unit == "month" else day


def _next(start: datetime, unit: str) -> datetime:
    if unit == "month":
        return start.replace(year=start.year + start.month // 12, month=start.month % 12 + 1)
    return start + timedelta(days=7 if unit == "week" else 1)


def _moment(at_us: int, zone: tzinfo) -> datetime:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=min(at_us, LAST_US))).astimezone(zone)


def _us(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)

"""``stepwell review fetch``: ask the sources for a week's replies, and keep them."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

from stepwell.errors import BadInput
from stepwell.review.digest import SOURCES
from stepwell.review.fetch import Fetched, Fetcher
from stepwell.review.week import week_of


def fetch(
    *,
    week: str,
    into: Path,
    source: tuple[str, ...] = (),
    base_url: tuple[str, ...] = (),
    again: bool = False,
) -> int:
    """Ask the sources for the replies of a week; writing is another command, so that it repeats to the
    byte.

    Examples, with all sources and with two:

        stepwell review fetch --week 2026-01-16 --into january
        stepwell review fetch --week 2026-01-16 --into january --source treasury --source nyfed

    FRED needs a key in FRED_API_KEY, the SEC a name and an address in SEC_USER_AGENT. FRED has closes of the
    S&P 500, the Dow and the Nasdaq Composite, for your own use. For other indexes put files such as
    prices-RUT.csv or prices-RUT.parquet (columns Date and Close) into the folder, from a source that you may
    use; a table of events as documents-NAME.md.

    Parameters
    ----------
    week:
        A day of the week, as YYYY-MM-DD.
    into:
        The folder for the replies. One that was kept after the week had ended is not asked for again.
    source:
        Only these; may be given several times.
    base_url:
        SOURCE=URL: ask another address, such as a mirror.
    again:
        Ask for all of them, also for those that were kept.
    """
    wanted = week_of(week)
    today = datetime.now(UTC).date()
    _require_past(wanted.monday, today)
    names = [one.name for one in SOURCES if one.base_url]
    if unknown := [name for name in source if name not in names]:
        raise BadInput(f"--source {unknown[0]}: the sources are {', '.join(names)}")
    fetcher = Fetcher(into, today, _addresses(base_url, names), again)
    kept = failed = 0
    for one in SOURCES:
        if not one.base_url or (source and one.name not in source):
            continue
        for result in fetcher.fetch(wanted, one):
            print(_line(result, into), flush=True)
            kept, failed = kept + (not result.error), failed + bool(result.error)
    if kept:
        then = f"next: stepwell review write --week {week} --from {into}"
        print(f"{kept} replies are in {into}, {failed} failed; {then}")
        return 0
    print(f"nothing was fetched, {failed} failed: is there a network, and are the keys set?")
    return 1


def _line(result: Fetched, into: Path) -> str:
    if not result.error:
        return f"{'kept      ' if result.asked else 'there     '}{result.request.name}"
    stays = (into / result.request.name).exists()
    return f"not kept  {result.error}" + ("; the reply that was there before stays" if stays else "")


def _require_past(monday: date, today: date) -> None:
    if monday > today:
        raise BadInput(f"the week that begins on {monday} has not been yet")


def _addresses(given: tuple[str, ...], names: list[str]) -> dict[str, str]:
    addresses = {}
    for text in given:
        name, equals, url = text.partition("=")
        if not equals or name not in names or not url.startswith(("http://", "https://")):
            raise BadInput(f"--base-url {text}: write SOURCE=URL, with one of {', '.join(names)}")
        addresses[name] = url
    return addresses

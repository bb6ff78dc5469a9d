"""Options that commands share (a JSON file, a page, a small version, counts), checked before work begins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number

from stepwell.errors import BadInput
from stepwell.report.charts import require_charts
from stepwell.units import parse_size


def ending_in(*known: str) -> Callable[[Any, Path | None], None]:
    """A check for an option that writes one kind of file: another name would promise what is not in it."""

    def check(_: Any, file: Path | None) -> None:
        if file is not None and str(file) != "-" and file.suffix.lower() not in known:
            raise ValueError(f"{file}: its name ends in {' or '.join(known)}, as what is written is that")

    return check


PAGES = (".html", ".htm")
HtmlOption = Annotated[Path | None, Parameter(validator=ending_in(*PAGES))]


def _page_with_charts(given: Any, file: Path | None) -> None:
    ending_in(*PAGES)(given, file)
    if file is not None:
        require_charts()


ChartsOption = Annotated[Path | None, Parameter(validator=_page_with_charts)]
"""A page with charts: without the library that draws them nothing is begun."""
JsonOption = Annotated[
    Path | None,
    Parameter(
        name="--json",
        allow_leading_hyphen=True,
        help="Write machine, versions, settings, figures and all raw samples here (-: standard output).",
    ),
]
QuickOption = Annotated[
    bool,
    Parameter(
        name="--quick",
        negative="",
        show_default=False,
        help="A small version of the same measurement, for a first look.",
    ),
]

Positive = Annotated[int, Parameter(validator=Number(gte=1))]
OptionalPositive = Annotated[int | None, Parameter(validator=Number(gte=1), show_default=False)]
"""None: the default that the command's help names."""
Flag = Annotated[bool, Parameter(negative="", show_default=False)]


def require_writable(file: Path | None, flag: str = "--json") -> None:
    """Say that a file cannot be written before an hour of measuring, not after it."""
    if file is None or str(file) == "-":
        return
    if not file.absolute().parent.is_dir():
        raise BadInput(f"{flag} {file}: the directory {file.absolute().parent} does not exist")
    if file.is_dir():
        raise BadInput(f"{flag} {file} is a directory: give the name of a file")


def size_bytes(flag: str, text: str) -> int:
    """A size given on the command line. ``BadInput`` names the flag."""
    try:
        return parse_size(text)
    except ValueError as error:
        raise BadInput(f"{flag}: {error}") from error

"""Options that commands share (a JSON file, a page, a small version, counts), checked before work begins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number

from stepwell.basics.units import parse_size
from stepwell.errors import BadInput
from stepwell.report.charts import require_charts


def ending_in(*known: str) -> Callable[[Any, Path | None], None]:
    """A check for an option that writes one kind of file: another name would promise what is not in it."""

    def check(given: Any, file: Path | None) -> None:
        if file is not None and str(file) != "-" and file.suffix.lower() not in known:
            raise ValueError(f"{file}: its name ends in {' or '.join(known)}, as what is written is that")
        writable(given, file)

    return check


def no_option(_: Any, file: Path | str | None) -> None:
    """A check where ``-`` stands for a stream: cyclopts then takes an unknown option for a file as well, and
    the next option for the file of one whose value was forgotten."""
    if file is not None and str(file) != "-" and str(file).startswith("-"):
        raise ValueError("it looks like an option; a file of that name is given by its whole path")


def writable(_: Any, file: Path | None) -> None:
    """A check for an option that names a file to write: said before an hour of work, not after it."""
    no_option(_, file)
    try:
        require_writable(file)
    except BadInput as error:
        raise ValueError(str(error)) from error


def require_writable(file: Path | None) -> None:
    """Raises ``BadInput`` when the file cannot be written. Leaves it as it is, and none where none was."""
    if file is None or str(file) == "-":
        return
    if file.is_dir():
        raise BadInput(f"{file} is a directory: give the name of a file")
    if not file.absolute().parent.is_dir():
        raise BadInput(f"the directory {file.parent} does not exist")
    existed = file.exists()
    if existed and not file.is_file():
        return  # a pipe: to open and close it would tell its reader that all is said
    try:
        with file.open("ab"):
            pass
    except OSError as error:
        raise BadInput(f"{file} cannot be written: {error.strerror}") from error
    if not existed:
        file.unlink()


PAGES = (".html", ".htm")
HtmlOption = Annotated[Path | None, Parameter(validator=ending_in(*PAGES), help="Write a report here.")]


def _page_with_charts(given: Any, file: Path | None) -> None:
    ending_in(*PAGES)(given, file)
    if file is not None:
        require_charts()


ChartsOption = Annotated[Path | None, Parameter(validator=_page_with_charts, help="Write a report here.")]
"""A page with charts: without the library that draws them nothing is begun."""
FileOption = Annotated[Path | None, Parameter(validator=writable)]
JsonOption = Annotated[
    Path | None,
    Parameter(
        name="--json",
        allow_leading_hyphen=True,
        validator=writable,
        help="Write machine, versions, settings, figures and all raw samples here (-: standard output).",
    ),
]
ResultOption = Annotated[
    Path | None,
    Parameter(
        name="--json",
        allow_leading_hyphen=True,
        validator=writable,
        help="Write the result here as JSON (-: standard output).",
    ),
]
QuickOption = Annotated[
    bool,
    Parameter(
        name="--quick",
        negative="",
        help="A small version of the same measurement, for a first look.",
    ),
]

Positive = Annotated[int, Parameter(validator=Number(gte=1))]
NotNegative = Annotated[int, Parameter(validator=Number(gte=0))]
OptionalPositive = Annotated[int | None, Parameter(validator=Number(gte=1))]
"""None: the default that the command's help names."""
Flag = Annotated[bool, Parameter(negative="")]
"""On or off where it is off unless given: there is no ``--no-...``."""


def option(text: str) -> Parameter:
    """A flag's help, which names the default itself: None lets the file and the environment speak."""
    return Parameter(help=text, show_default=False)


def flag(text: str, name: str | None = None) -> Parameter:
    """The help of a ``Flag``. ``name``: where the parameter's own would not do."""
    return Parameter(name=name, help=text, negative="")


def size_bytes(flag: str, text: str) -> int:
    """A size given on the command line. ``BadInput`` names the flag."""
    try:
        return parse_size(text)
    except ValueError as error:
        raise BadInput(f"{flag}: {error}") from error

"""Tables that a benchmark writes into a page of the documentation."""

from __future__ import annotations

from pathlib import Path

from stepwell.errors import BadInput


def write_between(page: Path, marks: tuple[str, str], text: str) -> None:
    """Put a generated table between two marks of a page. ``BadInput`` when that cannot be done."""
    try:
        before, mark, rest = page.read_text(encoding="utf-8").partition(marks[0])
        _, end, after = rest.partition(marks[1])
        if not (mark and end):
            raise BadInput(f"--page {page} has no place for the table: it needs {marks[0]} and {marks[1]}")
        page.write_text(f"{before}{mark}\n{text}{end}{after}", encoding="utf-8")
    except OSError as error:
        raise BadInput(f"--page {page} cannot be written: {error.strerror}") from error

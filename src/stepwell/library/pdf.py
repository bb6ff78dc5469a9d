"""The text of PDF files, through pypdf (the extra ``documents``)."""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from typing import Any

from stepwell.errors import BadInput, MissingExtra

MAX_FIELDS = 2_000
MAX_FIELD_CHARS = 20_000
SHOWN_PAGES = 10


def pdf_text(data: bytes, name: str, max_pages: int) -> tuple[str, str]:
    """The text of a PDF's pages and form fields, and a note when not every page gave some.

    A page that cannot be read costs that page. Raises ``BadInput``, ``MissingExtra``.
    """
    try:
        import pypdf
    except ImportError as error:
        raise MissingExtra(f"reading the PDF {name}", "documents") from error
    # pypdf warns about every oddity of every file on stderr, where a live screen may be.
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)
    try:
        reader = pypdf.PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise BadInput(f"PDF {name} needs a password: save it without one and try again")
        total = len(reader.pages)
    except BadInput:
        raise
    except Exception as error:
        raise _unreadable(name, error) from error
    pages, failed = _pages(reader, name, min(total, max_pages))
    fields, unread = _fields(reader)
    empty = [number for number, page in enumerate(pages, 1) if not page.strip() and number not in failed]
    if len(failed) == len(pages) and not fields:
        raise BadInput(f"PDF {name} cannot be read: none of its {len(pages)} pages can; it may be damaged")
    if not any(page.strip() for page in pages) and not fields:
        raise BadInput(f"PDF {name} holds no text (scanned pages?): run OCR on it first")
    shown = [*pages, f"Form fields:\n{fields}"] if fields else pages
    return "\n\n".join(shown), _note(empty, failed, unread, len(pages), total)


def _pages(reader: Any, name: str, count: int) -> tuple[list[str], list[int]]:
    """The text of each page, and the numbers of those that cannot be read."""
    pages: list[str] = []
    failed: list[int] = []
    for number in range(count):
        try:
            pages.append(reader.pages[number].extract_text())
        except Exception as error:
            if _lacks_package(error):
                raise _unreadable(name, error) from error
            pages.append("")
            failed.append(number + 1)
    return pages, failed


def _fields(reader: Any) -> tuple[str, bool]:
    """What a form was filled in with, a field a line, and whether its fields could not be read."""
    try:
        found = reader.get_fields() or {}
        lines = [_field(str(key), field) for key, field in list(found.items())[:MAX_FIELDS]]
    except Exception:  # noqa: BLE001 - the pages are worth reading without
        return "", True
    return "\n".join(line for line in lines if line), False


def _field(key: str, field: Any) -> str:
    value = field.get("/V")
    if value is None:
        return ""
    values = value if isinstance(value, list) else [value]
    words = ", ".join(str(one).removeprefix("/") for one in values)[:MAX_FIELD_CHARS].strip()
    label = " ".join(str(field.get("/TU") or key).split())
    return f"{label}: {words}" if words else ""


def _lacks_package(error: BaseException) -> bool:
    return type(error).__name__ == "DependencyError"


def _unreadable(name: str, error: BaseException) -> BadInput | MissingExtra:
    if _lacks_package(error):
        return MissingExtra(
            f"PDF {name} is encrypted with AES: reading it needs the package cryptography, which", "documents"
        )
    return BadInput(f"PDF {name} cannot be read ({type(error).__name__}): it may be damaged")


def _note(empty: Sequence[int], failed: Sequence[int], unread: bool, read: int, total: int) -> str:
    said = []
    if empty:
        said.append(f"{len(empty)} of its {read} pages hold no text ({_listed(empty)})")
    if failed:
        said.append(f"{len(failed)} of its {read} pages cannot be read ({_listed(failed)})")
    if unread:
        said.append("its form fields cannot be read")
    if read < total:
        said.append(f"only the first {read} of its {total} pages were read")
    return "; ".join(said)


def _listed(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:SHOWN_PAGES]))
    return shown + (", ..." if len(numbers) > SHOWN_PAGES else "")

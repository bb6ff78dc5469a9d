"""The text of PDF files, through pypdf (the extra ``documents``)."""

from __future__ import annotations

import io
import logging

from stepwell.errors import BadInput, MissingExtra


def pdf_text(data: bytes, name: str, max_pages: int) -> tuple[str, str]:
    """The text of a PDF's pages, and a note when not every page gave some. Raises ``BadInput``."""
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
        pages = [reader.pages[number].extract_text() for number in range(min(total, max_pages))]
    except BadInput:
        raise
    except Exception as error:
        raise BadInput(f"PDF {name} cannot be read ({type(error).__name__}): it may be damaged") from error
    full = sum(1 for page in pages if page.strip())
    if not full:
        raise BadInput(f"PDF {name} holds no text (scanned pages?): run OCR on it first")
    return "\n\n".join(pages), _note(full, len(pages), total)


def _note(full: int, read: int, total: int) -> str:
    said = [] if full == read else [f"{read - full} of its {read} pages hold no text"]
    if read < total:
        said.append(f"only the first {read} of its {total} pages were read")
    return "; ".join(said)

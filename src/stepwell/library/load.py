"""The document a crew reads: a file of any kind that the library reads, standard input, or the example."""

from __future__ import annotations

import sys
from importlib import resources
from pathlib import Path

from stepwell.errors import BadInput
from stepwell.library.documents import Document, Limits
from stepwell.library.extract import extract

MAX_BYTES = 32 * 2**20
MAX_CHARS = 4_000_000
EXAMPLE = "stepwells.md"


def load_document(source: str | None) -> Document:
    """Read ``source``: a path, ``-`` for standard input, or None for the example that ships.

    Raises ``BadInput`` (missing, empty, too large, binary, unreadable PDF) or ``MissingExtra`` (a
    PDF without pypdf).
    """
    if source is None:
        return decode(_example(), EXAMPLE)
    if source == "-":
        return decode(_read_stdin(), "standard input")
    return decode(_read_file(Path(source).expanduser()), Path(source).name)


def _example() -> bytes:
    """From the installed package, or from the checkout it runs in."""
    packaged = resources.files("stepwell").joinpath("examples", EXAMPLE)
    if packaged.is_file():
        return packaged.read_bytes()
    checkout = Path(__file__).resolve().parents[3] / "examples" / EXAMPLE
    if checkout.is_file():
        return checkout.read_bytes()
    raise BadInput("the example document is not installed: name a document, as in  stepwell demo FILE")


def _read_stdin() -> bytes:
    if sys.stdin.isatty():
        sys.stderr.write("Reading the document from the terminal; end it with Ctrl-D.\n")
    return _bounded(sys.stdin.buffer.read(MAX_BYTES + 1), "standard input")


def _read_file(path: Path) -> bytes:
    if path.is_dir():
        raise BadInput(f"document {path} is a directory: name one Markdown, text or PDF file in it")
    try:
        with path.open("rb") as file:
            return _bounded(file.read(MAX_BYTES + 1), str(path))
    except FileNotFoundError as error:
        raise BadInput(f"document {path} does not exist") from error
    except (OSError, ValueError) as error:
        raise BadInput(
            f"document {path} cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from error


def _bounded(data: bytes, name: str) -> bytes:
    if len(data) > MAX_BYTES:
        raise BadInput(f"document {name} is larger than {MAX_BYTES // 2**20} MiB: give a part of it")
    return data


def decode(data: bytes, name: str) -> Document:
    """Bytes to text. The demo reads the beginning of what is too long and says so."""
    return extract(data, name, Limits(MAX_BYTES, MAX_CHARS, cut=True))

"""The document a crew reads: Markdown, text or PDF, from a path or standard input.

A document comes in as bytes that somebody else wrote, so everything here has a limit, and what
cannot be read is one sentence.
"""

from __future__ import annotations

import io
import logging
import re
import sys
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from stepwell.errors import BadInput, MissingExtra

MAX_BYTES = 32 * 2**20
MAX_PDF_PAGES = 2_000
MAX_CHARS = 4_000_000
EXAMPLE = "stepwells.md"

_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")
_BLANK_LINES = re.compile(r"\n[ \t]*\n\s*")
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]*_]*\s+")
_SPACE = re.compile(r"\s+")
_HEADING = re.compile(r"^#{1,6}[ \t]+(.+?)[ \t#]*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Document:
    """A text with a name. ``text`` is never blank."""

    name: str
    kind: str
    """``markdown``, ``text`` or ``pdf``."""
    text: str
    note: str = ""
    """What a reader must know about how it was read, such as pages without text."""

    @property
    def headings(self) -> list[str]:
        """Markdown headings in order; empty for other kinds."""
        return _HEADING.findall(self.text) if self.kind == "markdown" else []

    @property
    def title(self) -> str:
        """The first heading, or the name."""
        return (self.headings or [self.name])[0][:120]

    @property
    def words(self) -> int:
        return len(self.text.split())


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
    """Bytes to text. What a file is called does not matter, except that ``.md`` has headings."""
    note = ""
    if b"%PDF-" in data[:1024]:
        kind, (text, note) = "pdf", _pdf_text(data, name)
    else:
        kind, text = "text", _plain_text(data, name)
        if name.lower().endswith((".md", ".markdown")) or _HEADING.match(text.lstrip()):
            kind = "markdown"
    text = _CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    if not text.strip():
        raise BadInput(f"document {name} is empty: there is nothing to read in it")
    if len(text) > MAX_CHARS:
        text, note = text[:MAX_CHARS], f"only its first {MAX_CHARS:,} characters were looked at"
    return Document(name, kind, text, note)


def _plain_text(data: bytes, name: str) -> str:
    """UTF-8, UTF-16 with a byte order mark, or Windows-1252; anything else is not text."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", errors="replace")
    if b"\0" in data:
        raise BadInput(f"document {name} is not text (it holds zero bytes): give Markdown, text or PDF")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("cp1252", errors="replace")
    if len(_CONTROL.findall(text)) + text.count("\ufffd") > len(text) // 100:
        raise BadInput(f"document {name} is neither UTF-8 nor Windows text: give Markdown, text or PDF")
    return text


def _pdf_text(data: bytes, name: str) -> tuple[str, str]:
    """The text of a PDF's pages, and a note when not every page gave some."""
    try:
        import pypdf
    except ImportError as error:
        raise MissingExtra(f"reading the PDF {name}", "documents") from error
    # pypdf warns about every oddity of every file on stderr, where the live screen is.
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)
    try:
        reader = pypdf.PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise BadInput(f"PDF {name} needs a password: save it without one and try again")
        pages = [page.extract_text() for page in reader.pages[:MAX_PDF_PAGES]]
    except BadInput:
        raise
    except Exception as error:
        raise BadInput(f"PDF {name} cannot be read ({type(error).__name__}): it may be damaged") from error
    full = sum(1 for page in pages if page.strip())
    if not full:
        raise BadInput(f"PDF {name} holds no text (scanned pages?): run OCR on it first")
    note = "" if full == len(pages) else f"{len(pages) - full} of its {len(pages)} pages hold no text"
    return "\n\n".join(pages), note


def split_passages(text: str, max_words: int = 60) -> list[str]:
    """Cut into passages of at most about ``max_words`` words; joined they are ``text`` again.

    Paragraphs first; long ones at the ends of sentences, then between words, then anywhere. A
    heading stays with what follows it.
    """
    passages: list[str] = []
    for paragraph in _with_headings(_cut_after(text, _BLANK_LINES)):
        passages += _shorten(paragraph, max_words)
    return passages


def _with_headings(paragraphs: list[str]) -> list[str]:
    joined: list[str] = []
    heading = ""
    for paragraph in paragraphs:
        if _HEADING.fullmatch(paragraph.strip()):
            heading += paragraph
            continue
        joined.append(heading + paragraph)
        heading = ""
    return [*joined, heading] if heading else joined


def _shorten(text: str, max_words: int) -> list[str]:
    """One paragraph as pieces that are short enough. A word counts as at most 12 characters."""
    if _weight(text) <= max_words:
        return [text]
    for pattern in (_SENTENCE_END, _SPACE):
        pieces = _cut_after(text, pattern)
        if len(pieces) > 1:
            return _pack([part for piece in pieces for part in _shorten(piece, max_words)], max_words)
    step = max_words * 12
    return [text[at : at + step] for at in range(0, len(text), step)]


def _weight(text: str) -> int:
    """Words, or what a text without spaces would have of them."""
    return max(len(text.split()), len(text) // 12)


def _pack(pieces: list[str], max_words: int) -> list[str]:
    """Join neighbours while they stay short enough."""
    packed: list[str] = []
    weight = 0
    for piece in pieces:
        more = _weight(piece)
        if packed and weight + more <= max_words:
            packed[-1] += piece
            weight += more
        else:
            packed.append(piece)
            weight = more
    return packed


def _cut_after(text: str, pattern: re.Pattern[str]) -> list[str]:
    """Pieces that end where ``pattern`` ends; nothing is lost and no piece is empty."""
    ends = [match.end() for match in pattern.finditer(text) if match.end() < len(text)]
    return [text[a:b] for a, b in zip([0, *ends], [*ends, len(text)], strict=True) if a < b]


def split_parts(passages: list[str], count: int) -> list[list[str]]:
    """``count`` runs of neighbouring passages, about equally long; together they are all of them.

    With fewer passages than parts some parts are empty.
    """
    total = sum(len(passage) for passage in passages)
    parts: list[list[str]] = [[] for _ in range(count)]
    seen = 0
    for passage in passages:
        middle = seen + len(passage) / 2
        parts[min(count - 1, int(middle * count / total))].append(passage)
        seen += len(passage)
    return parts

"""From the bytes of a file to its text: plain text, Markdown, HTML, PDF, CSV and Parquet.

A file comes from outside, so everything here has a limit, and what cannot be read is one sentence.
What a file holds decides how it is read. Its name decides only between kinds of text.
"""

from __future__ import annotations

import re

from stepwell.errors import BadInput
from stepwell.library.charset import Decoded, decode
from stepwell.library.documents import DEFAULT_LIMITS, MIB, Document, Limits, heading_of
from stepwell.library.html import html_text, looks_like_html
from stepwell.library.pdf import pdf_text
from stepwell.library.tables import csv_text, parquet_text

READABLE = "give plain text, Markdown, HTML, PDF, CSV or Parquet"
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")
_HEAD_BYTES = 16_384
_HEADER = re.compile(rb"[A-Za-z][A-Za-z-]{1,40}:[ \t]")
_MIME = re.compile(rb"^MIME-Version:", re.I | re.M)
_ENCODED = re.compile(
    rb"^Content-Transfer-Encoding:[ \t]{0,9}(?:base64|quoted-printable)[ \t]{0,9}\r?$", re.I | re.M
)
_MARKDOWN, _HTML, _CSV = (".md", ".markdown"), (".html", ".htm", ".xhtml"), (".csv", ".tsv")
_FOREIGN = (
    (b"PK\x03\x04", "a ZIP or Office file"),
    (b"\xd0\xcf\x11\xe0", "an old Office file"),
    (b"\x1f\x8b", "compressed with gzip"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (b"GIF8", "a picture"),
    (b"SQLite format 3\0", "a SQLite database"),
    (b"{\\rtf", "an RTF file"),
    (b"%!PS", "a PostScript file"),
    (b"BZh91AY", "compressed with bzip2"),
    (b"7z\xbc\xaf", "compressed with 7-Zip"),
    (b"Rar!\x1a", "compressed with RAR"),
    (b"\xfd7zXZ", "compressed with xz"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd"),
)


def extract(data: bytes, name: str, limits: Limits = DEFAULT_LIMITS) -> Document:
    """The text of a file. ``name`` is what people call it; it is in every sentence.

    Raises ``BadInput`` (empty, too large, encrypted, damaged, no text) or ``MissingExtra`` (a PDF
    without pypdf, Parquet without DuckDB).
    """
    if len(data) > limits.max_bytes:
        raise BadInput(f"document {name} is larger than {_size(limits.max_bytes)}: give a part of it")
    kind, text, note = _read(data, name, limits)
    text = _CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    if not text.strip():
        raise BadInput(f"document {name} is empty: there is nothing to read in it")
    if len(text) <= limits.max_chars:
        return Document(name, kind, text, note)
    if not limits.cut:
        raise BadInput(
            f"the text of document {name} is longer than {limits.max_chars:,} characters: split it"
        )
    cut = f"only its first {limits.max_chars:,} characters were looked at"
    return Document(name, kind, text[: limits.max_chars], f"{note}; {cut}" if note else cut)


def _size(size_bytes: int) -> str:
    return f"{size_bytes // MIB} MiB" if size_bytes >= MIB else f"{size_bytes} bytes"


def _read(data: bytes, name: str, limits: Limits) -> tuple[str, str, str]:
    """Kind, text and note."""
    if b"%PDF-" in data[:1024]:
        return "pdf", *pdf_text(data, name, limits.max_pages)
    if data[:4] == b"PAR1":
        return "parquet", *parquet_text(data, name, limits)
    decoded, low = _plain_text(data, name), name.lower()
    text, note = decoded.text, decoded.note
    if low.endswith(_CSV) and text.strip():
        return "csv", csv_text(text, name, limits), note
    if looks_like_html(text, named=low.endswith(_HTML)):
        return "html", html_text(text), note
    is_markdown = low.endswith(_MARKDOWN) or heading_of(text[:4096].lstrip().partition("\n")[0])
    return ("markdown" if is_markdown else "text"), text, note


def _mail(head: bytes) -> list[tuple[bytes, str]]:
    """An e-mail or web archive whose text is encoded for its way: in the file itself it cannot be read."""
    mail = _HEADER.match(head) and _MIME.search(head) and _ENCODED.search(head)
    return [(b"", "an e-mail or a web archive")] if mail else []


def _plain_text(data: bytes, name: str) -> Decoded:
    start = data[:_HEAD_BYTES].lstrip(b"\xef\xbb\xbf \t\r\n")
    for magic, what in (*_FOREIGN, *_mail(data[:_HEAD_BYTES])):
        if data.startswith(magic) or start.startswith(magic):
            raise BadInput(f"document {name} is {what}, which is not read here: {READABLE}")
    try:
        return decode(data, f"document {name}")
    except BadInput as error:
        raise BadInput(f"{error}: {READABLE}" if "is not text" in str(error) else str(error)) from None

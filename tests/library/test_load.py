"""Documents come from strangers: what can be read is read whole, what cannot is one sentence."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from stepwell.errors import BadInput, MissingExtra
from stepwell.library import load as module
from stepwell.library.load import decode, load_document


def test_the_example_ships_and_has_headings() -> None:
    example = load_document(None)
    assert example.kind == "markdown"
    assert example.title == "How a stepwell was built and used"
    assert 2_500 <= example.words <= 4_000


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes("\ufeffDeep w\u00e4ter.\r\nCold.".encode())
    assert load_document(str(path)).text == "Deep w\u00e4ter.\nCold."


def test_standard_input_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    stdin = io.TextIOWrapper(io.BytesIO(b"# From a pipe\n\nWater."))
    monkeypatch.setattr(sys, "stdin", stdin)
    read = load_document("-")
    assert (read.kind, read.title) == ("markdown", "From a pipe")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("caf\u00e9 au lait".encode("cp1252"), "caf\u00e9 au lait"),
        ("wide".encode("utf-16"), "wide"),
        (b"bell\x07 and tab\t", "bell and tab\t"),
    ],
)
def test_other_encodings(data: bytes, text: str) -> None:
    assert decode(data, "x.txt").text == text


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "is empty"),
        (b" \n\t ", "is empty"),
        (b"\x7fELF\x02\x01\x01\0\0\0\0", "is not text"),
        (bytes(range(1, 256)) * 4, "is not clear"),
        (b"%PDF-1.7\nthis is not one", "cannot be read"),
    ],
)
def test_what_is_no_document(data: bytes, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence) as caught:
        decode(data, "bad.bin")
    assert "bad.bin" in str(caught.value)


def test_missing_file_and_directory(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="does not exist"):
        load_document(str(tmp_path / "none.md"))
    with pytest.raises(BadInput, match="is a directory"):
        load_document(str(tmp_path))
    with pytest.raises(BadInput, match="cannot be read"):
        load_document("nul\0byte")


def test_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 10)
    path = tmp_path / "big.txt"
    path.write_text("eleven byte")
    with pytest.raises(BadInput, match="larger than"):
        load_document(str(path))


def test_a_very_long_text_is_cut_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CHARS", 5)
    read = decode(b"longer than five", "x.txt")
    assert read.text == "longe"
    assert "first 5 characters" in read.note


def pdf(*pages: str) -> bytes:
    """A small PDF, a page per text, written by hand."""
    kids = " ".join(f"{4 + 2 * n} 0 R" for n in range(len(pages)))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for number, text in enumerate(pages):
        stream = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET" if text else ""
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {5 + 2 * number} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>"
        )
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
    made, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(made))
        made += f"{number} 0 obj\n{body}\nendobj\n".encode()
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    return (
        made
        + (
            f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}"
            f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{len(made)}\n%%EOF\n"
        ).encode()
    )


def test_a_pdf_is_read_whatever_it_is_called() -> None:
    pytest.importorskip("pypdf")
    read = decode(pdf("Steps lead down.", "", "Water lies deep."), "paper.txt")
    assert read.kind == "pdf"
    assert "Steps lead down." in read.text
    assert "Water lies deep." in read.text
    assert read.note == "1 of its 3 pages hold no text (2)"


def test_a_scanned_pdf_says_so() -> None:
    pytest.importorskip("pypdf")
    with pytest.raises(BadInput, match="OCR"):
        decode(pdf("", ""), "scan.pdf")


def test_without_pypdf_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pypdf", None)
    with pytest.raises(MissingExtra, match="documents"):
        decode(pdf("text"), "paper.pdf")

"""Files come from strangers: what can be read is read whole, what cannot is one sentence."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.errors import BadInput, MissingExtra
from stepwell.library import confined, tables
from stepwell.library.confined import extract_confined
from stepwell.library.documents import Limits, clean_name
from stepwell.library.extract import extract

PAGE = """<!doctype html><html><head><title>Wells</title><style>p {color: red}</style>
<script>alert("no")</script></head><body><h1>Step wells</h1><p>Deep &amp; <b>cool</b>
water.</p><ul><li>one<li>two</ul><pre>a
  b</pre><table><tr><th>x<th>y<tr><td>1<td>2</table></body></html>"""


def test_a_page_is_its_readable_text() -> None:
    read = extract(PAGE.encode(), "page.txt")
    assert read.kind == "html"
    assert read.text.startswith("Wells\n\n# Step wells\n\nDeep & cool water.\n")
    assert "- one\n- two\n" in read.text
    assert "a\n  b\n" in read.text
    assert "| 1 | 2" in read.text
    assert not any(word in read.text for word in ("alert", "color", "<"))


@given(st.text(st.sampled_from("<>/!-abp =\"'&;#x\n "), max_size=200))
def test_no_page_is_too_broken(text: str) -> None:
    with contextlib.suppress(BadInput):
        assert extract(f"<html>{text}".encode(), "x.html").text.strip()


@pytest.mark.parametrize(
    ("data", "name", "kind"),
    [
        (b"plain words", "x", "text"),
        (b"# A heading\n\nwords", "x.txt", "markdown"),
        (b"words", "x.md", "markdown"),
        (b"a < b and c > d", "x.html", "text"),
        (b"<p>words", "x.html", "html"),
        (b"<p>words", "x.txt", "text"),
        (b"no table at all", "x.pdf", "text"),
    ],
)
def test_content_decides_and_the_name_only_between_kinds_of_text(data: bytes, name: str, kind: str) -> None:
    assert extract(data, name).kind == kind


@pytest.mark.parametrize("sign", [",", ";", "\t", "|"])
def test_a_table_says_what_its_columns_are(sign: str) -> None:
    names, full = ["name", "depth", "rate", "built", ""], ["Adalaj", "30", "1.5", "1498-01-02", ""]
    rows = [names, full, ["", "7", "2", "", ""]]
    data = "\r\n".join(sign.join(row) for row in rows).encode()
    read = extract(data, "wells.csv")
    assert read.kind == "csv"
    schema, _, *lines = read.text.splitlines()
    assert schema == (
        "Table of 2 rows. Columns: name (text), depth (integer), rate (number), built (date), "
        "(no name) (empty)."
    )
    assert lines[1].startswith("Adalaj | 30 | 1.5 | 1498-01-02")


def test_a_quoted_cell_stays_one_line() -> None:
    assert "two lines" in extract(b'a,b\n"two\nlines",2\n', "x.csv").text.splitlines()[-1]


def parquet(tmp_path: Path) -> bytes:
    duckdb = pytest.importorskip("duckdb")
    path = tmp_path / "made.parquet"
    duckdb.sql(f"COPY (SELECT range AS n, 'w' || range AS word FROM range(3)) TO '{path}' (FORMAT parquet)")
    return path.read_bytes()


def test_parquet_is_read_whatever_it_is_called(tmp_path: Path) -> None:
    read = extract(parquet(tmp_path), "table.bin")
    assert read.kind == "parquet"
    schema, table = read.text.split("\n\n")
    assert schema == "Table of 3 rows. Columns: n (bigint), word (varchar)."
    assert table == "n | word\n0 | w0\n1 | w1\n2 | w2\n"


def test_damaged_parquet(tmp_path: Path) -> None:
    data = bytearray(parquet(tmp_path))
    data[-20:-4] = bytes(16)
    with pytest.raises(BadInput, match="may be damaged"):
        extract(bytes(data), "table.parquet")


def test_parquet_cut_in_half(tmp_path: Path) -> None:
    data = parquet(tmp_path)
    with pytest.raises(BadInput, match=r"half\.parquet cannot be read"):
        extract(data[: len(data) // 2], "half.parquet")


def test_a_long_parquet_table_is_kept_and_its_text_ends_with_a_whole_row(tmp_path: Path) -> None:
    read = extract(parquet(tmp_path), "long.parquet", Limits(max_chars=75))
    assert read.text.endswith("\n0 | w0\n")
    assert read.note == "of its text the first 75 characters are kept"


def test_parquet_without_duckdb_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(MissingExtra, match="analytics"):
        extract(b"PAR1....PAR1", "t.parquet")


def test_an_encrypted_pdf_says_so() -> None:
    pypdf = pytest.importorskip("pypdf")
    writer, made = pypdf.PdfWriter(), io.BytesIO()
    writer.add_blank_page(100, 100)
    writer.encrypt("secret", algorithm="RC4-128")
    writer.write(made)
    with pytest.raises(BadInput, match="needs a password"):
        extract(made.getvalue(), "locked.pdf")


@pytest.mark.parametrize(
    ("data", "name", "sentence"),
    [
        (b"", "x.txt", "is empty"),
        (b" \n", "x.csv", "is empty"),
        (b"<html><script>x</script></html>", "x.html", "is empty"),
        (b"\x7fELF\x02\x01\x01\0\0", "junk.txt", "is not text"),
        (b"PK\x03\x04rest", "paper.docx", "a ZIP or Office file"),
        (b"\x89PNG\r\n", "scan.pdf", "a picture"),
        (b"{\\rtf1\\ansi The well is deep.}", "memo.txt", "an RTF file"),
        (b"\xef\xbb\xbf{\\rtf1 x}", "memo.rtf", "an RTF file"),
        (b"%!PS-Adobe-3.0\n", "x.ps", "a PostScript file"),
        (b"BZh91AY&SY", "x.txt", "compressed with bzip2"),
        (
            b"From: a@example.org\r\nMIME-Version: 1.0\r\nContent-Transfer-Encoding: base64\r\n\r\nVGhl",
            "x.eml",
            "an e-mail",
        ),
        (
            b"From: a@example.org\nMime-Version: 1.0\nContent-transfer-encoding: Base64\n\nVGhl",
            "x.eml",
            "an e-mail",
        ),
        (b"From: a@example.org\nMIME-Version: 1.0\n\nThe well is deep.", "plain.eml", None),
        (b"# Mail\n\nContent-Transfer-Encoding: base64\n\nMIME-Version: 1.0\n", "about.md", None),
        (b"%PDF-1.7\nthis is not one", "x.pdf", "cannot be read"),
        (b"x" * 1_001, "x.txt", "larger than 1000 bytes"),
        (b"y" * 999, "x.txt", "longer than 500 characters"),
        (b"a,b\n" + b"1,2\n" * 200, "x.csv", "longer than 500 characters"),
        (b'a,b\n"' + b"z" * 400, "x.csv", None),
    ],
)
def test_what_cannot_be_read_is_one_sentence(data: bytes, name: str, sentence: str | None) -> None:
    limits = Limits(max_bytes=1_000, max_chars=500)
    if sentence is None:
        assert extract(data, name, limits).text
        return
    with pytest.raises(BadInput, match=sentence) as caught:
        extract(data, name, limits)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_hangs_its_parser_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pypdf")
    endless = [sys.executable, "-c", "import time; time.sleep(60)"]
    monkeypatch.setattr(confined.sys, "executable", endless[0])
    run = confined.subprocess.run
    monkeypatch.setattr(confined.subprocess, "run", lambda command, **more: run(endless, **more))
    with pytest.raises(BadInput, match=r"slow\.pdf cannot be read: it takes more time"):
        extract_confined(b"%PDF-1.7", "slow.pdf", Limits(), timeout_s=1)


def test_the_child_reads_as_we_do(tmp_path: Path) -> None:
    data = parquet(tmp_path)
    assert extract_confined(data, "t.parquet", Limits()) == extract(data, "t.parquet")
    for bad in b"%PDF-1.7 no", b"PAR1 no":
        with pytest.raises(BadInput) as ours:
            extract(bad, "bad")
        with pytest.raises(BadInput) as childs:
            extract_confined(bad, "bad", Limits())
        assert str(ours.value) == str(childs.value)


@pytest.mark.parametrize(
    ("given_name", "kept"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\docs\\a.txt", "a.txt"),
        ("a\x00b\nc\x1b[31m.txt", "a b c [31m.txt"),
        ("..", "document"),
        ("", "document"),
        ("\ud800", "?"),
        ("w" * 400, "w" * 255),
        ("Brunnen \u00fc.md", "Brunnen \u00fc.md"),
    ],
)
def test_names_lead_nowhere(given_name: str, kept: str) -> None:
    assert clean_name(given_name).replace("\ufffd", "?").strip() == kept or kept == "?"
    assert clean_name(given_name).isprintable()


@given(st.text())
def test_any_name_becomes_a_name(name: str) -> None:
    cleaned = clean_name(name)
    assert 0 < len(cleaned) <= 255
    assert not set("/\\\n\0") & set(cleaned)
    assert clean_name(cleaned) == cleaned


def form(pypdf: types.ModuleType, pages: int = 3, *, filled: bool = True) -> Any:
    """A PDF whose pages say "page N"; the last holds a form field."""
    writer = pypdf.PdfWriter()
    names = pypdf.generic
    font = names.DictionaryObject(
        {
            names.NameObject("/Type"): names.NameObject("/Font"),
            names.NameObject("/Subtype"): names.NameObject("/Type1"),
            names.NameObject("/BaseFont"): names.NameObject("/Helvetica"),
        }
    )
    fonts = names.DictionaryObject({names.NameObject("/F1"): font})
    for number in range(1, pages + 1):
        page = writer.add_blank_page(200, 200)
        stream = names.DecodedStreamObject()
        stream.set_data(f"BT /F1 12 Tf 20 100 Td (page {number}) Tj ET".encode())
        page[names.NameObject("/Contents")] = writer._add_object(stream)
        page[names.NameObject("/Resources")] = names.DictionaryObject({names.NameObject("/Font"): fonts})
    if filled:
        field = names.DictionaryObject(
            {
                names.NameObject("/FT"): names.NameObject("/Tx"),
                names.NameObject("/T"): names.TextStringObject("payer"),
                names.NameObject("/V"): names.TextStringObject("Anna Li"),
            }
        )
        fields = names.ArrayObject([writer._add_object(field)])
        writer._root_object[names.NameObject("/AcroForm")] = names.DictionaryObject(
            {names.NameObject("/Fields"): fields}
        )
    return writer


def written(writer: Any) -> bytes:
    made = io.BytesIO()
    writer.write(made)
    return made.getvalue()


def test_a_form_is_read_with_what_it_was_filled_in_with() -> None:
    pypdf = pytest.importorskip("pypdf")
    read = extract(written(form(pypdf)), "form.pdf")
    assert "page 3" in read.text
    assert read.text.endswith("Form fields:\npayer: Anna Li")
    assert read.note == ""


def test_a_page_that_cannot_be_read_costs_that_page(monkeypatch: pytest.MonkeyPatch) -> None:
    pypdf = pytest.importorskip("pypdf")
    plain, calls = pypdf.PageObject.extract_text, iter(range(9))

    def broken(page: Any) -> Any:
        if next(calls) == 1:
            raise KeyError("/Font")
        return plain(page)

    monkeypatch.setattr(pypdf.PageObject, "extract_text", broken)
    read = extract(written(form(pypdf, filled=False)), "x.pdf")
    assert ("page 1" in read.text, "page 2" in read.text, "page 3" in read.text) == (True, False, True)
    assert read.note == "1 of its 3 pages cannot be read (2)"


def test_no_page_that_can_be_read_is_a_damaged_file(monkeypatch: pytest.MonkeyPatch) -> None:
    pypdf = pytest.importorskip("pypdf")

    def broken(page: Any) -> Any:
        raise KeyError("/Font")

    monkeypatch.setattr(pypdf.PageObject, "extract_text", broken)
    with pytest.raises(BadInput, match="none of its 3 pages can"):
        extract(written(form(pypdf, filled=False)), "x.pdf")


def test_aes_without_its_package_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    pypdf = pytest.importorskip("pypdf")
    pytest.importorskip("cryptography")
    writer = form(pypdf)
    writer.encrypt("", owner_password="o", algorithm="AES-256")
    data = written(writer)
    assert "page 1" in extract(data, "x.pdf").text
    code = (
        "import sys; sys.modules['cryptography'] = None\n"
        "from stepwell.errors import MissingExtra\nfrom stepwell.library.extract import extract\n"
        "try: extract(sys.stdin.buffer.read(), 'x.pdf')\nexcept MissingExtra as error: print(error)"
    )
    said = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=True).stdout
    assert b"needs the package cryptography" in said


def test_a_table_is_read_no_further_than_its_limit() -> None:
    class Lines:
        """A text that would never end."""

        def __iter__(self) -> Any:
            yield "a,b\n"
            while True:
                yield "1,2\n"

    reader = tables.csv.reader(Lines())
    header = next(reader)
    with pytest.raises(BadInput, match="longer than 1,000 characters"):
        tables._lines(header, reader, "x.csv", Limits(max_chars=1_000))
    lines, count, all_of_it = tables._lines(header, reader, "x.csv", Limits(max_chars=1_000, cut=True))
    assert not all_of_it
    assert count == len(lines) - 1 < 200


def test_a_column_is_what_all_its_rows_are() -> None:
    read = extract(b"a,b,c\n" + b"1,2,3\n" * 2_000 + b"007,x,2.5\n", "x.csv")
    assert read.text.startswith("Table of 2,001 rows. Columns: a (text), b (text), c (number).")


def test_a_line_that_names_the_separator_is_obeyed() -> None:
    assert extract(b"sep=;\r\na;b\r\n1,5;2\r\n", "x.csv").text.endswith("a | b\n1,5 | 2\n")


@pytest.mark.parametrize("name", ["x.txt", "x.html", "x.csv", "x.md"])
def test_every_kind_is_read_by_the_child(name: str) -> None:
    data = "<!doctype html><p>井,b\n1,2\n".encode() if name == "x.html" else "# 井,b\n1,2\n".encode()
    assert extract_confined(data, name, Limits()) == extract(data, name)


def test_what_a_child_says_at_length_or_not_at_all_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    run = confined.subprocess.run
    for code in ("print('x' * 100)", "import os; os.kill(os.getpid(), 9)", ""):
        said = [sys.executable, "-c", code]
        monkeypatch.setattr(confined.subprocess, "run", lambda command, said=said, **more: run(said, **more))
        with pytest.raises(BadInput, match="takes more time or memory"):
            extract_confined(b"words", "x.txt", Limits())

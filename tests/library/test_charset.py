"""A text of a stranger is read in its encoding, or its reader is told, or it is refused."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.errors import BadInput
from stepwell.library.charset import decode

RUSSIAN = "Колодец построили в 1893 году на деньги купца Иванова, который жил рядом с рынком."
CHINESE = "合同于三月签署，价格为五百元。"
TRADITIONAL = "合約於三月簽署，價格為五百元，由張先生代表公司簽字。"
JAPANESE = "こんにちは世界。契約書は三月に署名されました。"
KOREAN = "안녕하세요. 계약은 3월에 체결되었습니다."
TEXTS = [
    (RUSSIAN, "cp1251 koi8-r cp866 iso8859-5 utf-16-le utf-16-be utf-32-le"),
    (CHINESE, "gb18030"),
    (CHINESE * 3, "gbk utf-16-le utf-16-be"),
    (TRADITIONAL, "big5"),
    (JAPANESE, "euc-jp shift_jis iso2022_jp"),
    (KOREAN, "euc-kr"),
    ("Η σύμβαση υπογράφηκε τον Μάρτιο.", "cp1253"),
    ("Umowa została podpisana w marcu, źródło wody jest głębokie.", "cp1250 iso8859-2"),
    ("Der Brunnen wurde für fünf Gulden verkauft - größer als üblich.", "cp1252"),
    ("caf\u00e9 au lait", "cp1252"),
    ("price \u20ac5", "cp1252"),
]


@pytest.mark.parametrize(
    ("text", "encoding"), [(text, encoding) for text, encodings in TEXTS for encoding in encodings.split()]
)
def test_a_guess_is_right_and_told(text: str, encoding: str) -> None:
    read = decode(text.encode(encoding), "x")
    assert read.text == text
    assert "is a guess" in read.note


@pytest.mark.parametrize(
    "text", ["<meta charset={}>", "<?xml version='1.0' encoding='{}'?>", '<meta content="a; charset={}">']
)
@pytest.mark.parametrize(
    ("words", "encoding", "label"),
    [
        (RUSSIAN, "cp1251", "windows-1251"),
        (RUSSIAN, "koi8-r", "KOI8-R"),
        (CHINESE, "gb18030", "gb2312"),
        ("联通", "gbk", "GBK"),
        (TRADITIONAL, "big5", "Big5"),
        (JAPANESE, "shift_jis", "Shift_JIS"),
        (JAPANESE, "euc-jp", "x-euc-jp"),
        (JAPANESE, "iso2022_jp", "iso-2022-jp"),
        ("\u20ac \u201cx\u201d", "cp1252", "iso-8859-1"),
        (RUSSIAN, "utf-8", "utf-8"),
        (RUSSIAN, "utf-8", "windows-1251"),
        (CHINESE, "utf-8", "utf-16"),
        (CHINESE, "utf-8", "no-such"),
    ],
)
def test_what_a_text_says_of_itself_counts(text: str, words: str, encoding: str, label: str) -> None:
    assert words in decode((text.format(label) + words).encode(encoding), "x").text


@pytest.mark.parametrize(
    "page",
    [
        "<!-- charset=koi8-r --><html><head><meta charset=windows-1251></head><p>{}",
        "<html><p>charset=koi8-r is old</p><p>{}",
        "<html><!-- > <meta charset=koi8-r> --><META http-equiv=x content='text/html; CHARSET=cp1251'>{}",
        "<html><title>encoding=koi8-r</title><meta name=a><meta/charset='windows-1251'>{}",
        "<!---><meta charset=windows-1251><!-- <meta charset=koi8-r> -->{}",
    ],
)
def test_words_about_encodings_declare_nothing(page: str) -> None:
    assert RUSSIAN in decode(page.format(RUSSIAN * 3).encode("cp1251"), "x").text


@given(st.text(), st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]))
def test_utf_is_never_a_guess(text: str, encoding: str) -> None:
    clean = "".join(sign for sign in text if sign.isprintable() and sign != "\ufeff") + "x"
    assert decode(clean.encode(encoding), "x").text == clean


@pytest.mark.parametrize(
    "data", ["Мир".encode("cp1251"), bytes(range(128, 256)), b"\x7fELF\x02\x01\0\0" + b"\xff" * 40]
)
def test_what_is_not_clear_is_refused(data: bytes) -> None:
    with pytest.raises(BadInput, match=r"x is not text|encoding of x is not clear"):
        decode(data, "x")


def test_a_text_with_few_unreadable_signs_says_how_many() -> None:
    read = decode(b"\xef\xbb\xbf" + b"plain words " * 500 + b"\xff", "x")
    assert read.note == "1 characters could not be read"


@given(st.binary(max_size=300))
def test_anything_is_text_or_one_sentence(data: bytes) -> None:
    with contextlib.suppress(BadInput):
        assert isinstance(decode(data, "x").text, str)

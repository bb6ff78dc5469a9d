"""What a browser shows of a page is in its text, however the page is written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.errors import BadInput
from stepwell.library.extract import extract
from stepwell.library.html import html_text, looks_like_html
from stepwell.library.html_bounds import MAX_ATTRIBUTES, MAX_DEPTH, MAX_OPTIONS


@pytest.mark.parametrize(
    ("page", "shown"),
    [
        ("<!doctype html><head><title>T</title><p>in March.<p>deep.</html>", "T in March. deep."),
        ("<title>T</title><svg><title>icon</title><text>label</text></svg><p>x", "T label x"),
        ("<svg><text><![CDATA[a < b]]></text><desc>no</desc></svg>", "a < b"),
        ("a<a href=x>b<p>c</p></a>d", "ab c d"),
        ("a<template><p>no</p></template>b", "ab"),
        ("<div><template shadowrootmode=open><p>shown</p></template></div>", "shown"),
        ("a<!-->b", "ab"),
        ("a<!--->b", "ab"),
        ("a<!-- x --!>b", "ab"),
        ("a<!-- <p>no", "a"),
        ("a<script>no</script>b<style>no</style>", "ab"),
        ("a<script><!-- <script>no</script> --></script>b", "ab"),
        ("<ul><li>a<li>b</ul><dl><dt>c<dd>d</dl>", "- a - b c d"),
        ("<table><tr><td>a<td>b<tr><td>c</table>", "| a | b | c"),
        ("<select><option>a<option>b</select>", "a b"),
        ("<p>a<noscript>b</noscript>", "ab"),
        ("<textarea>a < b</textarea>", "a < b"),
        ('<input value="a"><input type=hidden value=no><input type=password value=no>', "a"),
        ("<p>&lt;&amp;&eacute;&#x4e95;&unknown;", "<&é井&unknown;"),
        ("<math><mi>x</mi><mo>=</mo><mn>1</mn></math>", "x=1"),
        ("<p>a<p hidden>b</p", "a b"),
        ("<ruby>漢<rt>kan</ruby>", "漢kan"),
        ("<object data=x><p>instead</p></object>", "instead"),
        ("<p>1 < 2 and 3 > 2", "1 < 2 and 3 > 2"),
        ("<body><frameset></body>a", "a"),
        ("<p>a</p></body></html>b", "a b"),
    ],
)
def test_what_is_shown_is_read(page: str, shown: str) -> None:
    assert " ".join(html_text(page).split()) == shown


TAGS = st.sampled_from(
    [
        "<p>",
        "</p>",
        "<b>",
        "<a>",
        "</a>",
        "<li>",
        "<table>",
        "<tr>",
        "<td>",
        "</table>",
        "<select>",
        "<!--x-->",
        "<br>",
    ]
)
WORDS = st.integers(0, 999).map("w{}w".format)


@given(st.lists(st.one_of(TAGS, WORDS), max_size=60))
def test_no_word_between_tags_is_lost(parts: list[str]) -> None:
    read = html_text("<!doctype html>" + " ".join(parts))
    for word in (part for part in parts if part.startswith("w")):
        assert word in read


@pytest.mark.parametrize(
    ("text", "named", "is_html"),
    [
        ("<!DOCTYPE html>", False, True),
        ("\ufeff \n<!-- a --><!----><html lang=en>", False, True),
        ("<?xml version='1.0'?>\n<!doctype html>", False, True),
        ("<htmlx>", False, False),
        ("<!-- <html> ", False, False),
        ("<p>words", False, False),
        ("<p>words", True, True),
        ("a < b and c > d", True, False),
        ("a <b", True, False),
    ],
)
def test_what_is_a_page(text: str, named: bool, is_html: bool) -> None:
    assert looks_like_html(text, named=named) is is_html


ATTACKS = {
    "empty comments": "<!---->" * 200_000 + "x",
    "comment ends": "<!--" + "-->" * 300_000,
    "ends": "</" * 500_000,
    "tags": "<a " * 300_000,
    "quotes": '<a b="' * 100_000,
    "entities": "&" * 500_000,
    "spaces": "<html>" + " " * 1_000_000 + "x",
    "xml declarations": "<?xml " * 200_000,
    "cdata": "<svg>" + "<![CDATA[" * 100_000,
    "tables": "<table>" * 4_000,
    "formatting": "<b>" * 4_000 + "<p>" * 4_000,
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_attacks_are_read(attack: str) -> None:
    """Each took minutes or for ever with a parser that goes back; the suite's time limit is the bound
    here."""
    assert html_text(attack).endswith("\n")
    looks_like_html(attack, named=True)


def test_what_is_nested_beyond_any_use_is_refused() -> None:
    with pytest.raises(BadInput, match="elements within each other"):
        extract(b"<html>" + b"<div>" * (MAX_DEPTH + 1), "x.html")
    assert "deep" in html_text("<div></x>" * (MAX_DEPTH // 2) + "deep")


def numbered(text: str, count: int) -> str:
    return "".join(text.replace("#", str(number)) for number in range(count))


SLOW = {
    "formatting that is never closed": (numbered("<font size=#><p>", 4_000), "never closed"),
    "one block after another": (numbered("<font size=#>", 499) + "<p>x" * 8_000, "never closed"),
    "attributes": ("<p " + numbered("a# ", 50_000) + ">x", "attributes"),
    "attributes without spaces": ("<p " + numbered("a#/", 50_000) + ">x", "attributes"),
    "attributes with ends in quotes": ("<p " + numbered("a#='>' ", 9_000) + ">x", "attributes"),
    "attributes behind a stray quote": ('<p x" ' + numbered("a# ", 9_000) + 'y">x', "attributes"),
    "attributes behind two equal signs": ('<p x==" ' + numbered("a# ", 9_000) + 'y">x', "attributes"),
    "equal attributes": ("<a " + "b=1 " * 200_000 + ">", "attributes"),
    "attributes of many tags that are one": (numbered("<body a#=1>", 9_000), "attributes"),
    "options": ("<select>" + "<option>x" * 100_000, "options"),
    "beside a script": ("<script>x</script><p " + numbered("a# ", 9_000) + ">x", "attributes"),
    "in what is no script": ("<svg><script>" + "<g>" * 6_000, "within each other"),
    "scripts without end": ("<script>" * 200_000 + "<p " + numbered("a# ", 9_000) + ">x", "."),
}


@pytest.mark.parametrize("page", SLOW)
def test_a_page_that_would_take_the_square_of_its_size_is_refused(page: str) -> None:
    """Each took from ten seconds to minutes: lexbor builds what HTML5 says."""
    text, says = SLOW[page]
    with pytest.raises(BadInput, match=says):
        html_text(f"<html>{text}")


ORDINARY = {
    "fonts in the cells of a table": "<table>" + "<tr><td><font size=2>cell<td><b>bold" * 1_000,
    "a page within a font": "<font face=x><font size=2>" + "<p>word" * 5_000,
    "a drawing": '<svg><path d="' + "M 0 0 " * 9_000 + '"></path></svg>word',
    "links that are not closed": numbered("<p><a href=#>word</a>", 3_000),
    "a script": "<script>if(a<b){" + numbered("word# ", 600) + "}</script>word",
    "scripts of a plot": "<!-- <script> --><p>word" + numbered("<SCRIPT>i<b#;</script >", 2_100),
    "a list": "<select>" + "<option>word" * (MAX_OPTIONS // 20) + "</select>",
    "as many attributes as there may be": "<p " + numbered("a#=1 ", MAX_ATTRIBUTES) + ">word",
}


@pytest.mark.parametrize("page", ORDINARY)
def test_what_people_write_is_read(page: str) -> None:
    text = html_text(f"<html>{ORDINARY[page]}")
    assert "word" in text or "cell" in text

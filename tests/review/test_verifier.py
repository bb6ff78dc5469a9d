"""The verifier is the reader's: whatever single thing is changed in a page, it says so."""

from __future__ import annotations

import base64
import json
import random
import re
import zlib
from collections.abc import Callable

import pytest

from stepwell.errors import BadInput
from stepwell.review.verifier import untraced, verify
from stepwell.review.wording import LANGUAGES, Language
from tests.review.sample import page

CHANGES = 60
"""Of each kind and language here; ``stepwell bench review`` makes a thousand."""


def mutate_digit(text: str, chance: random.Random) -> str:
    """Another digit in a visible mark."""
    spots = [
        found.start() + number
        for found in re.finditer(r"(?<=>)[^<>]*(?=</(?:data|tspan)>)", text)
        for number, one in enumerate(found[0])
        if one.isdigit() and one.isascii()
    ]
    spot = chance.choice(spots)
    other = chance.choice([one for one in "0123456789" if one != text[spot]])
    return text[:spot] + other + text[spot + 1 :]


def mutate_sign(text: str, chance: random.Random) -> str:
    """A direction or a minus sign turned round."""
    pairs = [("rose", "fell"), ("fell", "rose"), ("increased", "decreased"), ("decreased", "increased")]
    pairs += [
        ("涨", "跌"),
        ("跌", "涨"),
        ("上行", "下行"),
        ("下行", "上行"),
        ("增加", "减少"),
        ("\u2212", ""),
    ]
    spots = [
        (found.start(1), before, after)
        for before, after in pairs
        for found in re.finditer(rf'data-form="(?:verb|value)">({before})', text)
    ]
    spot, before, after = chance.choice(spots)
    return text[:spot] + after + text[spot + len(before) :]


def mutate_date(text: str, chance: random.Random) -> str:
    """Another day, or another weekday."""
    dates = [*re.finditer(r"\w+day, \w+ (\d+), \d{4}|\d{4}年\d+月(\d+)日", text)]
    found = chance.choice(dates)
    group = 1 if found[1] else 2
    day = str(int(found[group]) % 27 + 1)
    return text[: found.start(group)] + day + text[found.end(group) :]


def mutate_raw(text: str, chance: random.Random) -> str:
    """A bit of a raw reply."""
    start = text.index('id="raw">') + len('id="raw">')
    end = text.index("</script>", start)
    raw = json.loads(text[start:end])
    row = raw[chance.choice(sorted(raw))]
    data = bytearray(zlib.decompress(base64.b64decode(row["data"])))
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    row["data"] = base64.b64encode(zlib.compress(bytes(data))).decode()
    return text[:start] + json.dumps(raw) + text[end:]


def mutate_trace(text: str, chance: random.Random) -> str:
    """A digit of a value in the trace."""
    values = [*re.finditer(r'"value": "([^"]*\d[^"]*)"', text)]
    found = chance.choice(values)
    spots = [number for number in range(found.start(1), found.end(1)) if text[number] in "123456789"]
    spot = chance.choice(spots or [found.start(1)])
    return text[:spot] + chance.choice([one for one in "123456789" if one != text[spot]]) + text[spot + 1 :]


def insert_number(text: str, chance: random.Random) -> str:
    """A number, a direction or a ranking between the marks."""
    words = [" 7", " twice", " record", " ½", "翻倍", "三", " higher", " ９", "%"]
    ends = [found.start() for found in re.finditer(r"</(?:p|li|h1|h2|figcaption)>", text)]
    spot = chance.choice(ends)
    return text[:spot] + chance.choice(words) + text[spot:]


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize(
    "mutate", [mutate_digit, mutate_sign, mutate_date, mutate_raw, mutate_trace, insert_number]
)
def test_a_single_change_is_caught(language: Language, mutate: Callable[[str, random.Random], str]) -> None:
    text = page(language).decode()
    chance = random.Random(7)
    for _ in range(CHANGES):
        changed = mutate(text, chance)
        assert changed != text
        assert not verify(changed.encode()).holds, next(
            line for line, old in zip(changed.splitlines(), text.splitlines(), strict=False) if line != old
        )[:400]


@pytest.mark.parametrize(
    "data", [b"", b"<html></html>", b"\xff\xfe", b'<script id="trace">{}</script>', b"<" * 5000]
)
def test_what_is_no_review_is_one_sentence(data: bytes) -> None:
    with pytest.raises(BadInput, match="page"):
        verify(data)


@pytest.mark.parametrize(
    "text", ["It doubled.", "a record high", "三", "两家", "up 5", "１", "Ⅳ", "١", "翻倍", "历史新高"]
)
def test_numbers_hide_in_no_script(text: str) -> None:
    assert list(untraced(text))


def test_a_fact_that_must_be_said_may_not_be_cut_out() -> None:
    text = page("en").decode()
    start = text.index("<data", text.index("A tenant of Fermi"))
    cut = text[:start] + text[text.index("</data>", start) + len("</data>") :]
    assert any("evt.fermi.prepayment has to be said" in fault for fault in verify(cut.encode()).faults)


def test_a_bar_is_as_long_as_its_value() -> None:
    text = page("en").decode()
    found = re.search(r'data-form="bar" x="[^"]*" y="[^"]*" width="([0-9.]+)"', text)
    assert found is not None
    longer = text[: found.start(1)] + "99.99" + text[found.end(1) :]
    assert any("bar of" in fault for fault in verify(longer.encode()).faults)

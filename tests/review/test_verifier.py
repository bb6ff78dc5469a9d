"""The verifier is the reader's: whatever single thing is changed in a page, it says so."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

import pytest

from stepwell.bench.review.mutations import MUTATIONS
from stepwell.errors import BadInput
from stepwell.review.verifier import untraced, verify
from stepwell.review.wording import LANGUAGES, Language
from tests.review.sample import page, raw

CHANGES = 60
"""Of each kind and language here; ``stepwell bench review --mutate 1000`` makes a thousand."""


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("mutate", MUTATIONS.values(), ids=MUTATIONS)
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


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_claim_never_stands_without_its_speaker(language: Language) -> None:
    """Whatever row of a table has a speaker, its sentence names him; without him the page fails."""
    table = raw()["documents-events.md"].decode()
    said = re.sub(r"\| \|$", "| the company |", table, flags=re.MULTILINE).encode()
    changed = {"documents-events.md": said}
    data = page(language, changed)
    assert said != raw()["documents-events.md"]
    assert verify(data).faults == []
    text = data.decode()
    spots = [*re.finditer(r'<data[^>]*data-cell="evt[^>]*data-form="speaker">[^<]*</data>', text)]
    assert len(spots) >= 12
    for spot in spots:
        cut = text[: spot.start()] + text[spot.end() :]
        assert any("does not say so" in fault for fault in verify(cut.encode()).faults), spot[0]


@pytest.mark.parametrize(
    "text",
    [
        "He cut rates.",
        "It soared.",
        "fell",
        "the largest",
        "上调",
        "创纪录",
        "It doubled.",
        "a record high",
        "三",
        "两家",
        "up 5",
        "１",
        "Ⅳ",
        "١",
        "翻倍",
        "历史新高",
    ],
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
    found = re.search(r'data-form="bar" data-chart="[^"]*" x="[^"]*" y="[^"]*" width="([0-9.]+)"', text)
    assert found is not None
    longer = text[: found.start(1)] + "99.99" + text[found.end(1) :]
    assert any("bar of" in fault for fault in verify(longer.encode()).faults)

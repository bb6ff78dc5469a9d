"""Passages lose nothing and are short."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stepwell.library.passages import split_passages

TEXTS = st.text(st.sampled_from("ab .!?\n\t#-\"')\u00e9\u6c34"), max_size=400)


@given(TEXTS, st.integers(1, 40))
def test_passages_joined_are_the_text(text: str, max_words: int) -> None:
    passages = split_passages(text, max_words)
    assert "".join(passages) == text
    assert all(passages)


@given(TEXTS, st.integers(1, 40))
def test_passages_are_short(text: str, max_words: int) -> None:
    for passage in split_passages(text.replace("#", ""), max_words):
        assert len(passage.split()) <= max_words
        assert len(passage) <= 12 * max_words + 12


def test_a_heading_stays_with_its_paragraph() -> None:
    passages = split_passages("# Title\n\nFirst paragraph.\n\n## More\n\nSecond paragraph.\n")
    assert [passage.split("\n")[0] for passage in passages] == ["# Title", "## More"]

"""Passages are found by their words, the same every time, and overlap hides nothing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stepwell.library.search import CountedTexts, count_words, search

FILLER = " ".join(f"Sentence {n} speaks of sand and sun." for n in range(100))
WORDS = st.sampled_from(["well", "deep", "water", "step", "sand.\n\n", "sun. "])
TEXT = st.lists(WORDS, max_size=900).map(" ".join)


def test_the_passage_that_holds_the_answer_comes_first() -> None:
    texts = [FILLER, FILLER[:3000] + " The zanzibar gate is made of teak. " + FILLER[3000:], FILLER]
    first = search([count_words(text) for text in texts], "what is the zanzibar gate made of?", 5)[0]
    assert first.file == 1
    assert "zanzibar gate" in texts[1][first.start : first.end]
    assert first.end - first.start < 2_500


def test_two_words_across_an_edge_are_in_one_passage() -> None:
    """Whatever the place, the neighbours of a word come with it."""
    for before in range(60, 130, 7):
        text = " ".join(["sand"] * before) + " copper. lantern " + " ".join(["sand"] * 300)
        found = search([count_words(text)], "copper lantern", 3)[0]
        assert "copper. lantern" in text[found.start : found.end]


@given(st.lists(TEXT, max_size=4), TEXT, st.integers(1, 8))
def test_results_are_in_order_apart_and_the_same_again(texts: list[str], query: str, most: int) -> None:
    found = search([count_words(text) for text in texts], query, most)
    assert found == search([count_words(text) for text in texts], query, most)
    assert len(found) <= most
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    for one in found:
        assert 0 <= one.start < one.end <= len(texts[one.file])
        assert one.score > 0
    for a in found:
        for b in found:
            assert a is b or a.file != b.file or a.end <= b.start or b.end <= a.start


@given(TEXT)
def test_passages_cover_the_text(text: str) -> None:
    seen = 0
    for start, end in count_words(text).spans:
        assert start <= seen < end
        seen = end
    assert seen == len(text)


def test_nothing_shared_is_nothing_found() -> None:
    assert search([count_words(FILLER)], "quicksilver", 5) == []
    assert search([], "anything", 5) == []


def test_counted_texts_are_counted_once_and_bounded() -> None:
    asked: list[str] = []

    def text(name: str) -> str:
        asked.append(name)
        return "well " * 10

    counted = CountedTexts(max_chars=100)
    for name in ("a", "a", "b", "a", "c", "a", "b"):
        counted.get(name, lambda name=name: text(name))  # type: ignore[misc]
    assert asked == ["a", "b", "c", "b"]

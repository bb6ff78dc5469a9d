"""What of a long document is read: what fits, nearest to the question first, and never more."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stepwell.demo.reading import assign, shorten
from stepwell.library.documents import Document


def count(text: str) -> int:
    return len(text.split())


LONG = Document(
    "long.txt",
    "text",
    "\n\n".join(f"Paragraph {n} speaks about {'guinea worms' if n == 37 else 'carts'}." for n in range(80)),
)


def test_the_passage_near_the_question_is_on_the_first_page() -> None:
    made = assign(LONG, "What about the guinea worm?", readers=4, pages=2, page_tokens=20, count=count)
    holders = [reader for reader, pages in enumerate(made.pages) if "guinea worms" in pages[0]]
    assert holders == [1]


def test_pages_keep_to_their_size_and_say_how_much_was_used() -> None:
    made = assign(LONG, "carts", readers=4, pages=2, page_tokens=20, count=count)
    pages = [page for part in made.pages for page in part]
    assert len(pages) == 8
    assert all(0 < count(page) <= 20 for page in pages)
    assert made.used_tokens == sum(count(page) for page in pages)
    assert made.total_tokens == count(LONG.text)
    assert 0 < made.used_share < 0.5


def test_no_passage_is_read_twice() -> None:
    made = assign(LONG, "carts", readers=2, pages=3, page_tokens=25, count=count)
    lines = [line for part in made.pages for page in part for line in page.splitlines()]
    assert len(lines) == len(set(lines))


def test_a_short_document_is_read_whole() -> None:
    short = Document("short.txt", "text", "Only this.")
    made = assign(short, "what?", readers=4, pages=2, page_tokens=100, count=count)
    assert made.used_share == 1.0
    assert [page for part in made.pages for page in part if page] == ["Only this."]


@given(st.text(st.sampled_from("ab \n"), max_size=80), st.integers(0, 12))
def test_shortened_text_is_the_longest_beginning_that_fits(text: str, room: int) -> None:
    cut = shorten(text, room, count)
    assert text.startswith(cut)
    assert count(cut) == min(room, count(text))


def test_an_endless_word_is_cut() -> None:
    assert shorten("x" * 100, 7, len) == "x" * 7


def test_quotes_are_the_sentences_nearest_to_the_question() -> None:
    made = assign(LONG, "What about the guinea worm?", readers=4, pages=2, page_tokens=20, count=count)
    assert len(made.quotes) == 4
    assert made.best_quotes[0] == made.quotes[1] == "Paragraph 37 speaks about guinea worms."


def test_a_reader_without_pages_has_no_quote() -> None:
    short = Document("short.txt", "text", "Only this sentence here.")
    made = assign(short, "sentence?", readers=3, pages=1, page_tokens=100, count=count)
    assert sorted(made.quotes) == ["", "", "Only this sentence here."]
    assert made.best_quotes == ("Only this sentence here.",)

"""Documents in scripts without spaces are found by questions in them, and their passages are short."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.library import passages
from stepwell.library import search as searching
from stepwell.library import words as vocabulary
from stepwell.library.passages import SIGN_WORDS, split_passages, weight
from stepwell.library.search import count_words, search
from stepwell.library.words import asked_words, words

FACTS = [
    ("合同于三月签署，总价为五百万元，由张伟代表公司签字。", "谁代表公司签了合同？"),
    ("水井深九米，建于一八九三年，由商人李明出资修建。", "水井是谁出资修的？"),
    ("美联储将基准利率下调二十五个基点，主席措辞偏鹰派。", "美联储的基准利率下调了多少基点？"),
    ("甲骨文公司为人工智能建造的数据中心推迟到二〇二八年。", "数据中心推迟到哪一年？"),
    ("纳斯达克指数本周下跌百分之一点六二。", "纳斯达克指数本周跌了多少？"),
    ("半导体板块领跌，博通的毛利率令投资者失望。", "博通的什么令投资者失望？"),
    ("非农就业人数据说被下修了六万人。", "就业人数下修了多少？"),
    ("罗素二千指数逆势上涨百分之一点一九。", "罗素指数涨了还是跌了？"),
    ("图书馆每周一闭馆，借书期限为三十天。", "借书期限是多少天？"),
    ("高铁从北京到上海需要四个半小时。", "北京到上海的高铁要多久？"),
    ("合約於三月簽署，由張先生代表公司簽字。", "誰代表公司簽字？"),
    ("契約書は三月に署名され、価格は五百万円です。", "契約書の価格はいくらですか？"),
    ("井戸は江戸時代に商人の寄付で掘られた。", "井戸はいつ掘られましたか？"),
    ("図書館は毎週月曜日に休館します。", "図書館の休館日は？"),
    ("우물은 상인의 기부로 만들어졌고 깊이는 구 미터이다.", "우물의 깊이는 얼마인가?"),
    ("도서관은 매주 월요일에 문을 닫는다.", "도서관은 언제 문을 닫는가?"),
    ("ห้องสมุดปิดทุกวันจันทร์และเปิดเวลาเก้าโมง", "ห้องสมุดปิดวันไหน"),
]
FILLER = [
    "本公司成立于二〇一〇年，总部设在上海，主要从事软件开发。" * 12,
    "会议讨论了明年的预算和人员安排，没有作出决定。" * 12,
    "天気は晴れで、気温は二十度でした。散歩に行きました。" * 12,
    "날씨가 맑고 기온은 이십 도였다. 산책을 했다. " * 12,
    "The weather was fine and nothing else happened that week. " * 12,
]


def right() -> int:
    """How many of the questions find their fact first, among all facts and texts about other things."""
    texts = [count_words(text) for text in [*(fact for fact, _ in FACTS), *FILLER]]
    firsts = [search(texts, question, 1) for _, question in FACTS]
    return sum(bool(found) and found[0].file == number for number, found in enumerate(firsts))


def test_questions_find_their_facts() -> None:
    assert right() == len(FACTS)


@pytest.mark.parametrize(
    ("split", "most"),
    [
        (lambda text: [run for run in text.replace("，", " ").replace("。", " ").split() if len(run) > 1], 2),
        (lambda text: [sign for sign in text if sign.isalnum()], len(FACTS)),
    ],
    ids=["runs", "signs"],
)
def test_what_it_is_better_than(
    split: Callable[[str], list[str]], most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs between marks, as before, find next to nothing; signs alone are no better than pairs."""
    monkeypatch.setattr(searching, "words", split)
    monkeypatch.setattr(searching, "asked_words", split)
    assert right() <= most


def test_a_sign_alone_is_found() -> None:
    (found,) = search([count_words(text) for text in ("水很深。", "山很高。")], "山", 5)
    assert found.file == 1


def test_words_and_signs_side_by_side() -> None:
    assert words("2025年GDP增长 steps") == ["2025", "年", "gdp", "增", "长", "增长", "step"]
    assert asked_words("ＧＤＰ增长") == ["gdp", "增长"]
    assert asked_words("ｶﾞｽ") == ["ガス"]


LONG = "本公司成立于二〇一〇年，总部设在上海。主要从事软件开发！有人问：为什么？「因为需要。」"


@pytest.mark.parametrize(
    "text", [LONG * 60, LONG.replace("。", "") * 60, "井" * 3_000, "ひらがな" * 800, "한국어 " * 900]
)
def test_passages_are_short_in_every_script(text: str) -> None:
    for start, end in count_words(text).spans:
        assert weight(text[start:end]) <= 2.1 * searching.STEP_WORDS
        assert end - start <= 1.5 * 2 * searching.STEP_WORDS / SIGN_WORDS
    assert "".join(split_passages(text, 40)) == text


def test_sentences_end_as_their_script_ends_them() -> None:
    ends = {passage[-1] for passage in split_passages(LONG * 10, 40)}
    assert ends <= set("。！？」")
    assert all(
        p.rstrip().endswith(("।", "؟", "۔")) for p in split_passages("एक दो तीन। " * 20 + "هل هذا؟ " * 20, 12)
    )


@given(st.text(st.sampled_from("ab \n\u3000，井水カ"), max_size=60), st.integers(1, 9))
def test_what_is_counted_bit_by_bit_comes_to_the_same(text: str, piece_chars: int) -> None:
    before, vocabulary.PIECE_CHARS = vocabulary.PIECE_CHARS, piece_chars
    try:
        assert vocabulary.word_count(text) == len(text.split())
        assert vocabulary.undivided(text) == sum(sign in "，井水カ" for sign in text)
    finally:
        vocabulary.PIECE_CHARS = before


@given(st.text(st.sampled_from("ab .\n\t。，"), max_size=60), st.integers(1, 20))
def test_ends_are_those_of_the_whole_text_window_by_window(text: str, window_chars: int) -> None:
    before, passages.WINDOW_CHARS = passages.WINDOW_CHARS, window_chars
    try:
        for pattern in (*passages._CUTS, passages._BLANK_LINES):
            ends = [match.end() for match in pattern.finditer(text) if match.end() < len(text)]
            assert [end for end in passages._ends(text, pattern) if end < len(text)] == ends, pattern
    finally:
        passages.WINDOW_CHARS = before


TEXTS = st.text(st.sampled_from("ab .。，！\n井水のカ한ก"), max_size=300)


@given(TEXTS, st.integers(1, 30))
def test_no_passage_is_too_heavy_and_no_sign_is_lost(text: str, max_words: int) -> None:
    passages = split_passages(text, max_words)
    assert "".join(passages) == text
    assert all(weight(passage) <= max_words for passage in passages)

"""The crew of the review, over real HTTP with scripted models: what they may do, and what falls back."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell import cli
from stepwell.review.answers import sentence_schema
from stepwell.review.crew import handled, worded
from stepwell.review.joints import JOINTS, fitting, joined, joints
from stepwell.review.outline import SECTIONS, Handle, Sentence, lookup, sayable, sentences
from stepwell.review.wording import Language, word
from tests.agents.served import served
from tests.review.sample import facts

SENTENCE = next(one for one in sentences() if one.id == "index.SPX")
HANDLES, SHOWN = handled(SENTENCE)


def role_of(body: dict[str, Any]) -> str:
    said = body["messages"][0]["content"]
    starts = {
        "You order the sections": "planner",
        "You order": "analyst",
        "You choose": "stylist",
        "You read": "critic",
    }
    return next((role for words, role in starts.items() if words in said), "editor")


def reversing(body: dict[str, Any]) -> str:
    """An analyst that turns the order round, and an editor that adds a word and keeps every handle."""
    task = str(body["messages"][-1]["content"])
    if role_of(body) == "critic":
        return json.dumps({"worst": "none"})
    if role_of(body) in ("analyst", "planner"):
        return json.dumps({"order": re.findall(r"^([a-z]): ", task, re.MULTILINE)[::-1]})
    if role_of(body) == "stylist":
        chosen = {letter: f"{letter}2" for letter in re.findall(r"^([a-z])1: ", task, re.MULTILINE)}
        return json.dumps(chosen | dict.fromkeys(re.findall(r"^([a-z] joins): ", task, re.MULTILINE), "and"))
    said = f"Meanwhile, {task[:1].lower()}{task[1:]}" if not task.startswith("{") else f"Indeed {task}"
    return json.dumps({"sentence": said})


def write(tmp_path: Path, url: str, level: str) -> dict[str, Any]:
    file = tmp_path / "figures.json"
    flags = ["--level", level, "--server", url, "--out", str(tmp_path), "--json", str(file), "--lang", "en"]
    assert cli.run(["review", "write", *flags]) == 0
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def text_of(tmp_path: Path) -> str:
    return re.sub(r"<[^>]+>", "", (tmp_path / "review-2025-12-12.en.html").read_text("utf-8"))


def test_an_analyst_orders_and_nothing_is_lost(tmp_path: Path) -> None:
    with served(reversing) as server:
        figures = write(tmp_path, server.url, "choose")
    counted = [figures[name] for name in ("sentences", "fallbacks", "written", "untraced")]
    assert counted == [44, 0, 0, 0]
    text = text_of(tmp_path)
    assert figures["chosen"] == 40, "filings have one form"
    folded = text.lower()
    assert folded.index("the vix stood") < folded.index("over the week the nasdaq composite lost 1.62%")


def test_an_editor_words_sentences_and_the_page_still_holds(tmp_path: Path) -> None:
    with served(reversing) as server:
        figures = write(tmp_path, server.url, "write")
    assert (figures["written"], figures["fallbacks"], figures["untraced"]) == (44, 0, 0)
    assert "Meanwhile, over the week the S&amp;P 500 lost 0.63%" in text_of(tmp_path)


@pytest.mark.parametrize(
    "said",
    [
        "",
        "The S&P 500 rose 7%.",
        "{a} doubled.",
        "{a} {b} {c} {z}.",
        "no end {a",
        "x" * 5_000,
        '{"order": 3}',
        "[]",
    ],
)
def test_a_model_that_emits_nothing_valid_ends_in_templates(tmp_path: Path, said: str) -> None:
    with served(lambda body: said) as server:
        figures = write(tmp_path, server.url, "write")
    assert (figures["written"], figures["sentences"], figures["untraced"]) == (0, 44, 0)
    assert figures["fallbacks"] > 44
    assert "Over the week the S&amp;P 500 lost 0.63%" in text_of(tmp_path)


def test_models_see_no_figure_that_the_editor_could_repeat(tmp_path: Path) -> None:
    with served(reversing) as server:
        write(tmp_path, server.url, "write")
        tasks = [body["messages"][-1]["content"] for body in server.bodies if role_of(body) == "editor"]
    assert tasks
    assert not [task for task in tasks if re.search(r"\d", task)]


@given(st.text(max_size=60), st.integers(0, 200))
def test_whatever_is_accepted_says_each_cell_once_and_no_number(extra: str, at: int) -> None:
    from stepwell.review.lexicon import untraced

    answer = SHOWN[: at % len(SHOWN)] + extra + SHOWN[at % len(SHOWN) :]
    pieces = worded(answer, HANDLES, SHOWN)
    if pieces is not None:
        assert sorted(p.cell for p in pieces if isinstance(p, Handle)) == sorted(
            h.cell for h in HANDLES.values()
        )
        assert not [p for p in pieces if isinstance(p, str) and list(untraced(p))]


def test_a_level_without_its_model_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["review", "write", "--model", "smollm2"]) == 2
    assert "--level templates needs no model" in capsys.readouterr().err


def test_statements_are_joined_where_that_is_true(tmp_path: Path) -> None:
    with served(reversing) as server:
        write(tmp_path, server.url, "choose")
    text = text_of(tmp_path)
    assert text.count("; over the week the") >= 1, "the subject does not come first there"
    assert ", and Oracle&#x27;s" in text or ", and Oracle's" in text
    assert not re.search(r"according to [^.]*, and ", text)


FACTS, _ = facts()
STATEMENTS = [one for section in SECTIONS for one in sayable(FACTS, section)]


@pytest.mark.parametrize("before", STATEMENTS, ids=lambda one: one.id)
def test_while_sets_moves_of_opposite_sign_against_each_other_alone(before: Sentence) -> None:
    for after in STATEMENTS:
        offered = joints(FACTS, before, after)
        assert offered == JOINTS[: len(offered)]
        if "while" in offered:
            one, other = FACTS[before.must[0]], FACTS[after.must[0]]
            assert one.unit is other.unit
            assert one.number * other.number < 0
        claims = [FACTS[cell].speaker for cell in (*before.must, *after.must)]
        assert offered == ("apart",) or not any(claims)


def test_a_joined_sentence_reads_as_one_in_both_languages() -> None:
    before, after = (
        next(one for one in STATEMENTS if one.id == name) for name in ("index.IXIC", "index.DJI")
    )

    def read(language: Language, form: int) -> str:
        ways = before.variants[language][0], after.variants[language][form]
        chosen = fitting(FACTS, "while", before.variants["en"][0], after.variants["en"][form])
        pieces = joined(*ways, chosen, language)
        return "".join(
            one if isinstance(one, str) else word(lookup(FACTS, one.cell, language), one.form, language)
            for one in pieces
        )

    assert "closed at 23,119.30, while " in read("en", 0)
    assert "点，而道琼斯工业平均指数本周涨1.05%" in read("zh", 0)
    assert "23,119.30; over the week " in read("en", 1)


def test_the_planner_leads_with_what_it_names_and_the_critic_sends_back(tmp_path: Path) -> None:
    def answer(body: dict[str, Any]) -> str:
        if role_of(body) == "critic":
            offered = re.search(r'"worst": \{[^}]*"enum": \["(\w)"', json.dumps(body))
            assert offered is not None
            return json.dumps({"worst": offered[1]})
        return reversing(body)

    with served(answer) as server:
        figures = write(tmp_path, server.url, "choose")
        roles = {role_of(body) for body in server.bodies}
    assert roles == {"planner", "analyst", "stylist", "critic"}
    assert figures["sent_back"] == 6, "one in each section"
    heads = re.findall("<h2>([^<]+)</h2>", (tmp_path / "review-2025-12-12.en.html").read_text("utf-8"))
    assert heads[:6] == ["Labour", "Events", "The Federal Reserve", "Rates and cash", "Indexes", "Next week"]


def test_a_section_of_more_than_can_be_named_is_as_the_templates_have_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stepwell.review.crew.LETTERS", "abcdefghij")  # events has eleven
    with served(reversing) as server:
        figures = write(tmp_path, server.url, "choose")
        asked = "".join(json.dumps(body) for body in server.bodies)
    assert (figures["sentences"], figures["untraced"]) == (44, 0)
    assert "k: " not in asked


def test_flash_asks_neither_planner_nor_critic(tmp_path: Path) -> None:
    with served(reversing) as server:
        file = tmp_path / "figures.json"
        flags = ["--level", "choose", "--server", server.url, "--out", str(tmp_path), "--json", str(file)]
        assert cli.run(["review", "write", *flags, "--lang", "en", "--profile", "flash"]) == 0
        assert {role_of(body) for body in server.bodies} == {"analyst", "stylist"}
    assert json.loads(file.read_text())["untraced"] == 0


def test_the_crew_in_the_examples_is_the_one_that_ships() -> None:
    shipped = Path(__file__).resolve().parents[2]
    example = (shipped / "examples/crews/review.toml").read_text("utf-8")
    assert example == (shipped / "src/stepwell/review/crew.toml").read_text("utf-8")


def test_a_crew_without_its_roles_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('[crew]\nname = "mine"\n[roles.analyst]\ninstructions = "You order."\n')
    assert cli.run(["review", "write", "--level", "choose", "--crew", str(file)]) == 2
    assert "a review needs the roles analyst and stylist; stylist is not there" in capsys.readouterr().err


NUMERALS = "0٣９½Ⅳ①²三%$€"


@given(
    st.text(alphabet=[*"abc {}.,;", *NUMERALS], max_size=40), st.sampled_from(NUMERALS), st.integers(0, 60)
)
def test_no_numeral_of_any_script_is_in_the_grammar(around: str, numeral: str, at: int) -> None:
    pattern = sentence_schema(HANDLES, 300)["properties"]["sentence"]["pattern"]  # type: ignore[index]
    text = "The index moved {a} and {b} and {c} there."
    assert re.fullmatch(pattern, text)
    assert not re.fullmatch(pattern, text[: at % len(text)] + numeral + text[at % len(text) :])
    if re.fullmatch(pattern, around + "aaaaaaaa."):
        assert not set(around) & set(NUMERALS)

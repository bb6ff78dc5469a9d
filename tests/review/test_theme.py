"""A theme from a document of one's own: quoted word for word, traced, and never mixed with the data."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from stepwell import cli
from stepwell.review.blocks import document_of
from stepwell.review.theme import CANDIDATES, QUOTES, read_theme
from stepwell.review.verifier import verify
from tests.agents.served import served

TEXT = """# Data centres in 2027

The first site of the contract needs 1.2 gigawatts by March 2027, says the operator's own plan.
Power for a data centre is bought 3 years before the first rack is switched on.

## Prices

Prices for power rose 14% in the counties with most sites.

"""
PAGE = "review-2025-12-12.{}.html"


@pytest.fixture
def document(tmp_path: Path) -> Path:
    file = tmp_path / "centres.md"
    more = "\n\n".join(
        f"The site number {n} of the operator buys power for {n}0 racks a year." for n in range(20)
    )
    file.write_text(TEXT + more, encoding="utf-8")
    return file


def test_its_sentences_stand_on_both_pages_word_for_word(document: Path, tmp_path: Path) -> None:
    assert cli.run(["review", "write", "--out", str(tmp_path), "--theme", str(document)]) == 0
    for language in ("en", "zh"):
        data = (tmp_path / PAGE.format(language)).read_bytes()
        quotes = re.findall(r'data-cell="theme\.quote\.\d+" data-form="value">([^<]+)<', data.decode())
        assert len(quotes) == QUOTES
        assert all(quote in document.read_text().replace("'", "&#x27;") for quote in quotes)
        assert not verify(data.replace(quotes[0].encode(), quotes[0].encode() + b" Indeed")).holds
        assert (tmp_path / PAGE.format(language)).with_suffix(".pdf").read_bytes().startswith(b"%PDF")
        rows = document_of(data).trace["cells"]
        origins = {row["origin"] for row in rows if row["id"].startswith("theme.")}
        assert origins == {"document"}


def test_chinese_is_cut_into_sentences_and_set_in_the_english_pdf(tmp_path: Path) -> None:
    file = tmp_path / "专题.md"
    file.write_text(
        "甲骨文的数据中心推迟到2028年才能建成投产。电力供应是建设数据中心的主要困难所在！", encoding="utf-8"
    )
    assert len(read_theme(file).sentences) == 2
    assert cli.run(["review", "write", "--out", str(tmp_path), "--lang", "en", "--theme", str(file)]) == 0
    assert b"STSong-Light" in (tmp_path / PAGE.format("en")).with_suffix(".pdf").read_bytes()


def test_the_analyst_chooses_and_costs_are_told(document: Path, tmp_path: Path) -> None:
    """The last letters first, so that it is seen whose choice it was."""

    def backwards(body: dict[str, object]) -> str:
        messages = body["messages"]
        assert isinstance(messages, list)
        return json.dumps({"order": re.findall(r"^([a-z]): ", messages[-1]["content"], re.MULTILINE)[::-1]})

    with served(backwards) as server:
        flags = ["--level", "choose", "--server", server.url, "--out", str(tmp_path), "--lang", "en"]
        assert cli.run(["review", "write", *flags, "--theme", str(document)]) == 0
    theme = read_theme(document)
    cells = {
        row["id"]: row for row in document_of((tmp_path / PAGE.format("en")).read_bytes()).trace["cells"]
    }
    wanted = [theme.sentences[number] for number in theme.candidates[CANDIDATES - QUOTES :]]
    assert [cells[f"theme.quote.{n + 1}"]["value"] for n in range(QUOTES)] == wanted
    assert cells["cost.section.theme.turns"]["value"] == "1"


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("none.md", None, "cannot be read"),
        ("short.md", b"Yes. No.", "no sentence of 6 words"),
        ("broken.pdf", b"%PDF-1.4 nothing", "broken.pdf"),
        ("empty.txt", b"  ", "is empty"),
    ],
)
def test_what_is_no_theme_is_one_sentence(
    name: str, data: bytes | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    flags = ["--out", str(tmp_path / "out"), "--theme", str(tmp_path / name)]
    assert cli.run(["review", "write", *flags]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.rstrip().count("\n") == 0
    assert not (tmp_path / "out").exists()

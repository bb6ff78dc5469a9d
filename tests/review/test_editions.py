"""Markdown, PDF and trace are the page in other clothes; beside it stand last week, costs and signals."""

from __future__ import annotations

import io
import json
import re
from datetime import date
from decimal import Decimal
from html import unescape
from pathlib import Path

import pytest
from pypdf import PdfReader

from stepwell import cli
from stepwell.bench.review.weeks import made_week
from stepwell.review.appendix import add_last_week
from stepwell.review.blocks import document_of
from stepwell.review.digest import digest
from stepwell.review.facts import Facts
from stepwell.review.markdown import markdown
from stepwell.review.page import ReviewPage
from stepwell.review.pdf import pdf
from stepwell.review.verifier import verify
from stepwell.review.week import Week
from stepwell.review.wording import LANGUAGES, Language
from stepwell.review.writer import from_templates
from tests.agents.served import served
from tests.review.sample import FRIDAY, WEEK, facts, page
from tests.review.signals.test_signals import walk
from tests.review.test_crew import reversing


def marks(data: bytes) -> list[str]:
    found = re.findall(r'<(?:data|tspan)[^>]*data-form="(?:value|magnitude)">([^<]+)<', data.decode())
    return [unescape(one) for one in found]


@pytest.mark.parametrize("language", LANGUAGES)
def test_markdown_says_every_figure_of_the_page(language: Language) -> None:
    data = page(language)
    text = re.sub(r"\[\^\d+\]|\\\\", "", markdown(document_of(data)))
    body, _, notes = text.partition("\n:")
    assert not [one for one in marks(data) if one not in text]
    assert "made up" in body if language == "en" else "虚构" in body
    assert notes.count("\n") >= 40


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_pdf_repeats_to_the_byte_and_has_its_watermark(language: Language) -> None:
    document = document_of(page(language))
    data = pdf(document)
    assert pdf(document) == data
    pages = [one.extract_text() for one in PdfReader(io.BytesIO(data)).pages]
    assert len(pages) >= 2
    if language == "en":
        assert all("MADE UP" in one for one in pages)
        assert "Over the week the S&P 500 lost 0.63%" in " ".join("".join(pages).split())


def test_a_pdf_of_real_figures_has_no_watermark() -> None:
    found, _ = digest(WEEK, [])
    document = document_of(ReviewPage(found, from_templates(found), "en").html().encode())
    text = "".join(one.extract_text() for one in PdfReader(io.BytesIO(pdf(document))).pages)
    assert "MADE UP" not in text
    assert "No data." in text


def test_the_command_writes_all_of_them(tmp_path: Path) -> None:
    assert cli.run(["review", "write", "--out", str(tmp_path), "--lang", "en"]) == 0
    names = sorted(path.name.removeprefix("review-2025-12-12.en.") for path in tmp_path.iterdir())
    assert names == ["html", "md", "pdf", "trace.json"]
    trace = json.loads((tmp_path / "review-2025-12-12.en.trace.json").read_text("utf-8"))
    assert "w.SPX.change" in {cell["id"] for cell in trace["cells"]}


def weeks() -> tuple[Facts, Facts, Week]:
    """A week and the one before it, as far as levels go."""
    found, _ = facts()
    before = made_week(0)
    shift = WEEK.before()
    replies = [
        one for one in before.replies() if not one.name.startswith(("prices", "cboe", "documents", "fred"))
    ]
    levels = "".join(
        f"{day},{100 + number}\n" for number, day in enumerate([shift.base(), *shift.sessions()])
    )
    csv = ("Date,Close\n" + levels).encode()
    prices = [type(replies[0])("prices", f"prices-{x}.csv", csv, FRIDAY, True) for x in ("SPX", "IXIC")]
    return found, digest(shift, prices)[0], shift


@pytest.mark.parametrize("language", LANGUAGES)
def test_last_weeks_figures_stand_beside_these(language: Language) -> None:
    found, earlier, _ = weeks()
    last = ReviewPage(earlier, from_templates(earlier), language).html().encode()
    assert add_last_week(found, last, WEEK)
    assert found["last.w.SPX.change"].number == Decimal(5)
    data = ReviewPage(found, from_templates(found), language).html().encode()
    assert verify(data).faults == []
    assert {"en": "Beside last week", "zh": "与上周对照"}[language] in data.decode()
    assert not verify(data.replace(b">+5.00%<", b">+6.00%<")).holds


def test_a_page_of_another_week_or_one_that_does_not_hold_stands_beside_nothing() -> None:
    found, earlier, shift = weeks()
    last = ReviewPage(earlier, from_templates(earlier), "en").html().encode()
    assert not add_last_week(found.copy(), last, shift)
    assert not add_last_week(found.copy(), last.replace(b">+5.00%<", b">+6.00%<"), WEEK)
    assert not add_last_week(found.copy(), page("en"), WEEK)


def test_what_the_crew_cost_is_on_the_page_and_adds_up(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    with served(reversing, cost=0.000_25) as server:
        flags = ["--level", "choose", "--server", server.url, "--out", str(tmp_path), "--json", str(file)]
        assert cli.run(["review", "write", *flags, "--lang", "zh"]) == 0
    data = (tmp_path / "review-2025-12-12.zh.html").read_bytes()
    cells = {row["id"]: row for row in document_of(data).trace["cells"]}
    whole = round(json.loads(file.read_text())["cost_usd"] * 1e6)
    assert whole > 0
    for kind in ("role", "section"):
        pattern = rf"cost\.{kind}\.\w+\.cost_microusd"
        costs = [row for name, row in cells.items() if re.fullmatch(pattern, name)]
        assert sum(int(row["value"]) for row in costs) == whole
    assert "写作成本" in data.decode()


def test_the_newest_head_of_the_signals_is_printed(tmp_path: Path) -> None:
    prices, log = tmp_path / "prices-SPX.csv", tmp_path / "s.jsonl"
    prices.write_text("Date,Close\n2025-12-11,100\n2025-12-12,101\n")
    assert cli.run(["signals", "run", "--prices", str(prices), "--log", str(log)]) == 0
    head = json.loads(log.read_text().splitlines()[-1])["hash"]
    out = ["--out", str(tmp_path / "out"), "--signals", str(log)]
    assert cli.run(["review", "write", *out]) == 0
    for language in LANGUAGES:
        text = (tmp_path / "out" / f"review-2025-12-12.{language}.html").read_text("utf-8")
        assert f">{head}<" in text
        assert not verify(text.replace(f">{head}<", f">{'0' * 64}<").encode()).holds


@pytest.mark.parametrize(
    ("pattern", "fault"),
    [
        (r'data-form="dot"[^>]* cy="([0-9.]+)"', "is not as high as"),
        (r'data-chart="w.curve.2Y" x="[^"]*" y="[^"]*" width="([0-9.]+)"', "is not as long as"),
        (r'<polyline [^>]*points="(\d+),', "where there is no figure"),
    ],
)
def test_charts_are_measured(pattern: str, fault: str) -> None:
    text = page("en").decode()
    found = re.search(pattern, text)
    assert found is not None
    changed = text[: found.start(1)] + "77.77" + text[found.end(1) :]
    assert any(fault in one for one in verify(changed.encode()).faults)


def test_a_log_of_other_weeks_says_nothing_of_this_one() -> None:
    assert Week.of(date(2025, 12, 14)).before().friday == date(2025, 12, 5)


def test_a_log_in_its_usual_place_stands_in_every_review(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    prices = tmp_path / "prices-SPX.csv"
    prices.write_text("Date,Close\n" + "".join(f"{day},{close}\n" for day, close in walk(90)))
    assert cli.run(["signals", "run", "--prices", str(prices)]) == 0
    head = capsys.readouterr().out.split()[-1]
    write = ["review", "write", "--lang", "en"]
    assert cli.run(write) == 0
    page = tmp_path / "out/review/review-2025-12-12.en.html"
    assert head in page.read_text("utf-8")
    (tmp_path / "out/signals/signals.jsonl").write_text("")
    assert cli.run(write) == 0
    assert "signals.jsonl is empty" in capsys.readouterr().out
    assert head not in page.read_text("utf-8")

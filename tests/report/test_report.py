from __future__ import annotations

import re
from pathlib import Path

import pytest

from stepwell.report import charts
from stepwell.report.page import Page

pytest.importorskip("matplotlib")


def test_a_page_holds_everything_itself(tmp_path: Path) -> None:
    page = Page("A <plan>", "It pays.")
    page.chart(charts.lines("cash", "year", "bn", [1, 2], {"a": [1, -1], "b": [2, 3]}))
    page.chart(charts.bars("cost", "USD", ["x", "y"], {"a": [1, 2]}))
    page.chart(charts.tornado("what matters", "NPV", 1.0, [("price", 0.0, 3.0), ("power", 0.5, 1.5)]))
    page.chart(charts.histogram("draws", "NPV", [1.0, 2.0, 2.5]))
    page.table(("a", "b"), [("<x>", 1)])
    page.inputs({"rate": "0.1"}, seed=7)
    page.write(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text("utf-8")
    assert text.count("<svg") == 4 and "seed 7" in text and "&lt;x&gt;" in text
    assert not re.search(r"""(src|href)=["']https?:""", text)
    assert "<script" not in text


def test_names_and_days_stand_to_the_left_and_figures_to_the_right() -> None:
    page = Page("t", "a")
    page.table(
        ("key", "tier", "day", "n", "USD"), [("a", "flex", "2026-11-29", 3, "-$0.5"), ("all", "", "", 4, "")]
    )
    assert page.parts[-1].count("<th>") == 3
    assert '<th class="n">n</th><th class="n">USD</th>' in page.parts[-1]
    assert '<td>flex</td><td>2026-11-29</td><td class="n">3</td>' in page.parts[-1]


def test_the_same_figures_give_the_same_bytes() -> None:
    drawn = [charts.bars("cost", "USD", ["x"], {"a": [1.5]}) for _ in range(2)]
    assert drawn[0] == drawn[1]

"""daily_stock_analysis 515: the answer stops at the token limit, and the stump is sent all the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stepwell import cli
from tests.agents.served import served


@pytest.mark.parametrize(
    "stump", ["The S&P", "Meanwhile {a} {b} {c}.", "Meanwhile {a} {b} {c} over the week and"]
)
def test_the_template_is_printed_in_its_place(tmp_path: Path, stump: str) -> None:
    def cut(body: dict[str, Any]) -> dict[str, Any]:
        return {"role": "assistant", "content": stump, "finish_reason": "length"}

    file = tmp_path / "figures.json"
    with served(cut) as server:
        flags = ["--level", "write", "--server", server.url, "--out", str(tmp_path), "--lang", "en"]
        assert cli.run(["review", "write", *flags, "--json", str(file)]) == 0
    figures = json.loads(file.read_text())
    assert (figures["written"], figures["untraced"]) == (0, 0)
    assert stump not in (tmp_path / "review-2025-12-12.en.html").read_text("utf-8").split("<script")[0]

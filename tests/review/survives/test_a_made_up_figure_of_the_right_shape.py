"""due-diligence-agents 49 and 81: five checks of the shape pass a figure that nobody published."""

from __future__ import annotations

import json
import re

import pytest

from stepwell.review.verifier import verify
from stepwell.review.wording import LANGUAGES, Language
from tests.review.sample import page


def forged(language: Language) -> str:
    """Another close of the S&P 500 in the text and in the trace, which agree with each other."""
    text = page(language).decode()
    return text.replace("6,806.84", "6,816.84").replace('"6806.84"', '"6816.84"')


@pytest.mark.parametrize("language", LANGUAGES)
def test_text_and_trace_that_agree_are_not_enough(language: Language) -> None:
    faults = verify(forged(language).encode()).faults
    assert "idx.SPX.close.2025-12-12: the trace has 6816.84, its bytes give 6806.84" in faults


def test_a_formula_that_is_not_the_one_it_says() -> None:
    text = page("en").decode()
    start = text.index('id="trace">') + len('id="trace">')
    end = text.index("</script>", start)
    trace = json.loads(text[start:end])
    (cell,) = [one for one in trace["cells"] if one["id"] == "w.SPX.change"]
    cell["derivation"]["inputs"].reverse()
    faults = verify((text[:start] + json.dumps(trace).replace("<", "\\u003c") + text[end:]).encode()).faults
    assert any(re.match(r"w\.SPX\.change: the trace has", fault) for fault in faults)

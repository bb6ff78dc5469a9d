"""What a template lets the next prompt reuse, on templates that keep, change and drop what was said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("llama_cpp")

from stepwell import cli
from stepwell.bench.answers.templates import COLUMNS, REASONING, measure, of_source
from tests.engines.chat.conversations import HERMES

KEEPS = HERMES.replace(
    "<|im_start|>{{ m.role }}\n",
    "<|im_start|>{{ m.role }}\n"
    "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}\n</think>\n\n{% endif %}",
)
DROPS = HERMES.replace("{% if add", "{# <think></think> #}{% if add")


def characters(text: str) -> list[int]:
    return list(text.encode())


def test_a_template_that_writes_what_the_model_wrote_loses_nothing() -> None:
    for source in (HERMES, KEEPS):
        found = measure(of_source("one", source), characters)
        assert found.shares["after_calls"] == found.shares["after_answer"] == 1.0
        assert found.calls_read == 2
    assert found.shares["after_calls_with_reasoning"] == found.shares["after_answer_with_reasoning"] == 1.0


def test_what_was_thought_and_dropped_is_lost_with_all_that_follows() -> None:
    found = measure(of_source("one", DROPS), characters)
    share = found.shares["after_answer_with_reasoning"]
    assert share is not None
    assert found.shares["after_answer"] == 1.0
    assert 0.3 < share < 1 - len(REASONING) / 2_000


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "templates"
    folder.mkdir()
    (folder / "hermes.jinja").write_text(HERMES)
    assert cli.run(["bench", "templates", str(folder), "--json", str(tmp_path / "out.json")]) == 0
    (row,) = json.loads((tmp_path / "out.json").read_text())["results"]["templates"]
    assert row == {"template": "hermes", **dict.fromkeys(COLUMNS, 1.0), "calls_read": 2}
    assert capsys.readouterr().out.strip().endswith("templates: measured; no target applies to this run.")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert cli.run(["bench", "templates", str(empty)]) == 2
    assert "no .jinja file" in capsys.readouterr().err

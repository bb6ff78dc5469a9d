"""The zoo: what stands for each kind of model is exact, and what is not served says why."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from stepwell.bench.engine import exactness
from stepwell.bench.zoo import child, run
from stepwell.errors import BadInput

TURNS = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the models lie; each is made when it is first asked for."""
    return tmp_path_factory.mktemp("zoo")


@pytest.fixture(scope="module")
def zoo(folder: Path) -> Iterator[run.Zoo]:
    wishes = child.ZooWishes(str(folder), TURNS, seed=20261122, device_kv_tokens=6144, threads=1)
    with run.Zoo(wishes) as made:
        yield made


@pytest.mark.parametrize("name", run.KINDS)
def test_moved_kv_changes_no_bit_of_a_logit(name: str, zoo: run.Zoo) -> None:
    row = zoo.row(name)
    assert row["verdict"] == "exact", row["why"]
    assert row["rows"] > TURNS and row["from_host"] and row["from_disk"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("bert", "makes embeddings, not text: name it as embeddings.model"),
        ("llama-embed", "makes embeddings"),
        ("bert:pool4", "name it as embeddings.rerank_model"),
        ("t5", "does not generate text"),
        ("cogvlm", "wrong logits"),
    ],
)
def test_what_is_not_served_says_why(name: str, words: str, zoo: run.Zoo) -> None:
    row = zoo.row(name)
    assert row["verdict"] == "refused"
    assert words in row["why"]


def test_a_model_is_made_once(folder: Path) -> None:
    first = child.model_file(folder, "llama")
    made_ns = first.stat().st_mtime_ns
    assert child.model_file(folder, "llama").stat().st_mtime_ns == made_ns


@pytest.mark.parametrize(
    ("name", "words"),
    [("llamma", "is it one of llada"), ("llama:q3", "not a variant"), ("xyzzy", "the zoo has no")],
)
def test_a_name_that_means_nothing_is_one_sentence(name: str, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        run.checked([name])


def test_the_command_writes_table_page_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, file = tmp_path / "models.md", tmp_path / "zoo.json"
    page.write_text(f"# Models\n{run.MARKS[0]}\nold\n{run.MARKS[1]}\nrest\n")
    code = exactness.main(zoo=["bert", "olmo"], turns=8, page=page, json_file=file)
    shown = capsys.readouterr().out
    assert code == 0 and "olmo" in shown and shown.endswith("2 of 2 measured targets reached.\n")
    text = page.read_text()
    assert "**Exact (1)**: `olmo`." in text and "| `bert` | refused |" in text and "old" not in text
    assert text.startswith("# Models\n") and text.endswith("\nrest\n")
    assert json.loads(file.read_text())["results"] == {"exact": 1, "refused": 1}


def test_a_page_without_marks_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "models.md"
    page.write_text("# Models\n")
    with pytest.raises(BadInput, match="no place"):
        run.write_page(page, [])
    assert page.read_text() == "# Models\n"


def test_one_wrong_model_is_a_target_missed() -> None:
    found = [{"verdict": "exact"}, {"verdict": "wrong"}, {"verdict": "refused"}]
    assert [made.reached for made in run.verdicts(found)] == [True, False]

"""A file for embeddings is foreign input too: whatever is in it, there is one sentence, and nobody ends."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from stepwell.embed.base import EmbeddingError, Wishes
from stepwell.embed.process import EmbeddingProcess
from tests.embed.conftest import tiny
from tests.engines.test_foreign_files import mutated

MUTATIONS = 16
"""Each is a process of its own."""
_HEADER_BYTES = 2_000
"""Of the file's beginning: what is said of the model, before its vocabulary."""


def verdict(path: Path) -> str:
    """What is wrong with the file; empty: it was served."""
    process = EmbeddingProcess("x", Wishes(str(path), max_tokens=64, low_priority=False))
    try:
        return "" if process.embed(["a well", "x" * 500], cut=20) else "nothing came"
    except EmbeddingError as error:
        return str(error)
    finally:
        process.close()


def test_mutated_headers_do_no_harm(tiny_folder: Path, tmp_path: Path) -> None:
    whole = Path(tiny(tiny_folder, "bert")).read_bytes()
    draw, wrong = random.Random(11), []
    for number in range(MUTATIONS):
        path = tmp_path / f"{number}.gguf"
        path.write_bytes(mutated(whole[:_HEADER_BYTES], draw) + whole[_HEADER_BYTES:])
        said = verdict(path)
        path.unlink()
        assert "\n" not in said and len(said) < 700, (number, said)
        wrong.append(bool(said))
    assert any(wrong), "the mutations reach what is read"


@pytest.mark.parametrize("share", [0.001, 0.3, 0.9, 0.999])
def test_a_file_cut_anywhere_is_one_sentence(share: float, tiny_folder: Path, tmp_path: Path) -> None:
    whole = Path(tiny(tiny_folder, "bert:pool4")).read_bytes()
    path = tmp_path / "cut.gguf"
    path.write_bytes(whole[: int(len(whole) * share)])
    said = verdict(path)
    assert said.startswith("x cannot make embeddings: ") and "\n" not in said

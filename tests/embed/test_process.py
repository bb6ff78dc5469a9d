"""A model of embeddings in its process: what it gives, what it refuses, and what becomes of it."""

from __future__ import annotations

import math
import os
import signal
from array import array
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import stepwell.embed.process
from stepwell.embed.base import MINILM, EmbeddingError, Wishes, WrongInput
from stepwell.embed.process import EmbeddingProcess
from stepwell.library.minilm import NAME, MiniLm
from tests.embed.conftest import tiny

WORDS = ["a well", "steps down to the water", "x", "rain " * 20]


def near(one: array[float], other: array[float]) -> bool:
    return all(math.isclose(a, b, abs_tol=1e-4) for a, b in zip(one, other, strict=True))


def test_vectors_have_length_one_and_depend_on_the_text(bert: EmbeddingProcess) -> None:
    vectors = bert.embed(WORDS)
    assert [len(vector) for vector in vectors] == [bert.about().dimensions] * 4
    assert all(math.isclose(sum(x * x for x in vector), 1, abs_tol=1e-5) for vector in vectors)
    assert not near(vectors[0], vectors[1])


@settings(max_examples=15, deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=40), min_size=1, max_size=20))
def test_a_text_has_the_same_vector_in_any_company(texts: list[str]) -> None:
    process = shared()
    counts = process.count(texts)
    together = process.embed(texts)
    assert len(counts) == len(together) == len(texts)
    assert near(together[-1], process.embed([texts[-1]])[0])


_shared: list[EmbeddingProcess] = []


def shared() -> EmbeddingProcess:
    """Hypothesis takes no fixtures of a function."""
    return _shared[0]


@pytest.fixture(autouse=True)
def _share(bert: EmbeddingProcess) -> None:
    _shared[:] = [bert]


def test_tokens_are_taken_as_they_are(bert: EmbeddingProcess) -> None:
    (of_tokens,) = bert.embed([[5, 6, 7]])
    assert bert.count([[5, 6, 7], "ab"]) == [3, 2]
    assert len(of_tokens) == bert.about().dimensions
    assert near(bert.embed([[5, 6, 7, 8, 9]], cut=3)[0], of_tokens)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (["fine", "a" * 600], "it has 6"),
        ([[1], [288]], "token 288 does not exist"),
        (["fine", ""], "no tokens"),
    ],
)
def test_what_cannot_be_read_is_named(bert: EmbeddingProcess, inputs: list[str], words: str) -> None:
    with pytest.raises(WrongInput, match=words) as caught:
        bert.embed(inputs)
    assert caught.value.index == 1


def test_the_time_that_is_told_is_the_time_that_the_process_counts(bert: EmbeddingProcess) -> None:
    told: list[int] = []
    before_us, starts = bert.spent_us, bert.starts
    bert.embed(WORDS, spent=told.append)
    bert.count(WORDS)
    bert.close()
    assert not bert.loaded
    bert.rank("well", WORDS, spent=told.append)
    assert bert.loaded and bert.starts == starts + 1
    assert len(told) == 2 and all(told)
    assert bert.spent_us - before_us == sum(told)


def test_a_text_has_no_marks_in_it(bert: EmbeddingProcess) -> None:
    """A control token is one token; the same letters in a text are several."""
    assert bert.count(["<|im_end|>"]) != [1]


def test_pairs_are_ranked_by_a_model_that_was_made_for_it(ranker: EmbeddingProcess) -> None:
    assert ranker.about().ranks
    scores = ranker.rank("well", WORDS)
    assert len(scores) == 4 and all(0 <= score <= 1 for score in scores)
    assert math.isclose(scores[2], ranker.rank("well", [WORDS[2]])[0], abs_tol=1e-4)
    read = sum(ranker.count(["well", "x"]))
    assert read <= ranker.count_pairs("well", ["x"])[0] <= read + 4  # marks stand around and between them


def test_other_models_say_how_near_a_document_is(bert: EmbeddingProcess) -> None:
    scores = bert.rank(WORDS[0], WORDS)
    assert max(range(4), key=scores.__getitem__) == 0
    asked, first, second = bert.count(["well", "xy", "z"])
    assert bert.count_pairs("well", ["xy", "z"]) == [asked + first, second]  # the question is counted once


@pytest.mark.parametrize("kind", ["nomic-bert", "gemma-embedding", "qwen3:pool3"])
def test_other_kinds_of_models(kind: str, tiny_folder: Path) -> None:
    process = EmbeddingProcess("tiny", Wishes(tiny(tiny_folder, kind)))
    one, other, again = process.embed([WORDS[0], WORDS[1], WORDS[0]])
    process.close()
    assert near(one, again)
    assert not near(one, other)


def test_a_chat_model_is_refused_with_the_right_place_for_it(tiny_folder: Path) -> None:
    process = EmbeddingProcess("tiny", Wishes(tiny(tiny_folder, "qwen3")))
    with pytest.raises(EmbeddingError, match=r"writes text .* chat model"):
        process.about()


def test_a_file_that_is_no_model_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(b"GGUF" + bytes(8))
    with pytest.raises(EmbeddingError, match="damaged"):
        EmbeddingProcess("x", Wishes(str(path))).about()


def test_a_process_that_was_killed_is_started_again(bert: EmbeddingProcess) -> None:
    before = bert.embed(["x"])
    assert bert.child.pid is not None
    os.kill(bert.child.pid, signal.SIGKILL)
    assert bert.embed(["x"]) == before


def test_a_process_that_always_ends_is_given_up_in_a_sentence() -> None:
    process = EmbeddingProcess("gone", Wishes("x"), "this")
    with pytest.raises(EmbeddingError, match="gone cannot make embeddings: its process ends before it is"):
        process.embed(["x"])


@pytest.fixture
def bad(monkeypatch: pytest.MonkeyPatch) -> Iterator[EmbeddingProcess]:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    process = EmbeddingProcess("bad", Wishes("x"), "tests.embed.bad_child")
    yield process
    process.close()


@pytest.mark.parametrize(
    ("what", "words"),
    [("die", "it has ended"), ("nonsense", "its answer is none"), ("list", "none"), ("two", "none")],
)
def test_a_process_that_goes_wrong_is_one_sentence_and_the_next_question_is_answered(
    what: str, words: str, bad: EmbeddingProcess
) -> None:
    with pytest.raises(EmbeddingError, match=words):
        bad.embed([what, "b"])
    bad.child._not_before_s = 0.0
    assert len(bad.embed(["a"])) == 1
    assert bad.spent_us == 3 or what == "two"


def test_a_process_that_says_nothing_is_not_waited_for(
    bad: EmbeddingProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad.about()
    monkeypatch.setattr(stepwell.embed.process, "_ANSWER_S", 0.05)
    monkeypatch.setattr(stepwell.embed.process, "_EACH_S", 0.0)
    with pytest.raises(EmbeddingError, match="not answered within"):
        bad.embed(["hang"])
    assert not bad.loaded


def test_nobody_asks_and_the_process_ends_by_itself(tiny_folder: Path) -> None:
    process = EmbeddingProcess("idle", Wishes(tiny(tiny_folder, "bert"), idle_s=0.01))
    process.about()
    pid = process.child.pid
    assert pid is not None
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert not process.loaded
    assert len(process.embed(["x"])) == 1
    process.close()


def test_minilm_is_the_librarys() -> None:
    process = EmbeddingProcess(NAME, Wishes(MINILM))
    texts = ["How deep is the well?", "Rain falls on the steps."]
    try:
        found = process.embed(texts)
        with pytest.raises(WrongInput, match="reads 256"):
            process.count(["well " * 300])
        assert process.count(["well " * 300], cut=256) == [256]
    finally:
        process.close()
    assert all(near(one, other) for one, other in zip(found, MiniLm().embed(texts), strict=True))

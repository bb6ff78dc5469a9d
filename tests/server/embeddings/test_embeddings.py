"""``/v1/embeddings`` and ``/v1/rerank`` over HTTP, with the openai package, keys, limits and books."""

from __future__ import annotations

import base64
import http.client
import json
import struct
import threading
from array import array
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from stepwell.embed.base import Input, Wishes
from stepwell.embed.process import EmbeddingProcess, Spent
from stepwell.ledger.reading.verify import verify
from stepwell.ledger.types import Budget, Scope
from stepwell.server.backends.vectors import AT_ONCE, ServedEmbeddings
from stepwell.server.callers.keys import KeyEntry, KeyRing
from tests.embed.conftest import bert, ranker, tiny_folder
from tests.ledger.books import PRICES
from tests.server.fakes import MODEL, PATIENCE_S, until
from tests.server.ledgers import Kept, bearer, keeping
from tests.server.wire import post

__all__ = ["bert", "ranker", "tiny_folder"]  # fixtures

TEXTS = ["a well", "steps down", "the water"]


@pytest.fixture
def kept(tmp_path: Path, bert: EmbeddingProcess, ranker: EmbeddingProcess) -> Iterator[Kept]:
    with keeping(tmp_path, vectors=ServedEmbeddings([bert, ranker], max_inputs=40)) as node:
        yield node


def embed(node: Kept, key: str = "acme", /, **body: Any) -> Any:
    return post(node.server, "/v1/embeddings", {"model": "tiny-bert", **body}, **bearer(key))


def test_the_openai_package_reads_what_we_write(kept: Kept, bert: EmbeddingProcess) -> None:
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=kept.server.base_url + "/v1", api_key="sk-acme", max_retries=0) as client:
        packed = client.embeddings.create(model="tiny-bert", input=TEXTS)  # it asks for base64 by itself
        plain = client.embeddings.create(model="tiny-bert", input=TEXTS, encoding_format="float")
        short = client.embeddings.create(model="tiny-bert", input=TEXTS[0], dimensions=16)
        tokens = client.embeddings.create(model="tiny-bert", input=[[5, 6], [7]])
        with pytest.raises(openai.BadRequestError, match="128 dimensions, not more"):
            client.embeddings.create(model="tiny-bert", input="x", dimensions=129)
        with pytest.raises(openai.BadRequestError, match="writes text"):
            client.embeddings.create(model=MODEL, input="x")
        with pytest.raises(openai.NotFoundError):
            client.embeddings.create(model="another", input="x")
        with pytest.raises(openai.BadRequestError, match="use POST /v1/embeddings"):
            client.chat.completions.create(model="tiny-bert", messages=[{"role": "user", "content": "x"}])
        assert {"tiny-bert", "tiny-ranker", MODEL} <= {model.id for model in client.models.list()}
    ours = [vector.tolist() for vector in bert.embed(TEXTS)]
    assert [one.embedding for one in plain.data] == [one.embedding for one in packed.data] == ours
    assert [one.index for one in plain.data] == [0, 1, 2]
    assert plain.usage.prompt_tokens == plain.usage.total_tokens == sum(bert.count(TEXTS))
    assert sum(x * x for x in short.data[0].embedding) == pytest.approx(1, abs=1e-5)
    assert short.data[0].embedding[1] / short.data[0].embedding[0] == pytest.approx(ours[0][1] / ours[0][0])
    assert tokens.usage.prompt_tokens == 3


def test_base64_is_little_endian_floats(kept: Kept) -> None:
    packed = embed(kept, input="x", encoding_format="base64").json()["data"][0]["embedding"]
    plain = embed(kept, input="x").json()["data"][0]["embedding"]
    assert list(struct.unpack("<128f", base64.b64decode(packed))) == plain


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"input": ""}, "at least 1"),
        ({"input": []}, "at least 1"),
        ({"input": ["fine", "a" * 600]}, "input[1] cannot be read: it has"),
        ({"input": [[5], [999]]}, "input[1] cannot be read: token 999"),
        ({"input": ["x"] * 41}, "At most 40"),
        ({"input": "x", "encoding_format": "int8"}, "encoding_format"),
        ({"input": {"text": "x"}}, "input"),
        ({"input": "x", "service_tier": "gold"}, "service tier"),
    ],
)
def test_what_is_wrong_is_said(kept: Kept, body: dict[str, Any], words: str) -> None:
    answer = embed(kept, **body)
    assert answer.status_code == 400
    assert words.lower() in answer.json()["error"]["message"].lower()


def test_an_input_is_cut_only_on_request(kept: Kept) -> None:
    answer = embed(kept, input="a" * 600, truncate_prompt_tokens=10)
    assert answer.json()["usage"]["prompt_tokens"] == 10


def test_documents_are_ranked_best_first(kept: Kept, ranker: EmbeddingProcess) -> None:
    body = {"query": "well", "documents": [TEXTS[0], {"text": TEXTS[1]}, TEXTS[2]]}
    answer = post(kept.server, "/v1/rerank", {"model": "tiny-ranker", **body}, **bearer("acme")).json()
    scores = ranker.rank("well", TEXTS)
    assert [one["index"] for one in answer["results"]] == sorted(range(3), key=lambda at: -scores[at])
    assert answer["usage"]["total_tokens"] == sum(ranker.count_pairs("well", TEXTS))
    body |= {"top_n": 1, "return_documents": True, "query": TEXTS[1]}
    nearest = post(kept.server, "/v1/rerank", {"model": "tiny-bert", **body}, **bearer("acme")).json()
    assert [(one["index"], one["document"]["text"]) for one in nearest["results"]] == [(1, TEXTS[1])]
    refused = embed(kept, model="tiny-ranker", input="x")
    assert "use POST /v1/rerank" in refused.json()["error"]["message"]


def test_a_key_is_asked_for(kept: Kept) -> None:
    assert embed(kept, "nobody", input="x").status_code == 401


PRICED = PRICES.replace("output = 400", "output = 400\nembedding = 50")


def test_the_books_have_a_price_of_their_own_for_it(tmp_path: Path, bert: EmbeddingProcess) -> None:
    with keeping(tmp_path, prices=PRICED, vectors=ServedEmbeddings([bert])) as node:
        usage = embed(node, input=TEXTS).json()["usage"]
        flex = embed(node, input=TEXTS, service_tier="flex").json()["usage"]
        rows = node.rows(
            "SELECT u.model, u.reason, u.requests, u.input_tokens, u.charge_microusd, a.tenant, "
            "a.service_tier FROM usage u JOIN accounts a ON a.id = u.account ORDER BY u.charge_microusd"
        )
        found = verify(node.ledger.store)
    tokens = usage["prompt_tokens"]
    assert usage["cost"] == 50 * tokens / 1e6
    assert flex["cost"] == 25 * tokens / 1e6
    assert rows == [
        ("tiny-bert", "embedded", 1, tokens, 25 * tokens, "acme", "flex"),
        ("tiny-bert", "embedded", 1, tokens, 50 * tokens, "acme", "default"),
    ]
    assert found.differences == []


def spent_by(node: Kept) -> dict[str, int]:
    """Microseconds of embedding models in the books, by tenant; the machine's own stand as minus all."""
    node.at_rest()
    sums: dict[str, int] = {}
    for tenant, amount in node.rows(
        "SELECT a.tenant, p.amount FROM postings p JOIN accounts a ON a.id = p.credit "
        "WHERE p.resource = 'embedding_us'"
    ):
        sums[tenant] = sums.get(tenant, 0) + amount
    return sums


def test_the_time_of_a_model_is_in_the_books_of_who_asked(
    tmp_path: Path, bert: EmbeddingProcess, ranker: EmbeddingProcess
) -> None:
    before_us = bert.spent_us + ranker.spent_us
    with keeping(tmp_path, vectors=ServedEmbeddings([bert, ranker], max_inputs=40)) as node:
        embed(node, input=TEXTS)
        embed(node, input=["x"] * (AT_ONCE + 3))
        rank = {"model": "tiny-ranker", "query": "a well", "documents": TEXTS}
        post(node.server, "/v1/rerank", rank, **bearer("acme"))
        embed(node, "rival", input=TEXTS)
        embed(node, input="")  # refused: nothing is computed
        sums = spent_by(node)
        assert sum(sums.values()) == bert.spent_us + ranker.spent_us - before_us
        assert len(sums) == 2 and all(sums.values())
        assert verify(node.ledger.store).differences == []
        shown = node.get("/metrics").text
    assert f'stepwell_embedding_seconds_total{{model="tiny-bert"}} {bert.spent_us / 1e6}' in shown
    assert 'stepwell_embedding_loaded{model="tiny-bert"} 1.0' in shown


def test_a_budget_bounds_it_and_counts_it(tmp_path: Path, bert: EmbeddingProcess) -> None:
    budget = Budget(Scope.TENANT, "acme", "", None, 1_000)
    with keeping(tmp_path, vectors=ServedEmbeddings([bert]), budgets=[budget]) as node:
        assert embed(node, input=[[5, 6, 7, 8]]).status_code == 200
        node.at_rest()
        state = node.ledger.budgets.state(Scope.TENANT, "acme")
        assert state is not None and (state.spent_microusd, state.held_microusd) == (400, 0)
        refused = embed(node, input=["x" * 400])
        assert refused.json()["error"]["code"] == "insufficient_quota"


@dataclass
class Slow:
    """The model, but that it begins to embed when a test says so."""

    model: EmbeddingProcess
    begun: threading.Event = field(default_factory=threading.Event)
    go: threading.Event = field(default_factory=threading.Event)

    @property
    def name(self) -> str:
        return self.model.name

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def embed(self, inputs: Sequence[Input], cut: int, spent: Spent) -> list[array[float]]:
        self.begun.set()
        assert self.go.wait(PATIENCE_S)
        return self.model.embed(inputs, cut, spent)


def test_what_is_under_way_is_held_so_that_requests_at_once_pass_no_budget(
    tmp_path: Path, bert: EmbeddingProcess, ranker: EmbeddingProcess
) -> None:
    slow = Slow(bert)
    ranking = 100 * sum(ranker.count_pairs("a well", TEXTS))
    budget = Budget(Scope.TENANT, "acme", "", None, ranking + 700)
    served = ServedEmbeddings([slow, ranker])  # type: ignore[list-item]
    with keeping(tmp_path, vectors=served, budgets=[budget]) as node, ThreadPoolExecutor(1) as pool:
        try:
            first = pool.submit(embed, node, input=[[5] * 8])
            until(slow.begun.is_set)
            rank = {"model": "tiny-ranker", "query": "a well", "documents": TEXTS}
            second = post(node.server, "/v1/rerank", rank, **bearer("acme"))
        finally:
            slow.go.set()
        assert (second.status_code, second.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        assert first.result().status_code == 200
        node.at_rest()
        state = node.ledger.budgets.state(Scope.TENANT, "acme")
        assert state is not None and (state.spent_microusd, state.held_microusd) == (800, 0)


def test_a_client_that_leaves_pays_for_what_was_begun(tmp_path: Path, bert: EmbeddingProcess) -> None:
    slow, before_us = Slow(bert), bert.spent_us
    with keeping(tmp_path, vectors=ServedEmbeddings([slow])) as node:  # type: ignore[list-item]
        try:
            body = json.dumps({"model": "tiny-bert", "input": [[5, 6]] * (AT_ONCE + 4)})
            line = http.client.HTTPConnection(
                "127.0.0.1", int(node.server.base_url.rpartition(":")[2]), timeout=PATIENCE_S
            )
            line.request("POST", "/v1/embeddings", body, bearer("acme"))
            until(slow.begun.is_set)
            line.close()
            until(lambda: node.ledger.sums.charged_microusd)
        finally:
            slow.go.set()
        assert node.charged_microusd() == 100 * 2 * AT_ONCE
        assert not node.ledger.keeper._embedded
        until(lambda: sum(spent_by(node).values()) == bert.spent_us - before_us > 0)
        assert verify(node.ledger.store).differences == []


def test_tokens_per_minute_bound_it(tmp_path: Path, bert: EmbeddingProcess) -> None:
    keys = KeyRing([KeyEntry(tenant="acme", key="sk-acme", tokens_per_minute=100)])
    with keeping(tmp_path, vectors=ServedEmbeddings([bert]), keys=keys) as node:
        first = embed(node, input=[[5] * 90])
        assert first.headers["x-ratelimit-remaining-tokens"] in ("10", "11", "12")
        assert embed(node, input=[[5] * 90]).status_code == 429


def test_a_server_without_a_model_says_so(tmp_path: Path) -> None:
    with keeping(tmp_path) as node:
        answer = embed(node, input="x")
        assert answer.status_code == 404
        assert "[embeddings]" in answer.json()["error"]["message"]


def test_a_model_that_cannot_be_loaded_is_unavailable_for_now(tmp_path: Path) -> None:
    broken = EmbeddingProcess("tiny-bert", Wishes(str(tmp_path / "none.gguf")))
    with keeping(tmp_path, vectors=ServedEmbeddings([broken])) as node:
        answer = embed(node, input="x")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "embeddings_unavailable")

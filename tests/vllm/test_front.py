"""The front end before vLLM: what goes on, what comes back, and books that come to vLLM's own counts."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.ledger.reading.verify import verify
from stepwell.ledger.stores.open import open_store
from stepwell.ledger.types import Budget, Scope
from stepwell.vllm.books import Count
from stepwell.vllm.rewrite import FORBIDDEN
from tests.vllm.counting import Fronted, fronted


def play(folder: Path, acts: Callable[[Fronted], Awaitable[None]], *budgets: Budget) -> Fronted:
    async def all_of_it() -> Fronted:
        async with asyncio.timeout(300), fronted(folder, budgets) as one:
            await acts(one)
        return one

    return asyncio.run(all_of_it())


def events(text: str) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in text.split("\n") if line.startswith("data: {")]
    return [json.loads(line) for line in lines]


async def reconciled(one: Fronted) -> None:
    """As the server does it when nothing is under way."""
    counted = await one.front.counted(one.serving._engine)
    assert counted == one.engine.counted
    one.books.reconcile(counted)


async def left(one: Fronted, body: dict[str, Any]) -> None:
    """A client that closes its connection once the engine says nothing more."""
    messages = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        await one.engine.stalled.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        assert message["type"].startswith("http.response")

    headers = [(b"authorization", b"Bearer acme-key"), (b"host", b"127.0.0.1")]
    scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": headers}
    scope |= {"query_string": b"", "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80), "scheme": "http"}
    await one.serving.app(scope, receive, send)


def test_nobody_learns_where_a_model_lies(tmp_path: Path) -> None:
    async def acts(one: Fronted) -> None:
        listed = await one.client.get("/v1/models", headers={"authorization": "Bearer acme-key"})
        assert listed.json() == {"data": [{"id": "m", "root": "m"}]}

    play(tmp_path, acts)


def test_nothing_that_a_client_forges_gets_through(tmp_path: Path) -> None:
    async def acts(one: Fronted) -> None:
        forged: dict[str, Any] = {name: {"tenant": "other"} for name in FORBIDDEN} | {"priority": -9}
        headers = {"x-vllm-priority": "-9", "x-data-parallel-rank": "1", "cookie": "a=b"}
        answer = await one.complete("hello", headers=headers, service_tier="priority", **forged)
        assert answer.status_code == 200
        assert "kv_transfer_params" not in answer.json()
        assert (await one.complete("hello", key="other-key", cache_salt="same")).status_code == 200
        first, second = one.engine.bodies
        assert (first["priority"], second["priority"]) == (0, 1)
        assert first["kv_transfer_params"]["tenant"] == "acme"
        assert first["cache_salt"] != second["cache_salt"]
        assert not {"kv_hints", "request_id", "ec_transfer_params", "service_tier"} & set(first)
        sent = one.engine.headers[0]
        assert sent["authorization"] == "Bearer engine-key"
        assert not {"x-vllm-priority", "x-data-parallel-rank", "cookie"} & set(sent)

    play(tmp_path, acts)


def test_who_may_not_is_told_so_before_vllm_hears_of_it(tmp_path: Path) -> None:
    async def acts(one: Fronted) -> None:
        assert (await one.complete(key="wrong")).status_code == 401
        assert (await one.complete(key="other-key", service_tier="priority")).status_code == 403
        assert (await one.complete(n=99)).status_code == 400
        headers = {"authorization": "Bearer acme-key"}
        for stored in ({"previous_response_id": "resp_1"}, {"conversation": "conv_1"}, {"background": True}):
            body = {"model": "m", **stored}
            refused = await one.client.post("/v1/responses", json=body, headers=headers)
            assert refused.status_code == 400 and refused.json()["error"]["param"] in stored
        for path in ("/v1/chat/completions/batch", "/reset_prefix_cache", "/v1/load_lora_adapter"):
            assert (await one.client.post(path, json={}, headers=headers)).status_code == 404
        assert not one.engine.bodies

    assert play(tmp_path, acts).spend == []


@pytest.mark.parametrize("asked", [True, False])
def test_usage_in_a_stream_is_told_to_who_asked_for_it(tmp_path: Path, asked: bool) -> None:
    async def acts(one: Fronted) -> None:
        options = {"stream_options": {"include_usage": True}} if asked else {}
        answer = await one.complete("hello", stream=True, max_tokens=3, **options)
        said = events(answer.text)
        assert answer.text.endswith("data: [DONE]\n\n")
        assert [one["choices"][0]["text"] for one in said if one["choices"]] == ['data: "usage"\n'] * 3
        if asked:
            assert [event["usage"] for event in said[:3]] == [None] * 3
            assert said[3]["usage"]["completion_tokens"] == 3
        else:
            assert all("usage" not in event for event in said)
            assert len(said) == 3

    one = play(tmp_path, acts)
    assert one.spend == [("agent", "acme", "flex", "length", 5, 2, 3, 3 + 1 + 6)]


def test_an_engine_that_dies_is_a_503_or_the_end_of_a_stream_and_costs_nothing(tmp_path: Path) -> None:
    async def acts(one: Fronted) -> None:
        one.engine.cut_after = 2
        answer = await one.complete("hello", stream=True, max_tokens=9)
        assert events(answer.text)[-1]["error"]["code"] == "node_lost"
        one.loop.books = None  # a server without books works as well
        assert (await one.complete("hello")).status_code == 200

    one = play(tmp_path, acts)
    assert [(row[3], row[-1]) for row in one.spend] == [("server_error", 0)]


def test_a_budget_holds_the_most_and_is_charged_what_it_was(tmp_path: Path) -> None:
    async def acts(one: Fronted) -> None:
        assert (await one.complete("hello", max_tokens=4)).status_code == 200  # 12 or 13 of 3,000
        too_much = await one.complete("hello", max_tokens=1_000)
        assert (too_much.status_code, too_much.json()["error"]["code"]) == (429, "insufficient_quota")
        assert (await one.complete("hello", key="other-key", max_tokens=1_000)).status_code == 200

    one = play(tmp_path, acts, Budget(Scope.TENANT, "acme", "", None, 2_000))
    assert [(row[1], row[6]) for row in one.spend] == [("acme", 4), ("other", 1_000)]


def test_a_client_that_leaves_pays_for_what_was_computed_and_nobody_for_the_rest(tmp_path: Path) -> None:
    async def acts(one: Fronted) -> None:
        one.engine.stall_after = 2
        await left(one, {"model": "m", "prompt": "hello", "stream": True, "max_tokens": 9})
        assert one.front.live == 0
        await reconciled(one)

    one = play(tmp_path, acts)
    rows = [(row[0], row[3], row[4], row[6]) for row in one.spend]
    assert rows == [("agent", "cancelled", 5, 2), ("unattributed", "unattributed", 0, 1)]


def test_a_limit_per_minute_counts_what_was_used_and_not_what_was_feared(tmp_path: Path) -> None:
    async def acts(one: Fronted) -> None:
        left = []
        for _ in range(3):
            answer = await one.complete("hello", "slow-key", max_tokens=100)
            assert answer.status_code == 200, answer.text
            left.append(int(answer.headers["x-ratelimit-remaining-tokens"]))
        assert left[0] - left[2] < 300  # 2 x 105 tokens, and not 2 x 1,300

    play(tmp_path, acts)


Request = tuple[int, int, int, bool, bool]
REQUESTS = st.lists(
    st.tuples(st.integers(1, 40), st.integers(1, 3), st.integers(1, 6), st.booleans(), st.booleans()),
    min_size=1,
    max_size=8,
)


@settings(max_examples=15, deadline=None)
@given(REQUESTS, st.integers(0, 20))
def test_the_spend_log_comes_to_what_the_engine_has_counted(requests: list[Request], cut_after: int) -> None:
    async def acts(one: Fronted) -> None:
        one.engine.cut_after = cut_after

        async def ask(request: Request) -> None:
            length, n, tokens, stream, other = request
            key = "other-key" if other else "acme-key"
            await one.complete("x" * length, key, n=n, max_tokens=tokens, stream=stream)

        await asyncio.gather(*map(ask, requests))
        await reconciled(one)

    with tempfile.TemporaryDirectory() as folder:
        one = play(Path(folder), acts)
        store = open_store(str(Path(folder) / "books.db"))
        try:
            found = verify(store)
        finally:
            store.close()
    assert not found.differences
    assert Count(sum(row[4] for row in one.spend), sum(row[6] for row in one.spend)) == one.engine.counted
    charged = [row for row in one.spend if row[0] == "agent"]
    assert len(charged) == len(requests)
    assert all(row[-1] == 0 for row in one.spend if row[3] not in ("stop", "length"))

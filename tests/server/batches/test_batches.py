"""``/v1/batches``: validation, answers, cancel, expiry, whose they are, and kills in the middle."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import BadRequestError, NotFoundError, OpenAI

from stepwell.engines.null import NullConfig
from stepwell.ledger.reading.queries import join_sum, split_sum
from stepwell.server.batches.charges import agent_of
from stepwell.server.batches.lines import Line, ordered, read
from stepwell.server.batches.runner import BatchLimits, ServedBatches
from stepwell.server.batches.store import BatchStore
from tests.server.fakes import MODEL, until
from tests.server.ledgers import Kept, bearer, keeping
from tests.server.wire import CHAT, error_of, get, post

CHATS = "/v1/chat/completions"


def row(custom_id: str, content: str = "hi", **more: Any) -> dict[str, Any]:
    body = {"model": MODEL, "max_tokens": 8, "messages": [{"role": "user", "content": content}]}
    return {"custom_id": custom_id, "method": "POST", "url": CHATS, "body": {**body, **more}}


def jsonl(rows: Sequence[Any]) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in rows)


@contextmanager
def node(
    root: Path, limits: BatchLimits | None = None, *, by_prefix: bool = True, **more: Any
) -> Iterator[Kept]:
    store = BatchStore(root / "batches")
    served = ServedBatches(store, limits or BatchLimits(), "flex", by_prefix)
    try:
        with keeping(root, batches=served, **more) as kept:
            yield kept
    finally:
        store.close()


def openai(kept: Kept, key: str = "acme") -> OpenAI:
    client = httpx2.Client(trust_env=False)
    return OpenAI(
        base_url=f"{kept.server.base_url}/v1", api_key=f"sk-{key}", max_retries=0, http_client=client
    )


def begun(client: OpenAI, rows: Sequence[Any], **more: Any) -> str:
    file = client.files.create(file=("in.jsonl", jsonl(rows)), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint=CHATS, completion_window="24h", **more)
    return batch.id


def ended(client: OpenAI, batch_id: str) -> Any:
    over = ("completed", "failed", "expired", "cancelled")
    until(lambda: client.batches.retrieve(batch_id).status in over)
    return client.batches.retrieve(batch_id)


def answers(client: OpenAI, file_id: str | None) -> dict[str, Any]:
    assert file_id is not None
    rows = [json.loads(line) for line in client.files.content(file_id).text.splitlines()]
    assert len({one["custom_id"] for one in rows}) == len(rows)
    return {one["custom_id"]: one for one in rows}


def test_a_batch_from_file_to_answers(tmp_path: Path) -> None:
    with node(tmp_path) as kept, openai(kept) as client:
        rows = [row(f"r{n}", f"question {n}") for n in range(12)] + [row("bad", temperature=9)]
        batch = ended(client, begun(client, rows, metadata={"night": "run"}))
        assert batch.status == "completed"
        assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (
            13,
            12,
            1,
        )
        assert batch.metadata == {"night": "run"}
        assert batch.created_at <= batch.in_progress_at <= batch.finalizing_at <= batch.completed_at
        good, bad = answers(client, batch.output_file_id), answers(client, batch.error_file_id)
        assert set(good) == {f"r{n}" for n in range(12)}
        assert good["r0"]["response"]["status_code"] == 200
        assert good["r0"]["response"]["body"]["choices"][0]["message"]["role"] == "assistant"
        assert good["r0"]["response"]["body"]["service_tier"] == "flex"
        assert bad["bad"]["response"]["status_code"] == 400
        assert bad["bad"]["response"]["body"]["error"]["param"] == "temperature"
        assert [one.id for one in client.batches.list()] == [batch.id]
        assert {one.id for one in client.files.list(purpose="batch_output")} == {
            batch.output_file_id,
            batch.error_file_id,
        }
        cost = sum(one["response"]["body"]["usage"]["cost"] for one in good.values())
        kept.at_rest()
        assert round(cost * 1e6) == kept.charged_microusd()


def test_all_failed_is_completed_with_a_file_of_errors_alone(tmp_path: Path) -> None:
    with node(tmp_path) as kept, openai(kept) as client:
        batch = ended(client, begun(client, [row("a", temperature=9)]))
        assert (batch.status, batch.output_file_id) == ("completed", None)
        assert set(answers(client, batch.error_file_id)) == {"a"}


BAD = [
    ([row("a"), row("b") | {"url": "/v1/responses"}], "mismatched_endpoint", 2),
    ([row("a"), row("b"), row("a")], "duplicate_custom_id", 3),
    ([row("a", stream=True)], "unsupported_value", 1),
    ([row("a", model="other")], "model_not_found", 1),
    ([row("a") | {"method": "GET"}], "invalid_method", 1),
    ([row("a") | {"custom_id": 7}], "invalid_custom_id", 1),
    ([{**row("a"), "body": []}], "missing_required_parameter", 1),
    ([], "empty_file", None),
]


@pytest.mark.parametrize(("rows", "code", "line"), BAD)
def test_one_bad_line_fails_the_whole_with_its_number(rows: Any, code: str, line: int | None) -> None:
    lines, errors = read(jsonl(rows), CHATS, [MODEL], 100)
    assert (errors[0].code, errors[0].line) == (code, line)
    assert code == "empty_file" or len(lines) == len(rows) - 1


def test_half_a_line_and_too_many_lines_are_told(tmp_path: Path) -> None:
    with node(tmp_path, BatchLimits(max_lines=3, max_bytes=4_000)) as kept, openai(kept) as client:
        half = jsonl([row("a")]) + jsonl([row("b")])[:40]
        file = client.files.create(file=("in.jsonl", half), purpose="batch")
        made = client.batches.create(input_file_id=file.id, endpoint=CHATS, completion_window="24h")
        batch = ended(client, made.id)
        assert batch.status == "failed"
        assert batch.errors.data[0].line == 2
        assert batch.errors.data[0].code == "invalid_json_line"
        batch = ended(client, begun(client, [row(str(n)) for n in range(4)]))
        assert batch.errors.data[0].code == "too_many_lines"
        kept.at_rest()
        assert kept.charged_microusd() == 0
        with pytest.raises(Exception, match=r"413|large"):
            client.files.create(file=("in.jsonl", b"x" * 70_000), purpose="batch")


def test_what_is_another_tenants_does_not_exist(tmp_path: Path) -> None:
    with node(tmp_path) as kept, openai(kept) as mine, openai(kept, "rival") as other:
        file = mine.files.create(file=("in.jsonl", jsonl([row("a")])), purpose="batch")
        with pytest.raises(NotFoundError):
            other.batches.create(input_file_id=file.id, endpoint=CHATS, completion_window="24h")
        batch = ended(mine, begun(mine, [row("a")]))
        for look in (
            lambda: other.batches.retrieve(batch.id),
            lambda: other.batches.cancel(batch.id),
            lambda: other.files.content(batch.output_file_id),
            lambda: other.files.delete(file.id),
            lambda: other.files.retrieve(batch.output_file_id),
        ):
            with pytest.raises(NotFoundError):
                look()
        assert list(other.batches.list()) == []
        assert list(other.files.list(purpose="batch")) == []
        assert mine.files.delete(file.id).deleted


def test_a_cancelled_batch_keeps_what_it_has(tmp_path: Path) -> None:
    with node(tmp_path, BatchLimits(at_once=1)) as kept, openai(kept) as client:
        batch_id = begun(client, [row(f"r{n}", max_tokens=32) for n in range(400)])
        until(lambda: client.batches.retrieve(batch_id).request_counts.completed >= 3)
        assert client.batches.cancel(batch_id).status in ("cancelling", "cancelled")
        batch = ended(client, batch_id)
        assert batch.status == "cancelled"
        done, rest = answers(client, batch.output_file_id), answers(client, batch.error_file_id)
        assert len(done) >= 3
        assert len(done) + len(rest) == 400
        assert rest["r399"]["error"]["code"] == "batch_cancelled"
        with pytest.raises(Exception, match="cannot be cancelled"):
            client.batches.cancel(batch_id)


def test_a_batch_that_expires_keeps_what_it_has(tmp_path: Path) -> None:
    with node(tmp_path, BatchLimits(at_once=1)) as kept, openai(kept) as client:
        service, now_s = kept.server.service, kept.server.service.now_s
        batch_id = begun(client, [row(f"r{n}", max_tokens=32) for n in range(400)])
        until(lambda: client.batches.retrieve(batch_id).request_counts.completed >= 3)
        service.now_s = lambda: now_s() + 90_000
        batch = ended(client, batch_id)
        assert batch.status == "expired"
        assert len(answers(client, batch.output_file_id)) >= 3
        late = answers(client, batch.error_file_id)["r399"]
        assert (late["response"], late["error"]["code"]) == (None, "batch_expired")


def test_files_of_batches_have_a_quota_and_a_purpose(tmp_path: Path) -> None:
    with node(tmp_path, BatchLimits(quota_bytes=2_000)) as kept, openai(kept) as client:
        file = client.files.create(file=("in.jsonl", b"x" * 1_500), purpose="batch")
        assert file.purpose == "batch"
        with pytest.raises(Exception, match="may take 2000 bytes"):
            client.files.create(file=("in.jsonl", b"x" * 1_500), purpose="batch")
        with pytest.raises(BadRequestError):
            client.batches.create(input_file_id=file.id, endpoint="/v1/moderations", completion_window="24h")


def test_a_file_whose_time_is_over_is_gone_and_gives_its_room_back(tmp_path: Path) -> None:
    data, hour = jsonl([row("a")]), 3_600
    with node(tmp_path, BatchLimits(quota_bytes=len(data))) as kept, openai(kept) as client:
        until_then: Any = {"anchor": "created_at", "seconds": hour}
        file = client.files.create(file=("in.jsonl", data), purpose="batch", expires_after=until_then)
        assert file.expires_at == file.created_at + hour
        kept.server.service.now_s = lambda: file.created_at + hour - 1.0
        assert client.files.retrieve(file.id).id == file.id
        kept.server.service.now_s = lambda: file.created_at + hour + 1.0
        with pytest.raises(NotFoundError):
            client.batches.create(input_file_id=file.id, endpoint=CHATS, completion_window="24h")
        assert client.files.list(purpose="batch").data == []
        assert not list((tmp_path / "batches" / "files").iterdir())
        client.files.create(file=("in.jsonl", data), purpose="batch")  # its room is there again


def test_a_server_without_batches_says_so(tmp_path: Path) -> None:
    with keeping(tmp_path) as kept:
        assert error_of(get(kept.server, "/v1/batches", **bearer("acme")))["code"] == "batches_off"
        refused = post(kept.server, "/v1/messages/batches", {"requests": []}, **bearer("acme"))
        assert refused.status_code == 404
        assert get(kept.server, "/v1/batches").status_code == 401


def cut(root: Path, rows: Sequence[Any], after: int) -> str:
    """A server that is cut off: what it has written is there, what it has in hand is not."""
    with node(root, BatchLimits(at_once=2)) as kept, openai(kept) as client:
        batch_id = begun(client, rows)
        until(lambda: client.batches.retrieve(batch_id).request_counts.completed >= after)
    return batch_id


def net_charges(kept: Kept, batch_id: str) -> dict[str, int]:
    found = kept.rows(
        f"SELECT a.agent, {split_sum('u.charge_microusd')} FROM accounts a JOIN usage u ON u.account = a.id "
        f"WHERE a.session = '{batch_id}' GROUP BY a.agent"
    )
    return {agent: join_sum(high, low) for agent, high, low in found}


def test_a_batch_goes_on_after_a_restart_and_each_line_is_charged_once(tmp_path: Path) -> None:
    rows = [row(f"r{n}", f"question {n}", max_tokens=32) for n in range(60)]
    batch_id = cut(tmp_path, rows, 5)
    store = BatchStore(tmp_path / "batches")
    done = [one.number for one in store.every_answer(batch_id) if one.answer]
    assert 5 <= len(done) < 60
    # As if the kill had come between an answer and its charge, and between a charge and its answer.
    store._db.execute("UPDATE lines SET state = 'waiting', answer = NULL WHERE number = ?", (done[0],))
    store.answer(batch_id, 60, 200, "req", json.dumps({"usage": {"cost": 0.5}, "never": "charged"}))
    store._db.execute("UPDATE batches SET status = 'in_progress'")
    store.close()
    with node(tmp_path) as kept, openai(kept) as client:
        batch = ended(client, batch_id)
        assert batch.status == "completed"
        found = answers(client, batch.output_file_id)
        assert set(found) == {f"r{n}" for n in range(60)}
        assert "never" not in found["r59"]["response"]["body"]
        kept.at_rest()
        charged = net_charges(kept, batch_id)
        for number in range(1, 61):
            cost = found[f"r{number - 1}"]["response"]["body"]["usage"]["cost"]
            assert charged[agent_of(batch_id, number)] == round(cost * 1e6), number


def test_lines_that_begin_alike_compute_what_they_share_once(tmp_path: Path) -> None:
    shared = ["".join(f"{n}{w} " for w in range(120)) for n in range(8)]
    rows = [row(f"r{n}", shared[n % 8] + f"question {n}", max_tokens=1) for n in range(40)]
    computed = {}
    for by_prefix in (True, False):
        root = tmp_path / str(by_prefix)
        root.mkdir()
        small = NullConfig(model=MODEL, block_tokens=16, device_blocks=96)  # two or three of them fit
        more = {"config": small, "host_bytes": 1 << 10}
        limits = BatchLimits(at_once=2)
        with node(root, limits, by_prefix=by_prefix, **more) as kept, openai(kept) as client:
            assert ended(client, begun(client, rows)).request_counts.completed == 40
            computed[by_prefix] = kept.driver.snapshot().counters["prompt_tokens_computed"]
    assert computed[True] < computed[False] / 2


@given(st.lists(st.text("abc", max_size=6), min_size=1, max_size=30))
def test_every_line_runs_once_and_families_lie_together(texts: list[str]) -> None:
    lines = [Line(n, str(n), "{}", text * 100) for n, text in enumerate(texts, 1)]
    places = ordered(lines)
    assert sorted(place.number for place in places) == list(range(1, len(texts) + 1))
    assert [place.rank for place in places] == list(range(len(texts)))
    assert places[0].leader
    following = [lines[place.number - 1].begins for place in places]
    assert following == sorted(following)


def test_message_batches_as_anthropics_client_sends_them(tmp_path: Path) -> None:
    with node(tmp_path) as kept:
        transport = httpx2.Client(trust_env=False)
        client = anthropic.Anthropic(
            base_url=kept.server.base_url, api_key="sk-acme", max_retries=0, http_client=transport
        )
        params: Any = {"model": MODEL, "max_tokens": 8, "messages": [{"role": "user", "content": "hi"}]}
        with client:
            made = client.messages.batches.create(
                requests=[
                    {"custom_id": "one", "params": params},
                    {"custom_id": "two", "params": {**params, "max_tokens": -1}},
                ]
            )
            until(lambda: client.messages.batches.retrieve(made.id).processing_status == "ended")
            batch = client.messages.batches.retrieve(made.id)
            assert (batch.request_counts.succeeded, batch.request_counts.errored) == (1, 1)
            found = {one.custom_id: one.result for one in client.messages.batches.results(made.id)}
            assert found["one"].type == "succeeded"
            assert found["one"].message.usage.output_tokens > 0
            assert found["two"].type == "errored"
            assert [one.id for one in client.messages.batches.list()] == [made.id]
            with pytest.raises(anthropic.BadRequestError, match="twice"):
                client.messages.batches.create(requests=[{"custom_id": "a", "params": params}] * 2)
            assert client.messages.batches.delete(made.id).id == made.id
            with pytest.raises(anthropic.NotFoundError):
                client.messages.batches.retrieve(made.id)


def test_a_batch_leaves_room_for_who_waits(tmp_path: Path) -> None:
    with node(tmp_path) as kept, openai(kept) as client:
        batch_id = begun(client, [row(f"r{n}", max_tokens=16) for n in range(60)])
        answer = post(kept.server, CHATS, CHAT, **bearer("rival"))
        assert answer.status_code == 200
        assert ended(client, batch_id).request_counts.completed == 60

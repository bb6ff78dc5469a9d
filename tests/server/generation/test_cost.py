"""``usage.cost``: what a response says is what the books have."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from stepwell.engines.null import NullConfig
from stepwell.ledger.base import LedgerError
from stepwell.policy.types import Caller, Wait
from stepwell.server.generation.cost import cost_of
from stepwell.server.generation.turns import Ask
from tests.ledger.books import PRICES
from tests.server.fakes import MODEL, call, null_node, until
from tests.server.ledgers import WALL_US, Kept, bearer, keeping
from tests.server.wire import CHAT, RESPONSE, ROUTES, TEXT, events, get, http, post

ANSWER = call("f", city="Patan")
CONFIG = NullConfig(model=MODEL, block_tokens=16, device_blocks=64, answer=ANSWER.encode())
FUNCTION = {"name": "f", "parameters": {"type": "object", "properties": {}}}
CHAT_TOOL = {"tools": [{"type": "function", "function": FUNCTION}]}
RESPONSE_TOOL = {"tools": [{"type": "function", **FUNCTION}]}
PARTS = ("input", "cached_input", "cache_write", "output", "intermediate", "storage")
USED = (
    "compute_seconds",
    "device_byte_seconds",
    "host_byte_seconds",
    "disk_byte_seconds",
    "moved_bytes",
    "displaced_seconds",
    "recomputed_tokens",
)


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    with keeping(tmp_path, config=CONFIG) as running:
        yield running


def microusd(usage: dict[str, Any]) -> int:
    """What a usage says, after checking that its parts add up to it."""
    cost: int = round(usage["cost"] * 1e6)
    assert usage["cost"] == cost / 1e6
    details = usage["cost_details"]
    assert round(sum(details[part] for part in (*PARTS, "minimum") if part in details) * 1e6) == cost
    assert all(details[name] >= 0 for name in (*PARTS, *USED))
    return cost


def usage_of(
    kept: Kept, path: str, body: dict[str, Any], key: str = "acme", **headers: str
) -> dict[str, Any]:
    """Ask, whole, streamed or in the background, and give the usage that the client gets to see."""
    if body.get("stream") and path != "/v1/responses":
        body = {**body, "stream_options": {"include_usage": True}}
    answer = post(kept.server, path, body, **bearer(key), **headers)
    assert answer.status_code == 200, answer.text
    if body.get("background"):
        found = _when_over(kept, answer.json()["id"], key)
    elif body.get("stream"):
        last = [event for event in events(answer) if isinstance(event, dict)][-1]
        found = last["response"] if path == "/v1/responses" else last
    else:
        found = answer.json()
    usage = found["usage"]
    assert isinstance(usage, dict), found
    return usage


def _when_over(kept: Kept, response_id: str, key: str) -> Any:
    def look() -> Any:
        return kept.get(f"/v1/responses/{response_id}", key).json()

    until(lambda: look()["status"] == "completed")
    return look()


def mixed() -> Iterator[tuple[str, dict[str, Any], str, dict[str, str]]]:
    """A few dozen requests of every kind: route, body, key, headers."""
    child = {"x-session-id": "child", "x-parent-session-id": "lead"}
    for stream in (False, True):
        for path, plain in ROUTES.items():
            base = {**plain, "stream": stream}
            yield path, base, "acme", {}
            yield path, base | {"service_tier": "priority"}, "acme", {"x-session-id": "lead"}
            yield path, base | {"service_tier": "flex"}, "acme", child
            yield path, base | {"prompt_cache_options": {"ttl": "30m"}}, "rival", {"x-session-id": "kept"}
            yield path, base | {"metadata": {"next": "tool"}}, "acme", {"x-session-id": "says-so"}
        for prewarm in ({"prompt_cache_options": {"prewarm": True, "ttl": "12h"}}, {"generate": False}):
            yield "/v1/chat/completions", CHAT | prewarm, "acme", {"x-session-id": "warm"}
        chat = CHAT | {"stream": stream, "messages": [{"role": "user", "content": "Which way down? " * 9}]}
        for n in (1, 2, 3):
            yield "/v1/chat/completions", chat | {"n": n}, "acme", {"x-session-id": f"n{n}"}
            tool = chat | CHAT_TOOL | {"n": n}
            yield "/v1/chat/completions", tool, "acme", {"x-session-id": f"tools{n}"}
            yield "/v1/chat/completions", tool, "rival", {}
        yield "/v1/chat/completions", chat | CHAT_TOOL, "acme", child
        yield "/v1/chat/completions", chat | CHAT_TOOL | {"metadata": {"next": "person"}}, "acme", {}
        yield "/v1/responses", RESPONSE | RESPONSE_TOOL | {"stream": stream}, "acme", {"x-session-id": "r"}
        several = TEXT | {"prompt": ["one and one", "two and two", "one and one"], "n": 2, "stream": stream}
        yield "/v1/completions", several, "acme", {"x-session-id": "several"}
        yield "/v1/completions", TEXT | {"max_tokens": 3, "stream": stream}, "acme", {}
    yield "/v1/responses", RESPONSE | {"background": True}, "acme", {}
    yield "/v1/responses", RESPONSE | RESPONSE_TOOL | {"background": True}, "acme", {"x-session-id": "bg"}


def test_the_responses_add_up_to_the_books(kept: Kept) -> None:
    shown: dict[str, int] = {}
    for path, body, key, headers in mixed():
        shown[key] = shown.get(key, 0) + microusd(usage_of(kept, path, body, key, **headers))
    _leave_a_stream(kept)
    entered = kept.rows(
        "SELECT a.tenant, SUM(u.charge_microusd) FROM usage u JOIN accounts a ON a.id = u.account "
        "WHERE a.session <> 'gone' GROUP BY a.tenant ORDER BY a.tenant"
    )
    assert dict(entered) == shown
    assert sum(shown.values()) > 0
    assert kept.rows("SELECT COUNT(*) FROM usage WHERE cause = 'correction'")[0][0] > 8
    gone = kept.rows(
        "SELECT SUM(u.charge_microusd) FROM usage u JOIN accounts a ON a.id = u.account "
        "WHERE a.session = 'gone'"
    )[0][0]
    assert costs(kept, "acme") == shown["acme"] + gone
    assert costs(kept, "rival") == shown["rival"]
    assert costs(kept, "operator") == sum(shown.values()) + gone == kept.charged_microusd()


def test_they_add_up_with_preemption_and_eviction_too(tmp_path: Path) -> None:
    """More agents at once than the device holds, each for three turns that continue one another."""
    tight = NullConfig(model=MODEL, block_tokens=16, device_blocks=24, decode_us_per_step=200)

    def live(kept: Kept, number: int) -> int:
        said, spent = f"agent {number}: ", 0
        headers = {"x-session-id": f"s{number % 5}", "x-agent-id": f"a{number}"}
        for turn in range(3):
            said += "and then? " * (number % 4 + turn)
            body = TEXT | {"prompt": said, "max_tokens": 40, "stream": bool(number % 2)}
            tier = {"service_tier": ("default", "priority", "flex")[number % 3]}
            usage = usage_of(kept, "/v1/completions", body | tier, "acme", **headers)
            spent += microusd(usage)
        return spent

    with keeping(tmp_path, config=tight, host_bytes=60_000) as kept, ThreadPoolExecutor(16) as pool:
        shown = sum(pool.map(lambda number: live(kept, number), range(16)))
        assert shown == kept.charged_microusd() == costs(kept, "acme")
        counters = kept.driver.snapshot().counters
        assert counters["preemptions"] > 0
        assert counters["recomputed_tokens"] > 0


def _leave_a_stream(kept: Kept) -> None:
    """A client that goes away has no usage; what it used is charged all the same, or it ended before."""
    body = TEXT | {"stream": True, "max_tokens": 500, "ignore_eos": True}
    headers = bearer("acme") | {"x-session-id": "gone"}
    with (
        http(kept.server) as client,
        client.stream("POST", "/v1/completions", json=body, headers=headers) as s,
    ):
        next(s.iter_lines())
    kept.at_rest()


def costs(kept: Kept, key: str) -> int:
    start_s = WALL_US // 10**6 - 86_400
    page = kept.get(
        f"/v1/organization/costs?start_time={start_s}&end_time={start_s + 3 * 86_400}", key
    ).json()
    amounts: list[float] = [
        result["amount"]["value"] for bucket in page["data"] for result in bucket["results"]
    ]
    return round(sum(amounts) * 1e6)


def test_one_prompt_is_paid_once(kept: Kept) -> None:
    one = usage_of(kept, "/v1/completions", TEXT | {"prompt": "once " * 3}, "acme")
    both = usage_of(kept, "/v1/completions", TEXT | {"prompt": "else " * 3, "n": 2}, "acme")
    assert (
        both["cost_details"]["input"] == one["cost_details"]["input"] == (1 + 15) * 100 / 1e6
    )  # with the token that begins a text
    assert both["cost_details"]["output"] == 2 * one["cost_details"]["output"] > 0
    prompts = ["first prompt", "other prompt"]
    two = usage_of(kept, "/v1/completions", TEXT | {"prompt": prompts, "n": 2}, "acme")
    assert two["cost_details"]["input"] == (2 + sum(map(len, prompts))) * 100 / 1e6


def test_an_answer_for_a_tool_is_charged_as_that(kept: Kept) -> None:
    for path, tool in (("/v1/chat/completions", CHAT_TOOL), ("/v1/responses", RESPONSE_TOOL)):
        for stream in (False, True):
            details = usage_of(kept, path, dict(ROUTES[path]) | {"stream": stream})["cost_details"]
            assert (details["visible"], details["intermediate"]) == (True, 0)
            assert details["output"] > 0
            details = usage_of(kept, path, dict(ROUTES[path]) | tool | {"stream": stream})["cost_details"]
            assert (details["visible"], details["output"]) == (False, 0)
            assert details["intermediate"] > 0
    tokens = "SELECT SUM(visible_tokens), SUM(intermediate_tokens) FROM usage"
    visible, intermediate = kept.rows(tokens)[0]
    usage_of(kept, "/v1/chat/completions", CHAT | CHAT_TOOL | {"n": 2})
    made = 2 * (len(ANSWER) + 1)
    assert kept.rows(tokens) == [(visible, intermediate + made)]


def test_what_a_child_says_is_nobodys_answer(kept: Kept) -> None:
    headers = {"x-session-id": "child", "x-parent-session-id": "lead"}
    details = usage_of(kept, "/v1/chat/completions", CHAT, **headers)["cost_details"]
    assert not details["visible"]
    assert details["intermediate"] > 0 == details["output"]


def test_the_service_tier_decides_the_price(kept: Kept) -> None:
    found = {
        tier: usage_of(kept, "/v1/completions", TEXT | {"prompt": f"{tier:9}", "service_tier": tier})
        for tier in ("default", "priority", "flex")
    }
    assert {usage["cost_details"]["service_tier"] for usage in found.values()} == set(found)
    default = found["default"]["cost"]
    assert (found["priority"]["cost"], found["flex"]["cost"]) == (2 * default, default / 2)


def test_a_time_to_live_is_a_write_and_storage(kept: Kept) -> None:
    body = TEXT | {"prompt": "keep this for me", "prompt_cache_options": {"ttl": "12h"}}
    details = usage_of(kept, "/v1/completions", body)["cost_details"]
    assert details["input"] == 0
    assert details["cache_write"] == 17 * 100 / 1e6
    assert details["storage"] == round((17 + len(ANSWER) + 1) * 12 * 4.5) / 1e6


def test_cached_tokens_are_cheaper_and_a_prewarm_is_paid(kept: Kept) -> None:
    prompt = {"prompt": "x" * 40, "max_tokens": 1}
    warm = usage_of(kept, "/v1/completions", TEXT | prompt | {"generate": False})
    assert (warm["cost_details"]["input"], warm["cost_details"]["output"]) == (41 * 100 / 1e6, 0)
    kept.at_rest()
    usage = usage_of(kept, "/v1/completions", TEXT | prompt)
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    assert cached > 0
    assert usage["cost_details"]["cached_input"] == cached * 10 / 1e6
    assert usage["cost_details"]["input"] == (41 - cached) * 100 / 1e6


def test_a_minimum_is_a_part_of_its_own(tmp_path: Path) -> None:
    prices = "[prices]\ninput = 1\noutput = 1\nminimum_per_request = 0.01\n" + "".join(
        f"[service_tiers.{name}]\nmultiplier = 1\n" for name in ("priority", "flex")
    )
    with keeping(tmp_path, config=CONFIG, prices=prices) as kept:
        usage = usage_of(kept, "/v1/completions", TEXT)
        assert usage["cost"] == 0.01
        assert usage["cost_details"]["minimum"] > 0.009
        assert kept.charged_microusd() == 10_000


def test_what_was_used_is_shown_and_what_it_cost_the_operator_is_not(kept: Kept) -> None:
    details = usage_of(kept, "/v1/completions", TEXT | {"prompt": "y" * 100})["cost_details"]
    assert set(details) == {*PARTS, *USED, "service_tier", "visible"}
    assert details["compute_seconds"] > 0 < details["device_byte_seconds"]


def test_choices_that_end_together_do_not_count_the_same_room_twice(kept: Kept) -> None:
    body = CHAT | {"n": 8, "max_tokens": 20}
    details = usage_of(kept, "/v1/chat/completions", body, **{"x-session-id": "n"})["cost_details"]
    entered = kept.rows(
        "SELECT SUM(p.amount) FROM postings p JOIN accounts a ON a.id = p.credit "
        "WHERE a.session = 'n' AND p.resource = 'device_byte_us' AND p.request <> 0"
    )[0][0]
    assert 0 < details["device_byte_seconds"] * 1e6 <= entered


def test_without_a_ledger_nothing_is_said() -> None:
    with null_node() as server:
        for path, body in ROUTES.items():
            usage = post(server, path, body).json()["usage"]
            assert not {"cost", "cost_details"} & set(usage)
        assert get(server, "/health").json() == {"status": "ok"}
        assert "microusd" not in get(server, "/metrics").text
        for path in ("/v1/sessions", "/v1/sessions/x", "/admin/budgets"):
            assert get(server, path).json()["error"]["code"] == "ledger_off"
    ask = Ask(None, (), 1, 1, 1, Caller("t"))  # type: ignore[arg-type]
    assert cost_of(None, ask, [], 1, Wait.PERSON) == {}


def test_who_used_what_key_is_in_the_books_and_the_key_is_not(kept: Kept) -> None:
    usage_of(kept, "/v1/completions", TEXT)
    (name,) = kept.rows("SELECT DISTINCT key FROM accounts WHERE tenant = 'acme' AND kind = 'agent'")[0]
    assert name == kept.server.service.keys.find("Bearer sk-acme").id
    assert name.startswith("key_")
    assert "sk-acme" not in json.dumps(kept.rows("SELECT * FROM accounts"))


# --- what operators watch ----------------------------------------------------------------------


def metric(kept: Kept, name: str) -> dict[str, float]:
    """The samples of a metric by what stands in its braces."""
    lines = [line for line in kept.get("/metrics").text.splitlines() if line.startswith(name)]
    found = (line.removeprefix(name).rpartition(" ") for line in lines)
    return {labels.strip("{}"): float(value) for labels, _, value in found}


def test_metrics_of_the_ledger(kept: Kept) -> None:
    usage_of(kept, "/v1/chat/completions", CHAT | {"service_tier": "priority"})
    usage_of(kept, "/v1/chat/completions", CHAT | CHAT_TOOL)
    charged = kept.charged_microusd()
    taken = metric(kept, "stepwell_revenue_microusd_total")
    back = metric(kept, "stepwell_revenue_returned_microusd_total")
    assert set(taken) == {'service_tier="priority"', 'service_tier="default"'}
    assert set(back) == {'service_tier="default"'}
    assert sum(taken.values()) - sum(back.values()) == charged
    cost = metric(kept, "stepwell_cost_microusd_total")
    for tier in ("priority", "default", "idle", "overhead"):
        assert cost[f'resource="compute",service_tier="{tier}"'] > 0
    assert metric(kept, "stepwell_ledger_backlog_postings") == {"": 0}
    assert metric(kept, "stepwell_ledger_failing") == {"": 0}
    text = kept.get("/metrics").text
    assert "acme" not in text


def test_the_cost_metric_is_what_the_books_say(kept: Kept) -> None:
    usage_of(kept, "/v1/chat/completions", CHAT)
    kept.at_rest()
    sums = kept.ledger.keeper.sums.used.copy()
    assert kept.ledger.writer.flush()
    entered = kept.ledger.store.rows(
        "SELECT p.resource, SUM(p.amount) FROM postings p JOIN accounts a ON a.id = p.credit "
        "WHERE a.service_tier = 'default' AND p.resource = 'compute_us' GROUP BY p.resource"
    )
    counted = {r.value: n for (r, tier), n in sums.items() if tier == "default" and r.value == "compute_us"}
    assert dict(entered) == counted


def test_a_store_that_cannot_be_read_is_a_503(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise LedgerError("/srv/books.db is gone")

    usage_of(kept, "/v1/chat/completions", CHAT, **{"x-session-id": "s"})
    with monkeypatch.context() as patch:
        patch.setattr(type(kept.ledger.store), "rows", fail)
        answer = kept.get("/v1/sessions/s", "acme")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "ledger_unavailable")
    assert "/srv" not in answer.text


def test_a_price_book_that_counts_apart_shows_the_cached_tokens_apart(tmp_path: Path) -> None:
    with keeping(tmp_path, prices='counting = "anthropic"\n' + PRICES) as kept:
        for _ in range(2):
            answer = post(
                kept.server, "/v1/completions", TEXT | {"prompt": "p" * 99}, **bearer("acme")
            ).json()
    usage = answer["usage"]
    apart = usage["cost_details"]["counted"]
    assert apart["cache_read_input_tokens"] == usage["prompt_tokens_details"]["cached_tokens"] > 0
    assert apart["input_tokens"] + apart["cache_read_input_tokens"] == usage["prompt_tokens"]
    assert apart["output_tokens"] == usage["completion_tokens"]

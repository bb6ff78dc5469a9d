"""Room for an agent's KV is paid with a turn: a hint between turns buys none, where room has a price."""

from __future__ import annotations

from pathlib import Path

import pytest

from stepwell.ledger.pricing.bills import Bills
from stepwell.ledger.pricing.prices import parse_price_book
from tests.server.ledgers import bearer, keeping
from tests.server.wire import TEXT, post

FREE = """
[prices]
input = 100
output = 400
[service_tiers.priority]
multiplier = 2
[service_tiers.flex]
multiplier = 0.5
"""


@pytest.mark.parametrize(
    ("paid", "asked", "kept_s"),
    [
        (None, "24h", None),
        ("5m", "24h", 300.0),
        ("5m", "1m", 60.0),
        ("24h", "5m", 300.0),
    ],
)
def test_a_hint_keeps_no_longer_than_the_turn_has_paid_for(
    tmp_path: Path, paid: str | None, asked: str, kept_s: float | None
) -> None:
    bought = {} if paid is None else {"cache_control": {"type": "ephemeral", "ttl": paid}}
    with keeping(tmp_path) as kept:
        who = {**bearer("acme"), "x-agent-id": "a"}
        assert (
            post(kept.server, "/v1/completions", {**TEXT, "max_tokens": 2, **bought}, **who).status_code
            == 200
        )
        kept.at_rest()
        before = kept.charged_microusd()
        hint = {"agent_hint": {"next": "tool", "cache_control": {"ttl": asked}}}
        said = post(kept.server, "/v1/agents/a/hint", hint, **bearer("acme")).json()
        assert said["retain_s"] == kept_s
        assert kept.charged_microusd() == before


def test_where_room_costs_nothing_a_hint_may_ask_for_it(tmp_path: Path) -> None:
    with keeping(tmp_path, prices=FREE) as kept:
        who = {**bearer("acme"), "x-agent-id": "a"}
        post(kept.server, "/v1/completions", {**TEXT, "max_tokens": 2}, **who)
        kept.at_rest()
        hint = {"agent_hint": {"next": "tool", "cache_control": {"ttl": "24h"}}}
        assert post(kept.server, "/v1/agents/a/hint", hint, **bearer("acme")).json()["retain_s"] == 86_400.0


def test_what_one_model_or_adapter_sells_is_sold_whatever_the_others_do() -> None:
    kept = '[models."%s".prices]\ninput = 1\noutput = 1\nstorage_per_token_hour = 4.5\n'
    for named, sold in (("null", True), ("null:poet", True), ("other", False), ("nullable:poet", False)):
        bills = Bills(parse_price_book(FREE + kept % named, "the test"), "null")
        assert bills.sells_retention("default") is sold, named
        assert bills.sells_retention("a tier of nobody") is sold, named


def test_a_hint_buys_no_time_for_a_context_that_a_turn_without_one_has_made(tmp_path: Path) -> None:
    day = {"cache_control": {"type": "ephemeral", "ttl": "24h"}}
    with keeping(tmp_path) as kept:
        who = {**bearer("acme"), "x-agent-id": "a"}
        post(kept.server, "/v1/completions", {**TEXT, "max_tokens": 1, **day}, **who)
        post(kept.server, "/v1/completions", {**TEXT, "prompt": "hi " * 40, "max_tokens": 1}, **who)
        kept.at_rest()
        hint = {"agent_hint": {"next": "tool", "cache_control": {"ttl": "24h"}}}
        assert post(kept.server, "/v1/agents/a/hint", hint, **bearer("acme")).json()["retain_s"] is None
        kept.at_rest()
        assert kept.get("/v1/agents/a", "acme").json()["declared"]["retain_s"] is None

"""Costs and budgets as the openai package shows them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stepwell.ledger.types import Budget, Scope
from tests.server.fakes import MODEL
from tests.server.ledgers import Kept, keeping
from tests.server.wire import http

openai = pytest.importorskip("openai")

USER = [{"role": "user", "content": "What is a stepwell?"}]
SESSION = {"X-Session-ID": "run", "X-Agent-ID": "planner"}


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    with keeping(tmp_path, budgets=[Budget(Scope.TENANT, "rival", "", None, 0)]) as running:
        yield running


def client(kept: Kept, key: str = "acme") -> Any:
    """As everybody uses it: with its two retries."""
    return openai.OpenAI(base_url=kept.server.base_url + "/v1", api_key=f"sk-{key}")


def arrived(kept: Kept, route: str) -> dict[str, int]:
    """How many requests came to a route, by status."""
    lines = kept.get("/metrics").text.splitlines()
    start = 'stepwell_requests_total{code="'
    found = [line.removeprefix(start).split('"', 1)[0:2] for line in lines if line.startswith(start)]
    counts = [(code, rest) for code, rest in found if f'route="{route}"' in rest]
    return {code: int(float(rest.rpartition(" ")[2])) for code, rest in counts}


def test_an_answer_says_what_it_cost(kept: Kept) -> None:
    with client(kept) as api:
        chat = api.chat.completions.create(model=MODEL, messages=USER, max_tokens=8)
        stream = api.chat.completions.create(
            model=MODEL, messages=USER, max_tokens=8, stream=True, stream_options={"include_usage": True}
        )
        last = list(stream)[-1]
        response = api.responses.create(model=MODEL, input="hi", max_output_tokens=8)
        text = api.completions.create(model=MODEL, prompt="hi", max_tokens=8)
    usages = [answer.usage.model_extra for answer in (chat, last, response, text)]
    assert all(usage["cost"] > 0 and usage["cost_details"]["visible"] for usage in usages)
    assert round(sum(usage["cost"] for usage in usages) * 1e6) == kept.charged_microusd()


def test_without_include_usage_a_stream_says_nothing(kept: Kept) -> None:
    with client(kept) as api:
        chunks = list(api.chat.completions.create(model=MODEL, messages=USER, max_tokens=8, stream=True))
    assert all(chunk.usage is None for chunk in chunks)


@pytest.mark.parametrize("stream", [False, True])
def test_a_spent_customer_is_told_at_once_and_once(kept: Kept, stream: bool) -> None:
    with client(kept, "rival") as api, pytest.raises(openai.RateLimitError) as refused:
        api.chat.completions.create(model=MODEL, messages=USER, stream=stream)
    assert (refused.value.code, refused.value.type) == ("insufficient_quota", "insufficient_quota")
    assert arrived(kept, "/v1/chat/completions") == {"429": 1}


def test_a_spent_session_is_told_once_and_goes_on_when_raised(kept: Kept) -> None:
    with client(kept) as api:
        api.responses.create(model=MODEL, input="hi", max_output_tokens=8, extra_headers=SESSION)
        kept.at_rest()
        session = api.post("/sessions/run", body={"spend_control": {"limit": 0}}, cast_to=dict[str, Any])
        assert session["status"] == "budget_reached"
        for background in (False, True):
            with pytest.raises(openai.RateLimitError) as refused:
                api.responses.create(
                    model=MODEL, input="hi", max_output_tokens=8, extra_headers=SESSION, background=background
                )
            assert refused.value.code == "session_budget_exceeded"
        assert arrived(kept, "/v1/responses") == {"200": 1, "429": 2}
        api.post("/sessions/run", body={"spend_control": {"limit": 100}}, cast_to=dict[str, Any])
        again = api.responses.create(model=MODEL, input="hi", max_output_tokens=8, extra_headers=SESSION)
    assert again.usage.input_tokens_details.cached_tokens > 0


def test_spend_control_reads_as_the_types_have_it(kept: Kept) -> None:
    """The beta types of server-hosted sessions, whose words ``/v1/sessions`` uses."""
    beta = pytest.importorskip("openai.types.beta.agent_session")
    with client(kept) as api:
        api.chat.completions.create(model=MODEL, messages=USER, max_tokens=8, extra_headers=SESSION)
        kept.at_rest()
        api.post("/sessions/run", body={"spend_control": {"limit": 250}}, cast_to=dict[str, Any])
        found = api.get("/sessions/run", cast_to=dict[str, Any])
    control = beta.SpendControl.construct(**found["spend_control"])
    assert control.limit == 250
    assert control.consumed == pytest.approx(found["consumed_usd"] * 100)


def test_an_unwritten_ledger_is_worth_a_retry(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unlike a spent budget: the client waits and comes back by itself."""
    keeper = type(kept.ledger.keeper)
    said = iter([True, False])
    monkeypatch.setattr(keeper, "refuses", property(lambda self: next(said, False)))
    with client(kept) as api:
        api.chat.completions.create(model=MODEL, messages=USER, max_tokens=8)
    assert arrived(kept, "/v1/chat/completions") == {"503": 1, "200": 1}


def test_health_without_a_key(kept: Kept) -> None:
    with http(kept.server) as anyone:
        assert anyone.get("/health").json() == {"status": "ok", "ledger": "ok"}

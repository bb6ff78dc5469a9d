"""Hints as the unmodified openai package sends them."""

from __future__ import annotations

from typing import Any

import pytest

from stepwell.policy.types import Hint, Wait
from tests.server.fakes import MODEL, FakeDriver, null_node, says, serving

openai = pytest.importorskip("openai")

USER = [{"role": "user", "content": "What is a stepwell?"}]
MINUTE_US = 60_000_000


def client(base_url: str, **options: Any) -> Any:
    return openai.OpenAI(base_url=base_url + "/v1", api_key="none", max_retries=0, **options)


def test_fields_that_the_sdk_has_and_fields_that_it_passes_on() -> None:
    part = {"type": "text", "text": "x", "prompt_cache_breakpoint": {"mode": "explicit", "ttl": "12h"}}
    hint = {"next": "agent", "after_agent": "reader", "expected_ms": 250}
    with serving(driver := FakeDriver(says("x"))) as server, client(server.base_url) as api:
        create, respond = api.chat.completions.create, api.responses.create
        create(model=MODEL, messages=USER, prompt_cache_options={"mode": "explicit", "ttl": "30m"})
        create(model=MODEL, messages=USER, prompt_cache_retention="24h", metadata={"next": "person"})
        create(model=MODEL, messages=[{"role": "user", "content": [part]}])
        create(model=MODEL, messages=USER, extra_body={"agent_hint": hint})
        create(model=MODEL, messages=USER, extra_headers={"X-Session-Final": "true"})
        respond(model=MODEL, input="hi", prompt_cache_options={"ttl": "12h"}, metadata={"expected_ms": "40"})
        api.completions.create(
            model=MODEL, prompt="hi", extra_headers={"X-Agent-Next": "tool; expected_ms=9000"}
        )
    assert [generation.hint for generation in driver.submitted] == [
        Hint(retain_us=30 * MINUTE_US),
        Hint(Wait.PERSON, retain_us=24 * 60 * MINUTE_US),
        Hint(retain_us=12 * 60 * MINUTE_US),
        Hint(Wait.AGENT, 250_000, "reader"),
        Hint(Wait.DONE),
        Hint(Wait.UNKNOWN, 40_000, None, 12 * 60 * MINUTE_US),
        Hint(Wait.TOOL, 9_000_000),
    ]


def test_prewarming_through_the_sdk() -> None:
    with null_node() as server, client(server.base_url) as api:
        warmed = api.responses.create(model=MODEL, input="hi", prompt_cache_options={"prewarm": True})
        asked = {"model": MODEL, "input": "more", "max_output_tokens": 4, "previous_response_id": warmed.id}
        answer = api.responses.create(**asked)
    assert (warmed.status, warmed.output, warmed.output_text) == ("completed", [], "")
    assert warmed.usage.output_tokens == 0
    assert answer.usage.output_tokens > 0


def test_agents_and_limits_through_the_sdks_raw_calls() -> None:
    with null_node() as server, client(server.base_url) as api:
        raw = api.chat.completions.with_raw_response.create(
            model=MODEL, messages=USER, max_tokens=4, extra_headers={"X-Session-ID": "a"}
        )
        agent = api.get("/agents/a", cast_to=object)
        hint = api.post("/agents/a/hint", body={"next": "done"}, cast_to=object)
        with pytest.raises(openai.NotFoundError):
            api.get("/agents/b", cast_to=object)
    assert (
        int(raw.headers["x-ratelimit-remaining-requests"])
        == int(raw.headers["x-ratelimit-limit-requests"]) - 1
    )
    assert (agent["id"], agent["object"]) == ("a", "agent")
    assert (hint["next"], hint["object"]) == ("done", "agent.hint")

"""What operators look at."""

from __future__ import annotations

import re
from dataclasses import replace

from prometheus_client.parser import text_string_to_metric_families

from stepwell.engines.null import END_TOKEN, NullConfig
from tests.server.fakes import MODEL, FakeDriver, null_node, says, serving
from tests.server.wire import CHAT, get, post


def samples(text: str) -> dict[str, float]:
    """Every sample as ``name{a="b",...}``."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f'{k}="{v}"' for k, v in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


def test_metrics_of_a_fake_snapshot() -> None:
    with serving(FakeDriver(says("x"))) as server:
        found = samples(get(server, "/metrics").text)
    assert found['stepwell_kv_bytes{kv_tier="host"}'] == 10
    assert found['stepwell_kv_limit_bytes{kv_tier="disk"}'] == 100
    assert found['stepwell_kv_evictions_total{from="device",to="host"}'] == 4
    assert found["stepwell_preemptions_total{}"] == 1
    assert found['stepwell_agents{state="idle"}'] == 1
    assert found['stepwell_agents{state="running"}'] == 0
    assert found['stepwell_prompt_tokens_total{source="host"}'] == 2
    assert found["stepwell_generation_tokens_total{}"] == 3


def test_metrics_of_a_real_driver() -> None:
    config = NullConfig(model=MODEL, block_tokens=16, device_blocks=64, answer=b"abc")
    with null_node(config) as server:
        for _ in range(2):
            post(
                server, "/v1/chat/completions", CHAT | {"service_tier": "flex"}, **{"x-session-id": "agent-7"}
            )
        post(server, "/v1/chat/completions", CHAT | {"model": "nope"})
        get(server, "/v1/models/secret-model")
        get(server, "/scan/for/holes")
        text = get(server, "/metrics").text
    found = samples(text)
    assert found['stepwell_requests_total{code="200",route="/v1/chat/completions"}'] == 2
    assert found['stepwell_requests_total{code="404",route="/v1/chat/completions"}'] == 1
    assert found['stepwell_requests_total{code="404",route="/v1/models/{model:path}"}'] == 1
    assert found['stepwell_requests_total{code="404",route="other"}'] == 1
    for name in ("queue", "ttft", "tpot", "e2e"):
        assert found[f'stepwell_{name}_seconds_count{{service_tier="flex"}}'] == 2
    assert found["stepwell_generation_tokens_total{}"] > 0
    assert found['stepwell_prompt_tokens_total{source="device"}'] == 16
    assert not re.search(r"agent-7|secret-model|holes", text)


def test_admin_views() -> None:
    with null_node() as server:
        post(server, "/v1/chat/completions", CHAT | {"max_tokens": 2}, **{"x-session-id": "agent-7"})
        (agent,) = get(server, "/admin/agents").json()["agents"]
        snapshot = get(server, "/admin/snapshot").json()
    assert (agent["agent"], agent["state"], agent["service_tier"]) == ("agent-7", "idle", "default")
    assert set(agent["kv_tokens"]) == set(snapshot["usage"]) == {"device", "host", "disk"}
    assert snapshot["counters"]["requests_finished"] == 1


def test_home_says_what_this_is() -> None:
    with serving(FakeDriver(says("x"))) as server:
        answer = get(server, "/")
    assert "Stepwell" in answer.text
    assert server.base_url + "/v1" in answer.text
    assert answer.headers["content-type"].startswith("text/plain")


def test_adapters_are_models_of_their_own_that_share_a_root() -> None:
    driver = FakeDriver(says("x"))
    driver.info = replace(driver.info, adapters=(("red", "1"), ("blue", "2")))
    with serving(driver) as server:
        listed = get(server, "/v1/models").json()["data"]
        assert [one["id"] for one in listed] == [MODEL, f"{MODEL}:blue", f"{MODEL}:red"]
        assert [one.get("parent") for one in listed] == [None, MODEL, MODEL]
        for name, adapter in ((f"{MODEL}:red", "red"), (MODEL, "")):
            assert post(server, "/v1/chat/completions", CHAT | {"model": name}).json()["model"] == name
            assert driver.submitted[-1].sampling.adapter == adapter
        wrong = post(server, "/v1/chat/completions", CHAT | {"model": f"{MODEL}:green"})
        assert wrong.status_code == 400
        said = wrong.json()["error"]
        assert (
            said["param"] == "model" and "has no adapter `green`: there is `red`, `blue`" in said["message"]
        )


def test_models_have_aliases() -> None:
    from stepwell.server.settings import ServerSettings

    settings = ServerSettings(port=0, model_aliases=("gpt-4o", "a/b"))
    with serving(FakeDriver(says("x")), settings=settings) as server:
        listed = get(server, "/v1/models").json()["data"]
        assert [model["id"] for model in listed] == ["a/b", "gpt-4o", MODEL]
        assert get(server, "/v1/models/a/b").json()["context_window"] == 4_096
        assert len({one["root"] for one in get(server, "/v1/models").json()["data"]}) == 1
        assert get(server, "/v1/models/a/b").json()["end_token_ids"] == [END_TOKEN]
        assert post(server, "/v1/chat/completions", CHAT | {"model": "a/b"}).json()["model"] == "a/b"

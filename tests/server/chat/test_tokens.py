"""``/tokenize``, ``/detokenize``, the fingerprint, ``HEAD /`` and pages of other origins."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.server.callers.keys import KeyEntry, KeyRing
from stepwell.server.settings import ServerSettings
from tests.server.fakes import INFO, MODEL, FakeDriver, FakeText, null_node, says, serving
from tests.server.wire import CHAT, TEXT, error_of, get, http, post


def test_what_a_prompt_comes_to_is_what_usage_says() -> None:
    with null_node() as server:
        counted = post(server, "/tokenize", {"model": MODEL, "messages": CHAT["messages"]}).json()
        usage = post(server, "/v1/chat/completions", {**CHAT, "max_tokens": 1}).json()["usage"]
        assert counted["count"] == len(counted["tokens"]) == usage["prompt_tokens"]
        assert counted["max_model_len"] > 0
        text = post(server, "/tokenize", {"prompt": "well", "return_token_strs": True}).json()
        assert "".join(text["token_strs"]).endswith("well")
        assert post(server, "/tokenize", {"content": "well"}).json()["tokens"] == text["tokens"]
        plain = post(server, "/tokenize", {"prompt": "well", "add_special_tokens": False}).json()
        assert plain["count"] <= text["count"]
        both = post(server, "/detokenize", {"tokens": plain["tokens"]}).json()
        assert both == {"prompt": "well", "content": "well"}


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": 7}, "prompt"),
        ("/tokenize", {"model": "other", "prompt": "x"}, "model"),
        ("/tokenize", {"messages": []}, "messages"),
        ("/detokenize", {"tokens": [10**9]}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens[0]"),
        ("/detokenize", {}, "tokens"),
    ],
)
def test_bad_input_names_its_field(path: str, body: Any, param: str) -> None:
    with serving(FakeDriver(says("x")), FakeText(INFO)) as server:
        answer = post(server, path, body)
        assert answer.status_code in (400, 404)
        assert error_of(answer)["param"] == param


@given(st.text(max_size=60))
def test_text_comes_back(text: str) -> None:
    model = FakeText(INFO)
    tokens = model.tokenize(text, add_bos=False, parse_special=False)
    assert b"".join(map(model.token_bytes, tokens)) == text.encode("utf-8", "surrogatepass")


def test_keys_are_needed_here_too() -> None:
    ring = KeyRing([KeyEntry(tenant="acme", key="sk-acme")])
    with serving(FakeDriver(says("x")), keys=ring) as server:
        assert post(server, "/tokenize", {"prompt": "x"}).status_code == 401


def test_answers_say_what_they_depend_on() -> None:
    with null_node() as one, null_node() as two:
        prints = {
            post(server, path, body).json()["system_fingerprint"]
            for server in (one, two)
            for path, body in (("/v1/chat/completions", CHAT), ("/v1/completions", TEXT))
        }
        assert len(prints) == 1
        assert prints.pop().startswith("fp_")


def test_head_of_the_root_is_answered() -> None:
    with null_node() as server, http(server) as client:
        answer = client.head("/")
        assert (answer.status_code, answer.content) == (200, b"")


def test_pages_of_named_origins_may_ask_and_no_others() -> None:
    ring = KeyRing([KeyEntry(tenant="acme", key="sk-acme")])
    settings = ServerSettings(port=0, drain_s=5.0, cors_origins=("https://app.example",))
    asks = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    with serving(FakeDriver(says("x")), FakeText(INFO), settings, ring) as server, http(server) as client:
        named = client.options("/v1/chat/completions", headers={"origin": "https://app.example", **asks})
        assert named.headers["access-control-allow-origin"] == "https://app.example"
        assert "access-control-allow-credentials" not in named.headers
        assert "x-stepwell-page" not in named.headers["access-control-allow-headers"].lower()
        other = client.options("/v1/chat/completions", headers={"origin": "https://evil.example", **asks})
        assert "access-control-allow-origin" not in other.headers
        key = {"authorization": "Bearer sk-acme"}
        answer = get(server, "/v1/models", origin="https://app.example", **key)
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
    with null_node() as server:
        assert "access-control-allow-origin" not in get(server, "/v1/models").headers

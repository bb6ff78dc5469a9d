"""The unmodified ``google-genai`` package against ``cachedContents`` and ``generateContent``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("google.genai")

from google import genai
from google.genai import errors, types

from stepwell.engines.null import NullConfig
from stepwell.server.run import BackgroundServer
from tests.server.fakes import MODEL, FakeDriver, null_node, says, serving
from tests.server.ledgers import bearer, keeping
from tests.server.wire import get, post

CONFIG = NullConfig(model=MODEL, block_tokens=16, device_blocks=512, context_tokens=4_096)
BOOK = "The steps go down to the water. " * 20


@contextmanager
def client(server: BackgroundServer, key: str = "none") -> Iterator[genai.Client]:
    options = types.HttpOptions(base_url=server.base_url, client_args={"trust_env": False})
    one = genai.Client(api_key=key, http_options=options)
    try:
        yield one
    finally:
        one.close()


def cached(one: genai.Client, ttl: str = "3600s", **more: Any) -> types.CachedContent:
    config = types.CreateCachedContentConfig(
        contents=[BOOK], system_instruction="Answer from the book.", ttl=ttl, display_name="a book", **more
    )
    return one.caches.create(model=MODEL, config=config)


def ask(one: genai.Client, words: str, **config: Any) -> types.GenerateContentResponse:
    wanted = types.GenerateContentConfig(max_output_tokens=4, **config)
    return one.models.generate_content(model=MODEL, contents=words, config=wanted)


def test_what_is_cached_is_found_by_the_first_that_names_it() -> None:
    with null_node(CONFIG) as server, client(server) as one:
        content = cached(one)
        assert content.name and content.usage_metadata
        held = content.usage_metadata.total_token_count or 0
        assert held > len(BOOK)
        said = ask(one, "Where do they go?", cached_content=content.name)
        assert said.usage_metadata
        assert (said.usage_metadata.cached_content_token_count or 0) >= held - 16  # whole units
        assert (said.usage_metadata.prompt_token_count or 0) > held
        agent = get(server, f"/v1/agents/cache/{content.name.removeprefix('cachedContents/')}").json()
        assert agent["declared"]["retain_s"] == 3_600


def test_the_life_of_a_cached_content() -> None:
    with null_node(CONFIG) as server, client(server) as one:
        first, second = cached(one), cached(one, ttl="60s")
        assert first.name and second.name
        assert [found.name for found in one.caches.list()] == [second.name, first.name]
        longer = one.caches.update(name=second.name, config=types.UpdateCachedContentConfig(ttl="7200s"))
        assert longer.expire_time and second.expire_time
        assert (longer.expire_time - second.expire_time).total_seconds() > 7_000
        one.caches.delete(name=first.name)
        assert [found.name for found in one.caches.list()] == [second.name]
        with pytest.raises(errors.ClientError, match="may have expired") as told:
            ask(one, "hi", cached_content=first.name)
        assert (told.value.code, told.value.status) == (404, "NOT_FOUND")
        server.service.now_s = lambda: 4e9  # years later
        assert list(one.caches.list()) == []
        with pytest.raises(errors.ClientError):
            one.caches.get(name=second.name)


def test_an_answer_whole_and_streamed() -> None:
    with serving(FakeDriver(says("Down."), cached=(3, 0, 0))) as server, client(server) as one:
        whole = ask(one, "hi", temperature=0.5, stop_sequences=["!"])
        pieces = list(one.models.generate_content_stream(model=MODEL, contents="hi"))
        driver: Any = server.service.driver
    assert whole.text == "Down" and whole.candidates  # four tokens, one a byte
    assert whole.candidates[0].finish_reason == types.FinishReason.MAX_TOKENS
    assert "".join(piece.text or "" for piece in pieces) == "Down."
    last = pieces[-1]
    assert last.candidates and last.usage_metadata
    assert last.candidates[0].finish_reason == types.FinishReason.STOP
    assert last.usage_metadata.cached_content_token_count == 3
    assert driver.prompts[0] == driver.prompts[1]
    assert driver.submitted[0].stop[0] == "!"


def test_a_conversation_is_rendered_as_a_chat() -> None:
    with serving(FakeDriver(says("ok"))) as server, client(server) as one:
        chat = one.chats.create(
            model=MODEL, config=types.GenerateContentConfig(system_instruction="Be brief.")
        )
        chat.send_message("one")
        chat.send_message("two")
        driver: Any = server.service.driver
    prompt = driver.prompts[1]
    assert "system: Be brief." in prompt
    assert prompt.index("user: one") < prompt.index("assistant: ok") < prompt.index("user: two")


def test_json_under_a_schema() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    with serving(FakeDriver(says('{"a": 1}'), enforces=True)) as server, client(server) as one:
        wanted = types.GenerateContentConfig(
            response_mime_type="application/json", response_json_schema=schema
        )
        answer = one.models.generate_content(model=MODEL, contents="hi", config=wanted)
        driver: Any = server.service.driver
    assert answer.text == '{"a": 1}'
    assert driver.submitted[0].sampling.json_schema is not None


def test_tenants_do_not_see_each_other_and_keys_count(tmp_path: Path) -> None:
    with keeping(tmp_path, config=CONFIG) as kept:
        with client(kept.server, "sk-acme") as acme, client(kept.server, "sk-rival") as rival:
            content = cached(acme)
            assert content.name
            assert list(rival.caches.list()) == []
            with pytest.raises(errors.ClientError):
                rival.caches.get(name=content.name)
            with pytest.raises(errors.ClientError):
                ask(rival, "hi", cached_content=content.name)
        with client(kept.server, "sk-nobody") as stranger, pytest.raises(errors.ClientError) as told:
            cached(stranger)
        assert (told.value.code, told.value.status) == (401, "UNAUTHENTICATED")
        kept.at_rest()
        assert kept.charged_microusd() > 0
        assert get(kept.server, "/v1/agents", **bearer("rival")).json()["data"] == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ttl": "soon"}, "ttl"),
        ({"expireTime": "2001-01-01T00:00:00Z"}, "has passed"),
        ({"expireTime": "later"}, "expireTime"),
        ({"model": "models/other"}, "does not exist"),
        ({"contents": []}, "contents"),
        ({"contents": [{"role": "tool", "parts": []}]}, "role"),
        ({"contents": [{"parts": [{"inlineData": {"mimeType": "image/png"}}]}]}, "inlineData"),
        ({"contents": [{"parts": "x"}]}, "parts"),
        ({"tools": [{"functionDeclarations": []}]}, "tools"),
    ],
)
def test_what_cannot_be_is_said_in_googles_shape(change: dict[str, Any], words: str) -> None:
    body = {"model": f"models/{MODEL}", "contents": [{"role": "user", "parts": [{"text": "hi"}]}], **change}
    with serving(FakeDriver(says("ok"))) as server:
        answer = post(server, "/v1beta/cachedContents", body)
    error = answer.json()["error"]
    assert set(error) == {"code", "message", "status"}
    assert error["code"] == answer.status_code and answer.status_code in (400, 404)
    assert words in error["message"]

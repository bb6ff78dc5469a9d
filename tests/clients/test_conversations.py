"""Conversations, with the openai package, unmodified, as the judge of our wire format."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from stepwell.engines.null import NullConfig
from stepwell.loop.requests import Rejected
from stepwell.server.callers.keys import KeyEntry, KeyRing
from stepwell.server.settings import ServerSettings
from tests.server.fakes import HOLD, MODEL, FakeDriver, call, null_node, says, serving

openai = pytest.importorskip("openai")


def client(base_url: str, **options: Any) -> Any:
    return openai.OpenAI(base_url=base_url + "/v1", **{"api_key": "none", "max_retries": 0, **options})


def user(text: str) -> dict[str, Any]:
    return {"type": "message", "role": "user", "content": text}


def texts(api: Any, conversation: str) -> list[str]:
    """What its messages say, oldest first."""
    return [item.content[0].text for item in api.conversations.items.list(conversation, order="asc")]


def test_the_life_of_a_conversation() -> None:
    with serving(FakeDriver(says("x"))) as server, client(server.base_url) as api:
        empty = api.conversations.create()
        made = api.conversations.create(items=[user("one"), user("two")], metadata={"topic": "wells"})
        assert api.conversations.retrieve(made.id) == made
        assert (made.object, made.metadata, empty.metadata) == ("conversation", {"topic": "wells"}, {})
        assert api.conversations.update(made.id, metadata={"topic": "steps"}).metadata == {"topic": "steps"}
        added = api.conversations.items.create(made.id, items=[user("three")])
        newest = api.conversations.items.list(made.id, limit=1)
        assert newest.data[0].id == added.first_id == added.last_id and newest.has_more
        assert [item.content[0].text for item in newest] == ["three", "two", "one"], "page by page"
        assert api.conversations.items.retrieve(added.first_id, conversation_id=made.id) == added.data[0]
        assert api.conversations.items.delete(added.first_id, conversation_id=made.id).id == made.id
        assert texts(api, made.id) == ["one", "two"] and texts(api, empty.id) == []
        with pytest.raises(openai.NotFoundError):
            api.conversations.items.retrieve(added.first_id, conversation_id=made.id)
        gone = api.conversations.delete(made.id)
        assert (gone.id, gone.object, gone.deleted) == (made.id, "conversation.deleted", True)
        for again in (api.conversations.retrieve, api.conversations.delete, api.conversations.items.list):
            with pytest.raises(openai.NotFoundError):
                again(made.id)
        with pytest.raises(openai.NotFoundError):
            api.responses.create(model=MODEL, input="x", conversation=made.id)


def streamed(api: Any, **asked: Any) -> Any:
    with api.responses.stream(model=MODEL, **asked) as stream:
        return stream.until_done().get_final_response()


def whole(api: Any, **asked: Any) -> Any:
    return api.responses.create(model=MODEL, **asked)


def in_the_background(api: Any, **asked: Any) -> Any:
    made = api.responses.create(model=MODEL, background=True, **asked)
    last = list(api.responses.retrieve(made.id, stream=True))[-1]
    return last.response


@pytest.mark.parametrize("ask", [whole, streamed, in_the_background])
def test_turns_go_on_from_a_conversation_and_add_to_it(ask: Callable[..., Any]) -> None:
    driver = FakeDriver(says("Fine."))
    with serving(driver) as server, client(server.base_url) as api:
        made = api.conversations.create(items=[{**user("Be brief."), "role": "system"}])
        first = ask(api, input="How are you?", conversation=made.id)
        second = ask(api, input="Why?", conversation={"id": made.id})
        said = texts(api, made.id)
        with pytest.raises(openai.BadRequestError) as both:
            whole(api, input="x", conversation=made.id, previous_response_id=first.id)
        with pytest.raises(openai.BadRequestError) as followed:
            whole(api, input="x", previous_response_id=first.id)
    assert first.conversation.id == second.conversation.id == made.id
    assert driver.prompts[0] == "system: Be brief.\nuser: How are you?\nassistant: "
    assert driver.prompts[1] == driver.prompts[0] + "Fine.\nuser: Why?\nassistant: "
    assert said == ["Be brief.", "How are you?", "Fine.", "Why?", "Fine."]
    assert {one.caller.agent for one in driver.submitted} == {made.id}
    assert both.value.code == "mutually_exclusive_parameters"
    assert "belongs to a conversation" in followed.value.message
    assert len(driver.submitted) == 2


def test_a_tool_is_called_and_answered_in_a_conversation_that_nobody_stores_responses_of() -> None:
    tool = {"type": "function", "name": "depth", "parameters": {"type": "object", "properties": {}}}
    answers = iter([call("depth"), "Nine."])
    driver = FakeDriver(lambda prompt, generation: [next(answers)])
    with serving(driver) as server, client(server.base_url) as api:
        made = api.conversations.create()
        asked = {"model": MODEL, "conversation": made.id, "tools": [tool], "store": False}
        (called,) = api.responses.create(input="How deep?", **asked).output
        output = {"type": "function_call_output", "call_id": called.call_id, "output": "9"}
        assert api.responses.create(input=[output], **asked).output_text == "Nine."
        kinds = [item.type for item in api.conversations.items.list(made.id, order="asc")]
    assert kinds == ["message", "function_call", "function_call_output", "message"]


def test_a_turn_that_fails_or_is_cancelled_adds_nothing_and_the_next_one_may_run() -> None:
    failure = [Rejected("engine_failed", "it broke")]
    scripts: list[Any] = [["Half", *failure], [HOLD], ["Fine."]]
    with serving(FakeDriver(lambda *_: scripts.pop(0))) as server, client(server.base_url) as api:
        made = api.conversations.create()
        assert streamed_kinds(api, made.id)[-1] == "response.failed"
        assert texts(api, made.id) == []
        held = api.responses.create(model=MODEL, input="x", conversation=made.id, background=True)
        assert api.responses.cancel(held.id).status == "cancelled"
        assert texts(api, made.id) == []
        assert whole(api, input="And now?", conversation=made.id).output_text == "Fine."
        assert texts(api, made.id) == ["And now?", "Fine."]


def streamed_kinds(api: Any, conversation: str) -> list[str]:
    stream = api.responses.create(model=MODEL, input="x", conversation=conversation, stream=True)
    return [event.type for event in stream]


def test_of_two_turns_at_once_the_second_is_told_to_come_again() -> None:
    driver = FakeDriver(says("Fi", HOLD, "ne."))
    with serving(driver) as server, client(server.base_url) as api:
        made = api.conversations.create(items=[user("one")])
        held = api.responses.create(model=MODEL, input="x", conversation=made.id, background=True)
        (item,) = api.conversations.items.list(made.id)
        for refused in (
            lambda: whole(api, input="y", conversation=made.id),
            lambda: api.conversations.items.create(made.id, items=[user("two")]),
            lambda: api.conversations.items.delete(item.id, conversation_id=made.id),
        ):
            with pytest.raises(openai.ConflictError) as locked:
                refused()
            assert locked.value.code == "conversation_locked"
            assert int(locked.value.response.headers["retry-after-ms"]) > 0
        assert len(driver.submitted) == 1
        driver.release.set()
        assert list(api.responses.retrieve(held.id, stream=True))[-1].type == "response.completed"
        assert whole(api, input="y", conversation=made.id).output_text == "Fine."
        assert texts(api, made.id) == ["one", "x", "Fine.", "y", "Fine."]


def test_a_deleted_conversation_is_not_there_again_after_its_turn() -> None:
    driver = FakeDriver(says(HOLD, "Fine."))
    with serving(driver) as server, client(server.base_url) as api:
        made = api.conversations.create()
        held = api.responses.create(model=MODEL, input="x", conversation=made.id, background=True)
        api.conversations.delete(made.id)
        driver.release.set()
        assert list(api.responses.retrieve(held.id, stream=True))[-1].type == "response.completed"
        with pytest.raises(openai.NotFoundError):
            api.conversations.retrieve(made.id)


def test_another_tenants_conversation_does_not_exist() -> None:
    keys = KeyRing([KeyEntry("a", key="sk-a"), KeyEntry("b", key="sk-b")])
    driver = FakeDriver(says("x"))
    with serving(driver, keys=keys) as server:
        own, other = (client(server.base_url, api_key=key) for key in ("sk-a", "sk-b"))
        made = own.conversations.create(items=[user("secret")])
        for asked in (
            lambda: other.conversations.retrieve(made.id),
            lambda: other.conversations.update(made.id, metadata={"a": "b"}),
            lambda: other.conversations.delete(made.id),
            lambda: other.conversations.items.list(made.id),
            lambda: other.conversations.items.create(made.id, items=[user("x")]),
            lambda: whole(other, input="x", conversation=made.id),
        ):
            with pytest.raises(openai.NotFoundError):
                asked()
        assert texts(own, made.id) == ["secret"] and not driver.submitted


def test_what_cannot_be_kept_is_refused_before_anything_runs() -> None:
    settings = ServerSettings(port=0, max_conversation_items=3, max_conversations=2)
    driver = FakeDriver(says("x"))
    with serving(driver, settings=settings) as server, client(server.base_url) as api:
        made = api.conversations.create(items=[{**user("one"), "id": "msg_1"}])
        with pytest.raises(openai.BadRequestError) as twice:
            whole(api, input=[{**user("one"), "id": "msg_1"}], conversation=made.id)
        with pytest.raises(openai.BadRequestError) as full:
            api.conversations.items.create(made.id, items=[user("x")] * 3)
        with pytest.raises(openai.BadRequestError) as wrong:
            api.conversations.create(items=[{"type": "item_reference", "id": "x"}])
        assert [one.value.code for one in (twice, full)] == ["duplicate_item", "conversation_full"]
        assert wrong.value.param == "items[0].type" and not driver.submitted
        assert whole(api, input="two", conversation=made.id).output_text == "x"
        with pytest.raises(openai.BadRequestError):
            whole(api, input="three", conversation=made.id)
        newer = [api.conversations.create().id for _ in range(2)]
        with pytest.raises(openai.NotFoundError):
            api.conversations.retrieve(made.id)
        assert [api.conversations.retrieve(one).id for one in newer] == newer


def test_the_kv_of_a_conversation_is_found_again() -> None:
    config = NullConfig(model=MODEL, block_tokens=16, device_blocks=256)
    with null_node(config) as server, client(server.base_url) as api:
        made = api.conversations.create(items=[user("A stepwell is a well with steps. " * 10)])
        used = [
            whole(api, input=text, conversation=made.id, max_output_tokens=4).usage
            for text in ("Why?", "And?")
        ]
    first, second = (one.input_tokens_details.cached_tokens for one in used)
    assert first == 0 and second > used[0].input_tokens // 2

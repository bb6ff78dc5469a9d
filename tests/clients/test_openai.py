"""The openai package, unmodified, as the judge of our wire format."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from pydantic import BaseModel

from stepwell.engines.null import NullConfig
from stepwell.loop.requests import Preempted, Rejected
from tests.server.fakes import HOLD, MODEL, FakeDriver, call, null_node, says, serving

openai = pytest.importorskip("openai")

USER = [{"role": "user", "content": "What is a stepwell?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}


def client(base_url: str, **options: Any) -> Any:
    return openai.OpenAI(base_url=base_url + "/v1", api_key="none", **{"max_retries": 0, **options})


# --- chat --------------------------------------------------------------------------------------


def test_chat() -> None:
    driver = FakeDriver(says("A well ", "with steps."), cached=(16, 8, 4))
    with serving(driver) as server, client(server.base_url) as api:
        answer = api.chat.completions.create(model=MODEL, messages=USER, seed=7, temperature=0.5, stop="\n")
    assert answer.choices[0].message.content == "A well with steps."
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens == 18
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 18
    assert answer.usage.prompt_tokens_details.cached_tokens == 28
    tiers = answer.usage.prompt_tokens_details.model_extra["cached_tokens_by_kv_tier"]
    assert tiers == {"device": 16, "host": 8, "disk": 4}
    assert answer._request_id.startswith("req_")
    (asked,) = driver.submitted
    assert (asked.sampling.seed, asked.sampling.temperature, asked.stop) == (7, 0.5, ("\n",))


def test_chat_streams() -> None:
    driver = FakeDriver(says("Grüße", Preempted(), "!"))
    with serving(driver) as server, client(server.base_url) as api:
        stream = api.chat.completions.create(
            model=MODEL, messages=USER, stream=True, stream_options={"include_usage": True}
        )
        chunks = list(stream)
    assert len({(chunk.id, chunk.created) for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "Grüße!"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 8


def test_chat_async_many_at_once() -> None:
    async def run(base_url: str) -> list[str]:
        async with openai.AsyncOpenAI(base_url=base_url + "/v1", api_key="none") as api:
            asked = [
                api.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": str(i)}])
                for i in range(20)
            ]
            answers = await asyncio.gather(*asked)
        return [answer.choices[0].message.content for answer in answers]

    driver = FakeDriver(lambda prompt, generation: (prompt.split("user: ")[1].split("\n")[0],))
    with serving(driver) as server:
        assert asyncio.run(run(server.base_url)) == [str(i) for i in range(20)]


def test_chat_stream_helper_accumulates_a_tool_call() -> None:
    driver = FakeDriver(says("Let me look.\n" + call("weather", city="Pune")))
    with (
        serving(driver) as server,
        client(server.base_url) as api,
        api.chat.completions.stream(model=MODEL, messages=USER, tools=[WEATHER]) as stream,
    ):
        kinds = [event.type for event in stream]
        final = stream.get_final_completion()
    (made,) = final.choices[0].message.tool_calls
    assert (made.function.name, json.loads(made.function.arguments)) == ("weather", {"city": "Pune"})
    assert final.choices[0].finish_reason == "tool_calls"
    assert "tool_calls.function.arguments.done" in kinds


def test_tool_call_and_its_result() -> None:
    def script(prompt: str, generation: object) -> list[str]:
        return ["It is hot."] if "tool: 41" in prompt else [call("weather", city="Pune")]

    driver = FakeDriver(script)
    with serving(driver) as server, client(server.base_url) as api:
        first = api.chat.completions.create(model=MODEL, messages=USER, tools=[WEATHER]).choices[0]
        assert (first.finish_reason, first.message.content) == ("tool_calls", None)
        made = first.message.tool_calls[0]
        result = {"role": "tool", "tool_call_id": made.id, "content": "41"}
        second = api.chat.completions.create(
            model=MODEL, messages=[*USER, first.message.to_dict(), result], tools=[WEATHER]
        )
    assert second.choices[0].message.content == "It is hot."


def test_a_required_tool_is_forced_by_a_schema() -> None:
    driver = FakeDriver(says('{"name": "weather", "arguments": {"city": "Pune"}}'))
    with serving(driver) as server, client(server.base_url) as api:
        answer = api.chat.completions.create(
            model=MODEL, messages=USER, tools=[WEATHER], tool_choice="required"
        )
    assert json.loads(answer.choices[0].message.tool_calls[0].function.arguments) == {"city": "Pune"}
    schema = json.loads(driver.submitted[0].sampling.json_schema or "")
    assert schema["properties"]["name"] == {"const": "weather"}
    assert schema["$defs"]["weather"]["required"] == ["city"]


class Well(BaseModel):
    name: str
    steps: int


def test_structured_output_is_parsed() -> None:
    driver = FakeDriver(says('{"name": "Rani ki Vav", "steps": 7}'))
    with serving(driver) as server, client(server.base_url) as api:
        answer = api.chat.completions.parse(model=MODEL, messages=USER, response_format=Well)
    assert answer.choices[0].message.parsed == Well(name="Rani ki Vav", steps=7)
    assert json.loads(driver.submitted[0].sampling.json_schema or "")["required"] == ["name", "steps"]


def test_logprobs() -> None:
    with serving(FakeDriver(says("ab"))) as server, client(server.base_url) as api:
        answer = api.chat.completions.create(model=MODEL, messages=USER, logprobs=True, top_logprobs=2)
    content = answer.choices[0].logprobs.content
    assert [entry.token for entry in content] == ["a", "b"]
    assert content[0].bytes == [97]
    assert [top.logprob for top in content[0].top_logprobs] == [-1.0, -2.0]


def test_choices_share_the_prompt_and_not_the_seed() -> None:
    driver = FakeDriver(says("x"))
    with serving(driver) as server, client(server.base_url) as api:
        answer = api.chat.completions.create(model=MODEL, messages=USER, n=3, seed=1)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert [g.sampling.seed for g in driver.submitted] == [1, 2, 3]
    assert len({id(g.prompt) for g in driver.submitted}) == 1
    assert answer.usage.prompt_tokens == len(driver.submitted[0].prompt)
    assert answer.usage.completion_tokens == 3


def test_identity_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rung that needs no code: headers for a whole process."""
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Session-ID: run-42\nX-Agent: planner")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "not-ours")
    driver = FakeDriver(says("x"))
    with serving(driver) as server, client(server.base_url) as api:
        api.chat.completions.create(model=MODEL, messages=USER)
    (asked,) = driver.submitted
    caller = asked.caller
    assert (caller.tenant, caller.session, caller.agent) == ("local", "run-42", "run-42/planner")


# --- completions and models --------------------------------------------------------------------


def test_completions() -> None:
    driver = FakeDriver(lambda prompt, generation: (f"<{prompt}>",))
    with serving(driver) as server, client(server.base_url) as api:
        answer = api.completions.create(model=MODEL, prompt=["a", "b"], n=2, echo=True)
    assert [choice.text for choice in answer.choices] == ["a<a>", "a<a>", "b<b>", "b<b>"]
    assert answer.usage.prompt_tokens == 2 * len("?a")  # with the token that begins a text


def test_completions_stream() -> None:
    with serving(FakeDriver(says("abc"))) as server, client(server.base_url) as api:
        stream = api.completions.create(
            model=MODEL, prompt=[97, 98], stream=True, logprobs=1, stream_options={"include_usage": True}
        )
        chunks = list(stream)
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == "abc"
    offsets = [c.choices[0].logprobs.text_offset for c in chunks if c.choices and c.choices[0].logprobs]
    assert [offset for one in offsets for offset in one] == [0, 1, 2]
    assert chunks[-1].usage.total_tokens == 5


def test_models() -> None:
    with serving(FakeDriver(says())) as server, client(server.base_url) as api:
        assert [model.id for model in api.models.list()] == [MODEL]
        assert api.models.retrieve(MODEL).owned_by == "stepwell"
        with pytest.raises(openai.NotFoundError):
            api.models.retrieve("a/b")


# --- responses ---------------------------------------------------------------------------------


def test_responses_continue_a_conversation() -> None:
    driver = FakeDriver(says("Fine."))
    with serving(driver) as server, client(server.base_url) as api:
        first = api.responses.create(model=MODEL, input="How are you?", instructions="Be brief.")
        second = api.responses.create(model=MODEL, input="Why?", previous_response_id=first.id)
        stored = api.responses.retrieve(first.id)
        items = api.responses.input_items.list(second.id)
        api.responses.delete(first.id)
        with pytest.raises(openai.NotFoundError):
            api.responses.retrieve(first.id)
        with pytest.raises(openai.BadRequestError) as gone:
            api.responses.create(model=MODEL, input="And?", previous_response_id=second.id)
    assert first.output_text == stored.output_text == "Fine."
    assert (first.status, first.usage.output_tokens) == ("completed", 5)
    assert items.data[0].content[0].text == "Why?"
    assert driver.prompts[0] == "system: Be brief.\nuser: How are you?\nassistant: "
    # Instructions are not carried over; the conversation is.
    assert driver.prompts[1] == "user: How are you?\nassistant: Fine.\nuser: Why?\nassistant: "
    assert driver.submitted[1].caller.agent == first.id
    assert gone.value.code == "previous_response_not_found"


def test_responses_stream() -> None:
    with serving(FakeDriver(says("Hi ", Preempted(), "you"))) as server, client(server.base_url) as api:
        events = list(api.responses.create(model=MODEL, input="x", stream=True))
        with api.responses.stream(model=MODEL, input="x") as helper:
            final = helper.until_done().get_final_response()
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == "Hi you"
    assert events[-1].response.output_text == final.output_text == "Hi you"


def test_responses_tools() -> None:
    def script(prompt: str, generation: object) -> list[str]:
        return ["Hot."] if "tool: 41" in prompt else [call("weather", city="Pune")]

    tool = {"type": "function", "strict": False, **WEATHER["function"]}  # type: ignore[dict-item]
    with serving(FakeDriver(script)) as server, client(server.base_url) as api:
        first = api.responses.create(model=MODEL, input="Weather?", tools=[tool])
        (made,) = first.output
        output = {"type": "function_call_output", "call_id": made.call_id, "output": "41"}
        second = api.responses.create(
            model=MODEL, input=[output], previous_response_id=first.id, tools=[tool]
        )
        events = list(api.responses.create(model=MODEL, input="Weather?", tools=[tool], stream=True))
    assert (made.type, made.name, json.loads(made.arguments)) == (
        "function_call",
        "weather",
        {"city": "Pune"},
    )
    assert second.output_text == "Hot."
    done = next(e for e in events if e.type == "response.function_call_arguments.done")
    assert json.loads(done.arguments) == {"city": "Pune"}


def test_responses_parse() -> None:
    driver = FakeDriver(says('{"name": "Chand Baori", "steps": 13}'))
    with serving(driver) as server, client(server.base_url) as api:
        answer = api.responses.parse(model=MODEL, input="A well?", text_format=Well)
    assert answer.output_parsed == Well(name="Chand Baori", steps=13)


def test_a_background_response_is_polled_followed_and_cancelled() -> None:
    driver = FakeDriver(says("some", HOLD, " more"))
    with serving(driver) as server, client(server.base_url) as api:
        first = api.responses.create(model=MODEL, input="x", background=True)
        assert first.status == "queued"
        second = api.responses.create(model=MODEL, input="y", background=True)
        cancelled = api.responses.cancel(second.id)
        assert cancelled.status == api.responses.cancel(second.id).status == "cancelled"
        driver.release.set()
        events = list(api.responses.retrieve(first.id, stream=True))
        rest = list(api.responses.retrieve(first.id, stream=True, starting_after=events[-2].sequence_number))
        done = api.responses.retrieve(first.id)
        with pytest.raises(openai.BadRequestError):
            api.responses.cancel(first.id)
    assert (done.status, done.output_text) == ("completed", "some more")
    assert [event.type for event in rest] == ["response.completed"]
    assert 1 in driver.cancelled


def test_a_cut_answer_is_incomplete() -> None:
    with serving(FakeDriver(says("abcdef"))) as server, client(server.base_url) as api:
        answer = api.responses.create(model=MODEL, input="x", max_output_tokens=3)
    assert (answer.status, answer.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert answer.output_text == "abc"


# --- errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "error", "code", "param"),
    [
        ({"model": "gpt-4o"}, "NotFoundError", "model_not_found", "model"),
        ({"temperature": 9}, "BadRequestError", "above_max_value", "temperature"),
        ({"n": 1000}, "BadRequestError", "invalid_value", "n"),
        ({"service_tier": "gold"}, "BadRequestError", "invalid_value", "service_tier"),
        ({"service_tier": "scale"}, "PermissionDeniedError", "service_tier_not_allowed", "service_tier"),
        ({"messages": USER * 200}, "BadRequestError", "context_length_exceeded", "messages"),
    ],
)
def test_errors_become_the_right_exceptions(body: Any, error: str, code: str, param: str) -> None:
    with (
        serving(FakeDriver(says("x"))) as server,
        client(server.base_url) as api,
        pytest.raises(getattr(openai, error)) as caught,
    ):
        api.chat.completions.create(**{"model": MODEL, "messages": USER, **body})
    assert (caught.value.code, caught.value.param) == (code, param)
    assert caught.value.request_id.startswith("req_")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("code", "error"),
    [("rate_limit_exceeded", "RateLimitError"), ("server_overloaded", "InternalServerError")],
)
def test_a_refusal_is_retried_after_the_time_it_names(code: str, error: str, stream: bool) -> None:
    driver = FakeDriver(says(Rejected(code, "Not now.", retry_after_ms=1)))
    with (
        serving(driver) as server,
        client(server.base_url, max_retries=2) as api,
        pytest.raises(getattr(openai, error)) as caught,
    ):
        api.chat.completions.create(model=MODEL, messages=USER, stream=stream)
    assert caught.value.response.headers["retry-after-ms"] == "1"
    assert (caught.value.code, caught.value.body["message"]) == (code, "Not now.")
    assert len(driver.submitted) == 3


def test_a_failure_in_a_stream_is_an_api_error() -> None:
    driver = FakeDriver(says("begun", Rejected("server_error", "The engine failed.")))
    with serving(driver) as server, client(server.base_url, max_retries=2) as api:
        stream = api.chat.completions.create(model=MODEL, messages=USER, stream=True)
        with pytest.raises(openai.APIError, match="The engine failed"):
            list(stream)
        events = list(api.responses.create(model=MODEL, input="x", stream=True))
    assert events[-1].type == "response.failed"
    assert events[-1].response.error.message == "The engine failed."
    assert len(driver.submitted) == 2


def test_a_whole_server() -> None:
    """No fakes: HTTP, driver, policy and tiers, on the null engine."""
    config = NullConfig(model=MODEL, block_tokens=16, device_blocks=64, answer=b"Steps lead down.")
    with null_node(config) as server, client(server.base_url) as api:
        first = api.chat.completions.create(model=MODEL, messages=USER)
        again = api.chat.completions.create(model=MODEL, messages=USER)
        streamed = api.chat.completions.create(model=MODEL, messages=USER, stream=True)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in streamed)
        answer = api.responses.create(model=MODEL, input="x")
    assert first.choices[0].message.content == text == answer.output_text == "Steps lead down."
    assert first.usage.prompt_tokens_details.cached_tokens == 0
    assert again.usage.prompt_tokens_details.cached_tokens >= 16

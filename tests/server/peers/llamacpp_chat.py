"""llama.cpp's suite: chat and responses."""

from __future__ import annotations

from typing import Any

from tests.server.fakes import MODEL
from tests.server.peers.case import BOOK, CHAT, LLAMA, RESPONSES, SAYS, VLLM, Asked, case, contents, reasons


@case(LLAMA, "chat_completion", "chat_completion")
def chat(asked: Asked) -> None:
    found = asked.chat(max_tokens=8)
    assert found["id"].startswith("chatcmpl-") and found["usage"]["completion_tokens"] == 8
    choice = found["choices"][0]
    assert (choice["message"]["role"], choice["finish_reason"]) == ("assistant", "length")
    parts = [{"type": "text", "text": "What is"}, {"type": "text", "text": "the best book"}]
    assert (
        asked.chat(messages=[{"role": "user", "content": parts}])["choices"][0]["message"]["content"] == SAYS
    )


@case(
    LLAMA,
    "chat_completion",
    "chat_completion_stream",
    differs="`content` of the first chunk is empty instead of null, as at OpenAI",
)
def chat_stream(asked: Asked) -> None:
    first, *rest = asked.chat_stream(max_tokens=8, stream_options={"include_usage": True})
    assert first["choices"][0]["delta"]["role"] == "assistant"
    assert first["choices"][0]["delta"]["content"] == ""
    assert not any("role" in choice["delta"] for chunk in rest for choice in chunk["choices"])
    assert {chunk["id"] for chunk in rest} == {first["id"]}
    assert contents(rest) == SAYS[:8] and reasons(rest) == ["length"]
    assert rest[-1]["choices"] == [] and rest[-1]["usage"]["completion_tokens"] == 8


@case(
    LLAMA,
    "chat_completion",
    "chat_completion_with_openai_library",
    differs="a model that is not served is a 404 that names what is; `model_aliases` gives ours another name",
)
def another_model(asked: Asked) -> None:
    assert asked.bad(CHAT, 404, model="gpt-3.5-turbo-instruct", messages=BOOK)["code"] == "model_not_found"


@case(LLAMA, "chat_completion", "chat_template_assistant_prefill")
@case(VLLM, "chat_template", "get_gen_prompt")
def prefill(asked: Asked) -> None:
    parts = [{"type": "text", "text": "Wh"}, {"type": "text", "text": "ill"}]
    asked.chat(messages=[*BOOK, {"role": "assistant", "content": "Whill"}])
    assert asked.driver.prompts[-1].endswith("Whill")
    asked.chat(messages=[*BOOK, {"role": "assistant", "content": parts}])
    assert asked.driver.prompts[-1].endswith("Wh\nill")


@case(LLAMA, "chat_completion", "completion_with_response_format", "completion_with_json_schema")
@case(VLLM, "chat", "structured_outputs_json_chat", "response_format_json_schema")
def response_formats(asked: Asked) -> None:
    for given in (
        {"response_format": {"type": "json_object", "schema": {"const": "42"}}},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"const": "42"}}}},
        {"json_schema": {"const": "42"}},
        {"structured_outputs": {"json": {"const": "42"}}},
    ):
        before = len(asked.driver.submitted)
        asked.http.post(CHAT, json={"model": MODEL, "messages": BOOK, **given})
        assert len(asked.driver.submitted) > before, given
        assert "42" in (asked.driver.submitted[-1].sampling.json_schema or ""), given
    for wrong in ({"type": "sound"}, {"type": "json_object", "schema": 123}, {"type": "json_schema"}):
        asked.bad(CHAT, messages=BOOK, response_format=wrong)


@case(LLAMA, "chat_completion", "completion_with_grammar")
def grammar(asked: Asked) -> None:
    asked.chat(grammar='root ::= "a"{5,5}')
    assert asked.driver.submitted[-1].sampling.grammar == 'root ::= "a"{5,5}'


@case(
    LLAMA,
    "chat_completion",
    "invalid_chat_completion_req",
    differs="two messages of the assistant at the end are taken; everything else there is a 400 as well",
)
def invalid_messages(asked: Asked) -> None:
    wrong: tuple[Any, ...] = (
        *(None, "string", [123], [{}], [{"role": 123}], [{"role": "system", "content": 123}]),
        [{"role": "system", "content": "test"}, {}],
    )
    for messages in wrong:
        asked.bad(CHAT, messages=messages)
    assistant = {"role": "assistant", "content": "test"}
    asked.chat(messages=[{"role": "user", "content": "test"}, assistant, assistant])


@case(
    LLAMA,
    "chat_completion",
    "chat_completion_with_timings_per_token",
    "return_progress",
    differs="no `timings` in chunks: `usage.timing` at the end says where the time went",
)
@case(LLAMA, "compat_oai_responses", "responses_stream_with_llama_telemetry", differs="as in chat")
def timings(asked: Asked) -> None:
    more = {"timings_per_token": True, "return_progress": True, "stream_options": {"include_usage": True}}
    chunks = asked.chat_stream(**more)
    assert contents(chunks) == SAYS and not any("timings" in chunk for chunk in chunks)


@case(LLAMA, "chat_completion", "logprobs")
@case(VLLM, "chat", "some_logprobs_chat")
def chat_logprobs(asked: Asked) -> None:
    found = asked.chat(max_tokens=5, logprobs=True, top_logprobs=5)["choices"][0]
    tokens = found["logprobs"]["content"]
    assert "".join(one["token"] for one in tokens) == found["message"]["content"] == SAYS[:5]
    assert all(one["logprob"] <= 0 and one["bytes"] and len(one["top_logprobs"]) == 5 for one in tokens)


@case(LLAMA, "chat_completion", "logprobs_stream")
def chat_logprobs_stream(asked: Asked) -> None:
    chunks = asked.chat_stream(max_tokens=5, logprobs=True, top_logprobs=5)
    found = [choice["logprobs"] for chunk in chunks for choice in chunk["choices"] if choice["logprobs"]]
    assert "".join(one["token"] for logprobs in found for one in logprobs["content"]) == contents(chunks)


@case(LLAMA, "chat_completion", "logit_bias")
@case(VLLM, "chat_logit_bias_validation", "chat_logit_bias_valid")
def logit_bias(asked: Asked) -> None:
    asked.chat(logit_bias={"97": -100})
    assert asked.driver.submitted[-1].sampling.logit_bias == ((97, -100.0),)


@case(VLLM, "chat_logit_bias_validation", "chat_logit_bias_invalid")
def wrong_bias(asked: Asked) -> None:
    asked.bad(CHAT, messages=BOOK, logit_bias={"not-a-token": 1})
    asked.bad(CHAT, messages=BOOK, logit_bias={"97": 101})


@case(LLAMA, "chat_completion", "chat_completions_multiple_choices")
def choices(asked: Asked) -> None:
    found = asked.chat(n=2, max_tokens=8)["choices"]
    assert [(one["index"], one["finish_reason"]) for one in found] == [(0, "length"), (1, "length")]


@case(LLAMA, "compat_oai_responses", "responses_with_openai_library")
def responses(asked: Asked) -> None:
    found = asked.good(RESPONSES, input=BOOK, max_output_tokens=8)
    assert found["id"].startswith("resp_") and found["output"][0]["id"].startswith("msg_")
    assert found["output"][0]["content"][0]["text"] == SAYS[:8]


@case(LLAMA, "compat_oai_responses", "responses_stream_with_openai_library")
def responses_stream(asked: Asked) -> None:
    found = asked.stream(RESPONSES, input=BOOK)
    created, completed = found[0]["response"]["id"], found[-1]["response"]
    assert (found[0]["type"], found[-1]["type"]) == ("response.created", "response.completed")
    assert completed["id"] == created and created.startswith("resp_")
    item = completed["output"][0]["id"]
    assert {event["item_id"] for event in found if "item_id" in event} == {item}
    deltas = [event["delta"] for event in found if event["type"] == "response.output_text.delta"]
    assert "".join(deltas) == completed["output"][0]["content"][0]["text"] == SAYS


@case(LLAMA, "compat_oai_responses", "responses_with_text_format")
def responses_format(asked: Asked) -> None:
    schema = {"type": "json_schema", "name": "test", "schema": {"const": "foooooo"}}
    asked.http.post(RESPONSES, json={"model": MODEL, "input": "x", "text": {"format": schema}})
    assert "foooooo" in (asked.driver.submitted[-1].sampling.json_schema or "")
    asked.good(RESPONSES, input="x", text={"format": {"type": "text"}})
    asked.bad(RESPONSES, input="x", text={"format": {"type": "json_schema", "name": "test"}})

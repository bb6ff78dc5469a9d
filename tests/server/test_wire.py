"""What goes over the wire, byte for byte where clients depend on it."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from stepwell.loop.requests import Delta, Preempted, Rejected, TokenInfo
from stepwell.server.settings import ServerSettings
from tests.server.fakes import HOLD, MODEL, FakeDriver, call, says, serving
from tests.server.wire import CHAT, RESPONSE, ROUTES, TEXT, error_of, events, get, http, post

FIXED = {"id": "ID", "created": 0, "created_at": 0, "completed_at": 0, "system_fingerprint": "FP"}


def golden(value: Any) -> Any:
    """Ids and times, which differ every run, made equal."""
    if isinstance(value, dict):
        return {k: FIXED.get(k, golden(v)) if v is not None else None for k, v in value.items()}
    return [golden(item) for item in value] if isinstance(value, list) else value


HEAD = {
    "id": "ID",
    "created": 0,
    "model": MODEL,
    "service_tier": "default",
    "system_fingerprint": "FP",
}


def usage(prompt: int, completion: int, cached: tuple[int, int, int] = (0, 0, 0)) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {
            "cached_tokens": sum(cached),
            "cached_tokens_by_kv_tier": dict(zip(("device", "host", "disk"), cached, strict=True)),
            "recomputed_tokens": 0,
        },
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


PROMPT_TOKENS = len("?user: hi\nassistant: ")
"""Of ``CHAT``, with the token that begins a text."""


def test_chat_whole() -> None:
    with serving(FakeDriver(says("Hé"), cached=(4, 2, 1))) as server:
        answer = post(server, "/v1/chat/completions", CHAT).json()
    assert golden(answer) == {
        **HEAD,
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hé", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": usage(PROMPT_TOKENS, 3, (4, 2, 1)),
    }


def chunk(delta: dict[str, Any], reason: str | None = None, **extra: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
    return {**HEAD, "object": "chat.completion.chunk", "choices": [choice], **extra}


def test_chat_stream() -> None:
    first = {"role": "assistant", "content": "", "refusal": None}
    with serving(FakeDriver(says("a", HOLD))) as server:
        driver = server.service.driver
        assert isinstance(driver, FakeDriver)
        driver.release.set()
        plain = post(server, "/v1/chat/completions", CHAT | {"stream": True})
        options = {"stream": True, "stream_options": {"include_usage": True}}
        counted = post(server, "/v1/chat/completions", CHAT | options)
    assert plain.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert plain.headers["cache-control"] == "no-cache"
    assert plain.text.endswith("\n\ndata: [DONE]\n\n")
    assert golden(events(plain)) == [chunk(first), chunk({"content": "a"}), chunk({}, "stop"), "[DONE]"]
    null: dict[str, Any] = {"usage": None}
    assert golden(events(counted)) == [
        chunk(first, **null),
        chunk({"content": "a"}, **null),
        chunk({}, "stop", **null),
        {**HEAD, "object": "chat.completion.chunk", "choices": [], "usage": usage(PROMPT_TOKENS, 1)},
        "[DONE]",
    ]


def test_completion_stream() -> None:
    with serving(FakeDriver(says("a"))) as server:
        found = events(post(server, "/v1/completions", TEXT | {"stream": True, "echo": True}))
    head = HEAD | {"object": "text_completion"}
    choice = {"index": 0, "logprobs": None}
    assert golden(found) == [
        {**head, "choices": [{**choice, "text": "hi", "finish_reason": None}]},
        {**head, "choices": [{**choice, "text": "a", "finish_reason": None}]},
        {**head, "choices": [{**choice, "text": "", "finish_reason": "stop"}]},
        "[DONE]",
    ]


def test_response_events_are_named_and_numbered() -> None:
    with serving(FakeDriver(says("ab"))) as server:
        answer = post(server, "/v1/responses", RESPONSE | {"stream": True})
    found = events(answer)
    names = [line[7:] for line in answer.text.splitlines() if line.startswith("event: ")]
    assert names == [event["type"] for event in found]
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    last = found[-1]["response"]
    assert last["usage"] == {
        "input_tokens": PROMPT_TOKENS,
        "input_tokens_details": {
            "cached_tokens": 0,
            "cached_tokens_by_kv_tier": {"device": 0, "host": 0, "disk": 0},
            "recomputed_tokens": 0,
            "cache_write_tokens": PROMPT_TOKENS,
        },
        "output_tokens": 2,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": PROMPT_TOKENS + 2,
    }


def test_a_silent_stream_is_kept_alive() -> None:
    driver = FakeDriver(says(HOLD, "late"))
    settings = ServerSettings(port=0, keep_alive_s=0.01)
    with (
        serving(driver, settings=settings) as server,
        http(server) as client,
        client.stream("POST", "/v1/chat/completions", json=CHAT | {"stream": True}) as response,
    ):
        lines = response.iter_lines()
        while not next(lines).startswith(": keep-alive"):
            pass
        driver.release.set()
        rest = "\n".join(lines)
    assert "data: [DONE]" in rest


def test_text_that_may_become_a_tool_call_is_held_back() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    driver = FakeDriver(says("So: " + call("f"), HOLD))
    driver.release.set()
    with serving(driver) as server:
        found = events(post(server, "/v1/chat/completions", CHAT | {"stream": True, "tools": [tool]}))
        plain = events(post(server, "/v1/chat/completions", CHAT | {"stream": True}))
    deltas = [event["choices"][0]["delta"] for event in found[:-1]]
    assert "".join(delta.get("content") or "" for delta in deltas) == "So:"  # as in the whole answer
    pieces = [piece for delta in deltas for piece in delta.get("tool_calls", ())]
    assert {piece["index"] for piece in pieces} == {0} and pieces[0]["type"] == "function"
    assert pieces[0]["function"]["name"] == "f"
    assert "".join(piece["function"].get("arguments") or "" for piece in pieces) == "{}"
    assert found[-2]["choices"][0]["finish_reason"] == "tool_calls"
    text = "".join(event["choices"][0]["delta"].get("content") or "" for event in plain[:-1])
    assert text == "So: " + call("f")


def test_a_tool_that_was_not_offered_is_text() -> None:
    tool = {"type": "function", "function": {"name": "f"}}
    with serving(FakeDriver(says(call("g")))) as server:
        for stream in (False, True):
            answer = post(server, "/v1/chat/completions", CHAT | {"tools": [tool], "stream": stream})
            assert "tool_calls" not in answer.text
            assert json.dumps(call("g"))[1:-1] in answer.text


def test_logprobs_of_completions() -> None:
    with serving(FakeDriver(says("aé"))) as server:
        answer = post(server, "/v1/completions", TEXT | {"logprobs": 1}).json()
    tokens = ["a", "bytes:\\xc3", "bytes:\\xa9"]
    assert answer["choices"][0]["logprobs"] == {
        "tokens": tokens,
        "token_logprobs": [-0.5] * 3,
        "top_logprobs": [{"a": -1.0} | {token: -0.5} for token in tokens],
        "text_offset": [0, 1, 1],
    }


def test_an_impossible_logprob_is_a_number_json_has() -> None:
    class Impossible(FakeDriver):
        def _say(self, text: str, made: int, generation: Any, sink: Any) -> tuple[int, bool]:
            sink(Delta(text, (TokenInfo(97, float("-inf"), ((98, float("-inf")),)),)))
            return 1, False

    with serving(Impossible(says("a"))) as server:
        answer = post(server, "/v1/chat/completions", CHAT | {"logprobs": True, "top_logprobs": 1}).json()
    (entry,) = answer["choices"][0]["logprobs"]["content"]
    assert (entry["logprob"], entry["top_logprobs"][0]["logprob"]) == (-9999.0, -9999.0)


# --- refusals on the way -----------------------------------------------------------------------


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("rate_limit_exceeded", 429),
        ("flex_unavailable", 429),
        ("server_overloaded", 503),
        ("context_length_exceeded", 400),
        ("server_error", 500),
        ("never_heard_of", 500),
    ],
)
def test_what_the_driver_refuses(path: str, stream: bool, code: str, status: int) -> None:
    with serving(FakeDriver(says(Rejected(code, "No.", 70 if status in (429, 503) else None)))) as server:
        answer = post(server, path, {**ROUTES[path], "stream": stream})
    assert (answer.status_code, error_of(answer)["code"], error_of(answer)["message"]) == (
        status,
        code,
        "No.",
    )
    assert answer.headers.get("retry-after-ms") == ("70" if status in (429, 503) else None)
    assert answer.headers.get("retry-after") == ("1" if status in (429, 503) else None)


@pytest.mark.parametrize("path", ROUTES)
def test_a_request_that_is_lost_half_way(path: str) -> None:
    driver = FakeDriver(says("one", Preempted(), Rejected("server_error", "The engine failed.")))
    with serving(driver) as server:
        whole = post(server, path, ROUTES[path])
        found = events(post(server, path, {**ROUTES[path], "stream": True}))
    assert (whole.status_code, error_of(whole)["message"]) == (500, "The engine failed.")
    last = found[-1] if path.endswith("responses") else found[-2]
    error = last["response"]["error"] if "response" in last else last["error"]
    assert error["message"] == "The engine failed."


def test_one_lost_choice_ends_the_others() -> None:
    def script(prompt: str, generation: Any) -> Any:
        return ("x", HOLD) if generation.sampling.seed != 6 else (Rejected("server_error", "Lost."),)

    driver = FakeDriver(script)
    with serving(driver) as server:
        answer = post(server, "/v1/chat/completions", CHAT | {"n": 3, "seed": 5})
        assert answer.status_code == 500
        driver.wait_until_idle()
    assert driver.cancelled == {0, 2}


def test_what_the_driver_will_not_validate() -> None:
    with serving(FakeDriver(says("x"), refusal="the grammar has no root")) as server:
        for path, body in ROUTES.items():
            answer = post(server, path, body)
            assert (answer.status_code, error_of(answer)["message"]) == (400, "the grammar has no root")


# --- around every request ----------------------------------------------------------------------


def test_request_ids() -> None:
    with serving(FakeDriver(says("x"))) as server:
        own = post(server, "/v1/chat/completions", CHAT, **{"x-request-id": "trace-1:a.b_c"})
        evil = post(server, "/v1/chat/completions", CHAT, **{"x-request-id": "a b" + "c" * 200})
        missing = get(server, "/nowhere")
    assert own.headers["x-request-id"] == "trace-1:a.b_c"
    assert evil.headers["x-request-id"].startswith("req_")
    assert missing.headers["x-request-id"].startswith("req_")
    assert own.headers["openai-processing-ms"].isdecimal()


def test_a_mistake_of_ours_is_a_500_that_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def broken(prompt: str, generation: Any) -> Any:
        raise RuntimeError("secret detail")

    with serving(FakeDriver(broken)) as server:
        answer = post(server, "/v1/chat/completions", CHAT, **{"x-request-id": "find-me"})
    assert answer.status_code == 500
    assert error_of(answer)["code"] == "internal_error"
    assert "secret" not in answer.text
    assert any("find-me" in record.message and record.exc_info for record in caplog.records)
    assert server.service.gate.inside == server.service.bridge.live == 0


def test_nothing_is_left_behind() -> None:
    with serving(FakeDriver(says("x"))) as server:
        for path, body in ROUTES.items():
            for stream in (False, True):
                assert post(server, path, {**body, "stream": stream}).status_code == 200
    assert server.service.gate.inside == server.service.bridge.live == 0


# --- what arrives at the driver ----------------------------------------------------------------


def test_every_sampling_field_arrives() -> None:
    body = {
        "temperature": 0.25,
        "top_p": 0.5,
        "top_k": 40,
        "min_p": 0.125,
        "frequency_penalty": 1,
        "presence_penalty": -1.0,
        "repeat_penalty": 1.5,
        "seed": -1,
        "logit_bias": {"97": -100, "98": 5.5},
        "grammar": 'root ::= "x"',
        "ignore_eos": True,
        "stop": ["a", "b", "a", ""],
        "max_tokens": 7,
        "service_tier": "fast",
    }
    driver = FakeDriver(says("x"))
    with serving(driver) as server:
        for path in ("/v1/chat/completions", "/v1/completions"):
            answer = post(server, path, {**ROUTES[path], **body})
            assert answer.json()["service_tier"] == "priority"
    chat, text = driver.submitted
    assert (chat.opening, text.opening) == ("", None)  # only a chat's template opens an answer
    alike = {"prompt": (1,), "opening": None}
    assert dataclasses.replace(chat, **alike) == dataclasses.replace(text, **alike)
    assert dataclasses.asdict(chat.sampling) == {
        "temperature": 0.25,
        "top_p": 0.5,
        "top_k": 40,
        "min_p": 0.125,
        "frequency_penalty": 1.0,
        "presence_penalty": -1.0,
        "repeat_penalty": 1.5,
        "seed": 2**32 - 2,
        "logit_bias": ((97, -100.0), (98, 5.5)),
        "grammar": 'root ::= "x"',
        "regex": None,
        "json_schema": None,
        "logprobs": None,
        "prompt_logprobs": None,
        "ignore_eos": True,
        "thinking": None,
        "calls": None,
        "adapter": "",
    }
    assert (chat.stop, chat.max_new_tokens, chat.caller.service_tier) == (("a", "b"), 7, "priority")


@pytest.mark.parametrize(
    ("asked", "allowed"),
    [({}, 512), ({"max_tokens": 10**6}, 4_096 - PROMPT_TOKENS), ({"max_tokens": 3}, 3)],
)
def test_max_tokens_is_cut_where_the_context_ends(asked: dict[str, int], allowed: int) -> None:
    driver = FakeDriver(says("x"))
    with serving(driver) as server:
        assert post(server, "/v1/chat/completions", CHAT | asked).status_code == 200
    assert driver.submitted[0].max_new_tokens == allowed


@pytest.mark.parametrize(
    ("content", "rendered"),
    [
        ("plain", "plain"),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "a\nb"),
        ([], ""),
    ],
)
def test_content_parts_are_joined(content: Any, rendered: str) -> None:
    driver = FakeDriver(says("x"))
    messages = [{"role": "developer", "content": content}]
    with serving(driver) as server:
        assert post(server, "/v1/chat/completions", CHAT | {"messages": messages}).status_code == 200
    assert driver.prompts == [f"system: {rendered}\nassistant: "]


@pytest.mark.parametrize(
    ("response_format", "schema"),
    [
        (None, None),
        ({"type": "text"}, None),
        ({"type": "json_object"}, {}),
        ({"type": "json_schema", "json_schema": {"name": "x"}}, {}),
        (
            {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "array"}}},
            {"type": "array"},
        ),
    ],
)
def test_answer_formats(response_format: Any, schema: Any) -> None:
    driver = FakeDriver(says("{}"))
    with serving(driver) as server:
        post(server, "/v1/chat/completions", CHAT | {"response_format": response_format})
        flat = response_format and {"type": response_format["type"], **response_format.get("json_schema", {})}
        if flat is None or flat["type"] != "json_schema" or "schema" in flat:
            post(server, "/v1/responses", RESPONSE | {"text": {"format": flat}} if flat else RESPONSE)
    for generation in driver.submitted:
        text = generation.sampling.json_schema
        assert (None if text is None else json.loads(text)) == schema

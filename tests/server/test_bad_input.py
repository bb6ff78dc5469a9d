"""Whatever a client sends gets an OpenAI-shaped answer, and never one that blames the server."""

from __future__ import annotations

from typing import Any

import pytest

from stepwell.server.settings import ServerSettings
from tests.server.fakes import MODEL, FakeDriver, says, serving
from tests.server.wire import CHAT, RESPONSE, TEXT, error_of, get, http, post

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
TOOL = {"type": "function", "function": {"name": "f"}}


def user(content: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}]}


CHAT_CASES: list[tuple[dict[str, Any], str, str | None]] = [
    ({"messages": None}, "invalid_type", "messages"),
    ({"messages": []}, "array_below_min_length", "messages"),
    ({"messages": "hi"}, "invalid_type", "messages"),
    ({"messages": [{}]}, "missing_required_parameter", "messages[0].role"),
    ({"messages": [{"role": "boss", "content": "x"}]}, "invalid_value", "messages[0].role"),
    ({"messages": [{"role": "user"}]}, "invalid_value", "messages[0]"),
    (user(7), "invalid_type", "messages[0].content"),
    (user([IMAGE]), "unsupported_value", "messages[0].content"),
    (user([{"type": "input_audio"}]), "unsupported_value", "messages[0].content"),
    (user([7]), "invalid_type", "messages[0].content"),
    (user([{"type": "text", "text": 7}]), "invalid_type", "messages[0].content"),
    ({"model": ""}, "string_below_min_length", "model"),
    ({"model": 7}, "invalid_type", "model"),
    ({"model": None}, "invalid_type", "model"),
    ({"temperature": "0.7"}, "invalid_type", "temperature"),
    ({"temperature": True}, "invalid_type", "temperature"),
    ({"temperature": -1}, "below_min_value", "temperature"),
    ({"temperature": 1e308}, "above_max_value", "temperature"),
    ({"max_tokens": 0}, "below_min_value", "max_tokens"),
    ({"max_tokens": 1.5}, "invalid_type", "max_tokens"),
    ({"max_completion_tokens": -3}, "below_min_value", "max_completion_tokens"),
    ({"seed": 2**70}, "above_max_value", "seed"),
    ({"n": 0}, "below_min_value", "n"),
    ({"n": 17}, "invalid_value", "n"),
    ({"stop": ["a", "b", "c", "d", "e"]}, "invalid_value", "stop"),
    ({"stop": [7]}, "invalid_type", "stop[0]"),
    ({"stream": "yes"}, "invalid_type", "stream"),
    ({"logit_bias": {"x": 1}}, "invalid_type", "logit_bias.x.[key]"),
    ({"logit_bias": {"1": 101}}, "above_max_value", "logit_bias.1"),
    ({"top_logprobs": 3}, "invalid_value", "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "above_max_value", "top_logprobs"),
    ({"tools": [{"type": "custom"}]}, "invalid_value", "tools[0].type"),
    (
        {"tools": [{"type": "function", "function": {"name": "a b"}}]},
        "invalid_type",
        "tools[0].function.name",
    ),
    ({"tools": [TOOL, TOOL]}, "invalid_value", "tools"),
    ({"tools": [TOOL] * 129}, "invalid_value", "tools"),
    ({"tool_choice": "required"}, "invalid_value", "tool_choice"),
    ({"tool_choice": "sometimes"}, "invalid_value", "tool_choice.mode"),
    ({"tool_choice": 7}, "invalid_value", "tool_choice"),
    (
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}},
        "invalid_value",
        "tool_choice",
    ),
    ({"functions": [{"name": "f"}]}, "unsupported_value", "functions"),
    ({"modalities": ["text", "audio"]}, "unsupported_value", "modalities"),
    ({"response_format": {"type": "xml"}}, "invalid_value", "response_format.type"),
    ({"response_format": {"type": "json_schema"}}, "invalid_value", "response_format"),
    (
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"schema": {"items": [{"$ref": "http://169.254.169.254/"}]}},
            }
        },
        "unsupported_value",
        "response_format",
    ),
    ({"response_format": {"type": "json_object"}, "grammar": "root ::= x"}, "invalid_value", "grammar"),
    ({"grammar": "x" * 300_000}, "invalid_value", "grammar"),
    ({"grammar": "root ::= x", "tools": [TOOL]}, "invalid_value", "grammar"),
    ({"model": "gpt-4o\n<script>"}, "model_not_found", "model"),
    (user("x" * 5_000), "context_length_exceeded", "messages"),
    (user("x" * 3_000_000), "context_length_exceeded", "messages"),
]


@pytest.fixture(scope="module")
def server() -> Any:
    with serving(FakeDriver(says("x"))) as running:
        yield running


@pytest.mark.parametrize(("change", "code", "param"), CHAT_CASES)
def test_chat(server: Any, change: dict[str, Any], code: str, param: str | None) -> None:
    answer = post(server, "/v1/chat/completions", CHAT | change)
    error = error_of(answer)
    assert (answer.status_code, error["code"], error["param"]) == (
        404 if code == "model_not_found" else 400,
        code,
        param,
    )
    assert error["type"] == "invalid_request_error"
    assert len(error["message"]) < 600


TEXT_CASES: list[tuple[dict[str, Any], str, str | None]] = [
    ({"prompt": None}, "invalid_value", "prompt"),
    ({"prompt": []}, "invalid_value", "prompt"),
    ({"prompt": [[]]}, "invalid_value", "prompt"),
    ({"prompt": [1, "a"]}, "invalid_value", "prompt"),
    ({"prompt": [1, True]}, "invalid_value", "prompt"),
    ({"prompt": [-1]}, "invalid_value", "prompt"),
    ({"prompt": [2**40]}, "invalid_value", "prompt"),
    ({"prompt": [99_999]}, "invalid_value", None),
    ({"prompt": ["x"] * 33}, "invalid_value", "prompt"),
    ({"prompt": "x" * 5_000}, "context_length_exceeded", "prompt"),
    ({"suffix": "end"}, "unsupported_value", "suffix"),
    ({"best_of": 3}, "unsupported_value", "best_of"),
    ({"logprobs": True}, "invalid_type", "logprobs"),
]


@pytest.mark.parametrize(("change", "code", "param"), TEXT_CASES)
def test_completions(server: Any, change: dict[str, Any], code: str, param: str | None) -> None:
    answer = post(server, "/v1/completions", TEXT | change)
    error = error_of(answer)
    assert (answer.status_code, error["code"], error["param"]) == (400, code, param)


CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
RESPONSE_CASES: list[tuple[dict[str, Any], str, str | None]] = [
    ({"input": []}, "invalid_value", "input"),
    ({"input": [{}]}, "unsupported_value", "input[0].type"),
    ({"input": [{"type": "item_reference", "id": "x"}]}, "unsupported_value", "input[0].type"),
    ({"input": [{"type": ["message"]}]}, "unsupported_value", "input[0].type"),
    ({"input": [{"role": "tool", "content": "x"}]}, "invalid_value", "input[0].role"),
    ({"input": [{"role": "user"}]}, "invalid_type", "input[0].content"),
    (
        {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
        "unsupported_value",
        "input[0].content",
    ),
    ({"input": [CALL | {"name": None}]}, "invalid_type", "input[0].name"),
    ({"input": [CALL, {"type": "function_call_output"}]}, "invalid_type", "input[1].call_id"),
    ({"previous_response_id": "resp_x"}, "previous_response_not_found", "previous_response_id"),
    ({"conversation": 1}, "invalid_type", "conversation"),
    ({"conversation": {"name": "x"}}, "invalid_type", "conversation"),
    (
        {"conversation": "conv_1", "previous_response_id": "resp_x"},
        "mutually_exclusive_parameters",
        "conversation",
    ),
    ({"prompt": {"id": "p"}}, "unsupported_value", "prompt"),
    ({"background": True, "store": False}, "invalid_value", "background"),
    ({"top_logprobs": 2}, "invalid_value", "top_logprobs"),
    ({"tools": [{"type": "function"}]}, "missing_required_parameter", "tools[0].name"),
    ({"tools": [{"name": "f"}]}, "missing_required_parameter", "tools[0].type"),
    (
        {"tools": [{"type": "file_search", "max_num_results": 0}]},
        "below_min_value",
        "tools[0].max_num_results",
    ),
    ({"text": {"format": {"type": "json_schema"}}}, "invalid_value", "text.format"),
    ({"metadata": {"k": "v" * 513}}, "string_above_max_length", "metadata.k"),
    ({"metadata": {str(i): "" for i in range(17)}}, "array_above_max_length", "metadata"),
    ({"input": "x" * 5_000}, "context_length_exceeded", "input"),
]


@pytest.mark.parametrize(("change", "code", "param"), RESPONSE_CASES)
def test_responses(server: Any, change: dict[str, Any], code: str, param: str | None) -> None:
    answer = post(server, "/v1/responses", RESPONSE | change)
    error = error_of(answer)
    assert (answer.status_code, error["code"], error["param"]) == (400, code, param)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"text"',
        b"null",
        b'{"model": NaN}',
        b'{"model": "\\ud800"}',
        b'{"model": "\xff"}',
        b"[" * 100_000,
        b'{"a":' * 300 + b"1" + b"}" * 300,
        b"9" * 10_000,
        b'{"model": "tiny",}',
        b"\xef\xbb\xbf{}",
        b"\x1f\x8b\x08\x00",
    ],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/responses"])
def test_bodies_that_are_no_json_object(server: Any, path: str, body: bytes) -> None:
    with http(server) as client:
        answer = client.post(path, content=body)
    assert (answer.status_code, error_of(answer)["type"]) == (400, "invalid_request_error")


def test_a_body_that_is_too_large() -> None:
    settings = ServerSettings(port=0, max_body_bytes=1_000)
    with serving(FakeDriver(says("x")), settings=settings) as server:
        declared = post(server, "/v1/completions", TEXT | {"prompt": "x" * 2_000})
        with http(server) as client:
            pieces = (b"x" * 100 for _ in range(100))
            chunked = client.post("/v1/completions", content=pieces)
    for answer in (declared, chunked):
        assert (answer.status_code, error_of(answer)["code"]) == (413, "request_too_large")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/v1/chat/completions", 405),
        ("DELETE", "/v1/models", 405),
        ("POST", "/health", 405),
        ("GET", "/v1/models/", 404),
        ("GET", "/v1/models/gpt-4o", 404),
        ("GET", "/v1/responses/resp_nope", 404),
        ("DELETE", "/v1/responses/resp_nope", 404),
        ("POST", "/v1/responses/resp_nope/cancel", 404),
        ("GET", "/v1/responses/resp_nope/input_items", 404),
        ("GET", "/v1/responses/%00%ff", 404),
        ("PATCH", "/v1/responses/x", 405),
    ],
)
def test_paths_and_methods(server: Any, method: str, path: str, status: int) -> None:
    with http(server) as client:
        answer = client.request(method, path)
    assert (answer.status_code, error_of(answer)["type"]) == (status, "invalid_request_error")
    assert ("allow" in answer.headers) == (status == 405)


@pytest.mark.parametrize(
    "query", ["stream=true", "limit=0", "limit=101", "limit=x", "after=nobody", "limit=-1"]
)
def test_queries(server: Any, query: str) -> None:
    made = post(server, "/v1/responses", RESPONSE).json()["id"]
    where = f"/v1/responses/{made}" + ("" if query.startswith("stream") else "/input_items")
    assert error_of(get(server, f"{where}?{query}"))["param"] in ("stream", "limit", "after")


def test_a_response_that_is_not_stored_is_gone(server: Any) -> None:
    made = post(server, "/v1/responses", RESPONSE | {"store": False}).json()["id"]
    assert get(server, f"/v1/responses/{made}").status_code == 404


def test_unknown_fields_are_ignored(server: Any) -> None:
    body = {"safety": 1, "priority": "x", "nvext": []}
    for path, known in (
        ("/v1/chat/completions", CHAT),
        ("/v1/completions", TEXT),
        ("/v1/responses", RESPONSE),
    ):
        assert post(server, path, {**known, **body}).status_code == 200


def test_the_error_never_repeats_much_of_what_was_sent(server: Any) -> None:
    answer = post(server, "/v1/chat/completions", CHAT | {"model": "\n" * 10 + "m" * 500})
    assert len(error_of(answer)["message"]) < 400
    assert "\n" not in error_of(answer)["message"]
    assert MODEL not in error_of(answer)["message"]


def test_options_of_a_stream_need_one(server: Any) -> None:
    for path, known in (("/v1/chat/completions", CHAT), ("/v1/completions", TEXT)):
        options = {"stream_options": {"include_usage": True}}
        assert post(server, path, {**known, **options}).status_code == 400
        assert post(server, path, {**known, **options, "stream": True}).status_code == 200
        assert post(server, path, {**known, "stream_options": None}).status_code == 200


def test_a_call_without_arguments(server: Any) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": None}}
    turn = {"role": "assistant", "content": None, "tool_calls": [call]}
    messages = [{"role": "user", "content": "x"}, turn, {"role": "tool", "tool_call_id": "c", "content": "y"}]
    assert post(server, "/v1/chat/completions", {**CHAT, "messages": messages}).status_code == 200
    item = {"type": "function_call", "call_id": "c", "name": "f", "arguments": None}
    assert post(server, "/v1/responses", {**RESPONSE, "input": [item]}).status_code == 200

"""Input that is too large or unknown, in each dialect: its own error shape, and the server goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from stepwell.server.batches.lines import read
from stepwell.server.batches.runner import BatchLimits
from tests.server.batches.test_batches import CHATS, jsonl
from tests.server.fakes import MODEL, null_node
from tests.server.wire import post

TEN_MB = "Be brief. " * 2**20
HI = [{"role": "user", "content": "hi"}]
PICTURE = "data:image/png;base64,iVBORw0KGgo="


def chat(system: str) -> dict[str, Any]:
    return {"model": MODEL, "max_tokens": 1, "messages": [{"role": "system", "content": system}, *HI]}


def responses(system: str) -> dict[str, Any]:
    return {"model": MODEL, "max_output_tokens": 1, "instructions": system, "input": "hi"}


def messages(system: str) -> dict[str, Any]:
    return {"model": MODEL, "max_tokens": 1, "system": system, "messages": HI}


def gemini(system: str) -> dict[str, Any]:
    said = {"systemInstruction": {"parts": [{"text": system}]}, "generationConfig": {"maxOutputTokens": 1}}
    return {**said, "contents": [{"role": "user", "parts": [{"text": "hi"}]}]}


DIALECTS: tuple[tuple[str, Callable[[str], dict[str, Any]], Callable[[Any], Any], str], ...] = (
    ("/v1/chat/completions", chat, lambda error: error["error"]["type"], "invalid_request_error"),
    ("/v1/responses", responses, lambda error: error["error"]["type"], "invalid_request_error"),
    ("/v1/messages", messages, lambda error: (error["type"], error["error"]["type"])[1], "request_too_large"),
    ("/v1/messages/count_tokens", messages, lambda error: error["error"]["type"], "request_too_large"),
    (
        f"/v1beta/models/{MODEL}:generateContent",
        gemini,
        lambda error: error["error"]["status"],
        "INVALID_ARGUMENT",
    ),
)


def test_a_system_prompt_of_ten_megabytes_is_told_in_each_dialect() -> None:
    with null_node() as server:
        for path, body, kind, expected in DIALECTS:
            refused = post(server, path, body(TEN_MB))
            assert refused.status_code == 413, (path, refused.text[:200])
            assert kind(refused.json()) == expected, path
        for path, body, kind, _ in DIALECTS:  # what a body may have, and a context has not
            refused = post(server, path, body(TEN_MB[: 2**20]))
            assert refused.status_code == 400 or path.endswith("count_tokens"), (path, refused.text[:200])
            assert path.endswith("count_tokens") or kind(refused.json()) != "request_too_large"
        for path, body, _, _ in DIALECTS:  # and nothing is lost
            assert post(server, path, body("Be brief.")).status_code == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (
            "/v1/chat/completions",
            {
                **chat(""),
                "messages": [
                    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": PICTURE}}]}
                ],
            },
        ),
        (
            "/v1/responses",
            {
                **responses(""),
                "input": [{"role": "user", "content": [{"type": "input_image", "image_url": PICTURE}]}],
            },
        ),
        (
            "/v1/messages",
            {
                **messages(""),
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "text", "text": "What is this?"},
                            {
                                "type": "image",
                                "source": {"type": "base64", "media_type": "image/png", "data": "iVBOR"},
                            },
                        ],
                    }
                ],
            },
        ),
        (
            f"/v1beta/models/{MODEL}:generateContent",
            {
                "contents": [
                    {"role": "user", "parts": [{"inlineData": {"mimeType": "image/png", "data": "iVBOR"}}]}
                ]
            },
        ),
    ],
)
def test_an_image_is_a_400_that_names_it(path: str, body: dict[str, Any]) -> None:
    with null_node() as server:
        refused = post(server, path, body)
    assert refused.status_code == 400, refused.text
    assert "text" in refused.json()["error"]["message"]
    assert "iVBOR" not in refused.text


def test_headers_of_betas_that_nobody_knows_change_nothing() -> None:
    with null_node() as server:
        known = post(server, "/v1/messages", messages("x"))
        for path in ("/v1/messages", "/v1/messages?beta=true"):
            betas = {
                "anthropic-beta": "context-9m-2030-01-01,,tools of tomorrow",
                "anthropic-version": "2099-01-01",
            }
            answer = post(server, path, {**messages("x"), "context_management": {"edits": []}}, **betas)
            assert answer.status_code == 200, answer.text
            assert answer.json()["content"] == known.json()["content"]
            assert answer.json()["usage"]["output_tokens"] == known.json()["usage"]["output_tokens"]


def test_60_000_lines_are_refused_with_the_number_of_the_first_too_many() -> None:
    line = {"custom_id": "", "method": "POST", "url": CHATS, "body": {"model": MODEL, "messages": HI}}
    rows = [{**line, "custom_id": str(number)} for number in range(60_000)]
    lines, errors = read(jsonl(rows), CHATS, [MODEL], BatchLimits().max_lines)
    assert lines == []
    assert [(error.code, error.line) for error in errors] == [("too_many_lines", 50_001)]
    assert "50000" in errors[0].message

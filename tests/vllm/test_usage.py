"""Usage in every dialect that vLLM speaks, and events that are cut anywhere."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.server.errors import ApiError
from stepwell.server.settings import ServerSettings
from stepwell.vllm.shape import shape_of
from stepwell.vllm.usage import StreamReader, Used, whole


def frame(said: dict[str, Any]) -> bytes:
    name = said.get("type")
    return (f"event: {name}\n" if name else "").encode() + b"data: " + json.dumps(said).encode() + b"\n\n"


MESSAGES = [
    frame({"type": "message_start", "message": {"usage": {"input_tokens": 9, "output_tokens": 0}}}),
    frame({"type": "content_block_delta", "delta": {"type": "text_delta", "text": "a"}}),
    frame(
        {
            "type": "message_delta",
            "delta": {"stop_reason": "max_tokens"},
            "usage": {"input_tokens": 5, "cache_read_input_tokens": 4, "output_tokens": 7},
        }
    ),
]
RESPONSES = [
    frame({"type": "response.created", "response": {"id": "resp_1", "error": None, "usage": None}}),
    frame(
        {
            "type": "response.completed",
            "response": {
                "usage": {"input_tokens": 9, "input_tokens_details": {"cached_tokens": 4}, "output_tokens": 7}
            },
        }
    ),
]


@pytest.mark.parametrize("events", [MESSAGES, RESPONSES])
def test_other_dialects_are_counted_and_go_on_as_they_are(events: list[bytes]) -> None:
    used = Used()
    reader = StreamReader(used, tells_usage=False)
    assert b"".join(map(reader.feed, events)) + reader.end() == b"".join(events)
    assert (used.prompt_tokens, used.cached_tokens, used.generated_tokens) == (9, 4, 7)
    assert not reader.failed


def chat(index: int, tokens: int, text: str) -> bytes:
    usage = {"prompt_tokens": 9, "completion_tokens": tokens}
    return frame({"choices": [{"index": index, "delta": {"content": text}}], "usage": usage})


@given(
    st.lists(st.tuples(st.integers(0, 2), st.text(max_size=6)), max_size=12),
    st.lists(st.integers(0, 2_000), max_size=6),
    st.booleans(),
)
def test_a_stream_may_be_cut_anywhere(
    deltas: list[tuple[int, str]], cuts: list[int], tells_usage: bool
) -> None:
    counts, sent = [0, 0, 0], b""
    for index, text in deltas:
        counts[index] += 1
        sent += chat(index, counts[index], text)
    used, got = Used(choices=3), b""
    reader = StreamReader(used, tells_usage=tells_usage)
    at = 0
    for cut in sorted(min(cut, len(sent)) for cut in cuts):
        got += reader.feed(sent[at:cut])
        at = cut
    got += reader.feed(sent[at:]) + reader.end()
    said = [json.loads(event.removeprefix(b"data: ")) for event in got.split(b"\n\n") if event]
    assert [(one["choices"][0]["index"], one["choices"][0]["delta"]["content"]) for one in said] == deltas
    assert all(("usage" in one) is tells_usage for one in said)
    assert used.generated_tokens == sum(counts)
    assert used.prompt_tokens == (9 if deltas else 0)


def test_an_answer_is_changed_only_where_it_says_what_is_private() -> None:
    data = b'{"usage": {"prompt_tokens": 3,   "completion_tokens": 2}}'
    used = Used()
    assert whole(data, used) is data
    assert (used.prompt_tokens, used.generated_tokens) == (3, 2)
    assert json.loads(whole(b'{"id": 1, "kv_transfer_params": {"a": 1}}', used)) == {"id": 1}
    assert whole(b"not json", used) == b"not json"


SETTINGS = ServerSettings()


@pytest.mark.parametrize(
    ("path", "body", "prompt_tokens", "new_tokens", "answers"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]}, None, 512, 1),
        ("/v1/chat/completions", {"messages": [], "max_tokens": 5, "n": 3}, None, 15, 3),
        ("/v1/chat/completions", {"messages": [], "max_tokens": 5, "max_completion_tokens": 9}, None, 9, 1),
        ("/v1/completions", {"prompt": ["a", "b"], "n": 2}, None, 64, 4),
        ("/v1/completions", {"prompt": [1, 2, 3], "max_tokens": 10**9}, None, 4096, 1),
        ("/v1/completions", {"prompt": "x" * 9_000}, 4096, 16, 1),
        ("/v1/messages/count_tokens", {"messages": []}, 0, 0, 1),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            4096,
            512,
            1,
        ),
    ],
)
def test_what_a_request_may_come_to(
    path: str, body: dict[str, Any], prompt_tokens: int | None, new_tokens: int, answers: int
) -> None:
    shape = shape_of(path, body, 4096, SETTINGS)
    assert (shape.new_tokens, shape.answers) == (new_tokens, answers)
    assert prompt_tokens is None or shape.prompt_tokens == prompt_tokens


def test_nothing_is_stored_by_vllm() -> None:
    body: dict[str, Any] = {"input": "hello", "store": True}
    assert json.loads(shape_of("/v1/responses", body, 4096, SETTINGS).data)["store"] is False
    with pytest.raises(ApiError, match="not stored"):
        shape_of("/v1/responses", {"input": "hello", "background": True}, 4096, SETTINGS)


def test_each_text_of_a_list_may_fill_a_context() -> None:
    shape = shape_of("/v1/embeddings", {"input": ["x" * 9_000, "y" * 9_000]}, 4096, SETTINGS)
    assert shape.prompt_tokens > 2 * 4096

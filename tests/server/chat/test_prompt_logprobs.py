"""``echo`` with ``logprobs``: what evaluation harnesses ask to score a text."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest

from stepwell.engines.base import SamplingParams
from stepwell.engines.null import END_TOKEN, NullConfig
from stepwell.loop.requests import Delta, Finished, Scored, TokenInfo
from stepwell.policy.types import Caller
from stepwell.server.backends.bridge import Arrival
from stepwell.server.chat.completions import MAX_SCORES, CompletionShape
from stepwell.server.generation.prompts import TokenPrompt
from stepwell.server.generation.turns import Ask
from stepwell.server.wire.schema import CompletionRequest
from tests.server.fakes import MODEL, BackgroundServer, null_node

ASK: dict[str, Any] = {"model": MODEL, "prompt": "a well", "echo": True, "logprobs": 2, "temperature": 0}
TOKENS = ["", "a", " ", "w", "e", "l", "l"]
"""With the token that begins a text."""


def ask(server: BackgroundServer, **changed: Any) -> Any:
    return httpx2.post(server.base_url + "/v1/completions", json=ASK | changed, timeout=30)


def test_a_prompt_is_scored_and_nothing_is_generated() -> None:
    with null_node() as server:
        answer = ask(server, max_tokens=0).json()
    (choice,) = answer["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("a well", "length")
    found = choice["logprobs"]
    assert found["tokens"] == TOKENS
    assert found["text_offset"] == [0, 0, 1, 2, 3, 4, 5]
    assert found["token_logprobs"][0] is found["top_logprobs"][0] is None
    assert all(logprob <= 0 for logprob in found["token_logprobs"][1:])
    assert all(set(top) >= {"!", " "} for top in found["top_logprobs"][1:])
    assert (answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]) == (7, 0)


def test_no_token_of_an_answer_is_wanted_without_a_score_either() -> None:
    with null_node() as server:
        answer = ask(server, max_tokens=0, logprobs=None, echo=False).json()
    assert answer["choices"][0] == {"index": 0, "text": "", "logprobs": None, "finish_reason": "length"}
    assert answer["usage"]["completion_tokens"] == 0


def test_a_score_does_not_depend_on_what_is_cached() -> None:
    with null_node() as server:
        first, second = (ask(server, prompt="a well " * 40, max_tokens=1).json() for _ in range(2))
        plain = ask(server, prompt="a well " * 40, max_tokens=1, logprobs=None).json()
    assert first["choices"][0]["logprobs"] == second["choices"][0]["logprobs"]
    assert second["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    assert plain["choices"][0]["text"] == first["choices"][0]["text"]


def test_choices_of_one_prompt_have_its_scores_each() -> None:
    with null_node() as server:
        answer = ask(server, prompt=["a well", "steps"], n=2, max_tokens=2, seed=1, temperature=1).json()
        stream = ask(
            server, prompt=["a well", "steps"], n=2, max_tokens=2, seed=1, temperature=1, stream=True
        )
    assert [choice["text"][:-2] for choice in answer["choices"]] == ["a well"] * 2 + ["steps"] * 2
    scores = [choice["logprobs"]["token_logprobs"] for choice in answer["choices"]]
    assert scores[0][:7] == scores[1][:7] and scores[2][:6] == scores[3][:6]
    assert [len(score) for score in scores] == [9, 9, 8, 8]
    assert joined(stream) == {
        choice["index"]: (
            choice["text"],
            choice["logprobs"]["token_logprobs"],
            choice["logprobs"]["text_offset"],
        )
        for choice in answer["choices"]
    }


def joined(stream: Any) -> dict[int, tuple[str, list[float], list[int]]]:
    found: dict[int, tuple[str, list[float], list[int]]] = {}
    for line in stream.text.splitlines():
        if line.startswith("data: {"):
            for choice in json.loads(line[6:])["choices"]:
                text, scores, offsets = found.get(choice["index"], ("", [], []))
                said = choice["logprobs"] or {"token_logprobs": [], "text_offset": []}
                found[choice["index"]] = (
                    text + choice["text"],
                    scores + said["token_logprobs"],
                    offsets + said["text_offset"],
                )
    return found


def test_the_token_that_ends_an_answer_at_once_is_there() -> None:
    """Harnesses ask for one token and leave the last one out, whatever it is."""
    with null_node(NullConfig(model=MODEL, block_tokens=16, device_blocks=256, answer=b"")) as server:
        answer = ask(server, max_tokens=1).json()
    (choice,) = answer["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("a well", "stop")
    assert choice["logprobs"]["tokens"] == [*TOKENS, ""]
    assert choice["logprobs"]["text_offset"][-1] == len("a well")


def test_what_would_be_too_long_an_answer_is_refused_at_once() -> None:
    prompts = ["x" * 3_999] * 6
    with null_node() as server:
        answer = ask(server, prompt=prompts, max_tokens=0)
        assert answer.status_code == 400
        assert f"{6 * 4_000 * 3:,} entries" in answer.json()["error"]["message"]
        assert answer.json()["error"]["param"] == "logprobs"
        assert f"{MAX_SCORES:,}" in answer.json()["error"]["message"]
        assert ask(server, prompt=prompts[:3], n=2, max_tokens=0).status_code == 400  # each choice has them


@pytest.mark.parametrize("tokens", [[97, 0xE2, 0x82, 0xAC, 0xE2, 0x82], [0xFF, 97], [END_TOKEN, 97]])
def test_tokens_that_are_parts_of_characters(tokens: list[int]) -> None:
    with null_node() as server:
        (choice,) = ask(server, prompt=tokens, max_tokens=0).json()["choices"]
    found = choice["logprobs"]
    assert len(found["tokens"]) == len(tokens)
    assert all(0 <= offset <= len(choice["text"]) for offset in found["text_offset"])
    assert found["text_offset"] == sorted(found["text_offset"])
    if tokens[0] == 97:
        assert found["tokens"][1:4] == [r"bytes:\xe2", r"bytes:\x82", r"bytes:\xac"]
        assert found["text_offset"] == [0, 1, 1, 1, 2, 2]


@pytest.mark.parametrize("echo", [False, True])
@pytest.mark.parametrize(
    ("answer", "stop", "text"),
    [
        ("a€b", "b", "a€"),
        ("a€€b", "€b", "a€"),
        ("a€b", "€", "a"),
        ("ab🙂c🙂!", "🙂!", "ab🙂c"),
        ("€€", "€", ""),
        ("a€b", "zzz", "a€b"),
    ],
)
def test_tokens_of_a_stop_text_are_none_of_the_answer(answer: str, stop: str, text: str, echo: bool) -> None:
    """In one piece and streamed: every token begins within the text, and together they are the text."""
    config = NullConfig(model=MODEL, block_tokens=16, device_blocks=256, answer=answer.encode())
    with null_node(config) as server:
        fields = {"echo": echo, "stop": stop, "max_tokens": 60}
        (whole,) = ask(server, **fields).json()["choices"]
        streamed = joined(ask(server, **fields, stream=True))
    prompt = "a well" if echo else ""
    assert whole["text"] == prompt + text
    found = whole["logprobs"]
    ends = answer == text and not found["tokens"][-1]
    assert all(at < len(whole["text"]) for at in found["text_offset"][: -1 if ends else None])
    data = b"".join(
        eval(f"b'{one[6:]}'") if one.startswith("bytes:") else one.encode() for one in found["tokens"]
    )
    assert data.decode() == whole["text"]
    assert streamed == {0: (whole["text"], found["token_logprobs"], found["text_offset"])}


def test_a_choice_that_comes_first_waits_for_the_scores_of_its_prompt() -> None:
    with null_node() as server:
        shape = shape_of(server)
        shape.begin()
        assert shape.take(Arrival(1, Delta("b", (TokenInfo(98, -0.5),)))) == []
        assert shape.take(Arrival(1, FINISHED)) == []
        said = shape.take(Arrival(0, Scored((TokenInfo(97), TokenInfo(99, -1.0)))))
        rest = shape.take(Arrival(0, FINISHED))
    choices = [event["choices"][0] for event in [*said, *rest]]
    assert [(one["index"], one["text"], one["finish_reason"]) for one in choices] == [
        (0, "ac", None),
        (1, "ac", None),
        (1, "b", None),
        (1, "", "stop"),
        (0, "", "stop"),
    ]
    assert [one["logprobs"]["text_offset"] for one in choices[:3]] == [[0, 1], [0, 1], [2]]


FINISHED = Finished("stop", None, 2, 1, 0, 1, 1, 0)


def shape_of(server: BackgroundServer) -> CompletionShape:
    wanted = CompletionRequest(model=MODEL, prompt=["ac"], echo=True, logprobs=0, n=2)
    ask = Ask(SamplingParams(), (), 1, 1, 100, Caller("local"))
    return CompletionShape(server.service, wanted, ask, 2, [TokenPrompt((97, 99), "ac")])

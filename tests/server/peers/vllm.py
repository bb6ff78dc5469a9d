"""vLLM's suite."""

from __future__ import annotations

from typing import Any

from tests.server.peers.case import (
    BOOK,
    CHAT,
    COMPLETIONS,
    RESPONSES,
    SAYS,
    VLLM,
    Asked,
    case,
    contents,
    reasons,
    texts,
)


@case(VLLM, "chat", "no_logprobs_chat")
def no_logprobs(asked: Asked) -> None:
    assert asked.chat(logprobs=False)["choices"][0]["logprobs"] is None


@case(VLLM, "chat", "zero_logprobs_chat")
def zero_logprobs(asked: Asked) -> None:
    found = asked.chat(logprobs=True, top_logprobs=0)["choices"][0]["logprobs"]["content"]
    assert found and all(one["top_logprobs"] == [] for one in found)


@case(VLLM, "chat", "too_many_chat_logprobs")
@case(VLLM, "completion", "too_many_completion_logprobs")
def too_many_logprobs(asked: Asked) -> None:
    for count in (21, 30):
        asked.bad(CHAT, messages=BOOK, logprobs=True, top_logprobs=count)
        asked.bad(COMPLETIONS, prompt="x", logprobs=count, stream=True)
    asked.chat()


@case(
    VLLM,
    "chat",
    "prompt_logprobs_chat",
    "more_than_one_prompt_logprobs_chat",
    differs="`prompt_logprobs` is passed over: what lies in the cache is not computed again",
)
@case(VLLM, "completion", "prompt_logprobs_completion", differs="as in chat")
def prompt_logprobs(asked: Asked) -> None:
    assert "prompt_logprobs" not in asked.chat(prompt_logprobs=1)


@case(VLLM, "chat", "single_chat_session")
def session(asked: Asked) -> None:
    found = asked.chat(max_completion_tokens=5)
    usage = found["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    answer = {"role": "assistant", "content": found["choices"][0]["message"]["content"]}
    asked.chat(messages=[*BOOK, answer, {"role": "user", "content": "express your result in json"}])


@case(VLLM, "chat", "chat_streaming")
def streaming(asked: Asked) -> None:
    chunks = asked.chat_stream(max_completion_tokens=10)
    assert contents(chunks) == asked.chat(max_completion_tokens=10)["choices"][0]["message"]["content"]
    assert reasons(chunks) == ["length"]


@case(
    VLLM,
    "chat",
    "chat_completion_stream_options",
    differs="`continuous_usage_stats` is passed over: usage comes once, at the end",
)
@case(VLLM, "completion", "completion_stream_options", differs="as in chat")
def stream_options(asked: Asked) -> None:
    for path, prompt in ((CHAT, {"messages": BOOK}), (COMPLETIONS, {"prompt": "x"})):
        silent = asked.stream(path, **prompt, stream_options={"include_usage": False})
        assert not any(chunk.get("usage") for chunk in silent)
        told = {"include_usage": True, "continuous_usage_stats": True}
        *chunks, last = asked.stream(path, **prompt, stream_options=told)
        assert last["choices"] == [] and last["usage"]["completion_tokens"] > 0
        assert all(chunk["usage"] is None for chunk in chunks)
        for options in ({"include_usage": None}, {"include_usage": True}):
            asked.bad(path, **prompt, stream=False, stream_options=options)


@case(VLLM, "chat", "structured_outputs_choice_chat", "structured_outputs_regex_chat")
def structured_outputs(asked: Asked) -> None:
    for given in ({"choice": ["Rust", "C++"]}, {"regex": "Rust|Ada"}):
        asked.chat(structured_outputs=given)
        sampling = asked.driver.submitted[-1].sampling
        assert "Rust" in f"{sampling.regex} {sampling.grammar} {sampling.json_schema}"


@case(VLLM, "chat", "structured_outputs_type_error")
def two_constraints(asked: Asked) -> None:
    asked.bad(CHAT, messages=BOOK, structured_outputs={"regex": 1})
    asked.bad(CHAT, messages=BOOK, structured_outputs={"regex": "a", "choice": ["a"]})


@case(VLLM, "completion", "single_completion")
def single_completion(asked: Asked) -> None:
    found = asked.good(COMPLETIONS, prompt="Hello, my name is", max_tokens=5)
    assert (found["usage"]["completion_tokens"], len(found["choices"])) == (5, 1)
    assert found["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    assert asked.good(COMPLETIONS, prompt=[0, 0, 0], max_tokens=5)["choices"][0]["text"]


@case(
    VLLM,
    "completion",
    "completion_truncation_side_controls_prompt_truncation",
    differs="`truncate_prompt_tokens` is passed over: a prompt is never cut, one that does not fit is a 400",
)
@case(
    VLLM,
    "return_token_ids",
    "basic_completion_with_emoji",
    "chat_completion_with_tool_use",
    differs="`return_token_ids` is passed over: `logprobs` has the bytes of each token, `/tokenize` the ids",
)
@case(
    VLLM,
    "chat_echo",
    "chat_session_with_echo_and_continue_final_message",
    differs="`echo` of chat is passed over",
)
def passed_over(asked: Asked) -> None:
    more = {"truncate_prompt_tokens": 4, "return_token_ids": True}
    found = asked.good(COMPLETIONS, prompt=list(range(97, 105)), **more)
    assert found["usage"]["prompt_tokens"] == 8
    assert asked.chat(echo=True)["choices"][0]["message"]["content"] == SAYS


@case(VLLM, "completion", "no_logprobs")
def completion_without_logprobs(asked: Asked) -> None:
    assert asked.good(COMPLETIONS, prompt=[0, 0], logprobs=None)["choices"][0]["logprobs"] is None


@case(VLLM, "completion", "zero_logprobs")
def completion_zero_logprobs(asked: Asked) -> None:
    found = asked.good(COMPLETIONS, prompt=[0, 0], logprobs=0)["choices"][0]["logprobs"]
    assert len(found["token_logprobs"]) == len(SAYS)


@case(VLLM, "completion", "parallel_no_streaming")
def parallel(asked: Asked) -> None:
    found = asked.good(COMPLETIONS, prompt="What?", n=3, seed=42, temperature=1.0, logprobs=0)["choices"]
    assert [choice["index"] for choice in found] == [0, 1, 2]
    assert len({g.sampling.seed for g in asked.driver.submitted[-3:]}) == 3  # or they would all be the same


@case(VLLM, "completion", "parallel_streaming")
def parallel_stream(asked: Asked) -> None:
    chunks = asked.stream(COMPLETIONS, prompt="What?", n=3, seed=42)
    assert len(reasons(chunks)) == 3
    assert [texts(chunks, index) for index in range(3)] == [SAYS] * 3


@case(VLLM, "completion", "batch_completions")
def batch(asked: Asked) -> None:
    found = asked.good(COMPLETIONS, prompt=["What?", "What?"], n=2)["choices"]
    assert [choice["index"] for choice in found] == [0, 1, 2, 3]


@case(
    VLLM,
    "completion",
    "echo_stream_completion",
    "echo_logprob_completion",
)
def echo(asked: Asked) -> None:
    assert asked.good(COMPLETIONS, prompt="What?", echo=True)["choices"][0]["text"] == "What?" + SAYS
    assert texts(asked.stream(COMPLETIONS, prompt="What?", echo=True)) == "What?" + SAYS
    (choice,) = asked.good(COMPLETIONS, prompt="What?", echo=True, logprobs=1)["choices"]
    assert choice["text"] == "What?" + SAYS
    found = choice["logprobs"]
    assert "".join(found["tokens"]) == choice["text"]
    assert found["token_logprobs"][0] is found["top_logprobs"][0] is None
    assert len(found["text_offset"]) == len(found["token_logprobs"]) == len(found["top_logprobs"])


@case(VLLM, "prompt_validation", "empty_prompt")
@case(VLLM, "empty_prompt_list", "empty_prompt_list_rejected")
def empty_prompts(asked: Asked) -> None:
    empty: tuple[Any, ...] = (None, [], [[]])
    for prompt in empty:
        asked.bad(COMPLETIONS, prompt=prompt)


@case(VLLM, "prompt_validation", "out_of_vocab_token_ids")
def out_of_vocabulary(asked: Asked) -> None:
    asked.bad(COMPLETIONS, prompt=[999_999])


@case(VLLM, "non_object_body_validation", "non_object_body_is_rejected")
def no_object(asked: Asked) -> None:
    for path in (CHAT, COMPLETIONS, RESPONSES):
        bodies: tuple[Any, ...] = ([], "x", 1)
        for body in bodies:
            assert asked.http.post(path, json=body).status_code == 400


@case(VLLM, "tool_choice_null", "tool_choice_null")
def null_tool_choice(asked: Asked) -> None:
    assert asked.chat(tools=None, tool_choice=None)["choices"][0]["message"]["content"] == SAYS


@case(
    VLLM,
    "chat_stop_token_ids_validation",
    "stop_token_ids_invalid",
    differs="`stop_token_ids` is passed over: `stop` takes texts",
)
def stop_ids(asked: Asked) -> None:
    assert asked.chat(stop_token_ids=[1])["choices"][0]["message"]["content"] == SAYS

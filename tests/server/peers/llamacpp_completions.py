"""llama.cpp's suite: completions."""

from __future__ import annotations

from tests.server.peers.case import BOOK, CHAT, COMPLETIONS, LLAMA, SAYS, VLLM, Asked, case, reasons, texts


@case(LLAMA, "completion", "completion_with_openai_library")
def completion(asked: Asked) -> None:
    found = asked.good(COMPLETIONS, prompt="I believe", max_tokens=8)
    assert found["system_fingerprint"]
    assert (found["choices"][0]["text"], found["choices"][0]["finish_reason"]) == (SAYS[:8], "length")


@case(LLAMA, "completion", "completion_stream_vs_non_stream", "completion_stream_with_openai_library")
@case(VLLM, "completion", "completion_streaming")
def completion_stream(asked: Asked) -> None:
    chunks = asked.stream(COMPLETIONS, prompt="I believe", max_tokens=8)
    assert texts(chunks) == asked.good(COMPLETIONS, prompt="I believe", max_tokens=8)["choices"][0]["text"]
    assert reasons(chunks) == ["length"] and chunks[-1]["choices"][0]["finish_reason"] == "length"


@case(LLAMA, "completion", "consistent_result_same_seed", "consistent_result_different_batch_size")
def same_seed(asked: Asked) -> None:
    bodies = [asked.good(COMPLETIONS, prompt="x", seed=42, temperature=0) for _ in range(3)]
    assert {body["choices"][0]["text"] for body in bodies} == {SAYS}
    assert {g.sampling.seed for g in asked.driver.submitted[-3:]} == {42}


@case(LLAMA, "completion", "nocache_long_input_prompt")
@case(LLAMA, "chat_completion", "context_size_exceeded", "context_size_exceeded_stream")
def too_long(asked: Asked) -> None:
    for more in ({}, {"stream": True}):
        assert asked.bad(CHAT, messages=BOOK * 400, **more)["code"] == "context_length_exceeded"
    assert asked.bad(COMPLETIONS, prompt="x" * 5_000)["code"] == "context_length_exceeded"


@case(
    LLAMA,
    "completion",
    "completion_with_tokens_input",
    differs="ids and text mixed in one list are a 400, as at OpenAI",
)
def token_prompts(asked: Asked) -> None:
    tokens = asked.http.post("/tokenize", json={"content": "I believe"}).json()["tokens"]
    assert asked.good(COMPLETIONS, prompt=tokens)["choices"][0]["text"] == SAYS
    both = asked.good(COMPLETIONS, prompt=[tokens, tokens])["choices"]
    assert [choice["text"] for choice in both] == [SAYS, SAYS]
    for mixed in ([tokens, "I believe"], [1, 2, "I believe"]):
        asked.bad(COMPLETIONS, prompt=mixed)


@case(LLAMA, "completion", "n_probs", "n_probs_stream")
@case(VLLM, "completion", "some_logprobs")
def completion_logprobs(asked: Asked) -> None:
    found = asked.good(COMPLETIONS, prompt="x", logprobs=5, max_tokens=3)["choices"][0]["logprobs"]
    assert len(found["tokens"]) == len(found["token_logprobs"]) == 3
    assert all(len(top) in (5, 6) for top in found["top_logprobs"])
    assert all(one <= 0 for one in found["token_logprobs"])
    chunks = asked.stream(COMPLETIONS, prompt="x", logprobs=5, max_tokens=3)
    told = [choice["logprobs"] for chunk in chunks for choice in chunk["choices"] if choice["logprobs"]]
    assert [token for one in told for token in one["tokens"]] == found["tokens"]

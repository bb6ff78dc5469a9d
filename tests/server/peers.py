"""What the test suites of two other servers ask of them over HTTP, asked of ours.

The suites are llama.cpp's (tools/server/tests/unit) and vLLM's (tests/entrypoints/openai), read in November
2026; a case is named as the test there, and written anew. One that ``differs`` asserts what ours does
instead, and says why. ``scripts/peers.py`` makes the table of docs/api.md from this list, and
``test_peers.py`` runs it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx2

from tests.server.fakes import MODEL, FakeDriver
from tests.server.wire import error_of, events

SAYS = "Hello there, world."
CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
BOOK = [{"role": "system", "content": "Book"}, {"role": "user", "content": "What is the best book"}]
LLAMA, VLLM = "llama.cpp", "vLLM"


@dataclass(frozen=True, slots=True)
class Asked:
    """A server whose model says ``SAYS``, and what it was given to compute."""

    http: httpx2.Client
    driver: FakeDriver

    def post(self, path: str, body: Any) -> httpx2.Response:
        return self.http.post(path, json={"model": MODEL, **body} if isinstance(body, dict) else body)

    def good(self, path: str, **body: Any) -> dict[str, Any]:
        answer = self.post(path, body)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def bad(self, path: str, status: int = 400, **body: Any) -> dict[str, Any]:
        answer = self.post(path, body)
        assert answer.status_code == status, answer.text
        return error_of(answer)

    def stream(self, path: str, **body: Any) -> list[dict[str, Any]]:
        answer = self.post(path, {**body, "stream": True})
        assert answer.status_code == 200, answer.text
        return [event for event in events(answer) if isinstance(event, dict)]

    def chat(self, **body: Any) -> dict[str, Any]:
        return self.good(CHAT, **{"messages": BOOK, **body})

    def chat_stream(self, **body: Any) -> list[dict[str, Any]]:
        return self.stream(CHAT, **{"messages": BOOK, **body})


@dataclass(frozen=True, slots=True)
class PeerCase:
    """One test of theirs."""

    peer: str
    file: str
    name: str
    ask: Callable[[Asked], None]
    differs: str = ""
    """What a client sees otherwise, and why; empty: nothing."""


CASES: list[PeerCase] = []


def case(
    peer: str, file: str, *names: str, differs: str = ""
) -> Callable[[Callable[[Asked], None]], Callable[[Asked], None]]:
    """The tests of theirs that a function stands for."""

    def add(ask: Callable[[Asked], None]) -> Callable[[Asked], None]:
        CASES.extend(PeerCase(peer, file, name, ask, differs) for name in names)
        return ask

    return add


def contents(chunks: list[dict[str, Any]]) -> str:
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


def texts(chunks: list[dict[str, Any]], index: int = 0) -> str:
    return "".join(c["text"] for chunk in chunks for c in chunk["choices"] if c["index"] == index)


def reasons(chunks: list[dict[str, Any]]) -> list[str]:
    found = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]]
    return [reason for reason in found if reason is not None]


# --- llama.cpp: the server itself ----------------------------------------------------------------


@case(LLAMA, "basic", "server_start_simple", "server_start_with_host_family")
@case(LLAMA, "security", "access_public_endpoint[/health]")
def health(asked: Asked) -> None:
    assert asked.http.get("/health").status_code == 200


@case(LLAMA, "basic", "server_models")
def models(asked: Asked) -> None:
    found = asked.http.get("/v1/models").json()["data"]
    assert [model["id"] for model in found] == [MODEL]


@case(
    LLAMA,
    "basic",
    "server_props",
    "server_slots",
    differs="no `/props`, no `/slots`: `/v1/models` has the `context_window`, `/v1/agents` who runs",
)
@case(
    LLAMA,
    "completion",
    "completion",
    "completion_stream",
    "completion_response_fields",
    "n_probs_post_sampling",
    differs="no native `/completion`: `/v1/completions` computes the same",
)
@case(
    LLAMA,
    "infill",
    "infill_without_input_extra",
    "infill_with_input_extra",
    differs="no `/infill`: `suffix` is a 400 too",
)
@case(
    LLAMA,
    "chat_completion",
    "apply_chat_template",
    differs="no `/apply-template`: `/tokenize` takes `messages` and gives their tokens",
)
@case(
    LLAMA,
    "slot_save",
    "slot_save_restore",
    "slot_erase",
    differs="no `/slots`: KV goes down the KV tiers and comes back by itself, also after a restart",
)
@case(LLAMA, "lora", "lora", differs="no `/lora-adapters`: an adapter is a model name in the request")
def native_routes(asked: Asked) -> None:
    for path in ("/completion", "/infill", "/apply-template", "/lora-adapters", "/slots/0?action=save"):
        assert asked.post(path, {"prompt": "x"}).status_code == 404
    assert asked.http.get("/props").status_code == asked.http.get("/slots").status_code == 404


@case(LLAMA, "basic", "no_webui", differs="no chat page: `/page` shows agents, `/` says what this is")
def page(asked: Asked) -> None:
    assert asked.http.get("/").status_code == 200


# --- llama.cpp: completions ----------------------------------------------------------------------


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


# --- llama.cpp: chat -----------------------------------------------------------------------------


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


# --- llama.cpp: tokens, keys, pages of other origins ---------------------------------------------


@case(LLAMA, "tokenize", "tokenize_detokenize", "tokenize_with_bos")
def tokenize(asked: Asked) -> None:
    body = {"content": "What is the capital?", "add_special": True}
    tokens = asked.http.post("/tokenize", json=body).json()["tokens"]
    assert len(tokens) > 5
    assert asked.http.post("/detokenize", json={"tokens": tokens}).json()["content"] == body["content"]


@case(
    LLAMA,
    "tokenize",
    "tokenize_with_pieces",
    differs="`with_pieces` is passed over: ids alone, and `/detokenize` says what each is",
)
def pieces(asked: Asked) -> None:
    tokens = asked.http.post("/tokenize", json={"content": "ab", "with_pieces": True}).json()["tokens"]
    assert all(isinstance(token, int) for token in tokens)


@case(LLAMA, "security", "local_media_file")
@case(VLLM, "vision", "single_chat_session_image", differs="texts only: an image is a 400")
def images(asked: Asked) -> None:
    for url in ("file:///etc/passwd", "file://../x.jpeg", "https://example.org/x.png"):
        part = {"type": "image_url", "image_url": {"url": url}}
        asked.bad(CHAT, messages=[{"role": "user", "content": [{"type": "text", "text": "x"}, part]}])


@case(
    LLAMA,
    "security",
    "cors_options",
    differs="only origins that `cors_origins` names may ask; theirs allows every one, with credentials",
)
def cors(asked: Asked) -> None:
    headers = {"origin": "https://web.mydomain.fr", "access-control-request-method": "POST"}
    answer = asked.http.options(COMPLETIONS, headers=headers)
    assert "access-control-allow-origin" not in answer.headers


# --- vLLM ----------------------------------------------------------------------------------------


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


def by_file() -> Iterator[tuple[str, str, list[PeerCase]]]:
    """Their files in order, with the cases of each."""
    files: dict[tuple[str, str], list[PeerCase]] = {}
    for one in CASES:
        files.setdefault((one.peer, one.file), []).append(one)
    for (peer, file), cases in sorted(files.items(), key=lambda item: (item[0][0].lower(), item[0][1])):
        yield peer, file, cases


def counts(cases: list[PeerCase]) -> Mapping[str, int]:
    differing = sum(bool(one.differs) for one in cases)
    return {"same": len(cases) - differing, "differs": differing}

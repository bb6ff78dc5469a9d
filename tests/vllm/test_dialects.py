"""Every dialect through the front end to the real vLLM, spoken by the vendors' own clients: one server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from stepwell.ledger.reading.verify import verify
from stepwell.ledger.stores.open import open_store
from tests.vllm.test_served import serving

SMALL = [
    *("--enforce-eager", "--dtype", "float32", "--block-size", "32", "--num-gpu-blocks-override", "1100"),
    *("--max-num-seqs", "4", "--max-num-batched-tokens", "512"),
    *("--enable-auto-tool-choice", "--tool-call-parser", "hermes"),
]
CONTEXT = 32_768
KEYS = """
[[keys]]
key = "sk-acme"
tenant = "acme"
service_tiers = ["priority", "default"]
[[keys]]
key = "sk-other"
tenant = "other"
"""
ASK = [{"role": "user", "content": "Which storey of the stepwell lies under water in the dry season? " * 3}]
STOREY = {
    "type": "object",
    "properties": {"storey": {"enum": [1, 2, 3]}},
    "required": ["storey"],
    "additionalProperties": False,
}
GREEDY: dict[str, Any] = {"model": "tiny", "temperature": 0}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[httpx2.Client]:
    """One for all of this file; at its end the books must be right."""
    folder = tmp_path_factory.mktemp("dialects")
    config, books = folder / "stepwell.toml", folder / "books.db"
    config.write_text(KEYS)
    room = ["--host-kv", "16MiB", "--disk-kv", "64MiB", "--disk-dir", str(folder / "kv")]
    start = ["serve", "--engine", "vllm", "--model", str(tiny_model), "--port", "0", "--config", str(config)]
    flags = ["--context-tokens", str(CONTEXT), "--vllm-args", " ".join(SMALL), "--ledger", str(books)]
    with serving([*start, *room, *flags], folder / "front.log") as client:
        yield client
    store = open_store(str(books))
    try:
        assert not verify(store).differences
        rows = store.rows(
            "SELECT a.kind, SUM(u.input_tokens), SUM(u.visible_tokens + u.intermediate_tokens) FROM usage u "
            "JOIN accounts a ON a.id = u.account GROUP BY a.kind"
        )
    finally:
        store.close()
    whose = {kind: (read, written) for kind, read, written in rows}
    assert whose.get("unattributed", (0, 0))[1] < CONTEXT // 2, "what clients have left went on to its end"


def openai_client(server: httpx2.Client, key: str = "sk-acme") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.base_url}/v1", api_key=key, max_retries=0, timeout=300)


def anthropic_client(server: httpx2.Client, key: str = "sk-acme") -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=str(server.base_url), api_key=key, max_retries=0, timeout=300)


def test_chat_says_the_same_whole_and_as_a_stream(server: httpx2.Client) -> None:
    chat = openai_client(server).chat.completions
    whole = chat.create(messages=ASK, max_tokens=12, **GREEDY)
    pieces = list(chat.create(messages=ASK, max_tokens=12, stream=True, **GREEDY))
    assert "".join(p.choices[0].delta.content or "" for p in pieces) == whole.choices[0].message.content
    assert all(piece.usage is None for piece in pieces)
    assert whole.usage is not None and whole.usage.completion_tokens == 12


def test_completions_with_several_prompts_and_log_probabilities(server: httpx2.Client) -> None:
    completions = openai_client(server).completions
    two = completions.create(prompt=["a well", "a stair"], max_tokens=5, logprobs=2, **GREEDY)
    one = completions.create(prompt="a stair", max_tokens=5, **GREEDY)
    assert [choice.index for choice in two.choices] == [0, 1]
    assert two.choices[1].text == one.choices[0].text
    assert two.choices[0].logprobs is not None and len(two.choices[0].logprobs.tokens or ()) == 5


def test_messages_say_the_same_whole_and_as_a_stream(server: httpx2.Client) -> None:
    messages = anthropic_client(server).messages
    asked: dict[str, Any] = {"model": "tiny", "max_tokens": 12, "messages": ASK, "system": "Answer."}
    asked["extra_body"] = {"temperature": 0}  # the newest models of theirs take none
    whole = messages.create(**asked)
    with messages.stream(**asked) as stream:
        text, last = "".join(stream.text_stream), stream.get_final_message()
    assert whole.content[0].type == "text" and text == whole.content[0].text
    assert (whole.stop_reason, last.stop_reason) == ("max_tokens", "max_tokens")
    assert last.usage.output_tokens == whole.usage.output_tokens == 12
    counted = messages.count_tokens(model="tiny", messages=ASK, system="Answer.")
    cached = last.usage.cache_read_input_tokens or 0
    assert counted.input_tokens in (last.usage.input_tokens, last.usage.input_tokens + cached)


def test_responses_say_the_same_whole_and_as_a_stream(server: httpx2.Client) -> None:
    responses = openai_client(server).responses
    asked: dict[str, Any] = {"input": "Which storey?", "max_output_tokens": 12, **GREEDY}
    whole = responses.create(**asked)
    events = list(responses.create(stream=True, **asked))
    said = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert said == whole.output_text and said
    assert events[-1].type in ("response.completed", "response.incomplete")
    assert whole.usage is not None and whole.usage.output_tokens == 12


def test_forced_tools_are_called_in_every_dialect(server: httpx2.Client) -> None:
    """vLLM holds arguments to their schema where the tool is strict, and nowhere else."""
    client = openai_client(server)
    function = {"name": "look", "description": "Look.", "parameters": STOREY, "strict": True}
    call = client.chat.completions.create(
        messages=ASK,
        tools=[{"type": "function", "function": function}],
        tool_choice={"type": "function", "function": {"name": "look"}},
        max_tokens=200,
        **GREEDY,
    )
    (made,) = call.choices[0].message.tool_calls or ()
    assert made.type == "function" and made.function.name == "look"
    assert json.loads(made.function.arguments)["storey"] in (1, 2, 3)
    tool = {"name": "look", "description": "Look.", "input_schema": STOREY, "strict": True}
    used = anthropic_client(server).messages.create(
        model="tiny", max_tokens=200, messages=ASK, tools=[tool], tool_choice={"type": "tool", "name": "look"}
    )
    (block,) = [one for one in used.content if one.type == "tool_use"]
    assert block.name == "look" and block.input["storey"] in (1, 2, 3)


def test_structured_output_is_what_the_schema_allows(server: httpx2.Client) -> None:
    schema = {"name": "look", "schema": STOREY, "strict": True}
    answer = openai_client(server).chat.completions.create(
        messages=ASK,
        max_tokens=200,
        response_format={"type": "json_schema", "json_schema": schema},
        **GREEDY,
    )
    assert json.loads(answer.choices[0].message.content or "")["storey"] in (1, 2, 3)


def ask(client: httpx2.Client, path: str, key: str, text: str) -> int:
    """The tokens of the prompt that were found in a cache."""
    said = [{"role": "user", "content": text}]
    bodies: dict[str, dict[str, Any]] = {
        "/v1/chat/completions": {"messages": said, "max_tokens": 2},
        "/v1/completions": {"prompt": text, "max_tokens": 2},
        "/v1/messages": {"messages": said, "max_tokens": 2},
        "/v1/responses": {"input": text, "max_output_tokens": 2},
    }
    body = {"model": "tiny", "cache_salt": "forged", **bodies[path]}
    answer = client.post(path, json=body, headers={"authorization": f"Bearer {key}"})
    assert answer.status_code == 200, answer.text
    usage = answer.json()["usage"]
    details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}
    return int(details.get("cached_tokens") or usage.get("cache_read_input_tokens") or 0)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses"])
def test_no_tenant_finds_what_another_has_asked(server: httpx2.Client, path: str) -> None:
    text = f"The secret of {path} is kept by one tenant and by nobody else. " * 5
    assert ask(server, path, "sk-acme", text) == 0
    assert ask(server, path, "sk-acme", text) >= 64, "its own prefix is found"
    assert ask(server, path, "sk-other", text) == 0


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/messages"])
def test_a_client_that_leaves_ends_the_work(server: httpx2.Client, path: str) -> None:
    """Else it would be thirty thousand tokens each; the fixture counts them at the end."""
    body: dict[str, Any] = {
        "model": "tiny",
        "max_tokens": CONTEXT - 1_000,
        "ignore_eos": True,
        "stream": True,
    }
    body |= {"prompt": "go on"} if path == "/v1/completions" else {"messages": ASK}
    with server.stream("POST", path, json=body, headers={"authorization": "Bearer sk-acme"}) as answer:
        for line in answer.iter_lines():
            if line.startswith("data:"):
                break
    with server.stream("POST", path, json=body, headers={"authorization": "Bearer sk-other"}) as answer:
        assert answer.status_code == 200

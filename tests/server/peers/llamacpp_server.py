"""llama.cpp's suite: the server itself, tokens, keys, pages of other origins."""

from __future__ import annotations

from tests.server.fakes import MODEL
from tests.server.peers.case import CHAT, COMPLETIONS, LLAMA, VLLM, Asked, case


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
    differs="no `/props`, no `/slots`: `/v1/models` has the `context_window`, `/v1/agents` what runs",
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

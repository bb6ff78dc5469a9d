"""``/openapi.json`` is true: each route is in it, each answer is as it says, schemathesis finds nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import jsonschema
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import checks

from stepwell.library.documents import Limits
from stepwell.library.store import Library
from stepwell.server.app import ROUTES
from stepwell.server.backends.library import ServedLibrary
from stepwell.server.batches.runner import BatchLimits, ServedBatches
from stepwell.server.batches.store import BatchStore
from stepwell.server.openapi.document import describe, plain_path
from stepwell.server.openapi.operations import OPERATIONS
from stepwell.server.settings import ServerSettings
from tests.server.fakes import MODEL, until
from tests.server.ledgers import Kept, keeping
from tests.server.wire import http

DOCUMENT = describe(ROUTES)
CLOSED = describe(ROUTES, closed=True)
NO_END = "/v1/watch"
"""A stream that ends when its client goes; ``test_watch.py`` reads it."""


@contextmanager
def node(root: Path) -> Iterator[Kept]:
    """A server with everything that needs no model; no keys, so that this machine is an operator."""
    library = ServedLibrary(
        Library(root / "library", Limits(max_bytes=64 * 1024, max_chars=60_000)), 2**20, {}
    )
    store = BatchStore(root / "batches")
    limits = ServerSettings(port=0, drain_s=5.0, default_max_new_tokens=2, max_stored_responses=64)
    batches = ServedBatches(store, BatchLimits(), "flex", True)
    try:
        with keeping(root, keys=None, library=library, batches=batches, server_settings=limits) as kept:
            yield kept
    finally:
        store.close()


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    with node(tmp_path_factory.mktemp("openapi")) as kept:
        yield kept


# --- the description ---------------------------------------------------------------------------


def test_every_route_is_described_and_nothing_else() -> None:
    routes = {
        (method, plain_path(route.path)) for route in ROUTES for method in (route.methods or set()) - {"HEAD"}
    }
    assert routes == set(OPERATIONS)


def test_each_operation_says_what_it_is_for_and_has_a_name_of_its_own() -> None:
    operations = [one for path in DOCUMENT["paths"].values() for one in path.values()]
    assert all(one["summary"].endswith(".") for one in operations)
    names = [one["operationId"] for one in operations]
    assert len(set(names)) == len(names)


def test_schemas_are_schemas_and_every_reference_leads_somewhere() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    for one in schemas.values():
        jsonschema.Draft202012Validator.check_schema(one)

    def references(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            yield from (value["$ref"],) if isinstance(value.get("$ref"), str) else ()
            for inner in value.values():
                yield from references(inner)
        if isinstance(value, list):
            for inner in value:
                yield from references(inner)

    assert {one.rpartition("/")[2] for one in references(DOCUMENT)} <= set(schemas)


def test_it_is_served_with_the_page_for_people(kept: Kept) -> None:
    with http(kept.server) as client:
        assert client.get("/openapi.json").json() == json.loads(json.dumps(DOCUMENT))
        page = client.get("/docs")
        assert page.headers["content-type"].startswith("text/html") and "/page/docs.mjs" in page.text
        assert "default-src 'self'" in page.headers["content-security-policy"]
        assert client.head("/").status_code == 200 and client.head("/").content == b""


# --- each answer, as it really is --------------------------------------------------------------


class Tour:
    """Asks a real server, and holds each answer against the closed description."""

    def __init__(self, client: httpx2.Client) -> None:
        self.client = client
        self.seen: set[tuple[str, str]] = set()

    def __call__(
        self, method: str, path: str, /, *, status: int = 200, query: str = "", **options: Any
    ) -> Any:
        """``path`` as the description has it, with values for its parameters among the options."""
        named = {name: options.pop(name) for name in list(options) if "{" + name + "}" in path}
        answer = self.client.request(method, path.format(**named) + query, **options)
        assert answer.status_code == status, (method, path, answer.text)
        described = CLOSED["paths"][path][method.lower()]["responses"][str(status)]
        media = answer.headers["content-type"]
        plain = media.partition(";")[0]
        assert {media, plain} & {*described["content"]}, (path, media)
        if status == 200:
            self.seen.add((method, path))
        if plain != "application/json":
            return answer.text
        schema = {**described["content"][plain]["schema"], "components": CLOSED["components"]}
        jsonschema.Draft202012Validator(schema).validate(answer.json())
        return answer.json()


def chat(**more: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3, **more}


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}


def test_each_answer_is_as_described(kept: Kept) -> None:
    with http(kept.server) as client:
        tour = Tour(client)
        _generate(tour)
        _conversations(tour)
        _anthropic(tour)
        _gemini(tour, "/v1beta")
        _gemini(tour, "/v1")
        _documents(tour)
        _batches(tour)
        _agents_and_money(kept, tour)
        _about_the_server(tour)
    no_models_here = {("POST", "/v1/embeddings"), ("POST", "/v1/rerank")}
    no_settings_here = {("POST", "/admin/keys/reload")}
    redirect = {("GET", "/page/")}
    assert set(OPERATIONS) - tour.seen == {("GET", NO_END), *no_models_here, *no_settings_here, *redirect}


def _generate(tour: Tour) -> None:
    post = "POST"
    tour(post, "/v1/chat/completions", json=chat(), headers={"x-session-id": "run", "x-agent-id": "lead"})
    tour(post, "/v1/chat/completions", json=chat(logprobs=True, top_logprobs=2, n=2))
    tour(post, "/v1/chat/completions", json=chat(stream=True))
    tour(post, "/v1/chat/completions", json=chat(tools=[TOOL], tool_choice="required", max_tokens=64))
    tour(post, "/v1/chat/completions", status=400, json=chat(n=0))
    tour(post, "/v1/chat/completions", status=404, json=chat(model="other"))
    tour(post, "/v1/completions", json={"model": MODEL, "prompt": ["a", "b"], "max_tokens": 2, "logprobs": 1})
    made = tour(post, "/v1/responses", json={"model": MODEL, "input": "hi", "max_output_tokens": 3})
    one = {"response_id": made["id"]}
    tour("GET", "/v1/responses/{response_id}", **one)
    tour("GET", "/v1/responses/{response_id}/input_items", **one)
    tour("DELETE", "/v1/responses/{response_id}", **one)
    tour("GET", "/v1/responses/{response_id}", status=404, **one)
    background = {"model": MODEL, "input": "hi", "max_output_tokens": 3_000, "background": True}
    made = tour(post, "/v1/responses", json=background)
    tour(post, "/v1/responses/{response_id}/cancel", response_id=made["id"])


def _conversations(tour: Tour) -> None:
    item = {"role": "user", "content": "hi"}
    path = "/v1/conversations"
    made = tour("POST", path, json={"items": [item], "metadata": {"a": "b"}})
    tour("POST", path, status=400, json={"items": [item] * 21})
    one = {"conversation_id": made["id"]}
    path += "/{conversation_id}"
    asked = {"model": MODEL, "input": "hi", "max_output_tokens": 3, "conversation": made["id"]}
    tour("POST", "/v1/responses", json=asked)
    tour("GET", path, **one)
    tour("POST", path, json={"metadata": None}, **one)
    added = tour("POST", path + "/items", json={"items": [item]}, **one)
    assert len(tour("GET", path + "/items", **one)["data"]) == 4
    one_item = {**one, "item_id": added["first_id"]}
    tour("GET", path + "/items/{item_id}", **one_item)
    tour("DELETE", path + "/items/{item_id}", **one_item)
    tour("DELETE", path + "/items/{item_id}", status=404, **one_item)
    tour("DELETE", path, **one)
    tour("GET", path, status=404, **one)


def _anthropic(tour: Tour) -> None:
    tour("POST", "/v1/messages", json=chat())
    tour("POST", "/v1/messages", json=chat(stream=True))
    tour("POST", "/v1/messages", status=400, json=chat(max_tokens=None))
    tour("POST", "/v1/messages/count_tokens", json=chat())
    requests = [{"custom_id": "one", "params": chat()}]
    batch = tour("POST", "/v1/messages/batches", json={"requests": requests})
    one = {"batch_id": batch["id"]}
    path = "/v1/messages/batches/{batch_id}"
    until(lambda: tour("GET", path, **one)["processing_status"] == "ended")
    tour("GET", path + "/results", **one)
    tour("GET", "/v1/messages/batches")
    tour("POST", path + "/cancel", **one)
    tour("DELETE", path, **one)
    tour("GET", path, status=404, **one)


def _gemini(tour: Tour, prefix: str) -> None:
    turns = [{"role": "user", "parts": [{"text": "hi"}]}]
    config = {"maxOutputTokens": 3}
    path, contents = prefix + "/models/{model}", prefix + "/cachedContents"
    asked = {"contents": turns, "generationConfig": config}
    tour("POST", path, model=f"{MODEL}:generateContent", json=asked)
    tour("POST", path, model=f"{MODEL}:streamGenerateContent", json=asked)
    tour("POST", path, status=404, model=f"{MODEL}:countTokens", json=asked)
    made = tour("POST", contents, json={"model": f"models/{MODEL}", "contents": turns})
    one = {"cached_id": made["name"].partition("/")[2]}
    tour("GET", contents)
    contents += "/{cached_id}"
    tour("GET", contents, **one)
    tour("PATCH", contents, json={"ttl": "60s"}, **one)
    tour("PATCH", contents, status=400, json={}, **one)
    tour("DELETE", contents, **one)


def _documents(tour: Tour) -> None:
    form = {"purpose": "user_data", "prewarm": "true"}
    file = tour("POST", "/v1/files", files={"file": ("d.txt", b"a document about wells")}, data=form)
    one = {"file_id": file["id"]}
    tour("GET", "/v1/files")
    tour("GET", "/v1/files/{file_id}", **one)
    tour("GET", "/v1/files/{file_id}/content", **one)
    tour("POST", "/v1/files/{file_id}/prewarm", **one)
    tour("POST", "/v1/files/search", json={"query": "wells"})
    _vector_stores(tour, file["id"])
    tour("DELETE", "/v1/files/{file_id}", **one)
    tour("GET", "/v1/files/{file_id}", status=404, **one)


def _vector_stores(tour: Tour, file: str) -> None:
    root, said = "/v1/vector_stores", {"year": 1050}
    one = {"store_id": tour("POST", root, json={"name": "wells"})["id"]}
    store = root + "/{store_id}"
    batch = tour("POST", store + "/file_batches", json={"file_ids": [file], "attributes": said}, **one)
    tour("GET", root)
    tour("GET", store, **one)
    tour("POST", store, json={"metadata": {"of": "us"}}, **one)
    tour("POST", store + "/search", json={"query": "wells"}, **one)
    tour("POST", store + "/search", status=400, json={"query": "wells", "filters": {}}, **one)
    named = {**one, "batch_id": batch["id"]}
    for path in ("/file_batches/{batch_id}", "/file_batches/{batch_id}/files"):
        tour("GET", store + path, **named)
    tour("POST", store + "/file_batches/{batch_id}/cancel", **named)
    tour("POST", store + "/files", json={"file_id": file}, **one)
    tour("GET", store + "/files", **one)
    member = {**one, "file_id": file}
    tour("POST", store + "/files/{file_id}", json={"attributes": said}, **member)
    for method, path in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
        tour(method, store + "/files/{file_id}" + path, **member)
    tour("DELETE", store, **one)
    tour("GET", store, status=404, **one)


def _batches(tour: Tour) -> None:
    good = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": chat()}
    for rows, ends in ((json.dumps(good), "completed"), ("{", "failed")):
        form = {"purpose": "batch"}
        file = tour("POST", "/v1/files", files={"file": ("in.jsonl", rows.encode())}, data=form)
        wanted = {
            "input_file_id": file["id"],
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
        }
        one = {"batch_id": tour("POST", "/v1/batches", json=wanted)["id"]}
        until(lambda one=one, ends=ends: tour("GET", "/v1/batches/{batch_id}", **one)["status"] == ends)
        tour("POST", "/v1/batches/{batch_id}/cancel", status=409, **one)
    tour("GET", "/v1/batches")
    begun = tour("POST", "/v1/batches", json=wanted)
    tour.client.post(f"/v1/batches/{begun['id']}/cancel")  # 200 or 409: it may have failed already
    tour.seen.add(("POST", "/v1/batches/{batch_id}/cancel"))
    tour("GET", "/v1/files", query="?purpose=batch")


def _agents_and_money(kept: Kept, tour: Tour) -> None:
    kept.at_rest()
    tour("GET", "/v1/agents")
    tour("GET", "/v1/agents/{agent_id}", agent_id="run/lead")
    tour("GET", "/v1/agents/{agent_id}", status=404, agent_id="nobody")
    tour("POST", "/v1/agents/{agent_id}/hint", agent_id="run/lead", json={"next": "tool", "expected_ms": 5})
    tour("POST", "/v1/sessions/{session_id}", session_id="run", json={"spend_control": {"limit": 12.5}})
    tour("GET", "/v1/sessions/{session_id}", session_id="run")
    tour("GET", "/v1/sessions")
    for path in ("/v1/organization/usage/completions", "/v1/organization/costs"):
        tour("GET", path, query="?start_time=1&bucket_width=1d&group_by=session_id")
        tour("GET", path, status=400)
    change = {"scope": "tenant", "tenant": "acme", "hard_usd": 1.5}
    tour("POST", "/admin/budgets", json=change)
    tour("GET", "/admin/budgets")
    tour("POST", "/admin/budgets", json={"scope": "tenant", "tenant": "acme"})
    tour("GET", "/admin/margin")
    tour("GET", "/admin/why", query="?of=run")


def _about_the_server(tour: Tour) -> None:
    for path in ("/", "/health", "/metrics", "/openapi.json", "/docs", "/page", "/v1/models", "/admin/keys"):
        tour("GET", path)
    tour("GET", "/page/{path}", path="page.css")
    tour("GET", "/page/{path}", status=404, path="none.css")
    tour("GET", "/v1/models/{model}", model=MODEL)
    tour("GET", "/v1/models/{model}", status=404, model="other")
    tour("GET", "/admin/agents")
    tour("GET", "/admin/snapshot")
    tour("POST", "/tokenize", json={"prompt": "hi", "return_token_strs": True})
    tour("POST", "/detokenize", json={"tokens": [104, 105]})
    tour("POST", "/detokenize", status=400, json={"tokens": [-1]})
    own = {"x-stepwell-page": "1"}
    tour("POST", "/page/key", json={"key": "sk-anything"}, headers=own)
    tour("POST", "/page/leave", headers=own)
    tour("POST", "/page/leave", status=403)


# --- schemathesis ------------------------------------------------------------------------------

SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
CHECKS = [
    checks.not_a_server_error,
    *checks.CHECKS.get_by_names(
        [
            "status_code_conformance",
            "content_type_conformance",
            "response_schema_conformance",
            "unsupported_method",
        ]
    ),
]
"""Not ``negative_data_rejection``: unknown fields are passed over on purpose."""
WALKED = sorted(f"{method} {path}" for method, path in OPERATIONS if path != NO_END)


@pytest.mark.parametrize("operation", WALKED)
def test_schemathesis(kept: Kept, operation: str) -> None:
    method, path = operation.split(" ")
    wanted, answered = SCHEMA[path][method], []

    @settings(
        max_examples=5,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=wanted.as_strategy())
    def walk(case: Any) -> None:
        answer = case.call_and_validate(base_url=kept.server.base_url, checks=CHECKS, timeout=120)
        answered.append(answer.status_code)

    walk()
    assert answered and max(answered) < 600

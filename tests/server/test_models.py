"""Several models behind one address: routes choose by the request's model, books and metrics know it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2
import pytest

from stepwell.errors import BadInput
from stepwell.launch.embedded import embedded
from stepwell.launch.several import ModelsNode, build_several
from stepwell.library.store import Library
from stepwell.server.backends.books import Books
from stepwell.server.backends.library import ServedLibrary
from stepwell.server.callers.keys import KeyEntry, KeyRing
from stepwell.server.run import BackgroundServer
from stepwell.server.service import OfferedModel
from stepwell.server.settings import ServerSettings
from stepwell.settings.keys import key_ring
from tests.driver.several import settings_of
from tests.server.fakes import until
from tests.server.libraries import uploaded
from tests.server.wire import error_of, get, post


@dataclass
class Both:
    """A server of the null models ``one`` and ``two``."""

    server: BackgroundServer
    node: ModelsNode

    def ask(self, route: str, body: dict[str, Any], **headers: str) -> Any:
        answer = post(self.server, route, body, **headers)
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest.fixture
def both(tmp_path: Path) -> Iterator[Both]:
    yield from serving_both(tmp_path, None)


def serving_both(
    tmp_path: Path,
    keys: KeyRing | None,
    aliases: tuple[str, ...] = (),
    library: ServedLibrary | None = None,
) -> Iterator[Both]:
    node = build_several(settings_of(tmp_path, books=True, unload_after_s=3_600, adapters={"sql": tmp_path}))
    node.loop.start()
    offered = [OfferedModel(m.text, m.engine.info, b) for m, b in zip(node.models, node.ledgers, strict=True)]
    books = node.books
    assert books is not None
    settings = ServerSettings(port=0, drain_s=5.0, model_aliases=aliases)
    try:
        with BackgroundServer(
            node.loop,
            node.models[0].text,
            settings,
            keys,
            Books(books.store, books),
            library,
            contracts=node.settings.contracts(),
            offered=offered,
        ) as server:
            yield Both(server, node)
    finally:
        node.stop(5.0)


def finished(both: Both) -> list[int]:
    """Requests that each model has answered; a step later than the client has heard of it."""
    return [model.driver.snapshot().counters["requests_finished"] for model in both.node.loop.models]


def books_flushed(both: Both) -> bool:
    books = both.node.books
    return books is not None and books.flush()


def test_the_list_names_all_with_their_state(both: Both) -> None:
    listed = {one["id"]: one for one in get(both.server, "/v1/models").json()["data"]}
    assert set(listed) == {"one", "two", "one:sql"}
    assert {one["state"] for one in listed.values()} == {"loaded"}
    assert get(both.server, "/v1/models/two").json()["root"] == "two"


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}),
        ("/v1/completions", {"prompt": "hi", "max_tokens": 3}),
        ("/v1/responses", {"input": "hi", "max_output_tokens": 16}),
        ("/v1/messages", {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}),
    ],
)
def test_each_route_goes_to_the_model_that_the_request_names(
    both: Both, route: str, body: dict[str, Any]
) -> None:
    for name in ("one", "two"):
        assert both.ask(route, {"model": name, **body})["model"] == name
    until(lambda: finished(both) == [1, 1])
    unknown = error_of(post(both.server, route, {"model": "three", **body}))
    assert unknown["code"] == "model_not_found" or "three" in unknown["message"]


def test_an_alias_of_the_first_model_takes_no_other_models_name(tmp_path: Path) -> None:
    for both in serving_both(tmp_path, None, aliases=("two", "uno")):
        for name in ("uno", "two"):
            both.ask("/v1/completions", {"model": name, "prompt": "hi", "max_tokens": 3})
        until(lambda both=both: finished(both) == [1, 1])
        assert get(both.server, "/v1/models/two").json()["root"] == "two"


def test_gemini_and_tokens_go_to_it_as_well(both: Both) -> None:
    both.ask("/v1beta/models/two:generateContent", {"contents": [{"parts": [{"text": "hi"}]}]})
    until(lambda: finished(both) == [0, 1])
    assert both.ask("/tokenize", {"model": "two", "prompt": "hi"})["count"] > 0


def test_an_adapter_belongs_to_its_model(both: Both) -> None:
    body = {"prompt": "hi", "max_tokens": 2}
    both.ask("/v1/completions", {"model": "one:sql", **body})
    refused = post(both.server, "/v1/completions", {"model": "two:sql", **body})
    assert refused.status_code == 400 and "has no adapter `sql`: there is none" in refused.text


def test_agents_why_metrics_and_books_name_the_model(both: Both) -> None:
    for name in ("one", "two"):
        body = {"model": name, "prompt": "hi", "max_tokens": 4}
        both.ask("/v1/completions", body, **{"x-agent-id": f"of-{name}", "x-session-id": "s"})
    until(lambda: not any(model.driver.busy for model in both.node.loop.models))
    assert get(both.server, "/v1/agents/s/of-two").json()["model"] == "two"
    lists = both.server.service.agent_lists
    lists._good_until_s = 0.0
    listed = {one["id"]: one["model"] for one in get(both.server, "/v1/agents").json()["data"]}
    assert listed == {"s/of-one": "one", "s/of-two": "two"}
    told = get(both.server, "/admin/why?of=s/of-two").json()["data"]
    assert {one["model"] for one in told} == {"two"}
    metrics = get(both.server, "/metrics").text
    assert 'stepwell_model_generation_tokens_total{model="two"} 4.0' in metrics
    assert "\nstepwell_generation_tokens_total 8.0" in metrics
    until(lambda: not any(ledger.keeper.meter.requests for ledger in both.node.ledgers))
    assert books_flushed(both)
    store = both.node.ledgers[0].store
    sql = "SELECT runs.model, SUM(usage.requests) FROM usage JOIN runs ON runs.id = usage.run GROUP BY 1"
    assert sorted(store.rows(sql)) == [("one", 1), ("two", 1)]


# --- adapters by key ----------------------------------------------------------------------------

KEYS = KeyRing(
    [
        KeyEntry(tenant="any", key="sk-any"),
        KeyEntry(tenant="none", key="sk-none", adapters=()),
        KeyEntry(tenant="own", key="sk-own", adapters=("sql",), default_adapter="sql"),
    ]
)


@pytest.fixture
def keyed(tmp_path: Path) -> Iterator[Both]:
    yield from serving_both(tmp_path, KEYS)


def test_an_adapter_is_refused_to_a_key_that_may_not_use_it(keyed: Both) -> None:
    asked = {"model": "one:sql", "prompt": "hi", "max_tokens": 2}
    for key, status in (("any", 200), ("none", 403), ("own", 200)):
        answer = post(keyed.server, "/v1/completions", asked, authorization=f"Bearer sk-{key}")
        assert answer.status_code == status, answer.text
        ids = {
            one["id"]
            for one in get(keyed.server, "/v1/models", authorization=f"Bearer sk-{key}").json()["data"]
        }
        assert ("one:sql" in ids) == (status == 200)
    refused = post(keyed.server, "/v1/completions", asked, authorization="Bearer sk-none")
    assert error_of(refused)["code"] == "adapter_not_allowed"


def test_a_keys_own_adapter_is_used_where_the_model_has_it_and_charged_as_such(keyed: Both) -> None:
    """No other customer's KV and no KV of the model without it: the adapter is in the blocks' names."""
    for key in ("any", "own"):
        for model in ("one", "two"):
            body = {"model": model, "prompt": "h" * 200, "max_tokens": 2}
            keyed.ask("/v1/completions", body, authorization=f"Bearer sk-{key}")
    until(lambda: finished(keyed) == [2, 2])
    until(lambda: not any(ledger.keeper.meter.requests for ledger in keyed.node.ledgers))
    assert books_flushed(keyed)
    rows = keyed.node.ledgers[0].store.rows(
        "SELECT accounts.tenant, usage.model FROM usage JOIN accounts ON accounts.id = usage.account "
        "ORDER BY 1, 2"
    )
    assert rows == [("any", "one"), ("any", "two"), ("own", "one:sql"), ("own", "two")]


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"adapters": ("sql",), "default_adapter": "other"}, "default_adapter is not in adapters"),
        ({"adapters": ("sgl",)}, "names the adapter 'sgl': there is one:sql, "),
        ({"default_adapter": "sgl"}, "names the adapter 'sgl': there is one:sql, "),
    ],
)
def test_an_adapter_that_no_model_has_is_one_sentence(
    tmp_path: Path, entry: dict[str, Any], says: str
) -> None:
    settings = settings_of(tmp_path, adapters={"sql": tmp_path})
    keys = (KeyEntry(tenant="acme", key="sk-a", **entry),)
    with pytest.raises(BadInput, match=says):
        key_ring(replace(settings, keys=keys))


@pytest.mark.parametrize(
    ("entry", "model", "status"),
    [
        ({"adapters": ("one:sql",)}, "one:sql", 200),
        ({"adapters": ("two:sql",)}, "one:sql", 403),
        ({"adapters": ("two:sql",), "default_adapter": "two:sql"}, "one", 200),
    ],
)
def test_a_key_may_name_an_adapter_of_one_model(
    tmp_path: Path, entry: dict[str, Any], model: str, status: int
) -> None:
    keys = KeyRing([KeyEntry(tenant="acme", key="sk-a", **entry)])
    for both in serving_both(tmp_path, keys):
        body = {"model": model, "prompt": "hi", "max_tokens": 2}
        answer = post(both.server, "/v1/completions", body, authorization="Bearer sk-a")
        assert answer.status_code == status, answer.text
        listed = get(both.server, "/v1/models", authorization="Bearer sk-a").json()["data"]
        assert ("one:sql" in {one["id"] for one in listed}) == (entry["adapters"] == ("one:sql",))


def test_an_adapter_of_one_model_is_found_in_the_settings(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, adapters={"sql": tmp_path})
    for adapter, there in (("one:sql", True), ("two:sql", False)):
        keys = (KeyEntry(tenant="acme", key="sk-a", adapters=("sql",), default_adapter=adapter),)
        with nullcontext() if there else pytest.raises(BadInput, match="'two:sql': there is"):
            key_ring(replace(settings, keys=keys))


def test_a_document_is_prewarmed_at_the_model_that_will_read_it(tmp_path: Path) -> None:
    library = ServedLibrary(Library(tmp_path / "library"))
    for both in serving_both(tmp_path, None, library=library):
        file = uploaded(both.server, "well.txt", "Steps go down. " * 20, prewarm="true", model="two")
        assert file["prewarm"]["model"] == "two", file
        body = {"model": "two", "ttl": "2h"}
        again = post(both.server, f"/v1/files/{file['id']}/prewarm", body).json()
        assert again["usage"]["prompt_tokens_details"]["cached_tokens"] > 200
        first = post(both.server, f"/v1/files/{file['id']}/prewarm", {}).json()
        assert first["model"] == "one"
        assert first["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
        unknown = post(both.server, f"/v1/files/{file['id']}/prewarm", {"model": "three"})
        assert unknown.status_code == 404 and error_of(unknown)["code"] == "model_not_found"


def test_a_server_within_a_command_has_all_models(tmp_path: Path) -> None:
    with embedded(settings_of(tmp_path)) as node:
        names = [one["id"] for one in httpx2.get(f"{node.url}/v1/models", timeout=60).json()["data"]]
        assert names == ["one", "two"]
        body = {"model": "two", "prompt": "hi", "max_tokens": 2}
        answer = httpx2.post(f"{node.url}/v1/completions", json=body, timeout=60).json()
        assert answer["model"] == "two"

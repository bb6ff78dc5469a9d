"""Vector stores and hosted file search: collections of the library, and passages before an answer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from stepwell.errors import BadInput
from stepwell.library import collections
from stepwell.library.collections import NoSuchCollection
from stepwell.library.errors import NoSuchFile
from stepwell.library.store import Library
from stepwell.server.callers.keys import KeyEntry, KeyRing
from stepwell.server.errors import ApiError
from stepwell.server.files.vector_stores.filters import filter_of
from stepwell.server.files.vector_stores.found import between
from stepwell.server.responses.citations import citations
from stepwell.server.responses.hosted_search import MOST_SEARCHES
from stepwell.server.run import BackgroundServer
from tests.server.fakes import MODEL
from tests.server.libraries import library_node, uploaded
from tests.server.wire import events, http

WELL = "The stepwell of Patan has seven floors. Its stairs lead down to the water. " * 3
LAMP = "A lamp of brass burns oil and lights the temple at night. " * 3


def post(server: BackgroundServer, path: str, body: Any, key: str = "") -> Any:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    with http(server, **headers) as client:
        return client.post(path, json=body)


def respond(server: BackgroundServer, **changed: Any) -> Any:
    answer = post(server, "/v1/responses", {"model": MODEL, "max_output_tokens": 4, **changed})
    assert answer.status_code == 200, answer.text
    return answer.json()


# --- collections of the library ----------------------------------------------------------------


def kept(library: Library, name: str, tenant: str = "acme", **options: Any) -> str:
    return library.add(tenant, name, f"text of {name}".encode(), quota_bytes=2**20, **options).id


def test_a_collection_outlives_the_process_and_holds_what_is_there(tmp_path: Path) -> None:
    now = [1_000.0]
    library = Library(tmp_path, now_s=lambda: now[0])
    first, second, brief = (
        kept(library, "a.txt"),
        kept(library, "b.txt"),
        kept(library, "c.txt", expires_s=60),
    )
    made = library.collections.create("acme", "wells", {"of": "acme"})
    documents = [(first, {"year": 1050}), (second, {}), (brief, {})]
    library.collections.add("acme", made.id, documents, "batch")
    again = Library(tmp_path, now_s=lambda: now[0])
    found = again.collections.members("acme", made.id)
    assert [(m.record.filename, dict(m.attributes), m.batch) for m in found] == [
        ("a.txt", {"year": 1050}, "batch"),
        ("b.txt", {}, "batch"),
        ("c.txt", {}, "batch"),
    ]
    now[0] += 30
    (changed,) = again.collections.add("acme", made.id, [(first, {"year": 1060})], "batch")
    assert (changed.added_at, dict(changed.attributes)) == (1_000, {"year": 1060})  # its date stays
    assert again.collections.member("acme", made.id, first) == changed
    again.delete("acme", second)
    now[0] += 31
    assert [m.record.id for m in again.collections.members("acme", made.id)] == [first]
    shown = again.collections.get("acme", made.id)
    assert (shown.name, shown.documents, shown.metadata) == ("wells", 1, {"of": "acme"})


def test_a_stranger_finds_no_collection_and_gives_no_document(tmp_path: Path) -> None:
    library = Library(tmp_path)
    mine, theirs = kept(library, "a.txt"), kept(library, "b.txt", "blue")
    made = library.collections.create("acme", "", {})
    for ask in library.collections.get, library.collections.members, library.collections.delete:
        with pytest.raises(NoSuchCollection):
            ask("blue", made.id)
    with pytest.raises(NoSuchFile):
        library.collections.add("acme", made.id, [(mine, {}), (theirs, {})])
    assert library.collections.members("acme", made.id) == []  # all of them or none
    assert library.collections.all_of("blue") == []


def test_collections_and_what_is_in_them_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collections, "MAX_COLLECTIONS", 1)
    monkeypatch.setattr(collections, "MAX_DOCUMENTS", 1)
    library = Library(tmp_path)
    made = library.collections.create("acme", "", {})
    with pytest.raises(BadInput, match="as many as there may be"):
        library.collections.create("acme", "", {})
    one, two = kept(library, "a.txt"), kept(library, "b.txt")
    with pytest.raises(BadInput, match="at most 1 documents"):
        library.collections.add("acme", made.id, [(one, {}), (two, {})])
    library.collections.add("acme", made.id, [(one, {})])
    library.collections.add("acme", made.id, [(one, {"again": True})])  # the same one changes
    library.collections.remove("acme", made.id, one)
    with pytest.raises(NoSuchFile):
        library.collections.remove("acme", made.id, one)


# --- filters, scores, citations ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "fits"),
    [
        ({"type": "eq", "key": "year", "value": 1050}, True),
        ({"type": "ne", "key": "year", "value": 1050}, False),
        ({"type": "gt", "key": "year", "value": 1000}, True),
        ({"type": "lte", "key": "year", "value": 1049.5}, False),
        ({"type": "gt", "key": "year", "value": "1000"}, False),
        ({"type": "gt", "key": "none", "value": 0}, False),
        ({"type": "in", "key": "place", "value": ["Patan", "Agra"]}, True),
        ({"type": "nin", "key": "place", "value": ["Patan"]}, False),
        (None, True),
    ],
)
def test_filters(asked: Any, fits: bool) -> None:
    said = {"year": 1050, "place": "Patan"}
    assert filter_of(asked, "filters")(said) is fits
    if asked is not None:
        never = {"type": "eq", "key": "year", "value": -1}
        assert filter_of({"type": "and", "filters": [asked, never]}, "filters")(said) is False
        assert filter_of({"type": "or", "filters": [asked, never]}, "filters")(said) is fits


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"type": "like", "key": "a", "value": "b"},
        {"type": "eq", "key": 1, "value": "b"},
        {"type": "eq", "key": "a", "value": None},
        {"type": "in", "key": "a", "value": "b"},
        {"type": "eq", "key": "a", "value": [1]},
        {"type": "and", "filters": []},
        {"type": "or", "filters": [{"type": "eq"}]},
        7,
    ],
)
def test_a_filter_that_is_none_is_named(asked: Any) -> None:
    with pytest.raises(ApiError, match="A filter compares"):
        filter_of(asked, "filters")


def test_a_filter_has_a_bound() -> None:
    asked: dict[str, Any] = {"type": "eq", "key": "a", "value": 1}
    for _ in range(20):
        asked = {"type": "and", "filters": [asked]}
    with pytest.raises(ApiError):
        filter_of(asked, "filters")


def test_scores_are_between_0_and_1_in_their_order() -> None:
    assert between(0.0, "bm25") == 0 < between(1.0, "bm25") < between(9.0, "bm25") < 1
    assert between(2 / 61, "hybrid") == 1 > between(1 / 61, "hybrid") > 0


def result(file_id: str, text: str) -> dict[str, Any]:
    return {"file_id": file_id, "filename": f"{file_id}.txt", "score": 0.5, "text": text, "attributes": {}}


def test_an_answer_cites_where_it_repeats_four_words_in_a_row() -> None:
    calls = [{"results": [result("a", WELL), result("b", LAMP), result("c", WELL)]}]
    text = "Well: a lamp of brass burns oil; it HAS SEVEN floors. Its stairs are long."
    found = citations(text, calls)
    assert [(one["file_id"], text[: one["index"]].split()[-1]) for one in found] == [
        ("b", "oil"),
        ("a", "stairs"),
        ("c", "stairs"),
    ]
    assert citations("Nothing that stands there.", calls) == []
    assert [one["file_id"] for one in citations("Seven floors.", calls)] == ["a", "c"]
    assert citations("", calls) == citations("?!", calls) == []


# --- routes ------------------------------------------------------------------------------------


def test_what_is_another_tenants_does_not_exist(tmp_path: Path) -> None:
    keys = KeyRing([KeyEntry("acme", "sk-a"), KeyEntry("blue", "sk-b")])
    with library_node(tmp_path, keys) as server:
        store = post(server, "/v1/vector_stores", {"name": "mine"}, "sk-a").json()["id"]
        with http(server, authorization="Bearer sk-b") as stranger:
            assert stranger.get("/v1/vector_stores").json()["data"] == []
            for method, path, body in (
                ("GET", f"/v1/vector_stores/{store}", None),
                ("POST", f"/v1/vector_stores/{store}", {"name": "theirs"}),
                ("DELETE", f"/v1/vector_stores/{store}", None),
                ("GET", f"/v1/vector_stores/{store}/files", None),
                ("POST", f"/v1/vector_stores/{store}/search", {"query": "well"}),
            ):
                answer = stranger.request(method, path, json=body)
                assert (answer.status_code, answer.json()["error"]["code"]) == (404, "vector_store_not_found")
            tool = {"type": "file_search", "vector_store_ids": [store]}
            asked = {"model": MODEL, "input": "well", "tools": [tool]}
            assert stranger.post("/v1/responses", json=asked).status_code == 404


BAD: tuple[tuple[str, Any, str], ...] = (
    ("", {"file_ids": ["file-" + "0" * 24]}, "file_ids"),
    ("", {"metadata": {"a": 1}}, "metadata.a"),
    ("/STORE/files", {"file_id": "nothing"}, "file_id"),
    ("/STORE/files", {}, "file_id"),
    ("/STORE/file_batches", {}, ""),
    ("/STORE/search", {"query": ""}, "query"),
    ("/STORE/search", {"query": "a", "filters": {"type": "?"}}, "filters"),
    ("/STORE/search", {"query": "a", "max_num_results": 51}, "max_num_results"),
    ("/STORE/search", {"query": "a", "ranking_options": {"score_threshold": 2}}, "ranking_options"),
)


def test_bad_input_is_named(tmp_path: Path) -> None:
    with library_node(tmp_path) as server:
        store = post(server, "/v1/vector_stores", {}).json()["id"]
        for path, body, param in BAD:
            answer = post(server, "/v1/vector_stores" + path.replace("STORE", store), body)
            assert answer.status_code in (400, 404), answer.text
            assert (answer.json()["error"]["param"] or "").startswith(param)
        with http(server) as client:  # a store that could not be filled is not left behind
            assert [one["id"] for one in client.get("/v1/vector_stores").json()["data"]] == [store]


# --- file search in Responses ------------------------------------------------------------------


def stocked(server: BackgroundServer) -> tuple[str, Mapping[str, str]]:
    files = {name: uploaded(server, name, text)["id"] for name, text in (("well", WELL), ("lamp", LAMP))}
    body = {"files": [{"file_id": files["well"], "attributes": {"year": 1050}}, {"file_id": files["lamp"]}]}
    store = post(server, "/v1/vector_stores", {"name": "all"}).json()["id"]
    assert post(server, f"/v1/vector_stores/{store}/file_batches", body).status_code == 200
    return store, files


def tool(store: str, **more: Any) -> dict[str, Any]:
    return {"type": "file_search", "vector_store_ids": [store], **more}


def test_a_search_is_an_item_and_its_passages_stand_before_the_question(tmp_path: Path) -> None:
    with library_node(tmp_path) as server:
        store, files = stocked(server)
        plain = respond(server, input="How many floors has the stepwell?")
        answer = respond(server, input="How many floors has the stepwell?", tools=[tool(store)])
    search, message = answer["output"]
    assert (search["type"], search["status"]) == ("file_search_call", "completed")
    assert search["queries"] == ["How many floors has the stepwell?"]
    assert search["results"][0]["file_id"] == files["well"]
    assert search["results"][0]["attributes"] == {"year": 1050}
    assert 0 < search["results"][0]["score"] < 1
    assert message["type"] == "message"
    read = answer["usage"]["input_tokens"] - plain["usage"]["input_tokens"]
    assert read > len(search["results"][0]["text"])  # one token a byte


def test_a_stream_tells_the_search_before_the_message(tmp_path: Path) -> None:
    with library_node(tmp_path) as server:
        store, _ = stocked(server)
        asked = {"input": "Which floors?", "tools": [tool(store)], "stream": True}
        found = events(post(server, "/v1/responses", {"model": MODEL, "max_output_tokens": 2, **asked}))
    names = [event["type"].removeprefix("response.") for event in found]
    assert names[:8] == [
        "created",
        "in_progress",
        "output_item.added",
        "file_search_call.in_progress",
        "file_search_call.searching",
        "file_search_call.completed",
        "output_item.done",
        "output_item.added",
    ]
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    assert [event["output_index"] for event in found if "output_index" in event][:6] == [0, 0, 0, 0, 0, 1]


def test_a_later_turn_goes_on_from_the_same_prompt(tmp_path: Path) -> None:
    with library_node(tmp_path) as server:
        store, _ = stocked(server)
        first = respond(server, input="How many floors has the stepwell?", tools=[tool(store)])
        again = respond(server, input="And why?", previous_response_id=first["id"])
        given = [{"role": "user", "content": "How many floors has the stepwell?"}, *first["output"]]
        sent = respond(server, input=[*given, {"role": "user", "content": "And why?"}])
    assert again["usage"]["input_tokens_details"]["cached_tokens"] > 0.9 * first["usage"]["input_tokens"]
    assert sent["usage"]["input_tokens"] == again["usage"]["input_tokens"]


CHOICES: tuple[tuple[Any, int], ...] = (
    ("auto", 1),
    ("required", 1),
    ({"type": "file_search"}, 1),
    ({"type": "allowed_tools", "mode": "required", "tools": [{"type": "file_search"}]}, 1),
    ("none", 0),
)


def test_the_choice_of_tools_decides_whether_it_is_made(tmp_path: Path) -> None:
    with library_node(tmp_path) as server:
        store, _ = stocked(server)
        for choice, searches in CHOICES:
            answer = respond(server, input="Which floors?", tools=[tool(store)], tool_choice=choice)
            kinds = [item["type"] for item in answer["output"]]
            assert kinds == ["file_search_call"] * searches + ["message"]


def test_filters_bounds_and_what_is_not_found(tmp_path: Path) -> None:
    with library_node(tmp_path) as server:
        store, files = stocked(server)

        def found(question: str, **more: Any) -> list[str]:
            answer = respond(server, input=question, tools=[tool(store, **more)])
            return [one["file_id"] for one in answer["output"][0]["results"]]

        both = "floors of the stepwell, oil of the lamp"
        assert set(found(both)) == set(files.values())
        assert found(both, filters={"type": "gte", "key": "year", "value": 1000}) == [files["well"]]
        assert len(found(both, max_num_results=1)) == 1
        assert found(both, ranking_options={"score_threshold": 1.0}) == []
        assert found("zzz") == []
        everything = respond(server, input=both, tools=[{"type": "file_search"}])["output"][0]["results"]
        assert len(everything) == 2


def test_a_document_of_two_stores_is_found_by_what_either_says_of_it(tmp_path: Path) -> None:
    with library_node(tmp_path) as server:
        store, files = stocked(server)
        other = post(server, "/v1/vector_stores", {"name": "other"}).json()["id"]
        body = {"file_id": files["well"], "attributes": {"year": 1900}}
        assert post(server, f"/v1/vector_stores/{other}/files", body).status_code == 200
        for year in (1050, 1900):
            asked = tool(store, filters={"type": "eq", "key": "year", "value": year})
            asked["vector_store_ids"].append(other)
            (search, _) = respond(server, input="floors", tools=[asked])["output"]
            assert [(one["file_id"], one["attributes"]["year"]) for one in search["results"]] == [
                (files["well"], year)
            ]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"tools": [{"type": "file_search", "filters": {"type": "eq", "key": "a", "value": 1}}]}, "tools"),
        ({"tools": [{"type": "file_search"}] * (MOST_SEARCHES + 1)}, "tools"),
    ],
)
def test_what_cannot_be_searched_is_refused(tmp_path: Path, change: dict[str, Any], param: str) -> None:
    with library_node(tmp_path) as server:
        answer = post(server, "/v1/responses", {"model": MODEL, "input": "floors?", **change})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_an_earlier_search_with_odd_queries_is_read(tmp_path: Path) -> None:
    with library_node(tmp_path) as server:
        for queries in (5, True, "abc", [1, "a"]):
            item = {"type": "file_search_call", "id": "fs_1", "queries": queries, "results": []}
            assert respond(server, input=[item, {"role": "user", "content": "And?"}])["status"]


def test_a_result_of_a_tool_is_answered_without_another_search(tmp_path: Path) -> None:
    with library_node(tmp_path) as server:
        store, _ = stocked(server)
        items = [
            {"role": "user", "content": "Which floors?"},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "7"},
        ]
        answer = respond(server, input=items, tools=[tool(store)])
    assert [item["type"] for item in answer["output"]] == ["message"]


def test_what_is_found_fits_into_a_quarter_of_the_context(tmp_path: Path) -> None:
    with library_node(tmp_path) as server:
        for number in range(12):
            uploaded(server, f"{number}.txt", f"Well number {number} is deep. " * 40)
        answer = respond(server, input="Which well is deep?", tools=[{"type": "file_search"}])
        context = server.service.text_model.context_tokens
    assert 1 <= len(answer["output"][0]["results"]) < 12
    assert answer["usage"]["input_tokens"] < context // 4 + 100

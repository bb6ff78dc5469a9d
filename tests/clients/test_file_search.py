"""The openai package, unmodified, fills vector stores and lets Responses search them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stepwell.engines.null import NullConfig
from tests.server.fakes import MODEL
from tests.server.libraries import library_node

openai = pytest.importorskip("openai")

WELL = b"The stepwell of Patan has seven floors. Its stairs lead down to the water. " * 3
CONFIG = NullConfig(
    model=MODEL,
    block_tokens=16,
    device_blocks=1_024,
    context_tokens=8_192,
    answer=b"It has seven floors. Its roof fell.",
)


def test_the_life_of_a_vector_store(tmp_path: Path) -> None:
    with library_node(tmp_path) as server:
        client: Any = openai.OpenAI(base_url=server.base_url + "/v1", api_key="none", max_retries=0)
        with client:
            store = client.vector_stores.create(name="wells", metadata={"of": "us"})
            file = client.vector_stores.files.upload_and_poll(
                vector_store_id=store.id, file=("patan.txt", WELL), attributes={"year": 1050}
            )
            assert (file.status, file.attributes) == ("completed", {"year": 1050})
            more = client.files.create(file=("lamp.txt", b"A lamp of brass."), purpose="assistants")
            batch = client.vector_stores.file_batches.create_and_poll(store.id, file_ids=[more.id])
            assert (batch.status, batch.file_counts.completed) == ("completed", 1)
            assert [
                one.id
                for one in client.vector_stores.file_batches.list_files(batch.id, vector_store_id=store.id)
            ] == [more.id]
            assert [one.id for one in client.vector_stores.files.list(store.id)] == [more.id, file.id]
            assert client.vector_stores.retrieve(store.id).file_counts.total == 2
            (hit,) = client.vector_stores.search(store.id, query="floors", max_num_results=3)
            assert (hit.file_id, hit.filename) == (file.id, "patan.txt")
            assert "seven floors" in hit.content[0].text
            (part,) = client.vector_stores.files.content(file.id, vector_store_id=store.id)
            assert part.text.startswith("The stepwell")
            changed = client.vector_stores.files.update(
                file.id, vector_store_id=store.id, attributes={"year": 1060}
            )
            assert changed.attributes == {"year": 1060}
            assert client.vector_stores.update(store.id, name="old wells").name == "old wells"
            assert [one.name for one in client.vector_stores.list()] == ["old wells"]
            assert client.vector_stores.files.delete(more.id, vector_store_id=store.id).deleted
            assert client.vector_stores.delete(store.id).deleted
            assert client.files.retrieve(file.id).filename == "patan.txt"  # the documents stay
            with pytest.raises(openai.NotFoundError):
                client.vector_stores.retrieve(store.id)


def test_responses_search_and_cite(tmp_path: Path) -> None:
    with library_node(tmp_path, config=CONFIG) as server:
        client: Any = openai.OpenAI(base_url=server.base_url + "/v1", api_key="none", max_retries=0)
        with client:
            file = client.files.create(file=("patan.txt", WELL), purpose="assistants")
            store = client.vector_stores.create(name="wells", file_ids=[file.id])
            asked: Any = {
                "model": MODEL,
                "input": "How many floors has the stepwell?",
                "tools": [{"type": "file_search", "vector_store_ids": [store.id], "max_num_results": 2}],
                "include": ["file_search_call.results"],
            }
            answer = client.responses.create(**asked)
            with client.responses.stream(**asked) as stream:
                kinds = [event.type for event in stream]
                streamed = stream.get_final_response()
    search, message = answer.output
    assert search.type == "file_search_call"
    assert search.results[0].filename == "patan.txt"
    assert answer.output_text == "It has seven floors. Its roof fell."
    (cited,) = message.content[0].annotations
    assert (cited.type, cited.file_id, cited.filename) == ("file_citation", file.id, "patan.txt")
    assert answer.output_text[: cited.index] == "It has seven floors. Its"
    assert "response.output_text.annotation.added" in kinds
    assert streamed.output[1].content[0].annotations == message.content[0].annotations
    assert answer.tools[0].vector_store_ids == [store.id]

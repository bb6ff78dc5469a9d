"""``POST /v1/files/search``: the passages nearest to a question, for documents that do not fit a context."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from stepwell.library.retrieve import Passage, find_passages
from stepwell.server.files.routes import served_library
from stepwell.server.service import service_of, who_asks
from stepwell.server.wire.body import parse, read_object
from stepwell.server.wire.schema import Schema

FileId = Annotated[str, Field(max_length=256)]


class SearchRequest(Schema):
    query: Annotated[str, Field(min_length=1, max_length=20_000)]
    file_ids: Annotated[list[FileId], Field(min_length=1, max_length=10_000, fail_fast=True)] | None = None
    """None: all of the tenant's."""
    max_num_results: Annotated[int, Field(ge=1, le=50)] = 10


async def search_files(request: Request) -> Response:
    """Best first; empty where no word of the question is found."""
    service = service_of(request)
    service.require_open()
    served = served_library(service)
    key, tenant = who_asks(service, request)
    with service.gate.errand(key):
        wanted = parse(SearchRequest, await read_object(request, service.settings, service.bodies, tenant))
        found = await served.work(
            lambda: find_passages(
                served.library,
                served.counted,
                tenant,
                wanted.query,
                wanted.max_num_results,
                wanted.file_ids,
                served.embedder,
            ),
            "file_ids",
        )
    return JSONResponse(
        {
            "object": "file.search_results",
            "search_query": wanted.query,
            "ranking": found.ranking,
            "data": [shown_passage(passage) for passage in found.passages],
        }
    )


def shown_passage(passage: Passage) -> dict[str, Any]:
    """A hit in the shape of OpenAI's vector store search, with where it stands in the text."""
    return {
        "file_id": passage.record.id,
        "filename": passage.record.filename,
        "score": round(passage.score, 6),
        "start": passage.start,
        "end": passage.end,
        "content": [{"type": "text", "text": passage.text}],
    }

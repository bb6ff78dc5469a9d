"""``/v1/vector_stores``: documents that belong together, as OpenAI's clients make and search them.

A thin face over the collections of the document library: a file is read and indexed when it is uploaded, so
it is ready as soon as it is added. What says how to cut texts, and when a store is to expire, is passed over.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, TypeVar

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from stepwell.library.collections import Collection, Collections, Member
from stepwell.server.backends.library import ServedLibrary
from stepwell.server.callers.keys import ApiKey
from stepwell.server.errors import bad_request, not_found
from stepwell.server.files.routes import served_library
from stepwell.server.files.search import FileId
from stepwell.server.files.vector_stores.found import find_hits
from stepwell.server.files.vector_stores.ranking import RankingOptions
from stepwell.server.service import Service, service_of, who_asks
from stepwell.server.wire.body import parse, read_object
from stepwell.server.wire.paging import page_limit
from stepwell.server.wire.schema import Metadata, Schema

Attributes = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)] | float | bool],
    Field(max_length=16),
]
Name = Annotated[str, Field(max_length=256)]
MAX_AT_ONCE = 2_000
"""Files in one request."""
STORE = "/v1/vector_stores/{store_id}"
FILE = STORE + "/files/{file_id}"
BATCH = STORE + "/file_batches/{batch_id}"
Answer = TypeVar("Answer")


class StoreRequest(Schema):
    name: Name | None = None
    file_ids: Annotated[list[FileId], Field(max_length=MAX_AT_ONCE, fail_fast=True)] | None = None
    metadata: Metadata | None = None


class StoreUpdate(Schema):
    name: Name | None = None
    metadata: Metadata | None = None


class StoreFileRequest(Schema):
    file_id: FileId
    attributes: Attributes | None = None


class StoreFileUpdate(Schema):
    attributes: Attributes | None


class StoreBatchRequest(Schema):
    """``files``: each with attributes of its own; ``file_ids``: all with ``attributes``."""

    file_ids: Annotated[list[FileId], Field(max_length=MAX_AT_ONCE, fail_fast=True)] | None = None
    files: Annotated[list[StoreFileRequest], Field(max_length=MAX_AT_ONCE, fail_fast=True)] | None = None
    attributes: Attributes | None = None

    @model_validator(mode="after")
    def _names_some(self) -> StoreBatchRequest:
        if bool(self.file_ids) is bool(self.files):
            raise PydanticCustomError("value_error", "One of 'file_ids' and 'files' is needed")
        return self

    def documents(self) -> list[tuple[str, Attributes]]:
        if self.files:
            return [(one.file_id, one.attributes or {}) for one in self.files]
        return [(one, self.attributes or {}) for one in self.file_ids or ()]


class StoreSearchRequest(Schema):
    query: (
        Annotated[str, Field(min_length=1, max_length=20_000)]
        | Annotated[
            list[Annotated[str, Field(min_length=1, max_length=20_000)]], Field(min_length=1, max_length=16)
        ]
    )
    max_num_results: Annotated[int, Field(ge=1, le=50)] = 10
    filters: dict[str, Any] | None = None
    ranking_options: RankingOptions | None = None


# --- stores ------------------------------------------------------------------------------------


async def create_store(request: Request) -> Response:
    """A store, empty or with files."""
    wanted, tenant, served = await _asked(request, StoreRequest)

    def make(collections: Collections) -> Collection:
        made = collections.create(tenant, wanted.name or "", wanted.metadata or {})
        try:
            collections.add(tenant, made.id, [(one, {}) for one in wanted.file_ids or ()])
        except BaseException:
            collections.delete(tenant, made.id)
            raise
        return collections.get(tenant, made.id)

    return JSONResponse(shown(await _work(served, make, "file_ids")))


async def list_stores(request: Request) -> Response:
    """The newest first unless ``order=asc``."""
    _, tenant, served = _enter(request)
    found = await _work(served, lambda collections: collections.all_of(tenant))
    return _listed(request, [shown(one) for one in found])


async def get_store(request: Request) -> Response:
    """One store without its files."""
    _, tenant, served = _enter(request)
    return JSONResponse(shown(await _work(served, lambda c: c.get(tenant, _store(request)))))


async def update_store(request: Request) -> Response:
    """Another name, other metadata."""
    wanted, tenant, served = await _asked(request, StoreUpdate)
    found = await _work(served, lambda c: c.change(tenant, _store(request), wanted.name, wanted.metadata))
    return JSONResponse(shown(found))


async def delete_store(request: Request) -> Response:
    """The store goes, its files stay."""
    _, tenant, served = _enter(request)
    await _work(served, lambda c: c.delete(tenant, _store(request)))
    return JSONResponse({"id": _store(request), "object": "vector_store.deleted", "deleted": True})


async def search_store(request: Request) -> Response:
    """The passages of a store's files nearest to a question; of several, to all of them together."""
    wanted, tenant, served = await _asked(request, StoreSearchRequest)
    queries = [wanted.query] if isinstance(wanted.query, str) else wanted.query
    options = wanted.ranking_options
    with service_of(request).gate.errand(_enter(request)[0]):
        hits = await find_hits(
            served,
            tenant,
            "\n".join(queries),
            [_store(request)],
            "vector_store_id",
            filters=wanted.filters,
            most=wanted.max_num_results,
            least_score=None if options is None else options.score_threshold,
        )
    data = [
        {
            **{name: value for name, value in hit.result().items() if name != "text"},
            "content": [{"type": "text", "text": hit.passage.text}],
        }
        for hit in hits
    ]
    return JSONResponse(
        {
            "object": "vector_store.search_results.page",
            "search_query": queries,
            "data": data,
            "has_more": False,
            "next_page": None,
        }
    )


# --- files of a store --------------------------------------------------------------------------


async def add_store_file(request: Request) -> Response:
    """A file of the library comes into the store; it is ready at once."""
    wanted, tenant, served = await _asked(request, StoreFileRequest)
    documents = [(wanted.file_id, wanted.attributes or {})]
    (made,) = await _work(served, lambda c: c.add(tenant, _store(request), documents), "file_id")
    return JSONResponse(shown_file(_store(request), made))


async def list_store_files(request: Request) -> Response:
    """The newest first unless ``order=asc``."""
    return _listed(request, [shown_file(_store(request), one) for one in await _members(request)])


async def list_store_batch_files(request: Request) -> Response:
    """The files that came with a batch."""
    return _listed(request, [shown_file(_store(request), one) for one in await _batch_members(request)])


async def get_store_file(request: Request) -> Response:
    """One file as it is in the store."""
    return JSONResponse(shown_file(_store(request), await _member(request)))


async def update_store_file(request: Request) -> Response:
    """Other attributes."""
    wanted, tenant, served = await _asked(request, StoreFileUpdate)
    member = await _member(request)
    documents = [(member.record.id, wanted.attributes or {})]
    (made,) = await _work(served, lambda c: c.add(tenant, _store(request), documents, member.batch))
    return JSONResponse(shown_file(_store(request), made))


async def remove_store_file(request: Request) -> Response:
    """The file leaves the store and stays in the library."""
    _, tenant, served = _enter(request)
    file_id = request.path_params["file_id"]
    await _work(served, lambda c: c.remove(tenant, _store(request), file_id), "file_id")
    return JSONResponse({"id": file_id, "object": "vector_store.file.deleted", "deleted": True})


async def store_file_content(request: Request) -> Response:
    """The text of a file as it is searched."""
    key, _, served = _enter(request)
    with service_of(request).gate.errand(key):
        member = await _member(request)
        text = await served.work(lambda: served.library.text(member.record))
    return JSONResponse(
        {
            "object": "vector_store.file_content.page",
            "data": [{"type": "text", "text": text}],
            "has_more": False,
            "next_page": None,
        }
    )


async def create_store_batch(request: Request) -> Response:
    """Several files at once, all of them or none."""
    wanted, tenant, served = await _asked(request, StoreBatchRequest)
    batch = "vsfb_" + secrets.token_hex(12)
    made = await _work(
        served, lambda c: c.add(tenant, _store(request), wanted.documents(), batch), "file_ids"
    )
    return JSONResponse(shown_batch(_store(request), batch, made))


async def get_store_batch(request: Request) -> Response:
    """A batch of files: complete since it was answered."""
    members = await _batch_members(request)
    return JSONResponse(shown_batch(_store(request), request.path_params["batch_id"], members))


async def cancel_store_batch(request: Request) -> Response:
    """Changes nothing: a batch of files is complete when it is answered."""
    return await get_store_batch(request)


def vector_store_routes() -> list[Route]:
    return [
        Route("/v1/vector_stores", list_stores, methods=["GET"]),
        Route("/v1/vector_stores", create_store, methods=["POST"]),
        Route(STORE, get_store, methods=["GET"]),
        Route(STORE, update_store, methods=["POST"]),
        Route(STORE, delete_store, methods=["DELETE"]),
        Route(STORE + "/search", search_store, methods=["POST"]),
        Route(STORE + "/files", list_store_files, methods=["GET"]),
        Route(STORE + "/files", add_store_file, methods=["POST"]),
        Route(FILE, get_store_file, methods=["GET"]),
        Route(FILE, update_store_file, methods=["POST"]),
        Route(FILE, remove_store_file, methods=["DELETE"]),
        Route(FILE + "/content", store_file_content, methods=["GET"]),
        Route(STORE + "/file_batches", create_store_batch, methods=["POST"]),
        Route(BATCH, get_store_batch, methods=["GET"]),
        Route(BATCH + "/cancel", cancel_store_batch, methods=["POST"]),
        Route(BATCH + "/files", list_store_batch_files, methods=["GET"]),
    ]


# --- shapes and helpers ------------------------------------------------------------------------


def shown(found: Collection) -> dict[str, Any]:
    return {
        "id": found.id,
        "object": "vector_store",
        "created_at": found.created_at,
        "name": found.name,
        "usage_bytes": found.text_bytes,
        "file_counts": _counts(found.documents),
        "status": "completed",
        "expires_after": None,
        "expires_at": None,
        "last_active_at": found.created_at,
        "metadata": dict(found.metadata),
    }


def shown_file(store: str, member: Member) -> dict[str, Any]:
    return {
        "id": member.record.id,
        "object": "vector_store.file",
        "created_at": member.added_at,
        "vector_store_id": store,
        "usage_bytes": member.record.text_bytes,
        "status": "completed",
        "last_error": None,
        "attributes": dict(member.attributes),
    }


def shown_batch(store: str, batch: str, members: Sequence[Member]) -> dict[str, Any]:
    return {
        "id": batch,
        "object": "vector_store.files_batch",
        "created_at": max(one.added_at for one in members),
        "vector_store_id": store,
        "status": "completed",
        "file_counts": _counts(len(members)),
    }


def _counts(completed: int) -> dict[str, int]:
    return {"in_progress": 0, "completed": completed, "failed": 0, "cancelled": 0, "total": completed}


def _store(request: Request) -> str:
    return str(request.path_params["store_id"])


def _enter(request: Request) -> tuple[ApiKey, str, ServedLibrary]:
    service = service_of(request)
    served = served_library(service)
    key, tenant = who_asks(service, request)
    return key, tenant, served


async def _asked(request: Request, schema: type[Answer]) -> tuple[Answer, str, ServedLibrary]:
    service: Service = service_of(request)
    service.require_open()
    key, tenant, served = _enter(request)
    with service.gate.errand(key):
        body = await read_object(request, service.settings, service.bodies, tenant)
        return parse(schema, body), tenant, served  # type: ignore[type-var]


async def _work(
    served: ServedLibrary, do: Callable[[Collections], Answer], param: str | None = None
) -> Answer:
    return await served.work(lambda: do(served.library.collections), param)


async def _members(request: Request) -> list[Member]:
    _, tenant, served = _enter(request)
    return await _work(served, lambda c: c.members(tenant, _store(request)))


async def _batch_members(request: Request) -> list[Member]:
    members = [one for one in await _members(request) if one.batch == request.path_params["batch_id"]]
    if not members:
        raise not_found("There is no such batch of files here.", code="batch_not_found", param="batch_id")
    return members


async def _member(request: Request) -> Member:
    _, tenant, served = _enter(request)
    file_id = request.path_params["file_id"]
    return await _work(served, lambda c: c.member(tenant, _store(request), file_id), "file_id")


def _listed(request: Request, rising: Sequence[Mapping[str, Any]]) -> Response:
    """A page: ``limit``, ``after``, ``before``, ``order``."""
    query, limit = request.query_params, page_limit(request)
    items = list(rising) if query.get("order") == "asc" else list(rising)[::-1]
    ids = [one["id"] for one in items]
    for name in ("after", "before"):
        if (wanted := query.get(name)) is None:
            continue
        if wanted not in ids:
            raise bad_request(f"'{name}' names nothing in this list.", param=name)
        items = items[ids.index(wanted) + 1 :] if name == "after" else items[: ids.index(wanted)]
        ids = [one["id"] for one in items]
    page = items[:limit]
    ends = {"first_id": page[0]["id"] if page else None, "last_id": page[-1]["id"] if page else None}
    return JSONResponse({"object": "list", "data": page, **ends, "has_more": len(items) > len(page)})

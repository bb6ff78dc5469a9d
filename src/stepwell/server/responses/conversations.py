"""``/v1/conversations``: create, look at, change, delete, and the items of one."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from stepwell.server.errors import bad_request
from stepwell.server.generation.attachments import attach_files
from stepwell.server.responses.items import input_items
from stepwell.server.service import Service, service_of, who_asks
from stepwell.server.stores.conversations import StoredConversation
from stepwell.server.stores.items import Item
from stepwell.server.wire.body import parse, read_object
from stepwell.server.wire.paging import page_limit
from stepwell.server.wire.schema import Metadata, Schema

MOST_AT_ONCE = 20
"""Items in one request, as at OpenAI."""
Items = Annotated[list[dict[str, Any]], Field(max_length=MOST_AT_ONCE, fail_fast=True)]


class ConversationRequest(Schema):
    """``items`` are checked by ``response_items``, which knows their kinds."""

    items: Items | None = None
    metadata: Metadata | None = None


class ConversationUpdate(Schema):
    metadata: Metadata | None


class ItemsRequest(Schema):
    items: Annotated[Items, Field(min_length=1)]


async def create_conversation(request: Request) -> Response:
    """A conversation, empty or with its first items."""
    service = service_of(request)
    service.require_open()
    key, tenant = who_asks(service, request)
    with service.gate.errand(key):
        body = await _body(service, request, tenant)
        wanted = parse(ConversationRequest, body)
        items = input_items(wanted.items or [], "items")
        created_at = int(service.now_s())
        conversation = service.conversations.create(tenant, items, wanted.metadata or {}, created_at)
    return JSONResponse(conversation.shown())


async def get_conversation(request: Request) -> Response:
    """A conversation without its items."""
    _, conversation = _named(request)
    return JSONResponse(conversation.shown())


async def update_conversation(request: Request) -> Response:
    """New metadata in place of the old."""
    service, conversation = _named(request)
    with service.gate.errand(service.key(request)):
        body = await read_object(request, service.settings, service.bodies, conversation.tenant)
        conversation.metadata = parse(ConversationUpdate, body).metadata or {}
    return JSONResponse(conversation.shown())


async def delete_conversation(request: Request) -> Response:
    """A conversation goes with its items. Responses that were made in it stay."""
    service, conversation = _named(request)
    service.conversations.delete(conversation)
    return JSONResponse({"id": conversation.id, "object": "conversation.deleted", "deleted": True})


async def create_conversation_items(request: Request) -> Response:
    """More items at the end of a conversation; 409 while a turn runs on it."""
    service, _ = _named(request)
    service.require_open()
    key, tenant = who_asks(service, request)
    with service.gate.errand(key):
        body = await _body(service, request, tenant)
        items = input_items(parse(ItemsRequest, body).items, "items")
        # Looked up again: it may be gone since the body began to come in.
        service.conversations.add(_named(request)[1], items)
    return JSONResponse(_listed(items, more=False))


async def list_conversation_items(request: Request) -> Response:
    """The items of a conversation, newest first unless ``order=asc``."""
    _, conversation = _named(request)
    limit, after = page_limit(request), request.query_params.get("after")
    items = list(conversation.items.values())
    if request.query_params.get("order") != "asc":
        items.reverse()
    start = 0
    if after is not None:
        if after not in conversation.items:
            raise bad_request("'after' names no item of this conversation.", param="after")
        start = next(at for at, item in enumerate(items) if item["id"] == after) + 1
    return JSONResponse(_listed(items[start : start + limit], more=start + limit < len(items)))


async def get_conversation_item(request: Request) -> Response:
    """One item of a conversation."""
    _, conversation = _named(request)
    return JSONResponse(conversation.item(request.path_params["item_id"]))


async def delete_conversation_item(request: Request) -> Response:
    """One item goes; 409 while a turn runs on its conversation."""
    service, conversation = _named(request)
    service.conversations.remove(conversation, request.path_params["item_id"])
    return JSONResponse(conversation.shown())


def _named(request: Request) -> tuple[Service, StoredConversation]:
    service = service_of(request)
    _, tenant = who_asks(service, request)
    return service, service.conversations.get(tenant, request.path_params["conversation_id"])


async def _body(service: Service, request: Request, tenant: str) -> dict[str, Any]:
    body = await read_object(request, service.settings, service.bodies, tenant)
    return await attach_files(service, tenant, body, "items")


def _listed(items: list[Item], *, more: bool) -> dict[str, Any]:
    return {
        "object": "list",
        "data": items,
        "first_id": items[0]["id"] if items else None,
        "last_id": items[-1]["id"] if items else None,
        "has_more": more,
    }

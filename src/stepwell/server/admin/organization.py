"""``/v1/organization/usage/completions`` and ``.../costs``: what was used and charged, in OpenAI's shapes.

A key sees the rows of its own tenant and of its tenant's projects; of all others there is nothing for it,
whatever it asks for. An operator's key sees all. A ``project_id`` is a tenant as the books name it (``acme``,
``acme/search``); a customer may also say ``search``.

Beyond OpenAI's: usage and costs can be grouped and filtered by session, agent, parent agent, role and service
tier, and results carry visible, intermediate and recomputed tokens. End users are not recorded: grouped by
``user_id`` everything is one group, and to filter for some is refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from stepwell.ledger.base import Store
from stepwell.ledger.reading.buckets import Bucket, BucketGroup, usage_page
from stepwell.ledger.reading.queries import Counts
from stepwell.server.admin.organization_query import Asked, Rules, cursor_text, read
from stepwell.server.errors import not_found
from stepwell.server.service import service_of

Shape = Callable[[Asked, Counts], dict[str, Any]]

EXTRA_FIELDS = ("session_id", "agent_id", "parent_agent_id", "role")
FILTERS = {
    "project_ids": "project_id",
    "api_key_ids": "api_key_id",
    "models": "model",
    "session_ids": "session_id",
    "agent_ids": "agent_id",
    "parent_agent_ids": "parent_agent_id",
    "roles": "role",
    "service_tiers": "service_tier",
}
USAGE = Rules(
    ("project_id", "user_id", "api_key_id", "model", "batch", "service_tier", "api_source", *EXTRA_FIELDS),
    FILTERS,
    limits={"1m": (60, 1_440), "1h": (24, 168), "1d": (7, 31)},
    has_batch=True,
)
COSTS = Rules(
    (
        "project_id",
        "user_id",
        "line_item",
        "api_key_id",
        "api_source",
        "model",
        "service_tier",
        *EXTRA_FIELDS,
    ),
    {**FILTERS, "line_items": "line_item"},
    limits=dict.fromkeys(("1m", "1h", "1d"), (7, 180)),
)


async def usage_completions(request: Request) -> Response:
    """Tokens and requests per bucket."""
    return await _page(request, USAGE, _usage)


async def costs(request: Request) -> Response:
    """Charges per bucket. OpenAI has days only; ``1m`` and ``1h`` are understood here too."""
    return await _page(request, COSTS, _costs)


async def _page(request: Request, rules: Rules, shape: Shape) -> Response:
    service = service_of(request)
    key = service.key(request)
    asked = read(request.query_params, rules, key, int(service.now_s()))
    if service.books is None:
        raise not_found("This server keeps no ledger.", code="ledger_off")
    with service.gate.errand(key):
        content = await service.books.ask(_answer, rules, asked, shape)
    return Response(content, media_type="application/json")


def _answer(store: Store, rules: Rules, asked: Asked, shape: Shape) -> bytes:
    """A whole page as JSON: streams must not wait while thousands of results are written out."""
    page = usage_page(store, asked.query, asked.cursor)
    body = {
        "object": "page",
        "data": [_bucket(rules, asked, bucket, shape) for bucket in page.buckets],
        "has_more": page.next is not None,
        "next_page": None if page.next is None else cursor_text(page.next),
    }
    return json.dumps(body, separators=(",", ":")).encode()


def _bucket(rules: Rules, asked: Asked, bucket: Bucket, shape: Shape) -> dict[str, Any]:
    return {
        "object": "bucket",
        "start_time": bucket.start_s,
        "end_time": bucket.end_s,
        "results": [_result(rules, asked, result, shape) for result in bucket.results],
    }


def _result(rules: Rules, asked: Asked, result: BucketGroup, shape: Shape) -> dict[str, Any]:
    """Fields that were not grouped by are null, and so are those of requests that did not say."""
    said = {n: v or None for n, v in zip(asked.query.group_by, result.group, strict=True)}
    grouped = {**said, **asked.constant}
    return {**shape(asked, result.counts), **{name: grouped.get(name) for name in rules.fields}}


def _usage(asked: Asked, counts: Counts) -> dict[str, Any]:
    """Text is all there is: no audio, no images. Cache writes are not counted apart."""
    uncached_tokens = counts.input_tokens - counts.cached_tokens
    return {
        "object": "organization.usage.completions.result",
        "num_model_requests": counts.requests,
        "input_tokens": counts.input_tokens,
        "input_cached_tokens": counts.cached_tokens,
        "input_uncached_tokens": uncached_tokens,
        "input_text_tokens": uncached_tokens,
        "input_cached_text_tokens": counts.cached_tokens,
        "input_audio_tokens": 0,
        "input_cached_audio_tokens": 0,
        "input_image_tokens": 0,
        "input_cached_image_tokens": 0,
        "output_tokens": counts.output_tokens,
        "output_text_tokens": counts.output_tokens,
        "output_audio_tokens": 0,
        "output_image_tokens": 0,
        "visible_tokens": counts.visible_tokens,
        "intermediate_tokens": counts.intermediate_tokens,
        "recomputed_tokens": counts.recomputed_tokens,
    }


def _costs(asked: Asked, counts: Counts) -> dict[str, Any]:
    """``quantity`` is input and output tokens together: a charge is not kept apart by kind."""
    by_item = "line_item" in asked.query.group_by
    return {
        "object": "organization.costs.result",
        "amount": {"value": counts.charge_microusd / 1_000_000, "currency": "usd"},
        "quantity": counts.input_tokens + counts.output_tokens if by_item else None,
        "quantity_unit": "tokens" if by_item else None,
    }

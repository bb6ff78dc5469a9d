"""The tool ``file_search`` of Responses: one search before the model answers.

The question is the newest message of the user. Its passages come into the prompt before it, so a model of
any size sees them, and there is one turn of the model and not two. What was found is an item of the response;
later turns render it at its place, so that their prompt goes on from the same tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from stepwell.server.errors import bad_request, not_found
from stepwell.server.files.vector_stores.found import Hit, find_hits
from stepwell.server.generation.document_frame import document_frame
from stepwell.server.responses.request import ResponseRequest
from stepwell.server.service import Service
from stepwell.server.stores.items import Item, new_id

MOST_HITS = 20
"""As many as OpenAI gives where the request says no number."""
ROOM = 4
"""Passages take this part of a context at most."""
MAX_QUERY_CHARS = 20_000
MOST_SEARCHES = 4
"""In one response: each goes over all the texts of its stores."""


async def searched(
    service: Service, tenant: str, wanted: ResponseRequest, items: Sequence[Item]
) -> list[Item]:
    """A ``file_search_call`` for each search that is asked for; none where the turn goes on from a tool's
    result or the choice of tools leaves searching out. Raises ``ApiError``."""
    newest = items[-1]
    if newest.get("role") != "user" or not wanted.searches:
        return []
    if service.library is None:
        raise not_found("This server keeps no documents.", code="library_off", param="tools")
    if len(wanted.searches) > MOST_SEARCHES:
        raise bad_request(f"At most {MOST_SEARCHES} searches are made in one response.", param="tools")
    query = "\n".join(part["text"] for part in newest["content"])[-MAX_QUERY_CHARS:]
    room = service.text_model.context_tokens // (ROOM * len(wanted.searches))
    calls = []
    for tool in wanted.searches:
        hits = await find_hits(
            service.library,
            tenant,
            query,
            tool.vector_store_ids,
            "tools",
            filters=tool.filters,
            most=tool.max_num_results or MOST_HITS,
            least_score=None if tool.ranking_options is None else tool.ranking_options.score_threshold,
        )
        calls.append(_call(query, await service.library.work(partial(_fitting, service, hits, room))))
    return calls


def _call(query: str, hits: Sequence[Hit]) -> Item:
    return {
        "id": new_id("fs"),
        "type": "file_search_call",
        "status": "completed",
        "queries": [query],
        "results": [hit.result() for hit in hits],
    }


def _fitting(service: Service, hits: Sequence[Hit], room_tokens: int) -> list[Hit]:
    """The best of them, as far as they fit."""
    fit: list[Hit] = []
    for hit in hits:
        text = document_frame(hit.passage.record.filename, hit.passage.text)
        room_tokens -= len(service.text_model.tokenize(text, add_bos=False, parse_special=False))
        if room_tokens < 0:
            break
        fit.append(hit)
    return fit

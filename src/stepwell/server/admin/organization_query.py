"""What the organization routes are asked: query parameters, checked one by one.

An unknown parameter is refused: a misspelt filter that is left out would answer for more than was
asked. Lists come as ``name[]=a&name[]=b`` (the OpenAI SDK) or ``name=a&name=b``.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import tzinfo
from typing import Any

from starlette.datastructures import QueryParams

from stepwell.errors import BadInput
from stepwell.ledger.reading.buckets import PageCursor, Query, valid_cursor
from stepwell.ledger.reading.calendar import zone_of
from stepwell.server.callers.keys import ApiKey
from stepwell.server.errors import ApiError, bad_request, clip, unsupported

MAX_VALUES = 100
"""Most values of one list."""
MAX_VALUE_CHARS = 512
MAX_TIME_S = 253_402_300_799
"""The end of the year 9999."""
CONSTANT: Mapping[str, Any] = {"user_id": None, "batch": False, "api_source": "unlabeled"}
"""Fields that have one value for all there is: users are not recorded, and there are no batch jobs."""
SINGLE = ("start_time", "end_time", "bucket_width", "limit", "page", "timezone", "tz")


@dataclass(frozen=True, slots=True)
class Rules:
    """What one route understands."""

    fields: Sequence[str]
    """What results may be grouped by."""
    filters: Mapping[str, str]
    """Parameter to the field it filters by."""
    limits: Mapping[str, tuple[int, int]]
    """By width of the buckets: how many a page has, and at most."""
    has_batch: bool = False

    @property
    def known(self) -> set[str]:
        return {*SINGLE, "group_by", "user_ids", *self.filters, *(["batch"] if self.has_batch else [])}


@dataclass(frozen=True, slots=True)
class Asked:
    """One question, and what all of its answers have in common."""

    query: Query
    cursor: PageCursor | None
    constant: dict[str, Any] = field(default_factory=dict)


def read(params: QueryParams, rules: Rules, key: ApiKey, now_s: int) -> Asked:
    """Raises a 400 ``ApiError`` that names the first parameter that is wrong."""
    _require_known(params, rules)
    start_s, end_s = _times(params, now_s)
    width = _choice("bucket_width", params.get("bucket_width", "1d"), rules.limits)
    default, most = rules.limits[width]
    group_by = [_choice("group_by", name, rules.fields) for name in dict.fromkeys(_list(params, "group_by"))]
    query = Query(
        start_s,
        end_s,
        width,
        _number(params, "limit", default, 1, most),
        tenants=None if key.operator else own_tenants(key),
        group_by=[name for name in group_by if name not in CONSTANT],
        filters=_filters(params, rules, key),
        zone=_zone(params),
    )
    return Asked(query, _cursor(params, query), {n: v for n, v in CONSTANT.items() if n in group_by})


def own_tenants(key: ApiKey) -> list[str]:
    """The key's tenant, and its projects, which have books of their own."""
    return [key.tenant, *(f"{key.tenant}/{project}" for project in key.projects)]


def cursor_text(cursor: PageCursor) -> str:
    """Opaque to clients."""
    return base64.urlsafe_b64encode(json.dumps(cursor).encode()).decode().rstrip("=")


def _require_known(params: QueryParams, rules: Rules) -> None:
    for name in params:
        if name.removesuffix("[]") not in rules.known or (name.endswith("[]") and name[:-2] in SINGLE):
            raise bad_request(
                f"Unknown parameter: '{clip(name, 64)}'.", param=clip(name, 64), code="unknown_parameter"
            )
    for name in (*SINGLE, "batch"):
        if len(params.getlist(name)) > 1:
            raise bad_request(f"'{name}' is given more than once.", param=name)
    if _list(params, "user_ids"):
        raise unsupported(
            "End users are not recorded here; filter by 'session_ids' or 'agent_ids'.", param="user_ids"
        )


def _times(params: QueryParams, now_s: int) -> tuple[int, int]:
    if "start_time" not in params:
        raise bad_request(
            "Missing required parameter: 'start_time'.", param="start_time", code="missing_required_parameter"
        )
    start_s = _number(params, "start_time", 0, 0, MAX_TIME_S)
    end_s = _number(params, "end_time", now_s + 1, 0, MAX_TIME_S)
    if start_s >= end_s:
        name = "end_time" if "end_time" in params else "start_time"
        raise bad_request("'start_time' must lie before 'end_time' (or now).", param=name)
    return start_s, end_s


def _zone(params: QueryParams) -> tzinfo | None:
    """``timezone``, or ``tz`` for short."""
    names = [name for name in ("timezone", "tz") if name in params]
    if not names or params[names[0]].upper() == "UTC":
        return None
    try:
        return zone_of(params[names[0]])
    except BadInput as error:
        raise bad_request(f"{str(error)[0].upper()}{str(error)[1:]}.", param=names[0]) from error


def _filters(params: QueryParams, rules: Rules, key: ApiKey) -> dict[str, Sequence[str]]:
    found: dict[str, Sequence[str]] = {
        field_name: [_project(key, value) if name == "project_ids" else value for value in values]
        for name, field_name in rules.filters.items()
        if (values := _list(params, name))
    }
    if _choice("batch", params.get("batch", "false"), ("true", "false")) == "true":
        found["model"] = ()  # there are no batch jobs
    return found


def _project(key: ApiKey, value: str) -> str:
    return f"{key.tenant}/{value}" if not key.operator and value in key.projects else value


def _list(params: QueryParams, name: str) -> list[str]:
    values = [*params.getlist(name), *params.getlist(f"{name}[]")]
    if len(values) > MAX_VALUES:
        raise bad_request(
            f"'{name}' has {len(values)} values; at most {MAX_VALUES} are taken.",
            param=name,
            code="array_above_max_length",
        )
    for value in values:
        if len(value) > MAX_VALUE_CHARS or not value.isprintable():
            raise bad_request(f"A value of '{name}' is too long or no plain text.", param=name)
    return values


def _choice(param: str, value: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    if value not in known:
        raise bad_request(
            f"Invalid value for '{param}': '{clip(value, 64)}'; known are {', '.join(known)}.", param=param
        )
    return value


def _number(params: QueryParams, name: str, default: int, least: int, most: int) -> int:
    text = params.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) <= 12 and least <= int(text) <= most):
        raise bad_request(f"'{name}' must be a whole number between {least} and {most}.", param=name)
    return int(text)


def _cursor(params: QueryParams, query: Query) -> PageCursor | None:
    text = params.get("page")
    if text is None:
        return None
    cursor = _decoded(text)
    if cursor is None or not valid_cursor(query, cursor):
        raise _not_a_page()
    return cursor


def _decoded(text: str) -> PageCursor | None:
    try:
        found = json.loads(base64.b64decode(text[:128] + "==", altchars=b"-_", validate=False))
    except (binascii.Error, ValueError, RecursionError):
        return None
    if not isinstance(found, list) or len(found) != 2 or not all(type(one) is int for one in found):
        return None
    return PageCursor(*found)


def _not_a_page() -> ApiError:
    return bad_request(
        "'page' must be the 'next_page' of an earlier answer to the same question.", param="page"
    )

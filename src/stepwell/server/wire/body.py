"""From bytes on the wire to a checked request model; everything that is wrong is a 400 or 413."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.requests import ClientDisconnect, Request

from stepwell.server.errors import ApiError, bad_request, clip, from_validation
from stepwell.server.limits.bodies import FREE_BYTES, Bodies, Body
from stepwell.server.settings import ServerSettings
from stepwell.server.wire.json_size import is_larger_than

Model = TypeVar("Model", bound=BaseModel)
Result = TypeVar("Result")
Given = ParamSpec("Given")


async def read_object(
    request: Request, settings: ServerSettings, bodies: Bodies, tenant: str
) -> dict[str, Any]:
    """The body as a JSON object. Raises ``ApiError``; never reads more than ``max_body_bytes``, nor more
    than there is room for, and makes no more objects of it than ``max_body_values``."""
    with bodies.of(tenant) as room:
        try:
            async with asyncio.timeout(settings.body_timeout_s):
                data = await read_body(request, settings.max_body_bytes, room)
        except TimeoutError:
            raise too_slow(settings.body_timeout_s) from None
        return await apart(request, bodies, _parsed, data, settings.max_body_values)


async def apart(
    request: Request, bodies: Bodies, work: Callable[Given, Result], *args: Given.args, **kwargs: Given.kwargs
) -> Result:
    """Do ``work`` on what a request says: at once, or for a large one in a thread, one at a time."""
    if not is_large(request):
        return work(*args, **kwargs)
    async with bodies.parsing(declared_bytes(request)):
        return await asyncio.to_thread(work, *args, **kwargs)


def is_large(request: Request) -> bool:
    """Whether looking at it may take long. A body of unknown length may."""
    declared = declared_bytes(request)
    return declared is None or declared > FREE_BYTES


def declared_bytes(request: Request) -> int | None:
    """The length that its head says; None: it says none."""
    declared = request.headers.get("content-length", "")
    return int(declared[:18]) if declared.isdecimal() else None


def _parsed(data: bytes, max_values: int) -> dict[str, Any]:
    if is_larger_than(data, max_values):
        raise bad_request(
            f"The body of your request holds more than {max_values} values.", code="request_too_large"
        )
    try:
        # Refuses NaN, lone surrogates, invalid UTF-8 and nesting deeper than 200.
        value = from_json(data, allow_inf_nan=False)
    except ValueError as error:
        raise bad_request(
            f"We could not parse the JSON body of your request: {clip(str(error))}.", code="invalid_json"
        ) from None
    if not isinstance(value, dict):
        raise bad_request("The body of your request must be a JSON object.", code="invalid_type")
    return value


def parse(model: type[Model], value: dict[str, Any]) -> Model:
    """Raises ``ApiError`` with the path of the first wrong field."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise from_validation(error) from None


async def read_body(request: Request, max_bytes: int, room: Body) -> bytes:
    """All of it, counted as it comes. Raises ``ApiError``, ``ClientGone``."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and (len(declared) > 18 or int(declared) > max_bytes):
        raise too_large(max_bytes)
    data = bytearray()
    try:
        async for piece in request.stream():
            data += piece
            if len(data) > max_bytes:
                raise too_large(max_bytes)
            room.grew_to(len(data))
    except ClientDisconnect:
        raise ClientGone from None
    return bytes(data)


class ClientGone(Exception):
    """The client has left: there is no one to answer."""


def too_slow(timeout_s: float) -> ApiError:
    return ApiError(
        408,
        f"The request did not arrive within {timeout_s:g} s.",
        code="request_timeout",
        headers={"connection": "close"},
    )


def too_large(max_bytes: int) -> ApiError:
    # The rest of the body is not read, so the connection cannot be used again.
    return ApiError(
        413,
        f"The request is larger than {max_bytes} bytes.",
        code="request_too_large",
        headers={"connection": "close"},
    )

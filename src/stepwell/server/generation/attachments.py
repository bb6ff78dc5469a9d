"""Files that a message names, put in their place as text.

A document comes before everything else of its message and always as the same bytes, so that all that attach
it at the beginning of their prompt have a prefix in common, and its KV is computed once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

from stepwell.library.index import FileRecord
from stepwell.library.store import Library
from stepwell.server.errors import bad_request, context_length_exceeded, unsupported
from stepwell.server.generation.document_frame import document_frame
from stepwell.server.generation.prompts import MAX_TOKEN_CHARS
from stepwell.server.service import Service

MAX_ATTACHED = 128
"""Files in one request."""
_PARTS = frozenset({"file", "input_file"})
"""The kinds of part that name a file."""
FIELDS = ("messages", "input")
"""Where messages stand, one of them for each route that has any."""

Body = dict[str, Any]


class Attached(NamedTuple):
    """A part of a message that names a file."""

    message: int
    part: int
    file_id: str
    param: str


async def attach_files(service: Service, tenant: str, body: Body, field: str | None) -> Body:
    """``body`` with the text of every file that its messages name; itself when they name none. ``field``:
    where the route has its messages, None where it has none; no other field is looked at.

    Raises ``ApiError``: 404 for a file that is not there or not the tenant's, 400 for what cannot fit.
    """
    served = service.library
    named = list(_named(body, field)) if served is not None and field is not None else []
    if served is None or field is None or not named:
        return body
    if len(named) > MAX_ATTACHED:
        raise bad_request(f"At most {MAX_ATTACHED} files may be attached.", param=named[-1].param)
    frames: dict[str, str] = {}
    room = service.text_model.context_tokens * MAX_TOKEN_CHARS
    for one in named:
        if one.file_id not in frames:
            frame = partial(_frame, service, served.library, tenant, one)
            frames[one.file_id] = await served.work(frame, one.param)
        room -= len(frames[one.file_id])
        if room < 0:  # every token is shorter than that, so this cannot fit
            raise context_length_exceeded(service.text_model.context_tokens, None, one.param, attached=True)
    return _with_text(body, field, named, frames)


def _frame(service: Service, library: Library, tenant: str, one: Attached) -> str:
    record = library.get(tenant, one.file_id)
    context_tokens = service.text_model.context_tokens
    if record.text_bytes > 4 * context_tokens * MAX_TOKEN_CHARS:
        raise context_length_exceeded(context_tokens, record.tokens, one.param, attached=True)
    return frame_of(library, record)


def frame_of(library: Library, record: FileRecord) -> str:
    """Raises ``DamagedFile`` or ``NoSuchFile``."""
    return document_frame(record.filename, library.text(record))


def _named(body: Mapping[str, Any], field: str) -> Iterator[Attached]:
    """Only what looks as it should; everything else is left for the schema to refuse."""
    messages = body.get(field)
    for number, message in enumerate(messages if isinstance(messages, list) else ()):
        content = message.get("content") if isinstance(message, dict) else None
        for at, part in enumerate(content if isinstance(content, list) else ()):
            if isinstance(part, dict) and isinstance(part.get("type"), str) and part["type"] in _PARTS:
                param = f"{field}[{number}].content[{at}]"
                yield Attached(number, at, _file_id(part, param), param)


def _file_id(part: Mapping[str, Any], param: str) -> str:
    inner = part.get("file") if part["type"] == "file" else part
    file_id = inner.get("file_id") if isinstance(inner, Mapping) else None
    if isinstance(file_id, str) and file_id:
        return file_id
    raise unsupported(
        "A file is attached by its 'file_id': upload it with POST /v1/files first.", param=param
    )


def _with_text(body: Body, field: str, named: list[Attached], frames: Mapping[str, str]) -> Body:
    """A copy in which every named file is a text part at the beginning of its message."""
    messages = list(body[field])
    for number in {one.message for one in named}:
        content = messages[number]["content"]
        files = {one.part: frames[one.file_id] for one in named if one.message == number}
        first = [{"type": "text", "text": text} for text in files.values()]
        rest = [part for at, part in enumerate(content) if at not in files]
        messages[number] = {**messages[number], "content": [*first, *rest]}
    return {**body, field: messages}

"""The lines of a batch: whether they are right, and in which order they are run.

Lines that begin alike are run one after the other, the first of them alone: then the KV of what they share is
computed once and found by all others.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PROMPT_FIELDS = ("tools", "instructions", "system", "messages", "input", "prompt")
"""In the order in which templates render them."""
MAX_ERRORS = 100
"""Told of one file."""
MAX_ID_CHARS = 256
SHARED_CHARS = 256
"""Lines that share less are not of one family: what is computed twice then is little."""


@dataclass(frozen=True, slots=True)
class LineError:
    """What is wrong with a line, as OpenAI's ``errors.data`` has it."""

    code: str
    message: str
    param: str | None = None
    line: int | None = None

    def shown(self) -> dict[str, Any]:
        return {"code": self.code, "message": self.message, "param": self.param, "line": self.line}


@dataclass(frozen=True, slots=True)
class Line:
    """One request. ``number`` counts from 1."""

    number: int
    custom_id: str
    body: str
    """JSON, as it will be posted."""
    begins: str
    """What its prompt begins with: lines are ordered by it."""


@dataclass(frozen=True, slots=True)
class LinePlace:
    """When a line is run. ``leader``: the first of its family, which the others wait for."""

    number: int
    rank: int
    leader: bool


def read(
    data: bytes, endpoint: str, models: Sequence[str], max_lines: int
) -> tuple[list[Line], list[LineError]]:
    """All lines, or what is wrong: one bad line fails the whole file, with its number."""
    lines: list[Line] = []
    errors: list[LineError] = []
    seen: dict[str, int] = {}
    named: set[str] = set()
    for number, raw in _rows(data):
        if number > max_lines:
            what = f"The file has more than {max_lines} lines."
            return [], [LineError("too_many_lines", what, None, number)]
        found = _line(number, raw, endpoint, seen, models, named)
        if isinstance(found, LineError):
            errors.append(found)
            if len(errors) >= MAX_ERRORS:
                break
        else:
            lines.append(found)
    if not lines and not errors:
        errors.append(LineError("empty_file", "The file has no requests."))
    return lines, errors


def _rows(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Rows that are not empty, with their numbers."""
    start, number = 0, 0
    while start < len(data):
        end = data.find(b"\n", start)
        end = len(data) if end < 0 else end
        number += 1
        row = data[start:end].strip()
        if row:
            yield number, row
        start = end + 1


def _line(
    number: int, raw: bytes, endpoint: str, seen: dict[str, int], models: Sequence[str], named: set[str]
) -> Line | LineError:
    try:
        given = json.loads(raw)
    except (ValueError, RecursionError):
        return LineError("invalid_json_line", "This line is not valid JSON.", None, number)
    if not isinstance(given, dict):
        return LineError("invalid_json_line", "This line is not a JSON object.", None, number)
    custom_id, body = given.get("custom_id"), given.get("body")
    wrong = _envelope(given, custom_id, body, endpoint)
    if wrong is not None:
        return LineError(*wrong, number)
    assert isinstance(custom_id, str)
    assert isinstance(body, dict)
    if custom_id in seen:
        said = f"The custom_id is that of line {seen[custom_id]}."
        return LineError("duplicate_custom_id", said, "custom_id", number)
    if (wrong := body_error(body, models, named)) is not None:
        return LineError(*wrong, number)
    seen[custom_id] = number
    return Line(number, custom_id, json.dumps(body, ensure_ascii=False), begins(body))


Wrong = tuple[str, str, str | None]
"""Code, message and the field to blame."""


def _envelope(given: Mapping[str, Any], custom_id: Any, body: Any, endpoint: str) -> Wrong | None:
    if not isinstance(custom_id, str) or not 1 <= len(custom_id) <= MAX_ID_CHARS:
        return "invalid_custom_id", f"A text of 1 to {MAX_ID_CHARS} characters is needed.", "custom_id"
    if given.get("method") != "POST":
        return "invalid_method", "The method must be POST.", "method"
    if given.get("url") != endpoint:
        return "mismatched_endpoint", f"The url must be that of the batch, {endpoint}.", "url"
    if not isinstance(body, dict):
        return "missing_required_parameter", "The body must be a JSON object.", "body"
    return None


def body_error(body: Mapping[str, Any], models: Sequence[str], named: set[str]) -> Wrong | None:
    """What no request of a batch may be; the rest is found out when it runs."""
    model = body.get("model")
    if not isinstance(model, str):
        return "missing_required_parameter", "The body names no model.", "body.model"
    if model not in models:
        return "model_not_found", f"The model `{model[:64]}` is not served here.", "body.model"
    named.add(model)
    if len(named) > 1:
        return "mismatched_model", "All lines of a batch must have the same model.", "body.model"
    if body.get("stream"):
        return "unsupported_value", "An answer of a batch cannot be streamed.", "body.stream"
    if body.get("background"):
        return "unsupported_value", "A batch runs in the background already.", "body.background"
    return None


def begins(body: Mapping[str, Any]) -> str:
    """Text by which bodies sort as their prompts do: tools, then system, then messages in their order."""
    parts = [_text(body.get(name)) for name in PROMPT_FIELDS]
    return "\n".join(part for part in parts if part)


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(one, dict) and "content" in one for one in value):
        return "\n".join(f"{one.get('role', '')}\n{_text(one['content'])}" for one in value)
    return json.dumps(value, ensure_ascii=False)


def ordered(lines: Sequence[Line], *, by_prefix: bool = True) -> list[LinePlace]:
    """The order in which they run."""
    if not by_prefix:
        return [LinePlace(line.number, rank, False) for rank, line in enumerate(lines)]
    places: list[LinePlace] = []
    head = ""
    for rank, line in enumerate(sorted(lines, key=lambda line: (line.begins, line.number))):
        shared = _shared_chars(head, line.begins) if rank else 0
        leader = shared < min(SHARED_CHARS, max(1, len(line.begins) // 2))
        if leader:
            head = line.begins
        places.append(LinePlace(line.number, rank, leader))
    return places


def _shared_chars(one: str, other: str) -> int:
    """How far two texts are the same, as far as it matters."""
    limit = min(SHARED_CHARS, len(one), len(other))
    if one[:limit] == other[:limit]:
        return limit
    return next(at for at in range(limit) if one[at] != other[at])

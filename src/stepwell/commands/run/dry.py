"""``stepwell run --dry-run``: the first prompt of each role, and nothing asked."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stepwell.basics.units import counted
from stepwell.console.output import write_json

Requests = Mapping[str, Mapping[str, Any]]
"""Per role, the body of its first request."""


def print_requests(requests: Requests, json_file: Path | None) -> None:
    """To standard output; with ``--json`` the whole bodies go there."""
    write_json(json_file, {"requests": requests})
    if str(json_file) != "-":
        for role, body in requests.items():
            print("\n".join(_lines(role, body)))


def last_line(crew: str, requests: Requests) -> str:
    chars = sum(len(str(one["content"])) for body in requests.values() for one in body["messages"])
    roles = counted(len(requests), "role")
    return f"dry run: {roles} of {crew}, {chars:,} characters of first prompts; nothing was asked."


def _lines(role: str, body: Mapping[str, Any]) -> Iterator[str]:
    yield f"=== {role}: at most {body['max_tokens']} tokens, temperature {body['temperature']:g} ==="
    for message in body["messages"]:
        yield f"[{message['role']}]"
        yield _text(message["content"])
    for tool in body.get("tools", ()):
        yield f"[tool] {json.dumps(tool['function'], ensure_ascii=False)}"
    if (form := body.get("response_format")) is not None:
        yield f"[form of the answer] {json.dumps(form['json_schema']['schema'], ensure_ascii=False)}"
    yield ""


def _text(content: Any) -> str:
    """Text as it is; of parts, attached files by their id."""
    if isinstance(content, str):
        return content
    return "\n".join(str(part.get("text") or json.dumps(part, ensure_ascii=False)) for part in content)

"""What kind of agent calls: its name where it was given one, else what its prompts have in common.

Agents of one kind wait alike, so the policy learns how long per role. Most frameworks send no name; but
the agents of one kind share the beginning of a system prompt and a set of tools, turn after turn. (Only the
beginning: dates, directories and the like come later and differ from run to run.) A digest of these
groups them; it says nothing about the text and is never authority.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from stepwell.server.callers.identity import Body, Identity

INFERRED = "prompt-"
DIGEST_CHARS = 12
PROMPT_CHARS = 256
MAX_PARTS = 128
SYSTEM = ("system", "developer")


def role_of(identity: Identity, body: Body) -> str:
    """The role of one request; empty when nothing tells. Pure; never raises, whatever the client sends."""
    if identity.name:
        return identity.name
    common = _system_prompt(body), _tool_names(body)
    goes_on = body.get("previous_response_id") is not None or body.get("conversation") is not None
    if goes_on and not common[0]:
        return ""  # its instructions may have been given before
    if not any(common):
        return ""
    digest = hashlib.sha256(json.dumps(common).encode()).hexdigest()
    return INFERRED + digest[:DIGEST_CHARS]


def _system_prompt(body: Body) -> str:
    """How it begins; empty when there is none."""
    for name in ("instructions", "system"):
        if text := _beginning(body.get(name)):
            return text
    for name in ("messages", "input"):
        items = body.get(name)
        first = items[0] if isinstance(items, list) and items else None
        if isinstance(first, Mapping) and first.get("role") in SYSTEM:
            return _beginning(first.get("content"))
    return ""


def _beginning(content: Any) -> str:
    if isinstance(content, list):  # attached files are no text of its own
        texts = (part.get("text") for part in content[:MAX_PARTS] if isinstance(part, Mapping))
        content = next((text for text in texts if text), "")
    return content[:PROMPT_CHARS] if isinstance(content, str) else ""


def _tool_names(body: Body) -> list[str]:
    tools = body.get("tools")
    return sorted({name for tool in tools if (name := _tool_name(tool))}) if isinstance(tools, list) else []


def _tool_name(tool: object) -> str:
    inner = tool.get("function", tool) if isinstance(tool, Mapping) else None
    name = inner.get("name") if isinstance(inner, Mapping) else None
    return name if isinstance(name, str) else ""

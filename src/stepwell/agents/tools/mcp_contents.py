"""The answer of an MCP server as text that a model can read.

Every kind of content of the protocol has a form here (Model Context Protocol 2025-11-25, "Tool result"):
text as it is, text inside resources with the address it has, links with their addresses, and of pictures,
sound and other bytes what they are and how large. Nothing that a server said in words is left out.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from stepwell.errors import BadInput
from stepwell.library.charset import decode

if TYPE_CHECKING:
    import mcp_types

_TEXT_TYPES = ("json", "xml", "yaml", "toml", "javascript", "csv", "markdown", "sql", "python", "x-sh")
_OTHER = ("image/", "audio/", "video/", "font/", "application/pdf", "application/zip", "application/gzip")
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_URL_SAFE = str.maketrans("-_", "+/")
DESCRIPTION_CHARS = 300


def answer_text(answer: mcp_types.CallToolResult) -> str:
    """All parts in order, and the structured form where the parts do not say it already."""
    parts = [_part(part) for part in answer.content]
    structured = answer.structured_content
    texts = [part.text for part in answer.content if part.type == "text"]
    if structured is not None and not _said_already(structured, texts):
        parts.append(json.dumps(structured, ensure_ascii=False))
    return "\n".join(parts)


def _part(part: Any) -> str:
    if part.type == "text":
        return str(part.text)
    if part.type in ("image", "audio"):
        return f"[{part.type}: {part.mime_type}, {_size(part.data)}; it cannot be shown as text]"
    if part.type == "resource":
        return _resource(part.resource)
    if part.type == "resource_link":
        return _link(part)
    return f"[{part.type}: a kind of content that is not known here]"


def _resource(resource: Any) -> str:
    text = getattr(resource, "text", None)
    if text is None:
        text = _decoded(resource.blob, resource.mime_type)
    if text is None:
        kind = resource.mime_type or "of no stated type"
        return f"[resource {resource.uri}: {kind}, {_size(resource.blob)}; it cannot be shown as text]"
    return f"[resource {resource.uri}]\n{text}"


def _link(link: Any) -> str:
    about = [link.mime_type, None if link.size is None else f"{link.size:,} bytes"]
    details = ", ".join(one for one in about if one)
    name = link.title or link.name
    said = f"[link {name}: {link.uri}" + (f" ({details})" if details else "") + "]"
    words = " ".join((link.description or "").split())[:DESCRIPTION_CHARS]
    return f"{said} {words}".rstrip()


def _decoded(blob: str, mime_type: str | None) -> str | None:
    """Bytes that are text, as text; None: they are something else, or say that they are.

    Servers of files guess types from names, and give bytes wherever they know none: what is valid UTF-8
    without control characters is text whatever it is called.
    """
    kind, _, parameters = (mime_type or "").lower().partition(";")
    kind = kind.strip()
    if kind.startswith(_OTHER):
        return None
    data = _from_base64(blob)
    if data is None:
        return None
    declared = kind.startswith("text/") or kind.endswith(_TEXT_TYPES)
    if not declared:
        return _plain(data)
    label = parameters.partition("charset=")[2].partition(";")[0].strip(" \"'")
    try:
        return data.decode(label) if label and label != "utf-8" else decode(data, "it").text
    except (BadInput, LookupError, ValueError):
        return _plain(data)


def _from_base64(blob: str) -> bytes | None:
    """Also as URLs have it, in lines, or without the signs at its end."""
    plain = "".join(blob.split()).translate(_URL_SAFE).rstrip("=")
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None


def _plain(data: bytes) -> str | None:
    try:
        text = data.decode("utf-8-sig")
    except ValueError:
        return None
    return None if _CONTROL.search(text) else text


def _size(encoded: str) -> str:
    """How many bytes base64 stands for, without decoding it."""
    data = encoded.rstrip("=\n ")
    return f"{len(data) * 3 // 4:,} bytes"


def _said_already(structured: Any, texts: Sequence[str]) -> bool:
    """A server that fills both forms repeats itself as JSON, or wraps its one value as ``result``."""
    forms = [structured]
    if isinstance(structured, dict) and list(structured) == ["result"]:
        forms.append(structured["result"])
    values = [_value(text) for text in texts]
    return any(form in (*texts, *values) or form in (list(texts), values) for form in forms)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text

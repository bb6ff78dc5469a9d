"""An MCP server without the package, so that it can also answer what a good one would not."""

from __future__ import annotations

import base64
import json
import sys
import threading
from typing import Any

CONTENTS: list[dict[str, Any]] = [
    {"type": "text", "text": "downloaded"},
    {"type": "text", "text": ""},
    {
        "type": "resource",
        "resource": {"uri": "file:///a.txt", "mimeType": "text/plain", "text": "PAID BY ANNA"},
    },
    {
        "type": "resource",
        "resource": {
            "uri": "file:///b.md",
            "mimeType": "text/markdown; charset=utf-8",
            "blob": base64.b64encode("井很深".encode()).decode(),
        },
    },
    {
        "type": "resource",
        "resource": {"uri": "file:///c.bin", "mimeType": "application/x-c", "blob": "AAECAw=="},
    },
    {
        "type": "resource_link",
        "uri": "https://example.org/big.bin",
        "name": "big.bin",
        "mimeType": "application/zip",
        "size": 2048,
        "description": "all of it",
    },
    {"type": "image", "data": "AAECAw==", "mimeType": "image/png"},
    {"type": "audio", "data": "AAEC", "mimeType": "audio/wav"},
]
ANSWERS: dict[str, dict[str, Any]] = {
    "contents": {"content": CONTENTS, "structuredContent": {"depth_m": 9}},
    "failed": {"content": CONTENTS[2:3], "isError": True},
    "repeated": {
        "content": [{"type": "text", "text": '{"depth_m": 9}'}],
        "structuredContent": {"depth_m": 9},
    },
    "wrapped": {
        "content": [{"type": "text", "text": "9"}, {"type": "text", "text": "ten"}],
        "structuredContent": {"result": [9, "ten"]},
    },
    "structured": {"content": [], "structuredContent": {"name": "井"}},
    "nothing": {"content": []},
    "structure alone": {"structuredContent": {"depth_m": 9}},
    "half a pair": {"content": [{"type": "text", "text": "a\ud800b"}]},
    "as promised": {"content": [{"type": "text", "text": "nine"}], "structuredContent": {"depth": "9"}},
    "名前": {"content": [{"type": "text", "text": "井"}]},
}
PROMISED = {"type": "object", "properties": {"depth_m": {"type": "integer"}}, "required": ["depth_m"]}
"""What ``as promised`` does not keep."""


def listed(mode: str, cursor: str | None) -> dict[str, Any]:
    if mode == "silent-list":
        threading.Event().wait()
    tools: list[dict[str, Any]] = [
        {"name": name, "inputSchema": {"type": "object", "properties": {}}} for name in ANSWERS
    ]
    tools += [{"title": "a tool without a name"}, {"name": "refuses"}]
    tools[-4]["outputSchema"] = PROMISED
    if mode == "circle":
        return {"tools": tools, "nextCursor": "again"}
    if mode == "endless":
        return {"tools": [], "nextCursor": str(int(cursor or 0) + 1)}
    return {"tools": tools}


def result(mode: str, method: str, params: dict[str, Any]) -> dict[str, Any] | None:
    if method == "initialize":
        told = {"tools": {}}
        return {
            "protocolVersion": params["protocolVersion"],
            "capabilities": told,
            "serverInfo": {"name": "raw", "version": "1"},
        }
    if method == "tools/list":
        return listed(mode, params.get("cursor"))
    return ANSWERS[params["name"]] if method == "tools/call" else None


def flood(mode: str) -> None:
    """Writes without end: beside the protocol, or in it, without the end of a line or without a message."""
    pieces = {"floods": b"x" * 65_536 + b"\n", "no-end": b"x" * 65_536, "noise": b"x\n" * 32_768}
    if mode in pieces:
        pipe = sys.stderr.buffer if mode == "floods" else sys.stdout.buffer
        flooding = threading.Thread(target=lambda: [pipe.write(pieces[mode]) for _ in iter(int, 1)])
        flooding.daemon = True
        flooding.start()
        if mode != "floods":
            flooding.join()


def main() -> None:
    sys.stdout.write("Welcome\n")  # as some do
    sys.stdout.flush()
    for line in sys.stdin:
        message = json.loads(line)
        if "id" not in message:
            continue
        params = message.get("params") or {}
        if params.get("name") == "refuses":
            error = {"code": -32000, "message": "the quota is used up"}
            sys.stdout.write(json.dumps({"jsonrpc": "2.0", "id": message["id"], "error": error}) + "\n")
            sys.stdout.flush()
            continue
        if message["method"] == "tools/call":
            flood(sys.argv[1])
        found = result(sys.argv[1], message["method"], params)
        said = (
            {"error": {"code": -32601, "message": "no such method"}} if found is None else {"result": found}
        )
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", "id": message["id"], **said}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()

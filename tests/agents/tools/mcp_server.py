"""A tiny MCP server for the tests: run by this interpreter, spoken to over stdin and stdout."""

from __future__ import annotations

import asyncio
import os
import sys

from mcp.server import MCPServer

server = MCPServer("tiny")


@server.tool()
def add(a: int, b: int) -> str:
    """Adds two numbers."""
    return str(a + b)


@server.tool()
def fail() -> str:
    """Always fails."""
    raise ValueError("the shelf is empty")


@server.tool()
def die() -> str:
    """Ends the server."""
    os._exit(7)


@server.tool()
async def hang() -> str:
    """Never answers."""
    await asyncio.sleep(3600)
    return "late"


@server.tool()
def whoami() -> str:
    """The server's process."""
    print("asked who I am", file=sys.stderr)
    return f"{os.getpid()} {os.environ.get('TINY_SECRET')} {os.environ.get('STEPWELL_SECRET')}"


if __name__ == "__main__":
    server.run()

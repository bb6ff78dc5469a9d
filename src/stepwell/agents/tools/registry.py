"""Tools by the names that a crew's file uses."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

from stepwell.agents.tools import mcp
from stepwell.agents.tools.base import Tool
from stepwell.agents.tools.calculator import calculator
from stepwell.agents.tools.chart import chart_tool
from stepwell.agents.tools.coding import python_tool, run_tests_tool
from stepwell.agents.tools.sql import sql_tool, tables_tool
from stepwell.agents.tools.workspace import Workspace
from stepwell.errors import BadInput

MCP_PREFIX = "mcp:"
Builder = Callable[[Workspace], Tool]

BUILDERS: Mapping[str, Builder] = {
    "calculator": lambda _: calculator(),
    "python": python_tool,
    "run_tests": run_tests_tool,
    "sql": sql_tool,
    "tables": tables_tool,
    "chart": chart_tool,
}


def build_tools(names: Sequence[str], workspace: Workspace) -> list[Tool]:
    """The tools of these names, in this order, each once. ``BadInput`` for a name that nobody knows.

    Tools of MCP servers have to be started and ended: ``open_tools`` knows them too.
    """
    return [_builder(name)(workspace) for name in dict.fromkeys(names)]


def _builder(name: str) -> Builder:
    if name.startswith(MCP_PREFIX):
        raise BadInput(f"{name}: tools of MCP servers are opened with open_tools, which also ends them")
    if name not in BUILDERS:
        raise BadInput(f"there is no tool {name!r}: there are {', '.join(BUILDERS)} and {MCP_PREFIX}SERVER")
    return BUILDERS[name]


@asynccontextmanager
async def open_tools(names: Sequence[str], workspace: Workspace) -> AsyncIterator[list[Tool]]:
    """The tools of these names, ``mcp:SERVER`` (all of it) and ``mcp:SERVER/TOOL`` among them.

    The MCP servers run until the block is left. Names that two servers share get the server's in front.
    """
    servers = list(dict.fromkeys(_server(name) for name in names if name.startswith(MCP_PREFIX)))
    own = build_tools([name for name in names if not name.startswith(MCP_PREFIX)], workspace)
    async with mcp.running(workspace.mcp_servers, servers, workspace.directory) as offered:
        tools = list(own)
        for name in dict.fromkeys(names):
            if name.startswith(MCP_PREFIX):
                tools += [tool for tool in _of_server(name, offered) if tool not in tools]
        yield _distinct(tools, offered)


def _server(name: str) -> str:
    return name.removeprefix(MCP_PREFIX).partition("/")[0]


def _of_server(name: str, offered: Mapping[str, Sequence[Tool]]) -> list[Tool]:
    server, _, wanted = name.removeprefix(MCP_PREFIX).partition("/")
    found = [tool for tool in offered[server] if wanted in ("", tool.name)]
    if not found:
        has = ", ".join(tool.name for tool in offered[server]) or "none"
        raise BadInput(f"{name}: the MCP server {server} has no such tool; it has {has}")
    return found


def _distinct(tools: Sequence[Tool], offered: Mapping[str, Sequence[Tool]]) -> list[Tool]:
    """No two of one name: the first keeps it."""
    owner = {id(tool): server for server, theirs in offered.items() for tool in theirs}
    kept: dict[str, Tool] = {}
    for tool in tools:
        one = mcp.renamed(tool, owner[id(tool)]) if tool.name in kept and id(tool) in owner else tool
        if one.name in kept:
            raise BadInput(f"two tools are called {one.name}: ask for one of them by mcp:SERVER/TOOL")
        kept[one.name] = one
    return list(kept.values())

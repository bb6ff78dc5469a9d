"""Tools by the names that a crew's file uses."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

from stepwell.agents.tools import mcp
from stepwell.agents.tools.base import Tool
from stepwell.agents.tools.calculator import calculator
from stepwell.agents.tools.chart import chart_tool
from stepwell.agents.tools.coding import python_tool, run_tests_tool, visible_tests_tool
from stepwell.agents.tools.imported import PYTHON_PREFIX, imported_tool
from stepwell.agents.tools.sql import sql_tool, tables_tool
from stepwell.agents.tools.workspace import Workspace
from stepwell.errors import BadInput

MCP_PREFIX = "mcp:"
_OFFERED = "mcp"
Builder = Callable[[Workspace], Tool]
Offered = Mapping[str, Sequence[Tool]]

BUILDERS: Mapping[str, Builder] = {
    "calculator": lambda _: calculator(),
    "python": python_tool,
    "run_tests": run_tests_tool,
    "visible_tests": visible_tests_tool,
    "sql": sql_tool,
    "tables": tables_tool,
    "chart": chart_tool,
}


def build_tools(names: Sequence[str], workspace: Workspace) -> list[Tool]:
    """The tools of these names, in this order, each once. ``BadInput`` for an unknown name.

    ``python:FILE.py:FUNCTION`` is a function of the person's own. ``mcp:SERVER`` (all of its tools) and
    ``mcp:SERVER/TOOL`` are known while ``serving`` runs the servers.
    Names that two servers share get the server's in front.
    """
    tools: list[Tool] = []
    for name in dict.fromkeys(names):
        if name.startswith(MCP_PREFIX):
            tools += [tool for tool in _of_server(name, _offered(workspace)) if tool not in tools]
        elif name.startswith(PYTHON_PREFIX):
            tools.append(imported_tool(name, workspace))
        else:
            tools.append(_builder(name)(workspace))
    return _distinct(tools, _offered(workspace))


@asynccontextmanager
async def serving(names: Sequence[str], workspace: Workspace) -> AsyncIterator[None]:
    """Runs the MCP servers that these names need, until the block is left.

    ``BadInput`` for a server that the workspace does not declare, ``MissingExtra`` without the package,
    ``StepwellError`` for one that does not start.
    """
    wanted = _servers(names)
    async with mcp.running(workspace.mcp_servers, wanted, workspace.directory, workspace.folder) as offered:
        workspace.shared[_OFFERED] = offered
        try:
            yield
        finally:
            del workspace.shared[_OFFERED]


def require_tools(names: Sequence[str], workspace: Workspace) -> None:
    """Whether these names can be had, as far as that is known before any server runs.

    Raises ``BadInput`` or ``MissingExtra`` with one sentence.
    """
    build_tools([name for name in names if not name.startswith(MCP_PREFIX)], workspace)
    mcp.require_servers(workspace.mcp_servers, _servers(names), workspace.folder)


@asynccontextmanager
async def open_tools(names: Sequence[str], workspace: Workspace) -> AsyncIterator[list[Tool]]:
    """``serving`` and ``build_tools`` in one: the tools of these names, until the block is left."""
    require_tools(names, workspace)
    async with serving(names, workspace):
        yield build_tools(names, workspace)


def _builder(name: str) -> Builder:
    if name not in BUILDERS:
        known = ", ".join(BUILDERS)
        raise BadInput(
            f"there is no tool {name!r}: there are {known}, {MCP_PREFIX}SERVER "
            f"and {PYTHON_PREFIX}FILE.py:FUNCTION"
        )
    return BUILDERS[name]


def _offered(workspace: Workspace) -> Offered:
    offered = workspace.shared.get(_OFFERED, {})
    assert isinstance(offered, dict)
    return offered


def _servers(names: Sequence[str]) -> list[str]:
    wanted = [name.removeprefix(MCP_PREFIX) for name in names if name.startswith(MCP_PREFIX)]
    return list(dict.fromkeys(name.partition("/")[0] for name in wanted))


def _of_server(name: str, offered: Offered) -> list[Tool]:
    server, _, wanted = name.removeprefix(MCP_PREFIX).partition("/")
    if server not in offered:
        raise BadInput(f"{name}: the MCP server {server!r} is not running: open_tools or serving starts it")
    found = [tool for tool in offered[server] if wanted in ("", tool.name)]
    if not found:
        has = ", ".join(tool.name for tool in offered[server]) or "none"
        raise BadInput(f"{name}: the MCP server {server} has no such tool; it has {has}")
    return found


def _distinct(tools: Sequence[Tool], offered: Offered) -> list[Tool]:
    """No two of one name: the first keeps it."""
    owner = {id(tool): server for server, theirs in offered.items() for tool in theirs}
    kept: dict[str, Tool] = {}
    for tool in tools:
        one = mcp.renamed(tool, owner[id(tool)]) if tool.name in kept and id(tool) in owner else tool
        if one.name in kept:
            raise BadInput(f"two tools are called {one.name}: ask for one of them by mcp:SERVER/TOOL")
        kept[one.name] = one
    return list(kept.values())

"""Tools by the names that a crew's file uses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from stepwell.agents.tools.base import Tool
from stepwell.agents.tools.calculator import calculator
from stepwell.agents.tools.chart import chart_tool
from stepwell.agents.tools.coding import python_tool, run_tests_tool
from stepwell.agents.tools.sql import sql_tool, tables_tool
from stepwell.agents.tools.workspace import Workspace
from stepwell.errors import BadInput

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
    """The tools of these names, in this order, each once. ``BadInput`` for a name that nobody knows."""
    return [_builder(name)(workspace) for name in dict.fromkeys(names)]


def _builder(name: str) -> Builder:
    if name not in BUILDERS:
        raise BadInput(f"there is no tool {name!r}: there are {', '.join(BUILDERS)}")
    return BUILDERS[name]

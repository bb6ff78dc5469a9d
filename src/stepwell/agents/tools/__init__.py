"""What agents can do besides talk. Usable without the runtime: docs/tools.md."""

from __future__ import annotations

from stepwell.agents.tools.base import Tool, ToolError, ToolResult, run_tool
from stepwell.agents.tools.functions import from_function, tool
from stepwell.agents.tools.registry import build_tools, open_tools, require_tools, serving
from stepwell.agents.tools.workspace import Limits, McpServer, Workspace

__all__ = [
    "Limits",
    "McpServer",
    "Tool",
    "ToolError",
    "ToolResult",
    "Workspace",
    "build_tools",
    "from_function",
    "open_tools",
    "require_tools",
    "run_tool",
    "serving",
    "tool",
]

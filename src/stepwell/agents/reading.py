"""What agents that read are given beside their passages: which tables there are."""

from __future__ import annotations

from stepwell.agents.session import Reading
from stepwell.agents.tools import Workspace, build_tools, run_tool

TABLES_CHARS = 2_000
"""Of the list of tables; the tool of that name gives the whole."""


async def with_tables(reading: Reading | None, workspace: Workspace) -> Reading | None:
    """The same, with the list of tables first: the smallest models do not ask for it before they answer."""
    if not (workspace.files or workspace.warehouses):
        return reading
    listed = await run_tool(build_tools(["tables"], workspace)[0], {})
    if not listed.ok:
        return reading  # a question to a table is told why not
    tables = f"Tables:\n{listed.text[:TABLES_CHARS]}"
    return lambda task, number: f"{tables}\n\n{reading(task, number)}".strip() if reading else tables

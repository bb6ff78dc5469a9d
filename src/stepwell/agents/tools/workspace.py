"""What tools may use on behalf of one run: a directory, the person's files, servers, and limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Limits:
    """What one call of a tool may take, with defaults for a laptop."""

    wall_s: float = 10.0
    """Python sandbox: from start to end."""
    cpu_s: int = 10
    """Python sandbox: processor time, all threads together."""
    memory_bytes: int = 512 << 20
    """Python sandbox: address space. SQL: what a statement may hold."""
    output_bytes: int = 64 << 10
    """Python sandbox: what may be printed before the run is ended."""
    scratch_bytes: int = 32 << 20
    """Python sandbox: files written, one and all together."""
    code_chars: int = 50_000
    """Code, tests or a statement: longer ones are refused."""
    query_s: float = 10.0
    """SQL: one statement."""
    rows: int = 50
    """SQL: rows shown."""


@dataclass(frozen=True, slots=True)
class McpServer:
    """A Model Context Protocol server: a program that is spoken to over its stdin and stdout."""

    command: str
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    """Added to the few variables that every program needs (``PATH``, ``HOME``); nothing else is passed on but
    what is asked for: ``"$NAME"`` is the value of our own variable of that name."""
    start_timeout_s: float = 30.0
    timeout_s: float = 30.0
    """Each call."""
    volatile: tuple[str, ...] = ()
    """Tools whose answers change over time: MCP has no word for that."""


@dataclass(frozen=True, slots=True)
class WarehouseUrl:
    """``postgresql://...``, ``bigquery://project/dataset`` or ``duckdb:///file``.

    It may hold a password, so ``repr`` does not show it.
    """

    url: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Workspace:
    """What the tools of one run share. Made by the runner of the crew; agents never see it."""

    directory: Path
    """Scratch and results (charts): created when it is missing."""
    files: tuple[Path, ...] = ()
    """The person's own data, read only: CSV, Parquet, DuckDB."""
    tests: str = ""
    """Tests that came with the task: every assert at the top level and every function ``test...``."""
    limits: Limits = field(default_factory=Limits)
    mcp_servers: Mapping[str, McpServer] = field(default_factory=dict)
    """By the name that a crew gives them; their tools are asked for as ``mcp:NAME`` or ``mcp:NAME/TOOL``."""
    folder: Path | None = None
    """Of the crew's file: MCP servers start there, ``python:FILE.py:FUNCTION`` is found there. None: where
    the program was started."""
    warehouses: tuple[WarehouseUrl, ...] = ()
    """Asked in place, read only, by the same tools as the files."""
    shared: dict[str, object] = field(default_factory=dict, compare=False, repr=False)
    """What tools open once for all agents of the run: theirs to fill."""

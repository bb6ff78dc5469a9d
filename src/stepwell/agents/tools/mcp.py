"""Tools of Model Context Protocol servers, through the official ``mcp`` package (the extra ``mcp``)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import shutil
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stepwell.agents.tools.base import MAY_RETRY, Tool, ToolError
from stepwell.agents.tools.mcp_contents import answer_text
from stepwell.agents.tools.mcp_stdio import ServerLog, stdio
from stepwell.agents.tools.mcp_wire import mended
from stepwell.agents.tools.workspace import McpServer
from stepwell.errors import BadInput, MissingExtra, StepwellError

if TYPE_CHECKING:
    import mcp
    import mcp_types

RESTARTS = 1
"""How often a server that died is started again in one run: one that keeps dying is not worth the wait."""
PAGES_MOST = 50
TOOLS_MOST = 200
CLOSE_S = 10.0
DESCRIPTION_CHARS = 1_000
LOG_CHARS = 300
NAME_CHARS = 64
_SIGNS = re.compile(r"[^A-Za-z0-9_-]")
_PASSED_ON = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*)")


class RunningMcp:
    """One running MCP server. Made by ``running``; ``call`` may be used by many agents at once.

    The client's scopes must be left in the task that entered them, so a task of its own holds them.
    """

    def __init__(self, name: str, declared: McpServer, log: Path, folder: Path | None = None) -> None:
        self._name, self._declared, self._folder = name, declared, folder
        self._beside = ServerLog(name, log)
        self._restarts_left = RESTARTS
        self._starting = asyncio.Lock()
        self._client: mcp.Client | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._leave = asyncio.Event()

    async def start(self) -> None:
        """Starts the program and shakes hands. ``StepwellError`` when it does not, or not in time."""
        ready: asyncio.Future[mcp.Client] = asyncio.get_running_loop().create_future()
        self._leave = asyncio.Event()
        self._keeper = asyncio.ensure_future(self._keep(ready, self._leave))
        try:
            self._client = await asyncio.wait_for(ready, self._declared.start_timeout_s)
        except TimeoutError:
            await self.close()
            why = f"did not answer within {self._declared.start_timeout_s:g} s of its start"
            raise StepwellError(self._said(why)) from None
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Ends the program, politely first; returns when it is gone. May be called twice."""
        keeper, greeted = self._keeper, self._client is not None
        self._keeper = self._client = None
        if keeper is None:
            return
        self._leave.set()
        # Before the handshake the server does not listen for being told to leave.
        done, _ = await asyncio.wait({keeper}, timeout=CLOSE_S if greeted else 0)
        if not done:
            keeper.cancel()
            await asyncio.wait({keeper}, timeout=CLOSE_S)

    async def tools(self) -> list[Tool]:
        """What the server offers. ``StepwellError`` when it does not say so within ``start_timeout_s``."""
        client = await self._living()
        limit_s = self._declared.start_timeout_s
        try:
            listed = await asyncio.wait_for(_listed(client), limit_s)
        except TimeoutError:
            raise StepwellError(self._said(f"did not list its tools within {limit_s:g} s")) from None
        except Exception as error:
            raise StepwellError(self._said(f"does not list its tools: {_cause(error)}")) from error
        return [self._tool(one, name) for one, name in zip(listed, _plain_names(listed), strict=True)]

    async def call(self, tool: str, arguments: Mapping[str, Any]) -> str:
        """The text of the answer.

        ``ToolError``: the server said that it failed, took too long, or died. It is then started again at
        the next call, once; the call itself is not repeated, for it is not known whether it was done.
        """
        client = await self._living()
        try:
            answer = await asyncio.wait_for(client.call_tool(tool, dict(arguments)), self._declared.timeout_s)
        except TimeoutError:
            raise ToolError(
                self._said(f"did not answer within {self._declared.timeout_s:g} s") + f".{MAY_RETRY}"
            ) from None
        except Exception as error:  # noqa: BLE001 - the package raises many kinds; the model reads one
            if _is_gone(error):
                await self._died(client)
                raise ToolError(
                    self._said("died during the call; it may or may not have been done") + f".{MAY_RETRY}"
                ) from None
            raise ToolError(self._said(f"refused the call: {' '.join(str(error).split())[:500]}")) from None
        text = answer_text(answer)
        if answer.is_error:
            raise ToolError(text or self._said("failed without saying why"))
        return text

    async def _died(self, client: mcp.Client) -> None:
        async with self._starting:
            if self._client is client:  # others may have found out at the same time
                await self.close()

    async def _living(self) -> mcp.Client:
        async with self._starting:
            if self._client is None:
                if self._restarts_left == 0:
                    raise ToolError(self._said("has died again and is not started any more"))
                self._restarts_left -= 1
                try:
                    await self.start()
                except StepwellError as error:
                    raise ToolError(str(error)) from None
            assert self._client is not None
            return self._client

    async def _keep(self, ready: asyncio.Future[mcp.Client], leave: asyncio.Event) -> None:
        """Enters the client, waits to be told to leave, and leaves it."""
        try:
            async with _client(self._declared, self._beside, self._folder) as client:
                ready.set_result(client)
                await leave.wait()
        except Exception as error:  # noqa: BLE001 - the one that waits for the start is told
            if not ready.done():
                ready.set_exception(StepwellError(self._said(f"could not be started: {_cause(error)}")))

    def _said(self, what: str) -> str:
        """With the last that it wrote."""
        lines = self._beside.last.decode("utf-8", "replace")[-LOG_CHARS:].split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f"the MCP server {self._name} {what}" + (f" (the last it wrote: {last})" if last else "")

    def _tool(self, one: mcp_types.Tool, name: str) -> Tool:
        async def call(arguments: Mapping[str, Any]) -> str:
            return await self.call(one.name, arguments)

        hints = one.annotations
        return Tool(
            name=name,
            description=(one.description or one.title or one.name)[:DESCRIPTION_CHARS],
            parameters=one.input_schema,
            call=call,
            expected_ms=1_000,
            # The server's own limit speaks first; this one also covers starting it again.
            timeout_s=self._declared.start_timeout_s + self._declared.timeout_s + CLOSE_S,
            idempotent=bool(hints and (hints.read_only_hint or hints.idempotent_hint)),
            volatile=one.name in self._declared.volatile,
        )


def _plain_names(tools: Sequence[mcp_types.Tool]) -> list[str]:
    """In letters that every API lets a function's name have, no two alike. What is such a name stays it."""
    plain = [_SIGNS.sub("_", one.name)[:NAME_CHARS] for one in tools]
    taken = {one.name for one in tools}
    for number, (one, name) in enumerate(zip(tools, plain, strict=True), 1):
        if name == one.name:
            continue
        wanted = name if re.search(r"[A-Za-z0-9]", name) else f"tool_{number}"
        free, again = wanted, 2
        while free in taken:
            free, again = f"{wanted[: NAME_CHARS - 4]}_{again}", again + 1
        plain[number - 1] = free
        taken.add(free)
    return plain


async def _listed(client: mcp.Client) -> list[mcp_types.Tool]:
    """All pages, each tool once. A server that turns in circles is left after a page it has shown before."""
    listed: dict[str, mcp_types.Tool] = {}
    cursor: str | None = None
    seen: set[str | None] = set()
    while cursor not in seen and len(seen) < PAGES_MOST and len(listed) < TOOLS_MOST:
        seen.add(cursor)
        page = await client.list_tools(cursor=cursor)
        for tool in page.tools:
            listed.setdefault(tool.name, tool)
        cursor = page.next_cursor
        if cursor is None:
            break
    return list(listed.values())[:TOOLS_MOST]


@asynccontextmanager
async def _client(declared: McpServer, beside: ServerLog, folder: Path | None) -> AsyncIterator[mcp.Client]:
    import mcp

    command = _program(declared.command, folder) or declared.command
    # The package writes tracebacks of what servers do wrong, where a live screen may be.
    logging.getLogger("mcp").setLevel(logging.CRITICAL)
    process = stdio(command, declared.args, _variables(declared), folder, beside)
    async with mcp.Client(mended(process)) as client:
        yield client


def _program(command: str, folder: Path | None) -> str | None:
    """Where the program lies: a path is seen from ``folder``, a name from ``PATH``. None: nowhere."""
    return shutil.which(str((folder or Path.cwd()) / command) if "/" in command else command)


def _variables(declared: McpServer) -> dict[str, str]:
    """``"$NAME"`` is looked up only now, so that a key is never part of a crew. ``BadInput``."""
    given = {}
    for name, value in declared.env.items():
        asked = _PASSED_ON.fullmatch(value)
        if asked and asked[1] not in os.environ:
            raise BadInput(f"env: {name} is to be passed {value}, which is not set: export {asked[1]}")
        given[name] = os.environ[asked[1]] if asked else value
    return given


def require_servers(declared: Mapping[str, McpServer], wanted: Sequence[str], folder: Path | None) -> None:
    """What can be known without starting them: ``BadInput`` or ``MissingExtra`` with one sentence."""
    for name in wanted:
        if name not in declared:
            known = ", ".join(declared) or "none"
            raise BadInput(
                f"there is no MCP server {name!r}: declared are {known}; declare it as [mcp.{name}]"
            )
        if _program(declared[name].command, folder) is None:
            raise BadInput(
                f"[mcp.{name}]: there is no program {declared[name].command}: install it, or mend its path"
            )
        try:
            _variables(declared[name])
        except BadInput as error:
            raise BadInput(f"[mcp.{name}]: {error}") from None
    if wanted:
        _need_package()


def _cause(error: BaseException) -> str:
    """The first plain error inside the groups that task groups wrap around it."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, FileNotFoundError):
        return f"there is no program {error.filename}"
    return " ".join(str(error).split()) or type(error).__name__


def _is_gone(error: BaseException) -> bool:
    import anyio
    import mcp_types

    closed = isinstance(error, anyio.ClosedResourceError | anyio.BrokenResourceError | ConnectionError)
    # The package's code for it is also the first one that servers may give a meaning of their own.
    code, said = getattr(error, "code", None), str(error).strip().lower()
    return closed or (code == mcp_types.CONNECTION_CLOSED and said == "connection closed")


@asynccontextmanager
async def running(
    declared: Mapping[str, McpServer], wanted: Sequence[str], directory: Path, folder: Path | None = None
) -> AsyncIterator[dict[str, list[Tool]]]:
    """The tools of these servers by server name; all servers have ended when the block is left.

    Raises what ``require_servers`` does, and ``StepwellError`` for one that does not start.
    """
    require_servers(declared, wanted, folder)
    if wanted:
        directory.mkdir(parents=True, exist_ok=True)
    async with contextlib.AsyncExitStack() as stack:
        tools = {}
        for name in wanted:
            log = directory / f"mcp-{re.sub(r'[^A-Za-z0-9_-]', '_', name)}.log"
            server = RunningMcp(name, declared[name], log, folder)
            await server.start()
            stack.push_async_callback(server.close)
            tools[name] = await server.tools()
        yield tools


def _need_package() -> None:
    try:
        import mcp  # noqa: F401
    except ImportError as error:
        raise MissingExtra("an MCP server", "mcp") from error


def renamed(tool: Tool, server: str) -> Tool:
    """The same tool under a name that says whose it is: for two servers with a tool of one name."""
    return replace(tool, name=f"{re.sub(r'[^A-Za-z0-9_-]', '_', server)}_{tool.name}"[:64])

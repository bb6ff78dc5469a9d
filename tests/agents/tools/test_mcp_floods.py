"""A server that writes without end takes no memory, no disk and no call but its own."""

from __future__ import annotations

import asyncio
import logging
import resource
import sys
from pathlib import Path

import pytest

from stepwell.agents.tools import McpServer, Tool, Workspace, mcp_stdio, open_tools, run_tool
from stepwell.agents.tools.mcp_stdio import MOST_LAST_BYTES, MOST_LOG_BYTES, ServerLog

pytest.importorskip("mcp")
RAW = str(Path(__file__).with_name("mcp_raw_server.py"))


def workspace(folder: Path, *modes: str) -> Workspace:
    servers = {mode: McpServer(sys.executable, (RAW, mode), timeout_s=60.0) for mode in modes}
    return Workspace(folder / "workspace", mcp_servers=servers)


def peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def test_one_that_floods_its_log_answers_and_fills_no_disk(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with open_tools(["mcp:floods/nothing"], workspace(tmp_path, "floods")) as tools:
            before = peak_mib()
            for _ in range(20):
                assert (await run_tool(tools[0], {})).ok
            while not caplog.records:
                await asyncio.sleep(0)
            assert peak_mib() - before < 50

    caplog.set_level(logging.WARNING, "stepwell.agents")
    asyncio.run(main())
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith("the MCP server floods writes much: of its log the first 1048576 bytes are kept")
    (kept,) = (tmp_path / "workspace").glob("mcp-floods.log")
    assert kept.stat().st_size == MOST_LOG_BYTES
    assert kept.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("mode", "why"), [("no-end", "a line of more than 16777216 bytes"), ("noise", "no messages")]
)
def test_one_that_floods_the_protocol_is_ended_and_others_go_on(mode: str, why: str, tmp_path: Path) -> None:
    async def main() -> None:
        wanted = [f"mcp:{mode}/nothing", "mcp:plain/nothing"]
        async with open_tools(wanted, workspace(tmp_path, mode, "plain")) as (bad, good):
            before = peak_mib()
            flooded, answers = await asyncio.gather(run_tool(bad, {}), _calls(good, 10))
            assert not flooded.ok
            assert "died during the call" in flooded.text
            assert why in flooded.text
            assert answers == 10
            again = await run_tool(bad, {})
            assert not again.ok and "died during the call" in again.text
            assert "not started any more" in (await run_tool(bad, {})).text
            assert peak_mib() - before < 150

    asyncio.run(main())


async def _calls(tool: Tool, times: int) -> int:
    answers = [await run_tool(tool, {}) for _ in range(times)]
    return sum(answer.ok for answer in answers)


def test_a_line_in_our_log_at_most_once_a_minute(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    now_s = 0.0
    caplog.set_level(logging.WARNING, "stepwell.agents")
    beside = ServerLog("s", tmp_path / "s.log", lambda: now_s)
    beside.write(b"a" * (MOST_LOG_BYTES - 1))
    assert not caplog.records
    for second in range(300):
        now_s = float(second)
        beside.write(b"b" * 100)
    assert len(caplog.records) == 5
    assert beside.left_out_bytes == 300 * 100 - 1
    assert (tmp_path / "s.log").read_bytes() == b"a" * (MOST_LOG_BYTES - 1) + b"b"
    assert beside.last == (b"a" * MOST_LOG_BYTES + b"b" * 30_000)[-MOST_LAST_BYTES:]
    # The next life of the server goes on in the same file.
    assert ServerLog("s", tmp_path / "s.log")._written == MOST_LOG_BYTES


def test_who_writes_faster_than_is_read_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    async def main() -> None:
        monkeypatch.setattr(mcp_stdio.anyio, "current_time", lambda: 1.0)
        monkeypatch.setattr(mcp_stdio.anyio, "sleep", sleep)
        pace = mcp_stdio._Pace(1_000)
        for _ in range(3):
            await pace.took(100)

    asyncio.run(main())
    assert waited == [pytest.approx(0.2), pytest.approx(0.3)]

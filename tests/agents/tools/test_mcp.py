"""Tools of MCP servers: listed, called, told when the server fails, and ended with the block."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from stepwell.agents.tools import (
    McpServer,
    Tool,
    ToolResult,
    Workspace,
    build_tools,
    open_tools,
    run_tool,
    serving,
)
from stepwell.agents.tools.mcp import RunningMcp
from stepwell.errors import BadInput, MissingExtra, StepwellError
from tests.agents.tools.mcp_raw_server import ANSWERS

pytest.importorskip("mcp")

SERVER = str(Path(__file__).with_name("mcp_server.py"))
RAW = str(Path(__file__).with_name("mcp_raw_server.py"))


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setenv("STEPWELL_SECRET", "hunter2")
    tiny = McpServer(sys.executable, (SERVER,), {"TINY_SECRET": "given"})
    servers = {
        "tiny": tiny,
        "twin": tiny,
        "slow": McpServer(sys.executable, (SERVER,), timeout_s=0.2),
        "absent": McpServer(str(tmp_path / "absent")),
        "unset": McpServer("cat", env={"KEY": "$STEPWELL_UNSET"}),
        "loud": McpServer(sys.executable, ("-c", "raise SystemExit('no licence')")),
        "passed": McpServer(sys.executable, (SERVER,), {"TINY_SECRET": "$STEPWELL_SECRET"}),
        "near": McpServer(sys.executable, ("near.py",)),
        "other": McpServer("cat"),
        "gone": McpServer("true"),
        "raw": McpServer(sys.executable, (RAW, "plain")),
        "circle": McpServer(sys.executable, (RAW, "circle")),
        "endless": McpServer(sys.executable, (RAW, "endless")),
        "unlisted": McpServer(sys.executable, (RAW, "silent-list")),
        "silent": McpServer(sys.executable, ("-c", "import time; time.sleep(60)"), start_timeout_s=0.5),
    }
    return Workspace(tmp_path / "workspace", mcp_servers=servers)


Work = Callable[[dict[str, Tool]], Awaitable[None]]


def within(names: list[str], workspace: Workspace, work: Work) -> None:
    async def main() -> None:
        async with open_tools(names, workspace) as tools:
            await work({tool.name: tool for tool in tools})

    asyncio.run(main())


def test_tools_are_listed_and_called_by_many_at_once(workspace: Workspace) -> None:
    async def work(tools: dict[str, Tool]) -> None:
        assert list(tools) == ["calculator", "add", "fail", "die", "hang", "whoami"]
        assert tools["add"].description == "Adds two numbers."
        assert set(tools["add"].parameters["properties"]) == {"a", "b"}
        answers = await asyncio.gather(*(run_tool(tools["add"], {"a": n, "b": 1}) for n in range(20)))
        assert [answer.text for answer in answers] == [str(n + 1) for n in range(20)]

    within(["calculator", "mcp:tiny"], workspace, work)


def test_a_server_gets_its_own_variables_and_not_ours_and_ends_with_the_block(workspace: Workspace) -> None:
    seen: list[str] = []

    async def work(tools: dict[str, Tool]) -> None:
        seen.extend((await run_tool(tools["whoami"], {})).text.split())

    within(["mcp:tiny/whoami"], workspace, work)
    assert seen[1:] == ["given", "None"]
    with pytest.raises(ProcessLookupError):
        os.kill(int(seen[0]), 0)
    assert "asked who I am" in (workspace.directory / "mcp-tiny.log").read_text()


def test_a_variable_is_passed_on_only_where_it_is_asked_for(workspace: Workspace) -> None:
    async def work(tools: dict[str, Tool]) -> None:
        assert (await run_tool(tools["whoami"], {})).text.split()[1:] == ["hunter2", "None"]

    within(["mcp:passed/whoami"], workspace, work)


def test_a_server_starts_in_the_folder_of_the_crew(workspace: Workspace, tmp_path: Path) -> None:
    folder = tmp_path / "crew"
    folder.mkdir()
    (folder / "near.py").write_text(Path(SERVER).read_text())

    async def work(tools: dict[str, Tool]) -> None:
        assert (await run_tool(tools["add"], {"a": 1, "b": 2})).text == "3"

    within(["mcp:near/add"], replace(workspace, folder=folder), work)


def test_every_kind_of_content_reaches_the_model(workspace: Workspace) -> None:
    async def work(tools: dict[str, Tool]) -> None:
        text = {name: (await run_tool(tool, {})).text for name, tool in tools.items()}
        assert text["contents"].split("\n") == [
            "downloaded",
            "",
            "[resource file:///a.txt]",
            "PAID BY ANNA",
            "[resource file:///b.md]",
            "井很深",
            "[resource file:///c.bin: application/x-c, 4 bytes; it cannot be shown as text]",
            "[link big.bin: https://example.org/big.bin (application/zip, 2,048 bytes)] all of it",
            "[image: image/png, 4 bytes; it cannot be shown as text]",
            "[audio: audio/wav, 3 bytes; it cannot be shown as text]",
            '{"depth_m": 9}',
        ]
        assert "PAID BY ANNA" in text["failed"]
        assert text["repeated"] == '{"depth_m": 9}'
        assert text["wrapped"] == "9\nten"
        assert text["structured"] == '{"name": "井"}'
        assert text["nothing"] == ""

    within(["mcp:raw"], workspace, work)


def test_pages_that_turn_in_circles_are_left(workspace: Workspace) -> None:
    async def work(tools: dict[str, Tool]) -> None:
        assert len(tools) == len(ANSWERS) + 1

    within(["mcp:circle"], workspace, work)


def test_failures_are_sentences(workspace: Workspace) -> None:
    async def work(tools: dict[str, Tool]) -> None:
        wrong = await run_tool(tools["add"], {"a": "x"})
        failed = await run_tool(tools["fail"], {})
        assert not wrong.ok
        assert "valid integer" in wrong.text
        assert (failed.ok, failed.text) == (False, "fail failed: Error executing tool fail")

    within(["mcp:tiny"], workspace, work)


def test_a_call_that_hangs_is_given_up_and_the_server_goes_on(workspace: Workspace) -> None:
    async def work(tools: dict[str, Tool]) -> None:
        hung = await run_tool(tools["hang"], {})
        assert not hung.ok
        assert "did not answer within 0.2 s" in hung.text
        answer = await run_tool(tools["add"], {"a": 1, "b": 1})
        while not answer.ok:  # on a busy machine 0.2 s is little, also for one that is well
            assert "did not answer" in answer.text
            answer = await run_tool(tools["add"], {"a": 1, "b": 1})
        assert answer.text == "2"

    within(["mcp:slow"], workspace, work)


def test_a_server_that_dies_is_started_again_once(workspace: Workspace) -> None:
    async def work(tools: dict[str, Tool]) -> None:
        first = (await run_tool(tools["whoami"], {})).text
        died = await run_tool(tools["die"], {})
        assert not died.ok
        assert "died during the call; it may or may not have been done" in died.text
        answers = await asyncio.gather(*(run_tool(tools["whoami"], {}) for _ in range(3)))
        assert len({answer.text for answer in answers}) == 1
        assert answers[0].ok
        assert answers[0].text != first
        await run_tool(tools["die"], {})
        ended = await run_tool(tools["whoami"], {})
        assert not ended.ok
        assert "has died again and is not started any more" in ended.text

    within(["mcp:tiny"], workspace, work)


def test_two_servers_with_one_name_for_a_tool(workspace: Workspace) -> None:
    async def work(tools: dict[str, Tool]) -> None:
        assert list(tools) == ["add", "twin_add"]
        answers: list[ToolResult] = [await run_tool(tool, {"a": 2, "b": 3}) for tool in tools.values()]
        assert [answer.text for answer in answers] == ["5", "5"]

    within(["mcp:tiny/add", "mcp:twin/add"], workspace, work)


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        ("mcp:nobody", BadInput, "no MCP server 'nobody': declared are tiny"),
        ("mcp:tiny/none", BadInput, "has no such tool; it has add, fail"),
        (
            "mcp:absent",
            BadInput,
            r"\[mcp.absent\]: there is no program .*absent: install it, or mend its path",
        ),
        ("mcp:other", StepwellError, "could not be started"),
        ("mcp:gone", StepwellError, "could not be started"),
        (
            "mcp:unset",
            BadInput,
            r"\[mcp.unset\]: env: KEY is to be passed \$STEPWELL_UNSET, which is not set",
        ),
        ("mcp:loud", StepwellError, r"could not be started.*the last it wrote: .*no licence"),
        ("mcp:endless/add", BadInput, "has no such tool"),
        ("mcp:silent", StepwellError, "did not answer within 0.5 s of its start"),
    ],
)
def test_a_server_that_is_not_there_is_one_sentence(
    name: str, error: type[Exception], says: str, workspace: Workspace
) -> None:
    async def work(tools: dict[str, Tool]) -> None:
        raise AssertionError(f"opened {list(tools)}")

    with pytest.raises(error, match=says) as raised:
        within([name], workspace, work)
    assert "\n" not in str(raised.value)


def test_a_server_that_does_not_list_its_tools(workspace: Workspace, tmp_path: Path) -> None:
    """It has all the time to start that it needs, and then none."""

    async def main() -> None:
        declared = workspace.mcp_servers["unlisted"]
        server = RunningMcp("unlisted", declared, tmp_path / "log")
        await server.start()
        server._declared = replace(declared, start_timeout_s=0.05)
        try:
            with pytest.raises(StepwellError, match=r"unlisted did not list its tools within 0\.05 s"):
                await server.tools()
        finally:
            await server.close()

    asyncio.run(main())


def test_what_is_not_as_the_protocol_has_it_is_read_all_the_same(workspace: Workspace) -> None:
    async def work(tools: dict[str, Tool]) -> None:
        said = {name: await run_tool(tool, {}) for name, tool in tools.items()}
        assert said["structure_alone"].text == '{"depth_m": 9}'
        assert said["half_a_pair"].text == "a?b"
        assert said["as_promised"].text == 'nine\n{"depth": "9"}'
        assert said["tool_10"].text == "井"
        assert "refused the call: the quota is used up" in said["refuses"].text
        assert said["nothing"].ok, "a refusal is not the end of a server"

    within(["mcp:raw"], workspace, work)


def test_while_the_servers_run_anybody_may_build_their_tools(workspace: Workspace) -> None:
    """As a crew does: one opens, every agent builds its own."""

    async def main() -> None:
        async with serving(["mcp:tiny"], workspace):
            one, other = (build_tools(["mcp:tiny/whoami"], workspace)[0] for _ in range(2))
            assert (await run_tool(one, {})).text == (await run_tool(other, {})).text

    asyncio.run(main())
    with pytest.raises(BadInput, match="is not running"):
        build_tools(["mcp:tiny/whoami"], workspace)


def test_an_error_of_the_block_ends_the_server_and_stays_itself(workspace: Workspace) -> None:
    async def work(tools: dict[str, Tool]) -> None:
        seen.extend((await run_tool(tools["whoami"], {})).text.split())
        raise RuntimeError("of the block")

    seen: list[str] = []
    with pytest.raises(RuntimeError, match="of the block"):
        within(["mcp:tiny"], workspace, work)
    with pytest.raises(ProcessLookupError):
        os.kill(int(seen[0]), 0)


def test_without_the_package_the_extra_is_named(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(tools: dict[str, Tool]) -> None:
        raise AssertionError(f"opened {list(tools)}")

    monkeypatch.setitem(sys.modules, "mcp", None)
    with pytest.raises(MissingExtra, match="the extra 'mcp'"):
        within(["mcp:tiny"], workspace, work)


def test_names_are_built_in_order_and_once(workspace: Workspace) -> None:
    assert [tool.name for tool in build_tools(["python", "calculator", "python"], workspace)] == [
        "python", "calculator",
    ]  # fmt: skip
    with pytest.raises(BadInput, match="no tool 'abacus': there are calculator, python"):
        build_tools(["abacus"], workspace)
    with pytest.raises(BadInput, match="'tiny' is not running: open_tools"):
        build_tools(["mcp:tiny"], workspace)

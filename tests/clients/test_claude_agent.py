"""The claude-agent-sdk package, unmodified, with the coding agent that it brings: a process of its own, which
speaks to the server by ``ANTHROPIC_BASE_URL`` alone. Its wheel is 180 MB, so it is in no extra: these tests
run where it has been installed (0.2.189 when they were written)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stepwell.loop.requests import Generation
from stepwell.server.run import BackgroundServer
from tests.server.fakes import INFO, MODEL, FakeDriver, FakeText, call, serving

sdk = pytest.importorskip("claude_agent_sdk")

QUIET = {
    "ANTHROPIC_API_KEY": "none",
    "API_TIMEOUT_MS": "60000",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "DISABLE_AUTOUPDATER": "1",
    "DISABLE_ERROR_REPORTING": "1",
    "DISABLE_TELEMETRY": "1",
}
"""It speaks to nobody else."""
TEXT = FakeText(replace(INFO, context_tokens=1 << 20))


def run(server: BackgroundServer, home: Path, prompt: str, **options: Any) -> list[Any]:
    env = {**QUIET, "ANTHROPIC_BASE_URL": server.base_url, "HOME": str(home)}
    asked = sdk.ClaudeAgentOptions(
        model=MODEL, cwd=str(home), setting_sources=[], env=env, **{"max_turns": 4, **options}
    )

    async def collect() -> list[Any]:
        return [message async for message in sdk.query(prompt=prompt, options=asked)]

    return asyncio.run(asyncio.wait_for(collect(), 120))


def tool_results(messages: Sequence[Any]) -> str:
    return str([m.content for m in messages if isinstance(m, sdk.UserMessage)])


def test_it_reads_a_file_and_answers(tmp_path: Path) -> None:
    (tmp_path / "well.txt").write_text("The well of Patan has seven floors.\n")

    def script(prompt: str, generation: Generation) -> Sequence[str]:
        if "seven floors" in prompt:
            return ["It has seven floors."]
        return ["I will look. ", call("Read", file_path=str(tmp_path / "well.txt"))]

    driver = FakeDriver(script)
    with serving(driver, TEXT) as server:
        messages = run(server, tmp_path, "How many floors?", allowed_tools=["Read"])
    assert "seven floors" in tool_results(messages)
    result = messages[-1]
    assert (result.subtype, result.is_error, result.result) == ("success", False, "It has seven floors.")
    callers = {one.caller.session for one in driver.submitted}
    assert callers == {result.session_id}  # one session, told by its headers
    assert not any("x-anthropic-billing-header" in prompt for prompt in driver.prompts)
    first, second = driver.prompts[-2:]
    assert second.startswith(first)  # so its KV is found

"""A scripted session of a coding agent: what of its prompts is found in the cache, and what two of its habits
would cost if they were rendered as they come."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anthropic
import pytest

from stepwell.engines.null import NullConfig
from stepwell.server.anthropic import request, routes
from stepwell.server.run import BackgroundServer
from tests.engines import tiny_gguf
from tests.server.fakes import MODEL, null_node

SYSTEM = "Read the file before you change it, and run the tests. " * 364  # 20,000 tokens: one a byte
HELPER = "Find what was asked for, and say where it is. " * 90
HELPER_TURNS = 3
CONFIG = NullConfig(
    model=MODEL, block_tokens=64, device_blocks=2_048, context_tokens=65_536, answer=b"I have read it."
)


class Coder:
    """Speaks as a coding agent does: a billing header that changes, and system messages between the turns."""

    def __init__(self, client: anthropic.Anthropic, model: str) -> None:
        self.client, self.model, self.sent = client, model, 0
        self.prompt_tokens = self.read_tokens = 0

    def turn(self, system: str, messages: list[dict[str, Any]], **headers: str) -> None:
        self.sent += 1
        billing = f"x-anthropic-billing-header: cc_version=2.1.328; cch={self.sent:05x};"
        blocks = [{"type": "text", "text": one} for one in (billing, system)]
        asked: Any = {"model": self.model, "max_tokens": 15, "system": blocks, "messages": messages}
        answer = self.client.messages.create(
            **asked, extra_headers={"x-claude-code-session-id": "work", **headers}
        )
        usage = answer.usage
        self.read_tokens += usage.cache_read_input_tokens or 0
        written = usage.cache_creation_input_tokens or 0
        self.prompt_tokens += usage.input_tokens + (usage.cache_read_input_tokens or 0) + written
        messages.append({"role": "assistant", "content": answer.content[0].text})  # type: ignore[union-attr]

    def work(self, turns: int, system: str = SYSTEM, helper: str = HELPER) -> float:
        """A session; the share of prompt tokens that were found."""
        messages: list[dict[str, Any]] = []
        for number in range(turns):
            messages.append({"role": "user", "content": f"Result of step {number}: " + "line of code; " * 20})
            if number % 3 == 2:
                left = f"{200_000 - 500 * number} tokens left"
                messages.insert(-1, {"role": "system", "content": left})
            self.turn(system, messages)
            if number % 5 == 4:
                own: list[dict[str, Any]] = []
                for step in range(HELPER_TURNS):
                    own.append({"role": "user", "content": f"Look for thing {number}, step {step}."})
                    self.turn(helper, own, **{"x-claude-code-agent-id": f"helper-{number}"})
        return self.read_tokens / self.prompt_tokens


@contextmanager
def coder(server: BackgroundServer) -> Iterator[Coder]:
    with anthropic.Anthropic(base_url=server.base_url, api_key="none", max_retries=0) as client:
        yield Coder(client, server.service.text_model.name)


def hoisted(body: Mapping[str, Any]) -> dict[str, Any]:
    """As other servers have it: system messages go to the front."""
    turns = body["messages"]
    extra = [{"type": "text", "text": one["content"]} for one in turns if one["role"] == "system"]
    rest = [one for one in turns if one["role"] != "system"]
    return {**body, "system": [*body["system"], *extra], "messages": rest}


def test_a_coding_session_finds_its_prompts() -> None:
    with null_node(CONFIG) as server, coder(server) as one:
        share = one.work(20)
        agents = {view.agent for view in server.service.driver.snapshot().agents}
    assert share > 0.9
    assert agents == {"work", *(f"work/helper-{number}" for number in (4, 9, 14, 19))}


def test_without_the_two_remedies_it_finds_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request, "BILLING", "kept")
    monkeypatch.setattr(routes, "chat_body", lambda body: request.chat_body(hoisted(body)))
    with null_node(CONFIG) as server, coder(server) as one:
        share = one.work(6)
    assert share < 0.1


# --- live: a model, a shorter session ---------------------------------------------------------------

LIVE_TURNS = 5
LIVE_SYSTEM, LIVE_HELPER = SYSTEM[:1_000], HELPER[:600]
CONTEXT_TOKENS = 8_192


@contextmanager
def live_node(path: Path, root: Path) -> Iterator[BackgroundServer]:
    from stepwell.launch.assemble import build
    from stepwell.settings.engine import EngineSettings
    from stepwell.settings.file import KvSettings, Settings

    node = build(
        Settings(
            engine=EngineSettings(model=str(path), device_kv_tokens=CONTEXT_TOKENS),
            kv=KvSettings(host_kv=1 << 28, disk_kv=0, disk_dir=root),
        )
    )
    node.driver.start()
    try:
        with BackgroundServer(node.driver, node.text) as server:
            yield server
    finally:
        node.stop(5.0)


def test_a_live_session_finds_its_prompts_by_the_two_remedies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On llama.cpp, with a tiny random model. ``STEPWELL_CODING_MODEL`` names another GGUF file."""
    pytest.importorskip("llama_cpp")
    named = os.environ.get("STEPWELL_CODING_MODEL")
    model = Path(named) if named else tiny_gguf.write(tmp_path / "tiny.gguf")
    with live_node(model, tmp_path / "with") as server, coder(server) as one:
        found = one.work(LIVE_TURNS, LIVE_SYSTEM, LIVE_HELPER)
    monkeypatch.setattr(request, "BILLING", "kept")
    monkeypatch.setattr(routes, "chat_body", lambda body: request.chat_body(hoisted(body)))
    with live_node(model, tmp_path / "without") as server, coder(server) as other:
        lost = other.work(LIVE_TURNS, LIVE_SYSTEM, LIVE_HELPER)
    with capsys.disabled():
        said = f"{LIVE_TURNS} turns and {HELPER_TURNS} of a helper, {one.prompt_tokens:,} prompt tokens"
        remedies = f"reused with the two remedies {found:.1%}, without {lost:.1%}"
        sys.stderr.write(f"\n{model.name}: {said}; {remedies}\n")
    assert found > 0.5
    assert lost < 0.2

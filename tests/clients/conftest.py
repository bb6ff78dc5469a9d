"""The clients' own noise is theirs; nothing here may reach the network but loopback."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def _no_settings_of_the_developer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys, base URLs and proxies of whoever runs the tests must not decide how they go."""
    for name in list(os.environ):
        if name.upper().startswith(
            ("OPENAI_", "ANTHROPIC_", "LANGCHAIN_", "LANGSMITH_", "LOGFIRE_")
        ) or name.upper() in (
            "HTTP_PROXY",
            "HTTPS_PROXY",
            "ALL_PROXY",
        ):
            monkeypatch.delenv(name)
    monkeypatch.setenv("OPENAI_AGENTS_DISABLE_TRACING", "1")
    monkeypatch.setenv("LANGSMITH_TRACING", "false")

"""A server of today on the state that earlier versions left: the books and KV on disk are all there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from stepwell import cli

STATES = sorted(Path(__file__).parent.glob("state-*.tar.gz"))
TURNS = 3
"""What scripts/state_fixture.py let each of its two agents say."""


@contextmanager
def server(state: Path) -> Iterator[tuple[str, str]]:
    """Its URL, and what it said at the start."""
    command = [sys.executable, "-m", "stepwell", "serve", "--config", "stepwell.toml"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("STEPWELL_")}
    process = subprocess.Popen(command, cwd=state, stderr=subprocess.PIPE, text=True, env=env)
    assert process.stderr is not None
    said = ""
    try:
        for line in process.stderr:
            said += line
            if "Ctrl-C stops" in line:
                break
        url = re.search(r"http://\S+(?=/v1)", said)
        assert url, said
        yield url[0], said
        process.terminate()
        process.communicate(timeout=60)
        assert process.returncode == 0
    finally:
        process.kill()
        process.wait()


def get(url: str, body: object = None) -> Any:
    headers = {
        "content-type": "application/json",
        "authorization": "Bearer sk-upgrade",
        "x-session-id": "run",
        "x-agent-id": "planner",
    }
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data, headers)) as answer:
        return json.load(answer)


def run(capsys: pytest.CaptureFixture[str], *tokens: str) -> str:
    assert cli.run(list(tokens)) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("archive", STATES, ids=lambda path: path.name)
def test_it_goes_on_where_the_other_stopped(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with tarfile.open(archive) as files:
        files.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    with server(tmp_path) as (url, said):
        assert re.search(r"[1-9]\d* blocks there from last time", said), said
        (model,) = {one["id"] for one in get(f"{url}/v1/models")["data"] if "type" not in one}
        messages = [{"role": "user", "content": f"planner asks for the {n}. time"} for n in range(TURNS + 1)]
        body = {"model": model, "messages": messages, "max_tokens": 4}
        usage = get(f"{url}/v1/chat/completions", body)["usage"]
        assert usage["prompt_tokens_details"]["cached_tokens_by_kv_tier"]["disk"] > 0
        (budget,) = get(f"{url}/admin/budgets")["data"]
        assert budget["hard_usd"] == 5
    assert "The books are right" in run(capsys, "ledger", "verify", "--ledger", "ledger.db")
    run(capsys, "ledger", "statement", "--ledger", "ledger.db", "--json", "found.json")
    total = json.loads(Path("found.json").read_text("utf-8"))["total"]
    assert total["requests"] == 2 * TURNS + 1
    assert total["charge_microusd"] > 0
    run(capsys, "disk", "verify", "kv")


def test_there_is_a_state_of_the_first_release() -> None:
    assert STATES[0].name == "state-0.1.0.tar.gz"
    assert all(path.stat().st_size < 100_000 for path in STATES)

"""Makes the state directory of this version for the upgrade test: a ledger, KV on disk, a library.

    .venv/bin/python scripts/state_fixture.py tests/upgrade/state-0.2.0.tar.gz

Run it when a release is made, and keep the older files: a server of today must start on every one of them.
That of another version is made with its sources in PYTHONPATH.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
from pathlib import Path

SETTINGS = """
[engine]
kind = "null"
device_kv_tokens = 1024
[kv]
host_kv = "8MiB"
disk_kv = "8MiB"
disk_dir = "kv"
[ledger]
path = "ledger.db"
node = "upgrade"
[library]
dir = "library"
quota = "1MiB"
[server]
port = 0
[[keys]]
key = "sk-upgrade"
tenant = "acme"
operator = true
hard_usd = 5
"""
TURNS = 3


def main(target: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder) / "state"
        state.mkdir()
        (state / "stepwell.toml").write_text(SETTINGS, encoding="utf-8")
        _live_in(state)
        with tarfile.open(target, "w:gz", compresslevel=9) as archive:
            for path in sorted(state.rglob("*")):
                archive.add(path, path.relative_to(state), recursive=False, filter=_nobodys)
    print(f"{target}: {target.stat().st_size:,} bytes")


def _live_in(state: Path) -> None:
    """A server that answers a few turns of two agents and keeps a document."""
    command = [sys.executable, "-m", "stepwell", "serve", "--config", "stepwell.toml"]
    process = subprocess.Popen(command, cwd=state, stderr=subprocess.PIPE, text=True, env=_environment())
    assert process.stderr is not None
    url = ""
    for line in process.stderr:
        if found := re.search(r"http://\S+(?=/v1)", line):
            url = found[0]
        if "Ctrl-C stops" in line:
            break
    for turn in range(TURNS):
        for agent in ("planner", "reader"):
            _ask(url, agent, turn)
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 0


def _ask(url: str, agent: str, turn: int) -> None:
    said = [{"role": "user", "content": f"{agent} asks for the {number}. time"} for number in range(turn + 1)]
    body = {"model": "null", "messages": said, "max_tokens": 8}
    headers = {
        "content-type": "application/json",
        "authorization": "Bearer sk-upgrade",
        "x-session-id": "run",
        "x-agent-id": agent,
    }
    with urllib.request.urlopen(_models(url)) as answer:
        body["model"] = json.load(answer)["data"][0]["id"]
    request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request) as answer:
        json.load(answer)


def _models(url: str) -> urllib.request.Request:
    return urllib.request.Request(f"{url}/v1/models", headers={"authorization": "Bearer sk-upgrade"})


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("STEPWELL_")}


def _nobodys(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


if __name__ == "__main__":
    main(Path(sys.argv[1]))

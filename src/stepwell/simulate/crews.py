"""Our own crews as a workload: what ``stepwell run`` asked a live server, recorded there and shipped here.

Nine sessions of ``documents``, ``code`` and ``data`` on SmolLM2, three at a time (2026-11-30, on two busy
cores, which stretched some pauses); 75 turns, contexts of their own length. They were made by

    stepwell serve --model smollm2 --record crews.jsonl.gz
    stepwell run documents examples/stepwells.md --ask ... --ask ... --server ...
    stepwell simulate crews.jsonl.gz --closed --export crews.sessions.jsonl

Roles, tools, which agent waits for which and what the runtime told the server are the recording's.
"""

from __future__ import annotations

from importlib.resources import as_file, files

from stepwell.simulate.files import read_trace
from stepwell.simulate.lmcache import again_and_again
from stepwell.simulate.workload import Workload

CREWS = "crews"
_FILE = "crews.sessions.jsonl.gz"


def crews(*, sessions: int | None = None, seed: int = 1) -> Workload:
    """``sessions`` of them (None: each once); order, arrivals, tenants and service tiers by seed."""
    with as_file(files("stepwell.simulate") / _FILE) as path:
        records = read_trace(path).records
    unit = int(records[0]["block_size"])
    note = "our own crews on SmolLM2, as recorded"
    return again_and_again(records, CREWS, sessions=sessions, seed=seed, unit_tokens=unit, note=note)

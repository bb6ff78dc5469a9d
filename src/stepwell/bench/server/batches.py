"""``stepwell bench batches``: a batch of lines with shared prefixes, ordered and as they stand, killed twice.

A real server on the null engine, whose time is skipped instead of slept, killed with SIGKILL in the middle.
The lines are shuffled; how many prompt tokens had to be computed is read from the answers' own usage, and
what was charged from the books.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from stepwell.bench.harness import BenchRun, bench
from stepwell.bench.servers import ServerArm, StartedServer, free_port, running
from stepwell.console.options import Positive
from stepwell.console.output import sheet
from stepwell.console.progress import Ticker
from stepwell.console.report import Verdict
from stepwell.engines.prose import prose
from stepwell.errors import StepwellError
from stepwell.ledger.reading.queries import Period
from stepwell.ledger.reading.statements import statement
from stepwell.ledger.stores.open import open_store

LINES, PREFIXES, PREFIX_WORDS = 5_000, 20, 100
QUICK_LINES = 200
KILLS = 2
DEVICE_TOKENS = 8_192
TARGET_SHARE = 0.5
LOOK_S = 0.1
PATIENCE_S = 1_800.0
SEED = 20261129
URL = "/v1/chat/completions"
COLUMNS = {
    "": "{name}",
    "lines": "{answers:,}",
    "time": "{seconds:.0f} s",
    "prompt tokens": "{prompt_tokens:,}",
    "computed": "{computed_tokens:,}",
    "charged": "${charged_usd:.4f}",
}
ENDED = ("completed", "failed", "expired", "cancelled")


@dataclass(slots=True)
class BatchArm:
    """One way of running the same lines."""

    name: str
    by_prefix: bool
    kills: int
    seconds: float = 0.0
    answers: int = 0
    distinct: int = 0
    prompt_tokens: int = 0
    computed_tokens: int = 0
    charged_microusd: int = 0
    answered_microusd: int = 0
    charged_otherwise: int = 0
    """Lines whose charge in the books is not what their answer says."""
    killed_at: list[int] = field(default_factory=list)
    """Lines with an answer at each kill."""
    costs: dict[str, int] = field(default_factory=dict)
    """By line, in micro-dollars, as its answer says."""

    @property
    def charged_usd(self) -> float:
        return self.charged_microusd / 1e6


@bench("batches")
def main(
    run: BenchRun,
    *,
    lines: Positive = LINES,
    prefixes: Positive = PREFIXES,
    prefix_words: Positive = PREFIX_WORDS,
) -> None:
    """Measure what ordering a batch by shared prefixes saves, and whether kills lose or double anything.

    A server on the null engine, twice: lines ordered and the server killed twice, then in the order of
    the file.

    Example: ``stepwell bench batches --lines 1000``

    Parameters
    ----------
    lines
        Requests in the batch.
    prefixes
        Texts with which they begin, as many lines each.
    prefix_words
        Words in each of these texts.
    """
    lines = min(lines, QUICK_LINES) if run.quick else lines
    run.settings = {"lines": lines, "prefixes": prefixes, "prefix_words": prefix_words}
    run.settings |= {"device_kv_tokens": DEVICE_TOKENS, "seed": SEED}
    data = requests(lines, prefixes, prefix_words)
    arms = [BatchArm("ordered, killed twice", True, KILLS), BatchArm("as in the file", False, 0)]
    for arm in arms:
        with tempfile.TemporaryDirectory(prefix="stepwell-batches-") as folder:
            measure(arm, data, Path(folder), run.progress)
    ordered, plain = arms
    run.results = {"arms": [figures_of(arm) for arm in arms]}
    share = ordered.computed_tokens / max(1, plain.computed_tokens)
    run.verdicts = [
        Verdict("lines that are not in the output exactly once", _wrong(ordered, lines), 0),
        Verdict("lines that are not charged exactly once", float(ordered.charged_otherwise), 0),
        Verdict("prompt tokens computed, of those in the order of the file", share, TARGET_SHARE),
    ]
    run.show(sheet("Batches", COLUMNS, arms))


def figures_of(arm: BatchArm) -> dict[str, Any]:
    """Without the costs of single lines."""
    return {name: value for name, value in asdict(arm).items() if name != "costs"}


def _wrong(arm: BatchArm, lines: int) -> float:
    return float(abs(lines - arm.distinct) + abs(arm.answers - arm.distinct))


def requests(lines: int, prefixes: int, words: int) -> bytes:
    """Shuffled, so that nothing is ordered by chance."""
    chance = random.Random(SEED)
    heads = [f"Handbook {n}. {prose(chance, words)}" for n in range(prefixes)]
    rows = []
    for number in range(lines):
        content = f"{heads[number % prefixes]} Question {number}: {prose(chance, 12)}"
        body = {"model": "null", "max_tokens": 4, "messages": [{"role": "user", "content": content}]}
        rows.append({"custom_id": f"line-{number}", "method": "POST", "url": URL, "body": body})
    chance.shuffle(rows)
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def measure(arm: BatchArm, data: bytes, folder: Path, progress: Ticker) -> None:
    """Until the batch has ended, with kills on the way."""
    began_s = time.monotonic()
    batch_id = ""
    total = data.count(b"\n")
    for life in range(arm.kills + 1):
        with server(folder, arm) as (process, client):
            batch_id = batch_id or begin(client, data)
            stop_at = total * (life + 1) // (arm.kills + 1)
            batch = follow(client, batch_id, stop_at if life < arm.kills else None, arm, progress)
            if life < arm.kills and batch["status"] not in ENDED:
                arm.killed_at.append(batch["request_counts"]["completed"])
                process.kill()
                continue
            read_answers(arm, client, batch)
            break
    arm.seconds = time.monotonic() - began_s
    read_books(arm, folder, batch_id)


@contextmanager
def server(folder: Path, arm: BatchArm) -> Iterator[tuple[StartedServer, httpx2.Client]]:
    """One life of the server, and a client of it."""
    port, config = free_port(), folder / "stepwell.toml"
    config.write_text(
        f'[engine]\nkind = "null"\ndevice_kv_tokens = {DEVICE_TOKENS}\n'
        f'[kv]\nhost_kv = 0\ndisk_kv = 0\n[server]\nport = {port}\n[ledger]\npath = "{folder}/books.db"\n'
        f'[library]\nquota = 0\n[batches]\ndir = "{folder}/batches"\n'
        f"by_prefix = {str(arm.by_prefix).lower()}\n"
    )
    command = (sys.executable, "-m", "stepwell.bench.server.batches_child", str(config))
    served = ServerArm("the server", command, port, is_ours=True, device_kv_tokens=DEVICE_TOKENS)
    with (
        running(served) as started,
        httpx2.Client(base_url=served.base_url, timeout=60.0, trust_env=False) as client,
    ):
        yield started, client


def begin(client: httpx2.Client, data: bytes) -> str:
    sent = client.post("/v1/files", files={"file": ("lines.jsonl", data)}, data={"purpose": "batch"})
    file_id = sent.raise_for_status().json()["id"]
    wanted = {"input_file_id": file_id, "endpoint": URL, "completion_window": "24h"}
    return str(client.post("/v1/batches", json=wanted).raise_for_status().json()["id"])


def follow(
    client: httpx2.Client, batch_id: str, stop_at: int | None, arm: BatchArm, progress: Ticker
) -> dict[str, Any]:
    """Until it has ended, or so many lines have answers."""
    give_up_s, seen = time.monotonic() + PATIENCE_S, 0
    progress.phase(arm.name)
    while time.monotonic() < give_up_s:
        batch: dict[str, Any] = client.get(f"/v1/batches/{batch_id}").raise_for_status().json()
        done = batch["request_counts"]["completed"]
        progress.advance(done - seen)
        seen = done
        if batch["status"] in ENDED or (stop_at is not None and done >= stop_at):
            return batch
        time.sleep(LOOK_S)
    raise StepwellError(f"the batch did not end within {PATIENCE_S:.0f} s")


def read_answers(arm: BatchArm, client: httpx2.Client, batch: dict[str, Any]) -> None:
    text = client.get(f"/v1/files/{batch['output_file_id']}/content").raise_for_status().text
    rows = [json.loads(row) for row in text.splitlines()]
    arm.answers, arm.distinct = len(rows), len({row["custom_id"] for row in rows})
    for row in rows:
        usage = row["response"]["body"]["usage"]
        arm.prompt_tokens += usage["prompt_tokens"]
        arm.computed_tokens += usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"]
        cost = round(usage["cost"] * 1e6)
        arm.answered_microusd += cost
        arm.costs[row["id"].removeprefix("batch_req_")] = cost


def read_books(arm: BatchArm, folder: Path, batch_id: str) -> None:
    """What stands as charged, line by line."""
    store = open_store(folder / "books.db", create=False)
    try:
        rows = statement(store, Period(), ("session", "agent")).rows
    finally:
        store.close()
    charged = {
        row.group[1].rpartition("/")[2]: row.counts.charge_microusd
        for row in rows
        if row.group[0] == batch_id
    }
    arm.charged_microusd = sum(charged.values())
    wrong = sum(charged.get(line) != cost for line, cost in arm.costs.items())
    arm.charged_otherwise = wrong + sum(charged[line] != 0 for line in charged if line not in arm.costs)

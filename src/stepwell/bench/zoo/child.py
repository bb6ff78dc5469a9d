"""The child of ``run``: makes models, moves their KV about and compares, each in a process of its own.

``python -m stepwell.bench.zoo.child SETTINGS`` (JSON text) reads a name a line and writes a row a line. The
processes are forked after the libraries are loaded, so that a model costs what it computes and no more.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepwell.bench.arms import ArmsJob, Load
from stepwell.bench.schedule import ScheduleShape
from stepwell.bench.zoo.make import ZooError, ZooKind, kind_of, make
from stepwell.console.progress import Ticker
from stepwell.engines.base import Engine, TextModel
from stepwell.engines.llamacpp import LlamaCppConfig, LlamaCppEngine, LlamaCppText, ModelError
from stepwell.engines.llamacpp.native import NativeModel, complaint, start_backend

MOST_SECONDS = 120
SCHEDULE = ScheduleShape(
    agents=4, shared_words=30, private_words=(8, 70), added_words=(1, 8), context_tokens=1100
)
"""The vocabulary has few words: a word is about five tokens. Contexts grow past a window of 512."""


@dataclass(frozen=True, slots=True)
class ZooWishes:
    """What ``run`` asks for, as its first argument."""

    folder: str
    turns: int
    seed: int
    device_kv_tokens: int
    threads: int | None


def file_of(folder: Path, kind: ZooKind) -> Path:
    """Where a model lies once it was made."""
    return folder / f"{kind.name.replace(':', '-')}.gguf"


def model_file(folder: Path, name: str) -> Path:
    """The model of this name, made if it is not there yet."""
    kind = kind_of(name)
    path = file_of(folder, kind)
    if not path.exists():
        part = path.with_suffix(f".{os.getpid()}")
        make(kind, part).rename(path)
    return path


def loader(path: Path, kind: ZooKind) -> Load:
    """Loads this file whatever name it is asked for, past the checks of files that are new here."""

    def load(_: str, *, device_kv_tokens: int, threads: int | None) -> tuple[Engine, TextModel]:
        config = LlamaCppConfig(
            path,
            kind.name,
            device_kv_tokens,
            threads=threads,
            kv_type_k=kind.kv_type,
            kv_type_v=kind.kv_type,
            most_states=kind.states,
        )
        model = NativeModel(config)
        engine = LlamaCppEngine(model, config, f"zoo-{kind.name}")
        return engine, LlamaCppText(model, kind.name, engine.info.context_tokens)

    return load


def compare(name: str, wishes: ZooWishes) -> dict[str, Any]:
    """Make one model and run both arms; the row for the table."""
    kind = kind_of(name)
    try:
        path = model_file(Path(wishes.folder), name)
    except ZooError as error:
        return {"verdict": "not made", "why": f"{error}{complaint()}"}
    load = loader(path, kind)
    job = ArmsJob(
        name, wishes.turns, wishes.seed, wishes.device_kv_tokens, wishes.threads, SCHEDULE, load=load
    )
    try:
        found = job.run(Ticker(None, _quiet()), [])
    except ModelError as error:
        return {"verdict": "refused", "why": str(error).replace(f"model {path} ", "")}
    row: dict[str, Any] = {
        "turns": found.turns,
        "rows": found.logits_compared,
        "from_host": found.from_host,
        "from_disk": found.from_disk,
    }
    if found.batch_differences or found.reference_moved or not (found.from_host and found.from_disk):
        return row | {"verdict": "not compared", "why": "the two arms did not run the same batches"}
    differ = found.logit_differences + found.token_differences
    if differ:
        return row | {"verdict": "wrong", "why": f"{differ} of {found.turns} turns differ: {found.first[0]}"}
    return row | {"verdict": "exact", "why": ""}


def _quiet() -> Any:
    from rich.console import Console

    return Console(quiet=True)


def _isolated(name: str, wishes: ZooWishes) -> dict[str, Any]:
    """``compare`` in a fork: what ends or stalls it is the verdict on one model and not the end of all."""
    started_s = time.monotonic()
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read_end)
        _attempt(name, wishes, write_end)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        said = pipe.read().decode()
    _, status = os.waitpid(child, 0)
    row: dict[str, Any] = {"turns": 0, "rows": 0, "from_host": 0, "from_disk": 0}
    if said:
        row |= json.loads(said)
    else:
        row |= {"verdict": "died", "why": f"llama.cpp ended the process (signal {os.WTERMSIG(status)})"}
    return {"name": name, **row, "seconds": round(time.monotonic() - started_s, 2)}


def _attempt(name: str, wishes: ZooWishes, write_end: int) -> None:
    """Never returns."""
    try:
        signal.alarm(MOST_SECONDS)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        row = compare(name, wishes)
    except Exception as error:  # noqa: BLE001 - whatever a model sets off is the verdict on it
        row = {"verdict": "failed", "why": f"{type(error).__name__}: {error}".splitlines()[0][:300]}
    os.write(write_end, json.dumps(row).encode())
    os._exit(0)


def _main(wishes: ZooWishes) -> None:
    start_backend()
    answers = os.dup(1)
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    for line in sys.stdin:
        os.write(answers, json.dumps(_isolated(line.strip(), wishes)).encode() + b"\n")


if __name__ == "__main__":
    _main(ZooWishes(**json.loads(sys.argv[1])))

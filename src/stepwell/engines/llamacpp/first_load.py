"""A model file's first load, where it can do no harm: in a child process with limits on time and memory.

llama.cpp ends the process when a header passes its checks and makes no sense (an assertion, a division by
zero), and a chat template may never come to an end. So a file that has not been served before is loaded,
computes a few tokens and renders a chat in a child. What has passed is noted by path, size and time of
change, with the build that tried it, so later starts pay nothing.

Run as a module it is the child: paths as arguments, one verdict a line (JSON text). Every path gets a
process of its own, forked after the libraries are loaded.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from stepwell.engines.llamacpp.config import LlamaCppConfig, ModelError
from stepwell.engines.llamacpp.fingerprint import build, model_files

MIN_SECONDS = 60
BYTES_PER_S = 20_000_000
"""Of a slow disk: a large file gets as long as reading it may take."""
BUSY = 5
"""A loop without end is known by its CPU time. By the clock a file gets so many times as long: where the
machine is busy with other work, a good file takes that."""
SPARE_BYTES = 6 * 1024**3
TEMPLATE_SECONDS = 10
TEMPLATE_BYTES = 1024**3
_STAGES = ("its header makes no sense", "it cannot compute", "its chat template does not come to an end")
_TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}

_log = logging.getLogger("stepwell.llamacpp")


def ensure_loadable(config: LlamaCppConfig, passed: Path) -> None:
    """``ModelError`` when the file ends or stalls a process that loads it.

    ``passed``: the folder where files that do neither are noted.
    """
    note = passed / _identity(config)
    if note.exists():
        return
    _log.info("loading %s in a child process first, once per file", config.model_path)
    (wrong,) = try_files([config.model_path])
    if wrong:
        raise ModelError(f"model {config.model_path} cannot be served: {wrong}")
    with suppress(OSError):  # a cache that cannot be written costs a second load next time
        passed.mkdir(parents=True, exist_ok=True)
        note.touch()


def try_files(paths: Sequence[Path | str]) -> list[str]:
    """What is wrong with each file, or nothing."""
    command = [
        sys.executable,
        *("-P", "-m"),
        "stepwell.engines.llamacpp.first_load",
        *(os.fspath(path) for path in paths),
    ]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=BUSY * (sum(map(seconds_for, paths)) + 30),
            check=False,
            env=os.environ | {"GGML_NO_BACKTRACE": "1"},  # else an assertion of ggml starts a debugger
        )
    except subprocess.TimeoutExpired:
        return ["loading it does not come to an end"] * len(paths)
    verdicts = [str(json.loads(line)) for line in done.stdout.splitlines()]
    if len(verdicts) != len(paths):
        raise ModelError(f"the process that tries models ended early (status {done.returncode})")
    return verdicts


def seconds_for(path: Path | str) -> int:
    return MIN_SECONDS + _size_bytes(path) // BYTES_PER_S


def _size_bytes(path: Path | str) -> int:
    return sum(part.stat().st_size for part in model_files(path))


def _identity(config: LlamaCppConfig) -> str:
    seen = [
        (str(part.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ino)
        for part in model_files(config.model_path)
        for stat in (part.stat(),)
    ]
    return hashlib.sha256(repr((seen, build())).encode()).hexdigest()


# --- the child ------------------------------------------------------------------------------------


def _judge(path: str) -> str:
    """Load ``path`` in a fork of this process; what became of it."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read_end)
        _attempt(path, write_end)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        said = pipe.read().decode("utf-8", "replace").splitlines()
    _, status = os.waitpid(child, 0)
    if said and said[-1].startswith("{"):
        return str(json.loads(said[-1])["wrong"])
    stage = _STAGES[min(len(said), len(_STAGES) - 1)]
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGPROF, signal.SIGALRM) and len(said) < 2:
        return "loading it does not come to an end"
    return f"{stage} (the process that tried it ended)"


def _attempt(path: str, write_end: int) -> None:
    """Never returns. A line for each stage that has passed, then the verdict."""
    wrong = ""
    try:
        _limit(path)
        _serve_a_little(path, write_end)
    except ModelError:
        pass  # the server finds it as well, and has the better sentence
    except Exception as error:  # noqa: BLE001 - whatever a foreign file sets off is its verdict
        wrong = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    finally:
        os.write(write_end, json.dumps({"wrong": wrong}).encode())
        os._exit(0)


def _serve_a_little(path: str, write_end: int) -> None:
    from stepwell.engines.base import BatchItem, SamplingParams
    from stepwell.engines.llamacpp.engine import LlamaCppEngine
    from stepwell.engines.llamacpp.native import NativeModel
    from stepwell.engines.llamacpp.text import LlamaCppText

    config = LlamaCppConfig(path, "tried", device_kv_tokens=128, max_sequences=1, threads=1)
    model = NativeModel(config)
    os.write(write_end, b"loaded\n")
    engine = LlamaCppEngine(model, config, "")
    engine.open(1, [], 0, SamplingParams(temperature=0.0))
    engine.run([BatchItem(1, 0, [0, model.vocab_size - 1], True)])
    os.write(write_end, b"computed\n")
    _end_after(TEMPLATE_SECONDS)
    before = _peak_bytes()
    text = LlamaCppText(model, "tried", engine.info.context_tokens)
    chat: list[dict[str, Any]] = [{"role": "user", "content": "a"}]
    for tools in (None, [_TOOL]):
        with suppress(ValueError):  # a template may refuse; a request then says so
            text.tokenize_chat(text.render_chat(chat, tools))
    if _peak_bytes() - before > TEMPLATE_BYTES:
        raise MemoryError("its chat template takes more than a gigabyte")


def _peak_bytes() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _limit(path: str) -> None:
    """Data, not address space: files are mapped, and drivers of GPUs reserve far more than they use."""
    _bound(resource.RLIMIT_DATA, SPARE_BYTES + 3 * _size_bytes(path))
    _bound(resource.RLIMIT_CORE, 0)
    _end_after(seconds_for(path))


def _end_after(seconds: int) -> None:
    """Of CPU time, or ``BUSY`` times as long by the clock: a signal without a handler ends the process."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.alarm(BUSY * seconds)


def _bound(what: int, most: int) -> None:
    hard = resource.getrlimit(what)[1]
    with suppress(ValueError, OSError):
        resource.setrlimit(what, (most if hard < 0 else min(most, hard), hard))


def _main(paths: Sequence[str]) -> None:
    import stepwell.engines.llamacpp.engine
    import stepwell.engines.llamacpp.text  # noqa: F401 - loaded once, before the forks

    verdicts = os.dup(1)
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    for path in paths:
        os.write(verdicts, json.dumps(_judge(path)).encode() + b"\n")


if __name__ == "__main__":
    _main(sys.argv[1:])

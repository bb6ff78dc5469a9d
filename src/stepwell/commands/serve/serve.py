"""``stepwell serve``: settings in, a running server out."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated

from cyclopts import Parameter

from stepwell.basics.private import private_umask
from stepwell.basics.units import format_size
from stepwell.commands.serve.checks import CheckAsJson, report
from stepwell.commands.serve.flags import ServeFlags
from stepwell.commands.serve.own_checks import check as check_settings
from stepwell.console.options import Flag, option
from stepwell.errors import BadInput, StepwellError
from stepwell.launch.serve import require_objects_usable, require_room, run, say
from stepwell.server.callers.key_reload import KeyReload
from stepwell.settings.file import Settings, load
from stepwell.settings.keys import key_ring
from stepwell.telemetry.logs import logging_to

NO_FLAGS = ServeFlags()
ConfigOption = Annotated[
    Path | None, option("A TOML file with settings; flags win over it. [$STEPWELL_CONFIG]")
]
CheckFlag = Annotated[
    Flag, Parameter(help="Say whether a server with these settings would start, and end: no model is loaded.")
]
VerboseFlag = Annotated[
    Flag,
    Parameter(help="Log more on standard error: the beginning of each request, transfers, retries."),
]


def serve(
    *,
    flags: ServeFlags = NO_FLAGS,
    config: ConfigOption = None,
    check: CheckFlag = False,
    json_out: CheckAsJson = False,
    verbose: VerboseFlag = False,
) -> int:
    """Serve a model over an OpenAI-compatible API until SIGTERM or Ctrl-C.

    Every agent's KV cache is kept: on the device while it runs, below it in host memory and on
    disk while it waits. Sizes in brackets are the defaults. Example:

        stepwell serve --model gemma3 --device-kv-tokens 4096 --host-kv 2GiB

    and from any OpenAI client, base URL http://127.0.0.1:8000/v1. Agents are told apart by the
    headers X-Session-ID and X-Agent-ID where a client sends them.

    Without API keys the server listens on loopback only and all requests belong to one tenant.
    Each request that has ended is one line on standard error: its caller, its status, and how long it
    queued, computed and decoded; --log-format json for machines, [log] access = false for none.

    'stepwell serve --check' with the same flags says what is wrong with the settings, port, model, books and
    directories before anything is loaded. 'stepwell settings' lists all settings; those without a flag
    go into the file:

        [engine]
        model = "smollm2"
        [server]
        port = 8000
        [[models]]
        name = "coder"
        model = "/models/coder.gguf"
        [library]
        quota = "1GiB"
        [service_tiers.priority]
        weight = 16
        guaranteed = { step_tokens = 0.6, device = 0.4, host = 0.3 }
        [service_tiers.flex]
        max_wait_s = 120
        [[keys]]
        key = "sk-change-me"
        tenant = "acme"
        service_tiers = ["priority", "flex"]
    """
    settings = load(config, flags.settings())
    if check:
        found = check_settings(settings, [("memory", room_for_kv)])
        passed, failed = "'stepwell serve' starts with these settings", "'stepwell serve' would not start"
        return report(found, passed, failed, as_json=json_out)
    if json_out:
        raise BadInput("--json goes with --check")
    with private_umask(), logging_to(settings.log, verbose=verbose):
        keys = KeyReload(key_ring(settings), lambda: key_ring(load(config, flags.settings())))
        with keys_read_again(keys):
            run(settings, keys)
    return 0


@contextmanager
def keys_read_again(keys: KeyReload) -> Iterator[None]:
    """On SIGHUP the API keys are read from the settings again; what is wrong with them changes nothing. In a
    thread: a signal interrupts the event loop wherever it is, and whatever lock it holds."""

    def again() -> None:
        try:
            say(f"read again: {keys()}")
        except StepwellError as error:
            say(f"the API keys stay as they were: {error}")

    def start(number: int, frame: FrameType | None) -> None:
        threading.Thread(target=again, name="stepwell-keys", daemon=True).start()

    before = signal.signal(signal.SIGHUP, start)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


def room_for_kv(settings: Settings) -> str:
    """For ``--check``. Raises ``BadInput``."""
    require_room(settings.kv)
    require_objects_usable(settings)
    return f"{format_size(settings.kv.host_kv)} in host memory, {format_size(settings.kv.disk_kv)} on disk"

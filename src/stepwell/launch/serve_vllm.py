"""``stepwell serve --engine vllm``: vLLM's own server in a process, Stepwell's front end before it."""

from __future__ import annotations

import json
import secrets
import shlex
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from stepwell.basics.clock import Clock, MonotonicClock
from stepwell.engines.base import EngineInfo
from stepwell.engines.null import NullText
from stepwell.errors import MissingExtra
from stepwell.gateway.processes import NodeProcess
from stepwell.gateway.upstream import Upstream
from stepwell.ledger.settings import NO_LEDGER
from stepwell.ledger.start import Ledger, open_ledger
from stepwell.policy.config import PolicyConfig
from stepwell.server.backends.books import Books
from stepwell.server.callers.key_reload import KeyReload
from stepwell.server.callers.keys import KeyRing
from stepwell.server.run import GracefulServer, base_url, listen
from stepwell.settings.file import Settings
from stepwell.settings.keys import key_ring, keys_line
from stepwell.vllm.app import VllmApp
from stepwell.vllm.books import EngineBooks
from stepwell.vllm.child import EngineProcess
from stepwell.vllm.command_line import command_line, environment, transfer_config
from stepwell.vllm.engine_loop import EngineLoop
from stepwell.vllm.engine_meter import VARIABLE
from stepwell.vllm.front import EngineFront
from stepwell.vllm.install import examine_model, require_vllm
from stepwell.vllm.kv_feed import KvFeed
from stepwell.vllm.reports import EngineReports
from stepwell.vllm.waking import VARIABLE as AHEAD
from stepwell.vllm.waking import tell_hint

SILENCE_S = 3_600.0
"""A turn that vLLM is silent about for so long is given up; its death is seen at once."""
DEFAULT_CONTEXT = 2_048
EVENTS_FLAG = "--kv-events-config"
"""Given, it says that a program of the operator follows vLLM's KV events."""


def run_vllm(settings: Settings, keys: KeyRing, reload: KeyReload | None, say: Callable[[str], None]) -> None:
    """Serve until SIGTERM or Ctrl-C, then drain. Raises ``StepwellError`` with one sentence."""
    version, model = require_vllm(), Path(settings.engine.model)
    found = examine_model(model)
    clock = MonotonicClock()
    listener = listen(settings.server.host, settings.server.port)
    name, context_tokens = model.resolve().name, settings.engine.context_tokens or _context_of(model)
    ledger = _ledger(settings, name, context_tokens, clock)
    for recovered in ledger.recovered if ledger is not None else ():
        say(f"the books of the last time are closed: {recovered.sentence}")
    say(f"starting vLLM {version} on {name} ({found['architecture']}): this takes a minute or more ...")
    try:
        with tempfile.TemporaryDirectory(prefix="stepwell-vllm-") as folder:
            secret = secrets.token_hex(24)
            told = None if ledger is None else Path(folder) / "told"
            kv_feed = None if EVENTS_FLAG in settings.engine.vllm_args else KvFeed(Path(folder))
            process = _process(settings, model, secret, Path(folder), told, kv_feed)
            serving, loop, books = _wired(
                settings, keys, reload, process, secret, (name, context_tokens, clock), ledger, told, kv_feed
            )
            loop.tell_hint = partial(tell_hint, Path(folder))
            server = GracefulServer(serving.app, settings.server)
            server.on_ready = lambda: _welcome(say, name, base_url(listener), settings, keys)
            if books is not None:
                books.start()
            try:
                server.run(sockets=[listener])
            finally:
                if books is not None:
                    books.close()
            if serving.failed is not None:
                raise serving.failed
    finally:
        if ledger is not None:
            ledger.close()
    say("stopped: requests have been answered, and KV that was worth keeping is on disk")


def _wired(
    settings: Settings,
    keys: KeyRing,
    reload: KeyReload | None,
    process: NodeProcess,
    secret: str,
    model: tuple[str, int, Clock],
    ledger: Ledger | None,
    told: Path | None,
    kv_feed: KvFeed | None,
) -> tuple[VllmApp, EngineLoop, EngineBooks | None]:
    name, context_tokens, clock = model
    info = EngineInfo(name, f"vllm {name}", context_tokens, 64, 1, 1, 0, 0, 0)
    books = None if ledger is None else EngineBooks(ledger.keeper, clock, name)
    upstream = Upstream(SILENCE_S)

    def started() -> None:
        if books is not None:
            books.engine_started()
        if kv_feed is not None:
            kv_feed.places.clear()

    engine = EngineProcess(process, upstream, started, secret)
    loop = EngineLoop(info, clock, lambda: engine.up)
    loop.books = books
    contracts = settings.contracts()
    heaviest_first = sorted(contracts, key=lambda contract: -contract.weight)
    rank = {contract.name: rank for rank, contract in enumerate(heaviest_first)}
    front = EngineFront(loop, upstream, secret, rank, context_tokens)
    if reload is not None and ledger is not None:
        reload.set_budget = ledger.set_budget
    shown = None if ledger is None else Books(ledger.store, ledger)
    text = NullText(info)  # names the model; its texts are vLLM's
    reports = None if books is None or told is None else EngineReports(told, books.heard)
    serving = VllmApp(
        *(loop, front, engine, text, settings.server, keys, shown, contracts, reload),
        reports=reports,
        kv_feed=kv_feed,
    )
    return serving, loop, books


def _process(
    settings: Settings, model: Path, secret: str, folder: Path, told: Path | None, kv_feed: KvFeed | None
) -> NodeProcess:
    """``told``: the socket to which the engine's parts shall tell what they do."""
    kv = settings.kv
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    more = shlex.split(settings.engine.vllm_args)
    if kv_feed is not None:
        more = [*kv_feed.flags(), *more]
    if settings.engine.context_tokens is not None:
        more = ["--max-model-len", str(settings.engine.context_tokens), *more]
    disk_dir = kv.disk_dir / "vllm"
    transfer = transfer_config(kv.host_kv, kv.disk_kv, disk_dir, objects=settings.objects)
    aliases = settings.server.model_aliases
    command = command_line(model, "127.0.0.1", port, transfer, more, middleware=False, aliases=aliases)
    launch = [sys.executable, "-P", "-m", "stepwell.vllm.launch", *command]
    reporting = {} if told is None else {VARIABLE: str(told)}
    variables = environment(VLLM_API_KEY=secret, **{AHEAD: str(folder)}, **reporting)
    return NodeProcess("vllm", folder, "127.0.0.1", port, variables, launch)


def _context_of(model: Path) -> int:
    """What the model was trained for, as its configuration says."""
    said = json.loads((model / "config.json").read_text(encoding="utf-8"))
    inner = said.get("text_config")
    for place in (said, inner if isinstance(inner, dict) else {}):
        if isinstance(value := place.get("max_position_embeddings"), int):
            return value
    return DEFAULT_CONTEXT


def _ledger(settings: Settings, model: str, context_tokens: int, clock: Clock) -> Ledger | None:
    if settings.ledger.path in (None, NO_LEDGER):
        return None
    contracts = settings.contracts()
    config = PolicyConfig(64, 64, 1, 0, 0, 0, 0, context_tokens=context_tokens, contracts=contracts)
    wall_us = time.time_ns() // 1000
    try:
        return open_ledger(
            settings.ledger,
            config,
            model,
            now_us=clock.now_us(),
            wall_us=wall_us,
            posted_at_us=lambda: time.time_ns() // 1000,
            node=f"{socket.gethostname()}:{settings.kv.disk_dir.absolute()}",
            budgets=[
                *(entry.budget(wall_us) for entry in settings.budgets),
                *key_ring(settings).budgets(wall_us),
            ],
        )
    except ImportError as error:
        raise MissingExtra("a ledger in PostgreSQL", "postgres") from error


def _welcome(say: Callable[[str], None], name: str, url: str, settings: Settings, keys: KeyRing) -> None:
    say(f"Stepwell serves {name} at {url}/v1, computed by vLLM")
    if settings.ledger.path not in (None, NO_LEDGER):
        say(f"  ledger  {settings.ledger.path}: 'stepwell ledger margin' says what each costs")
    say(f"  {keys_line(keys)}. Ctrl-C stops.")

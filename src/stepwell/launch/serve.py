"""A server of these settings, from their check to its last answer: what ``stepwell serve`` does."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from stepwell import __version__
from stepwell.basics.clock import Clock
from stepwell.basics.private import private_parent
from stepwell.basics.units import format_size
from stepwell.errors import BadInput, StepwellError
from stepwell.launch.assemble import Node
from stepwell.launch.beside import close_embeddings, served_embeddings
from stepwell.launch.embedded import AnyNode, build_any, offered
from stepwell.launch.several import ModelsNode, apart, serves_several
from stepwell.ledger.start import default_path
from stepwell.library.choose import choose_embedder
from stepwell.library.embedding import EmbeddingThread
from stepwell.library.errors import StorageFull
from stepwell.library.store import Library
from stepwell.policy.types import KvTier
from stepwell.server.backends.books import Books
from stepwell.server.backends.library import ServedLibrary
from stepwell.server.batches.runner import BatchLimits, ServedBatches
from stepwell.server.batches.store import BatchStore
from stepwell.server.callers.key_reload import KeyReload
from stepwell.server.callers.keys import KeyRing
from stepwell.server.run import require_keys_beyond_loopback
from stepwell.server.run import serve as run_server
from stepwell.server.telemetry.otel import Telemetry, telemetry_of
from stepwell.settings.file import BatchSettings, KvSettings, LibrarySettings, Settings
from stepwell.settings.keys import key_ring, keys_line
from stepwell.telemetry.redaction import redacted

AGENT_TOKENS = 1_000
"""The agent by which the start-up lines count."""
STOP_EMBEDDING_S = 2.0


def run(settings: Settings, reload: KeyReload | None = None, *, clock: Clock | None = None) -> None:
    """Serve with these settings; returns when the server has been told to stop and has drained."""
    settings = with_ledger(settings)
    keys = key_ring(settings) if reload is None else reload.keys
    require_port(settings.server.port)
    require_keys_beyond_loopback(settings.server.host, keys)
    require_room(settings.kv)
    require_objects_usable(settings)
    if settings.engine.kind == "vllm":
        if settings.server.otel:
            raise BadInput(
                "vLLM sends its own spans: --vllm-args '--otlp-traces-endpoint URL' instead of --otel"
            )
        from stepwell.launch.serve_vllm import run_vllm

        run_vllm(settings, keys, reload, say)
        return
    with telemetry_of(settings.server.otel, sys.stderr, say) as telemetry:
        _run_node(settings, keys, reload, loaded(settings, clock), telemetry)
    say("stopped: requests have been answered, and what was worth keeping is on disk")


def loaded(settings: Settings, clock: Clock | None) -> AnyNode:
    """Load the model, or all of them one after the other."""
    count = 1 + len(apart(settings)[0].models)
    one = settings.engine.model if settings.engine.kind == "llamacpp" else "the null engine"
    say(f"loading {one if count == 1 else f'{count} models'} ...")
    node = build_any(settings, progress=say, clock=clock)
    for engine in node.engines:
        engine.prepare()
    return node


def _run_node(
    settings: Settings,
    keys: KeyRing,
    reload: KeyReload | None,
    node: AnyNode,
    telemetry: Telemetry | None,
) -> None:
    library = served_library(settings.library)
    vectors = served_embeddings(settings)
    for recovered in node.recovered:
        say(f"the books of the last time are closed: {recovered.sentence}")
    books = node.books
    if reload is not None and books is not None:
        reload.set_budget = books.set_budget
    node.driver.start()
    node.driver.collector.take_over()
    try:
        with embedding(library, keys):
            run_server(
                node.driver,
                node.text,
                with_model_names(settings).server,
                keys,
                None if books is None else Books(books.store, books),
                library,
                reload,
                contracts=settings.contracts(),
                batches=served_batches(settings),
                vectors=vectors,
                telemetry=telemetry,
                offered=offered(node),
                on_ready=lambda url: welcome(node, keys, url),
            )
    finally:
        node.driver.collector.give_back()
        close_embeddings(vectors)
        node.close_books()


def served_library(settings: LibrarySettings) -> ServedLibrary | None:
    """The documents of the tenants; None where they are switched off, or where no place is named
    and the usual one cannot be written."""
    if settings.quota == 0 and not settings.quotas:
        return None
    try:
        library = Library(settings.dir, settings.limits())
    except StorageFull as error:
        if settings.dir != LibrarySettings().dir:
            raise StepwellError(f"{settings.dir}: {error}") from error
        say(f"no documents are kept: {error}; [library] dir names another place than {settings.dir}")
        return None
    embedder = choose_embedder(settings.embeddings, settings.embeddings_model, settings.embeddings_key)
    return ServedLibrary(
        library, settings.quota, settings.quotas, settings.upload_timeout_s, embedder=embedder
    )


def served_batches(settings: Settings) -> ServedBatches | None:
    """The batches of the tenants; None where they are switched off, or where the usual place cannot be
    written and none is named."""
    wanted = settings.batches
    if wanted.quota == 0:
        return None
    try:
        store = BatchStore(wanted.dir)
    except StepwellError as error:
        if wanted.dir != BatchSettings().dir:
            raise
        say(f"no batches are kept: {error}")
        return None
    tiers = {contract.name for contract in settings.contracts()}
    tier = next((name for name in ("batch", "flex") if name in tiers), "")
    limits = BatchLimits(wanted.max_file, wanted.max_lines, wanted.quota, wanted.max_batches, wanted.at_once)
    return ServedBatches(store, limits, tier, wanted.by_prefix)


@contextmanager
def embedding(served: ServedLibrary | None, keys: KeyRing) -> Iterator[None]:
    """Documents get their vectors in the background, where the settings ask for them."""
    if served is None or served.embedder is None:
        yield
        return

    def quota_bytes(tenant: str) -> int:
        return max((served.quota(key) for key in keys.of_tenant(tenant)), default=served.quota_bytes)

    worker = EmbeddingThread(served.library, served.embedder, quota_bytes)
    served.wake_embedding = worker.wake
    worker.start()
    try:
        yield
    finally:
        worker.stop(STOP_EMBEDDING_S)


def with_ledger(settings: Settings) -> Settings:
    """Where nothing says where the books are to be kept, they are at the usual place."""
    if settings.ledger.path is not None:
        return settings
    path = default_path()
    private_parent(path)
    return replace(settings, ledger=replace(settings.ledger, path=str(path)))


def with_model_names(settings: Settings) -> Settings:
    """Clients may name the model as the settings do, too."""
    if settings.engine.kind == "null":
        return settings
    names = (*settings.server.model_aliases, settings.engine.model)
    return replace(settings, server=replace(settings.server, model_aliases=tuple(dict.fromkeys(names))))


def say(line: str) -> None:
    """To standard error: a server has no result of its own, and these lines are for people, not programs."""
    sys.stderr.write(f"{redacted(line)}\n")
    sys.stderr.flush()


def require_port(port: int) -> None:
    """Raises ``BadInput`` before a model is loaded for nothing."""
    if not 0 <= port <= 65_535:
        raise BadInput(f"--port {port} is not a port: give 1 to 65535, or 0 for any free one")


def require_objects_usable(settings: Settings) -> None:
    """Raises ``BadInput`` where an object store would be named and never used."""
    if not settings.objects.url or settings.engine.kind == "vllm":
        return
    if not settings.kv.disk_kv:
        raise BadInput("objects: a node shares what lies on its disk: give it some (--disk-kv)")
    if serves_several(settings):
        raise BadInput("objects: a server of several models shares no KV yet: leave the object store out")


def require_room(kv: KvSettings) -> None:
    """Raises ``BadInput`` for bounds that this machine cannot keep.

    Memory that is promised and not there ends in a killed process, hours later and under load.
    """
    memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    existing = next(folder for folder in (kv.disk_dir, *kv.disk_dir.absolute().parents) if folder.exists())
    for flag, wanted_bytes, what, there_bytes in (
        ("--host-kv", kv.host_kv, "this machine's memory", memory_bytes),
        ("--disk-kv", kv.disk_kv, f"the disk under {existing}", shutil.disk_usage(existing).total),
    ):
        if wanted_bytes > there_bytes:
            wanted, there = format_size(wanted_bytes), format_size(there_bytes)
            raise BadInput(f"{flag} {wanted} is more than {what} holds, {there}")


def welcome(node: AnyNode, keys: KeyRing, url: str) -> None:
    """What is served where, and how many agents it holds: the lines a new user needs."""
    if isinstance(node, ModelsNode):
        welcome_several(node, keys, url)
    else:
        welcome_one(node, keys, url)


def welcome_one(node: Node, keys: KeyRing, url: str) -> None:
    """Of a node that has one model."""
    say(f"Stepwell {__version__} serves {node.text.name} at {url}/v1")
    say(f"  page    {url}/page: the agents, where their KV lies, and what they cost")
    for line in capacity_lines(node):
        say("  " + line)
    if node.ledger is not None:
        say(f"  ledger  {node.settings.ledger.path}: 'stepwell ledger margin' says what each costs")
    say(f"  {keys_line(keys)}. Ctrl-C stops.")


def welcome_several(node: ModelsNode, keys: KeyRing, url: str) -> None:
    """The same of several models: what each is, and what they share."""
    names = ", ".join(model.text.name for model in node.models)
    say(f"Stepwell {__version__} serves {len(node.models)} models at {url}/v1: {names}")
    say(f"  page    {url}/page: the agents, where their KV lies, and what they cost")
    for model in node.models:
        info, memory = model.engine.info, format_size(model.need_bytes)
        state = "" if model.engine.loaded else ", loaded when it is asked for"
        say(
            f"  {model.text.name}: {info.device_blocks * info.block_tokens:,} tokens on the device, "
            f"{memory} of memory{state}"
        )
    kv = node.settings.kv
    say(f"  shared  {format_size(kv.host_kv)} of host memory, {format_size(kv.disk_kv)} of disk")
    if node.ledgers:
        say(f"  ledger  {node.settings.ledger.path}: 'stepwell ledger margin' says what each costs")
    say(f"  {keys_line(keys)}. Ctrl-C stops.")


def capacity_lines(node: Node) -> Iterator[str]:
    """A line per KV tier: its size and how many agents of 1,000 tokens it holds."""
    info = node.engine.info
    blocks_per_agent = -(-AGENT_TOKENS // info.block_tokens)
    device_agents = info.device_blocks // blocks_per_agent
    device_tokens = info.device_blocks * info.block_tokens
    yield f"device  {f'{device_tokens:,} tokens':<14} {device_agents:>7,} agents of {AGENT_TOKENS:,} tokens"
    for kv_tier in (KvTier.HOST, KvTier.DISK):
        usage = node.tiers.usage(kv_tier)
        if usage.limit_bytes == 0:
            yield f"{kv_tier.value:<7} off"
            continue
        agents = usage.limit_bytes // (blocks_per_agent * info.block_bytes)
        warm = f", {usage.blocks} blocks there from last time" if usage.blocks else ""
        yield f"{kv_tier.value:<7} {format_size(usage.limit_bytes):<14} {agents:>7,} agents{warm}"

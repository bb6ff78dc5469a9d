"""Puts a node together from settings: engine, tiers, policy, driver."""

from __future__ import annotations

import hashlib
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stepwell.basics.clock import Clock, MonotonicClock
from stepwell.engines.base import Engine, EngineInfo, TextModel
from stepwell.engines.models import resolve_model
from stepwell.engines.null import NullConfig
from stepwell.errors import BadInput, MissingExtra
from stepwell.ledger.settings import NO_LEDGER
from stepwell.ledger.start import KeptModel, Ledger, open_ledgers
from stepwell.ledger.stores.recovery import RecoveredRun
from stepwell.loop.driver import Driver
from stepwell.policy.config import PolicyConfig
from stepwell.policy.eviction import EVICTION_POLICIES
from stepwell.policy.scheduler import Scheduler
from stepwell.policy.types import KvTier
from stepwell.recording.file import Recorder
from stepwell.settings.engine import EngineSettings
from stepwell.settings.file import Settings
from stepwell.settings.keys import key_ring
from stepwell.tiers.base import Tiers
from stepwell.tiers.local import LocalTiers, TransferLimits, open_tiers
from stepwell.tiers.objects.below import SharedBelow
from stepwell.tiers.objects.client import open_objects
from stepwell.tiers.objects.offers import Offers
from stepwell.tiers.objects.store import ColdLimits, ColdStore
from stepwell.tiers.shared.store import Bounds
from stepwell.tiers.store import DiskStore

if TYPE_CHECKING:
    from stepwell.engines.llamacpp import LlamaCppConfig

FORESIGHT = "oracle"
"""The yardstick that looks ahead; for simulations alone."""

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Node:
    """Everything that serves one model on one machine."""

    settings: Settings
    engine: Engine
    text: TextModel
    tiers: Tiers
    driver: Driver
    ledger: Ledger | None = None
    """The books, where any are kept."""

    @property
    def engines(self) -> tuple[Engine, ...]:
        return (self.engine,)

    @property
    def books(self) -> Ledger | None:
        return self.ledger

    @property
    def recovered(self) -> Sequence[RecoveredRun]:
        """Runs that had not closed their books."""
        return () if self.ledger is None else self.ledger.recovered

    def stop(self, drain_s: float = 30.0) -> None:
        """Finish or tell what runs, keep on disk what is worth keeping, close the books, free everything."""
        self.driver.stop(drain_s)
        self.close_books()

    def close_books(self) -> None:
        if self.ledger is not None:
            self.ledger.close()


def build(
    settings: Settings, *, progress: Progress | None = None, clock: Clock | None = None, strict: bool = False
) -> Node:
    """Load the model, open the KV tiers and wire the loop; the driver is not started yet.

    Errors are ``StepwellError``: one sentence (a missing extra, a damaged model, a busy directory).
    """
    require_policy(settings.policy.name)
    clock = clock or MonotonicClock()
    engine, text = load_engine(settings, clock, progress)
    with ExitStack() as undo:
        undo.callback(engine.close_engine)
        tiers = _tiers(settings, engine.info)
        undo.callback(tiers.close)
        config = policy_config(settings, engine.info, tiers)
        offers = _shared_below(settings, engine.info, tiers)
        ledger = _ledger(settings, config, text.name, clock)
        if ledger is not None:
            undo.callback(ledger.close)
        header = None if ledger is None else ledger.header
        recorders = [Recorder(settings.record, config, header)] if settings.record else []
        driver = Driver(
            engine,
            text,
            tiers,
            Scheduler(config),
            clock=clock,
            observers=recorders,
            books=None if ledger is None else ledger.keeper,
            strict=strict,
            offers=offers,
        )
        undo.pop_all()
    return Node(settings, engine, text, tiers, driver, ledger)


def _ledger(settings: Settings, config: PolicyConfig, model: str, clock: Clock) -> Ledger | None:
    return next(iter(ledgers(settings, [KeptModel(model, config)], clock)), None)


def ledgers(settings: Settings, models: Sequence[KeptModel], clock: Clock) -> list[Ledger]:
    """The books of each model, open; none where the settings name no place for them."""
    if settings.ledger.path in (None, NO_LEDGER):
        return []
    wall_us = _wall_us()
    try:
        return open_ledgers(
            settings.ledger,
            models,
            now_us=clock.now_us(),
            wall_us=wall_us,
            posted_at_us=_wall_us if isinstance(clock, MonotonicClock) else None,
            node=f"{socket.gethostname()}:{settings.kv.disk_dir.absolute()}",
            budgets=[
                *(entry.budget(wall_us) for entry in settings.budgets),
                *key_ring(settings).budgets(wall_us),
            ],
        )
    except ImportError as error:
        raise MissingExtra("a ledger in PostgreSQL", "postgres") from error


def _wall_us() -> int:
    return time.time_ns() // 1000


def require_policy(name: str) -> None:
    """Raises ``BadInput`` for an eviction that no server can run."""
    there = sorted(set(EVICTION_POLICIES) - {FORESIGHT})
    if name == FORESIGHT:
        raise BadInput(
            f"the policy {name!r} sees the future of a recorded run, which a server does not have: "
            f"choose one of {', '.join(there)}"
        )
    if name not in there:
        raise BadInput(f"unknown policy {name!r}: there is {', '.join(there)}")


def load_engine(
    settings: Settings, clock: Clock | None = None, progress: Progress | None = None
) -> tuple[Engine, TextModel]:
    """The engine that ``settings`` name and the text side of its model, and nothing else."""
    wanted = settings.engine
    if wanted.kind == "null":
        from stepwell.engines.null import NullEngine, NullText

        engine = NullEngine(null_config(wanted), clock or MonotonicClock())
        return engine, NullText(engine.info)
    native = llamacpp_config(wanted, progress)
    from stepwell.engines.llamacpp import load_llamacpp

    return load_llamacpp(native)


def null_config(wanted: EngineSettings) -> NullConfig:
    """An engine that takes the time of a small model on two cores."""
    return NullConfig(
        model=wanted.name or "null",
        device_blocks=wanted.device_kv_tokens // 64,
        max_sequences=wanted.max_sequences,
        prefill_us_per_token=2_000,
        decode_us_per_step=8_000,
        decode_us_per_sequence=2_000,
        copy_us_per_block=100,
        adapters=tuple(sorted(wanted.adapters)),
    )


def llamacpp_config(wanted: EngineSettings, progress: Progress | None = None) -> LlamaCppConfig:
    """Raises ``BadInput`` for a model that is not there, and for vLLM's."""
    if wanted.kind == "vllm":
        raise BadInput("vLLM runs behind 'stepwell serve' alone: this needs --engine llamacpp or null")
    model = resolve_model(wanted.model, progress)
    from stepwell.engines.llamacpp import LlamaCppConfig

    return LlamaCppConfig(
        model_path=model.path,
        model_name=wanted.name or model.name,
        device_kv_tokens=wanted.device_kv_tokens,
        context_tokens=wanted.context_tokens,
        max_sequences=wanted.max_sequences,
        threads=wanted.threads,
        adapters=tuple(sorted(wanted.adapters.items())),
        n_gpu_layers=wanted.n_gpu_layers,
        kv_type_k=wanted.kv_type_k,
        kv_type_v=wanted.kv_type_v,
        exact_lone_decode=wanted.exact_lone_decode,
    )


def _tiers(settings: Settings, info: EngineInfo) -> LocalTiers:
    limits = TransferLimits(read_deadline_s=settings.kv.disk_read_deadline_ms / 1000)
    kv = settings.kv
    return open_tiers(kv.host_kv, kv.disk_kv, kv.disk_dir, info.fingerprint, limits=limits)


def _shared_below(settings: Settings, info: EngineInfo, tiers: LocalTiers) -> Offers | None:
    """Put the object store below the disk, if there is one. Raises ``BadInput``."""
    wanted = settings.objects
    if not wanted.url:
        return None
    if info.checkpoint_bytes:
        raise BadInput("objects: models with a running state do not share KV yet: leave the object store out")
    if not isinstance(tiers.disk, DiskStore):
        raise BadInput("objects: a node shares what lies on its disk: give it some (--disk-kv)")
    deadline_s = wanted.deadline_ms / 1000
    identity = f"{info.fingerprint} {info.block_tokens} {info.unit_tokens} {wanted.namespace}"
    store = ColdStore(
        open_objects(wanted.url, deadline_s),
        Bounds(wanted.kv, wanted.tenant_kv),
        "llamacpp " + hashlib.blake2b(identity.encode(), digest_size=16).hexdigest(),
        limits=ColdLimits(buffer_bytes=wanted.buffer),
    )
    tiers.disk = below = SharedBelow(tiers.disk, store)
    return Offers(below)


def policy_config(
    settings: Settings, info: EngineInfo, tiers: Tiers, host_bytes: int | None = None
) -> PolicyConfig:
    """What the policy may use: the engine's frames and the bounds that the tiers really have. ``host_bytes``:
    its part of a pool that it shares."""
    wanted = settings.policy
    host, disk = tiers.usage(KvTier.HOST), tiers.usage(KvTier.DISK)
    return PolicyConfig(
        block_tokens=info.block_tokens,
        unit_tokens=info.unit_tokens,
        device_blocks=info.device_blocks,
        block_bytes=info.block_bytes,
        token_bytes=info.token_bytes,
        host_bytes=host.limit_bytes if host_bytes is None else host_bytes,
        disk_bytes=disk.limit_bytes,
        disk_overhead_bytes=disk.overhead_bytes,
        context_tokens=info.context_tokens,
        max_running=min(wanted.max_running, info.max_sequences),
        max_waiting=wanted.max_waiting,
        step_tokens=wanted.step_tokens,
        reserve_tokens=wanted.reserve_tokens,
        max_agents=wanted.max_agents,
        always_load=wanted.always_load,
        eviction=wanted.name,
        contracts=settings.contracts(),
        disk_write_bytes_per_day=wanted.disk_write_per_day,
        depth_frames=info.depth_frames,
        checkpoint_bytes=info.checkpoint_bytes,
        device_states=info.device_states,
        checkpoint_growth=wanted.checkpoint_growth,
        draft_tokens=wanted.draft_tokens if info.draft_rows else 0,
        step_draft_tokens=info.draft_rows,
    )

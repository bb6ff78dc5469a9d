"""Puts a node of several models together: an engine and a loop for each, one host pool, one disk directory,
one store of books, one thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from stepwell.basics.clock import Clock, MonotonicClock
from stepwell.basics.units import format_size
from stepwell.engines.base import TextModel
from stepwell.engines.models import resolve_model
from stepwell.engines.reloadable import ReloadableEngine
from stepwell.errors import BadInput
from stepwell.launch.assemble import (
    Progress,
    ledgers,
    llamacpp_config,
    null_config,
    policy_config,
    require_policy,
)
from stepwell.ledger.start import KeptModel, Ledger
from stepwell.ledger.stores.recovery import RecoveredRun
from stepwell.ledger.together import BooksTogether
from stepwell.loop.driver import Driver
from stepwell.loop.model_loop import ModelLoop, Sharing
from stepwell.loop.served_model import ServedModel
from stepwell.policy.config import PolicyConfig
from stepwell.policy.scheduler import Scheduler
from stepwell.policy.types import KvTier
from stepwell.recording.file import Recorder
from stepwell.settings.engine import EngineSettings, ModelEntry
from stepwell.settings.file import Settings
from stepwell.tiers.local import LocalTiers, TransferLimits, open_shared_tiers


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model and its texts, before anything is shared out."""

    engine: ReloadableEngine
    text: TextModel
    weight_bytes: int

    @property
    def need_bytes(self) -> int:
        """Memory while it is loaded: weights and KV."""
        info = self.engine.info
        return self.weight_bytes + info.device_bytes


@dataclass(frozen=True, slots=True)
class ModelsNode:
    """Everything that serves several models on one machine."""

    settings: Settings
    models: tuple[LoadedModel, ...]
    loop: ModelLoop
    ledgers: tuple[Ledger, ...] = ()
    """By model, in the same order; empty: no books are kept."""

    @property
    def driver(self) -> ModelLoop:
        return self.loop

    @property
    def text(self) -> TextModel:
        """Of the first model."""
        return self.models[0].text

    @property
    def engines(self) -> tuple[ReloadableEngine, ...]:
        return tuple(model.engine for model in self.models)

    @property
    def recovered(self) -> Sequence[RecoveredRun]:
        return self.ledgers[0].recovered if self.ledgers else ()

    @property
    def books(self) -> BooksTogether | None:
        return BooksTogether(self.ledgers) if self.ledgers else None

    def stop(self, drain_s: float = 30.0) -> None:
        """As ``Node.stop``."""
        self.loop.stop(drain_s)
        self.close_books()

    def close_books(self) -> None:
        for ledger in reversed(self.ledgers):  # the first one closes the store
            ledger.close()


def serves_several(settings: Settings) -> bool:
    """Whether a server of these settings needs what is here: more than one model, or one that may leave."""
    engine = settings.engine
    return bool(settings.models) or engine.unload_after_s is not None or engine.memory is not None


def apart(settings: Settings) -> tuple[Settings, tuple[ModelEntry, ...]]:
    """The settings with the models that write alone, and the entries of ``[[models]]`` that make vectors or
    rankings: the pooling that a file names says so. Raises ``StepwellError``."""
    if settings.engine.kind != "llamacpp" or not settings.models:
        return settings, ()
    beside = tuple(entry for entry in settings.models if _makes_vectors(entry))
    for entry in beside:
        if entry.adapters:
            raise BadInput(f"models: {entry.name!r} makes embeddings: adapters are for models that write")
    return replace(settings, models=tuple(e for e in settings.models if e not in beside)), beside


def _makes_vectors(entry: ModelEntry) -> bool:
    from stepwell.engines.llamacpp.header import inspect, makes_vectors

    return makes_vectors(inspect(resolve_model(entry.model).path))


def engine_settings(settings: Settings) -> list[EngineSettings]:
    """Those of each model, the first one first."""
    return [settings.engine, *(entry.engine(settings.engine) for entry in settings.models)]


def build_several(
    settings: Settings, *, progress: Progress | None = None, clock: Clock | None = None, strict: bool = False
) -> ModelsNode:
    """Load the models one after the other and wire their loops; the thread is not started yet.

    Errors are ``StepwellError``: one sentence.
    """
    require_policy(settings.policy.name)
    clock = clock or MonotonicClock()
    with ExitStack() as undo:
        loaded: list[LoadedModel] = []
        for model in _loaded(settings, clock, progress):
            undo.callback(model.engine.close_engine)
            loaded.append(model)
        if settings.engine.memory is not None:
            _bring_back(loaded, settings.engine.memory)
        tiers = _tiers(settings, loaded)
        for one in tiers:
            undo.callback(one.close)
        host_part = settings.kv.host_kv // len(loaded)
        configs = [
            policy_config(settings, model.engine.info, one, host_part)
            for model, one in zip(loaded, tiers, strict=True)
        ]
        kept = [KeptModel(m.text.name, c) for m, c in zip(loaded, configs, strict=True)]
        books = ledgers(settings, kept, clock)
        for ledger in books:
            undo.callback(ledger.close)
        bell = threading.Condition()
        wires = _Wires(settings, clock, bell, strict)
        models = [
            wires.served(number, model, tiers[number], configs[number], books[number] if books else None)
            for number, model in enumerate(loaded)
        ]
        loop = ModelLoop(models, settings.contracts(), clock, bell, _sharing(settings))
        undo.pop_all()
    return ModelsNode(settings, tuple(loaded), loop, tuple(books))


def _loaded(settings: Settings, clock: Clock, progress: Progress | None) -> Iterator[LoadedModel]:
    """One after the other. What a model takes is known once it was loaded, so where memory is bounded each is
    loaded alone, and has left before the next one comes."""
    limit, names = settings.engine.memory, list[str]()
    for wanted in engine_settings(settings):
        model = _load(wanted, clock, progress)
        if model.text.name in names:
            model.engine.close_engine()
            raise BadInput(f"two models have the name {model.text.name!r}: give one another in [[models]]")
        names.append(model.text.name)
        if limit is not None:
            model.engine.unload()
            if model.need_bytes > limit:
                model.engine.close_engine()
                raise BadInput(
                    f"engine.memory {format_size(limit)} is too little for {model.text.name} alone: it takes "
                    f"{format_size(model.need_bytes)}"
                )
        yield model


def _bring_back(models: Sequence[LoadedModel], limit_bytes: int) -> None:
    """Those that memory holds beside the ones before; the others come when they are asked for."""
    held = 0
    for model in models:
        if held + model.need_bytes <= limit_bytes:
            held += model.need_bytes
            model.engine.bring_back()
        model.engine.loads = 1


def _load(wanted: EngineSettings, clock: Clock, progress: Progress | None) -> LoadedModel:
    if wanted.kind == "null":
        from stepwell.engines.null import NullEngine, NullText

        config = null_config(wanted)
        engine = ReloadableEngine(lambda: NullEngine(config, clock))
        return LoadedModel(engine, NullText(engine.info), 0)
    native = llamacpp_config(wanted, progress)
    from stepwell.engines.llamacpp import load_reloadable
    from stepwell.engines.llamacpp.fingerprint import model_files

    loaded, text = load_reloadable(native)
    return LoadedModel(loaded, text, sum(file.stat().st_size for file in model_files(native.model_path)))


def _tiers(settings: Settings, models: Sequence[LoadedModel]) -> list[LocalTiers]:
    kv = settings.kv
    prints = [model.engine.info.fingerprint for model in models]
    if len(set(prints)) < len(prints):
        twice = next(m for n, m in enumerate(models) if m.engine.info.fingerprint in prints[:n])
        raise BadInput(f"the model {twice.text.name!r} is there twice: the same file with the same settings")
    limits = TransferLimits(read_deadline_s=kv.disk_read_deadline_ms / 1000)
    return open_shared_tiers(kv.host_kv, kv.disk_kv, kv.disk_dir, prints, limits=limits)


def _sharing(settings: Settings) -> Sharing:
    engine = settings.engine
    idle_s = engine.unload_after_s
    return Sharing(
        settings.kv.host_kv,
        settings.kv.disk_kv,
        None if idle_s is None else int(idle_s * 1e6),
        engine.memory,
        int(engine.turn_s * 1e6),
    )


@dataclass(frozen=True, slots=True)
class _Wires:
    """What all models' loops have in common."""

    settings: Settings
    clock: Clock
    bell: threading.Condition
    strict: bool

    def served(
        self,
        number: int,
        model: LoadedModel,
        tiers: LocalTiers,
        config: PolicyConfig,
        ledger: Ledger | None,
    ) -> ServedModel:
        header = None if ledger is None else ledger.header
        path = recording_of(self.settings.record, number, model.text.name)
        driver = Driver(
            model.engine,
            model.text,
            tiers,
            Scheduler(config),
            clock=self.clock,
            observers=[Recorder(path, config, header)] if path else [],
            books=None if ledger is None else ledger.keeper,
            strict=self.strict,
            ids=(number + 1, 1 + len(self.settings.models)),
            bell=self.bell,
        )
        served = ServedModel(
            model.text.name,
            driver,
            model.engine,
            tiers,
            model.need_bytes,
            config.host_bytes,
            tiers.usage(KvTier.DISK).limit_bytes,
        )
        if not model.engine.loaded:
            served.is_unloaded()
        return served


def recording_of(record: Path | None, number: int, name: str) -> Path | None:
    """The first model's is the file that was named, and each other one's beside it."""
    if record is None or number == 0:
        return record
    kind = "".join(record.suffixes[-2:] if record.suffix == ".gz" else record.suffixes[-1:])
    stem = record.name.removesuffix(kind)
    return record.with_name(f"{stem}.{name.replace('/', '-')}{kind}")

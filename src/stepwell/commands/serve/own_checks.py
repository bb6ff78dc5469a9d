"""``stepwell serve --check``: whether a server with these settings would start, before a model is loaded.

Nothing is made and nothing is changed: no ledger, no directory, no run in the books. All checks run, so that
one look shows everything that is wrong.
"""

from __future__ import annotations

import fcntl
import os
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from stepwell.basics.units import counted, format_size
from stepwell.commands.serve.checks import CheckResult, checked
from stepwell.engines.models import resolve_model
from stepwell.errors import StepwellError
from stepwell.launch.assemble import require_policy
from stepwell.launch.several import apart, engine_settings
from stepwell.ledger.pricing.costs import load_cost_book
from stepwell.ledger.pricing.prices import load_price_book
from stepwell.ledger.settings import NO_LEDGER
from stepwell.ledger.start import default_path
from stepwell.ledger.stores.open import POSTGRES_SCHEMES, open_store
from stepwell.server.run import listen, require_keys_beyond_loopback
from stepwell.settings.file import Settings
from stepwell.settings.keys import key_ring
from stepwell.telemetry.otel import require_otel
from stepwell.tiers.directory import LOCK
from stepwell.tiers.objects.client import ObjectsAway, open_objects
from stepwell.tiers.objects.probe import measure_objects
from stepwell.vllm.install import examine_model, require_vllm

_PROBE_BYTES = 1 << 20
"""Of the object that is written to an object store and read back."""
Check = Callable[[Settings], str]
"""Says what it found. Raises ``StepwellError`` or ``ValueError`` with one sentence."""


def check(settings: Settings, limits: Sequence[tuple[str, Check]] = ()) -> list[CheckResult]:
    """All checks, in order; ``limits`` are further ones."""
    return [checked(name, partial(one, settings)) for name, one in (*CHECKS, *limits)]


# --- each ------------------------------------------------------------------------------------------


def _contracts(settings: Settings) -> str:
    return ", ".join(f"{one.name} (weight {one.weight})" for one in settings.contracts())


def _policy(settings: Settings) -> str:
    require_policy(settings.policy.name)
    return settings.policy.name


def _keys(settings: Settings) -> str:
    ring = key_ring(settings)
    require_keys_beyond_loopback(settings.server.host, ring)
    budgets = len(ring.budgets())
    if not ring.required:
        return "none: loopback only, one tenant"
    tenants = Counter(key.tenant for key in ring.all())
    operators = sum(key.operator for key in ring.all())
    return f"{tenants.total()} of {len(tenants)} tenants, {operators} of operators, {budgets} with a budget"


def _budgets(settings: Settings) -> str:
    made = [entry.budget() for entry in settings.budgets]
    return f"{len(made)}" if made else "none"


def _port(settings: Settings) -> str:
    host, port = settings.server.host, settings.server.port
    if not 0 <= port <= 65_535:
        raise ValueError(f"{port} is not a port: give 1 to 65535, or 0 for any free one")
    with listen(host, port):
        return f"{host} port {port or 'of any number'} is free"


def _model(settings: Settings) -> str:
    if settings.engine.kind == "null":
        return "the null engine computes nothing"
    if settings.engine.kind == "vllm":
        version, found = require_vllm(), examine_model(Path(settings.engine.model))
        return f"vLLM {version}, {found['architecture']}, {format_size(found['weights_bytes'])}"
    there = []
    writing, beside = apart(settings)
    for wanted in engine_settings(writing):
        model = resolve_model(wanted.model)
        there.append(f"{wanted.name or model.name}, {format_size(model.path.stat().st_size)}")
    for entry in beside:
        size_bytes = resolve_model(entry.model).path.stat().st_size
        there.append(f"{entry.name} for embeddings or rankings, {format_size(size_bytes)}")
    return "; ".join(there)


def _disk(settings: Settings) -> str:
    folder = settings.kv.disk_dir
    if not settings.kv.disk_kv:
        return "off"
    _require_writable(folder)
    _require_unlocked(folder / LOCK)
    return f"{folder}, up to {format_size(settings.kv.disk_kv)}"


def _objects(settings: Settings) -> str:
    wanted = settings.objects
    if not wanted.url:
        return "off"
    try:
        speeds = measure_objects(open_objects(wanted.url, wanted.deadline_ms / 1000), _PROBE_BYTES)
    except ObjectsAway as error:
        raise StepwellError(f"{wanted.url}: {error}: {error.detail}") from error
    return (
        f"{wanted.url}, up to {format_size(wanted.kv)}; {format_size(speeds.size_bytes)} written in "
        f"{speeds.put_s * 1000:.0f} ms and read in {speeds.get_s * 1000:.0f} ms"
    )


def _require_unlocked(lock: Path) -> None:
    if not lock.exists():
        return
    fd = os.open(lock, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(fd, 32, 0).split(b"\n")[0].decode("ascii", "replace") or "unknown"
        raise StepwellError(f"{lock.parent} is in use by process {holder}") from error
    finally:
        os.close(fd)


def _price_book(settings: Settings) -> str:
    names = [contract.name for contract in settings.contracts()]
    book = load_price_book(settings.ledger.price_book, names)
    own = f", with prices of their own for {', '.join(sorted(book.models))}" if book.models else ""
    return f"{settings.ledger.price_book}, as of {book.as_of}{own}"


def _cost_book(settings: Settings) -> str:
    book = load_cost_book(settings.ledger.cost_book)
    return f"{settings.ledger.cost_book}, as of {book.as_of}"


def _ledger(settings: Settings) -> str:
    path = settings.ledger.path or str(default_path())
    if path == NO_LEDGER:
        return "none is kept"
    file = None if path.startswith(POSTGRES_SCHEMES) else Path(path).expanduser()
    if file is not None:
        _require_writable(file.parent)
        if not file.exists():
            return f"{file} will be made"
        if not os.access(file, os.W_OK):
            raise StepwellError(f"{file} may not be written by this user")
    store = open_store(path, create=False)
    try:
        ((runs,),) = store.rows("SELECT COUNT(*) FROM runs", ())
    finally:
        store.close()
    return f"{path}, {counted(runs, 'run')}"


def _library(settings: Settings) -> str:
    if not settings.library.quota and not settings.library.quotas:
        return "off"
    _require_writable(settings.library.dir)
    return f"{settings.library.dir}, {format_size(settings.library.quota)} a tenant"


def _batches(settings: Settings) -> str:
    if not settings.batches.quota:
        return "off"
    _require_writable(settings.batches.dir)
    return f"{settings.batches.dir}, {format_size(settings.batches.quota)} a tenant"


def _record(settings: Settings) -> str:
    if settings.record is None:
        return "no"
    if not settings.record.absolute().parent.is_dir():
        raise StepwellError(f"{settings.record}: its directory is not there")
    _require_writable(settings.record.absolute().parent)
    return str(settings.record)


def _require_writable(folder: Path) -> None:
    """It, or the nearest folder above it that is there, in which it would be made."""
    folder = folder.expanduser().absolute()
    there = next(one for one in (folder, *folder.parents) if one.exists())
    if not there.is_dir():
        raise StepwellError(f"{there} is no directory")
    if not os.access(there, os.W_OK | os.X_OK):
        raise StepwellError(f"{there} may not be written by this user")


def _telemetry(settings: Settings) -> str:
    if not settings.server.otel:
        return "as the environment says"
    require_otel()
    return "spans and metrics are sent"


CHECKS: tuple[tuple[str, Check], ...] = (
    ("service tiers", _contracts),
    ("policy", _policy),
    ("keys", _keys),
    ("budgets", _budgets),
    ("port", _port),
    ("model", _model),
    ("disk KV", _disk),
    ("object KV", _objects),
    ("price book", _price_book),
    ("cost book", _cost_book),
    ("ledger", _ledger),
    ("library", _library),
    ("batches", _batches),
    ("recording", _record),
    ("telemetry", _telemetry),
)

"""``ColdStore``: KV records in an object store, behind the jobs of ``tiers/shared/tier.py``.

    write   queued in memory -> room is made -> one object put -> offered
    read    one object got, its record verified; what is not there or is damaged is a miss
    look    what others have written since, from the listing; now and then all of it
    renew   what is used long after it was written is copied to a new name, so that the oldest is the coldest

A write is not waited for: its memory is ours, and what the store does not take in time is dropped. A store
that fails is tried less and less often, with a line in the log a minute at most; until it works again every
block is a miss.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from stepwell.policy.types import BlockId, BlockMeta
from stepwell.tiers.backoff import Backoff, LineLimit
from stepwell.tiers.objects.book import ObjectBook
from stepwell.tiers.objects.client import ObjectClient, ObjectsAway
from stepwell.tiers.objects.names import ObjectEntry, short_digest
from stepwell.tiers.pages import Pages
from stepwell.tiers.record import (
    PAGE_BYTES,
    Damaged,
    RecordHeader,
    decode,
    encode,
    make_header,
    padded,
    verify_payload,
)
from stepwell.tiers.shared.index import Changes, Record
from stepwell.tiers.shared.store import Bounds, ToWrite, Written, block_meta, require_short
from stepwell.tiers.workers import ThreadWorker, Worker

log = logging.getLogger(__name__)

_SKEW_US = 120_000_000
"""Clocks of nodes may be so far apart; beyond it they find each other's objects at the next full look."""
_RENEW_US = 3_600_000_000
"""An object that is used so long after it was written is renewed."""
_SPARE_SHARE = 50
"""When room is made, a fiftieth of the bound more is made, so that not every write has to."""
_DAMAGED_IN_A_ROW = 8
"""So many wrong objects one after the other, and it is the store, or what lies between, that is wrong."""
_DELETED_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class ColdLimits:
    """Times, threads and memory. Defaults are those of a store in the same region."""

    uploads: int = 4
    """Objects that are put at a time."""
    buffer_bytes: int = 256 << 20
    """Memory for what waits to be put; what comes beyond it is dropped."""
    fresh_s: float = 1.0
    """So long what has been listed counts as all there is."""
    full_every_s: float = 600.0
    """Everything is listed so often: what others have removed is found out by it."""
    close_s: float = 10.0
    """How long ``close`` waits for what was queued."""


class ColdStore:
    """Records of one model in an object store that other nodes, and other models, use as well.

    ``write`` and ``changes`` may be called from any thread; ``read`` too, and waits for the store. Errors are
    ``OSError`` (``ObjectsAway``) and ``Damaged``. The bound holds for all that this node knows of: nodes that
    write at the same moment may pass it together by what each of them writes in ``fresh_s``.
    """

    def __init__(
        self,
        client: ObjectClient,
        bounds: Bounds,
        fingerprint: str,
        *,
        limits: ColdLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
        clock_us: Callable[[], int] = lambda: time.time_ns() // 1000,
        make_worker: Callable[[str], Worker] = ThreadWorker,
    ) -> None:
        require_short(fingerprint, "a model's fingerprint")
        self.bounds, self.fingerprint, self.clock_us = bounds, fingerprint, clock_us
        self.limits = limits or ColdLimits()
        self.counters: Counter[str] = Counter()
        self.lines = LineLimit(clock)
        self._client, self._clock = client, clock
        self._model = short_digest(fingerprint)
        self._most_bytes_of = {short_digest(tenant): most for tenant, most in bounds.tenants.items()}
        self._book = ObjectBook(self._model)
        self._lock = threading.Lock()
        """Of the book, of what is queued and of the counters. Never held while the store is waited for."""
        self._looking = threading.Lock()
        self._looked_s: float | None = None
        self._full_due_s = clock()
        self._listing_all = self._listed_once = False
        self._newest_us = 0
        self._queued: set[BlockId] = set()
        self._queued_bytes = self._damaged = self._next = 0
        self._closing = False
        self._backoff = Backoff("writing to the object store", clock, self.lines)
        self._workers = [make_worker(f"stepwell-put-{n}") for n in range(self.limits.uploads)]

    def bury_dead(self) -> int:
        """Others may always be there; none leaves anything begun behind."""
        return 1

    # --- what is there ------------------------------------------------------------------------

    def changes(self) -> Changes:
        """What has come and gone since the last call, by any node. Lists what is new, and has all of it
        listed by a thread when that is due: the first time too, so that a start waits for nothing."""
        if self._all_is_due() and not self._listing_all and self._backoff.ready():
            self._listing_all = True
            self._submit(self._look_at_all)
        if self._listed_once:
            self._look()
        with self._lock:
            come, gone = self._book.take_changes()
        return Changes(False, come, gone)

    def _look(self) -> None:
        """List what was written since the newest that is known, unless that was done a moment ago."""
        with self._looking:
            now_s = self._clock()
            if self._looked_s is not None and now_s < self._looked_s + self.limits.fresh_s:
                return
            self._looked_s = now_s
            since_us = min(self._newest_us, self.clock_us()) - _SKEW_US
            found = self._client.list(max(1, since_us))
            with self._lock:
                for entry in found:
                    self._add(entry)

    def _all_is_due(self) -> bool:
        return self._clock() >= self._full_due_s

    def _look_at_all(self) -> None:
        try:
            self._list_all()
            self._backoff.worked()
        except OSError as error:
            self._backoff.failed(str(error))
        finally:
            self._listing_all = False

    def _list_all(self) -> None:
        """Everything there is, of all models, if that is due; what is beyond the bounds goes."""
        with self._looking:
            if not self._all_is_due():
                return
            with self._lock:
                since = self._book.serial
            found = self._client.list()
            with self._lock:
                self._book.keep_only(found, since, self.clock_us())
                for entry in found:
                    self._newest_us = max(self._newest_us, entry.written_us)
            self._listed_once = True
            self._full_due_s = self._clock() + self.limits.full_every_s
        self._keep_bounds()

    def _add(self, entry: ObjectEntry) -> None:
        self._book.add(entry, self.clock_us())
        self._newest_us = max(self._newest_us, entry.written_us)

    def usage(self) -> dict[str, tuple[int, int]]:
        """Bytes and objects by digest of the tenant, over all models."""
        with self._lock:
            return self._book.usage()

    # --- writing ------------------------------------------------------------------------------

    def size_of(self, key: BlockId) -> int | None:
        """Most bytes of a block's payload, which is there as far as is known; None: it is not."""
        with self._lock:
            entry = self._book.entry_of(key)
        return None if entry is None else entry.size_bytes - PAGE_BYTES

    def wants(self, key: BlockId, payload_bytes: int) -> bool:
        """Whether ``write`` would take a block, so that it is not copied in vain."""
        with self._lock:
            known = key in self._queued or self._book.entry_of(key) is not None
            full = self._queued_bytes + _object_bytes(payload_bytes) > self.limits.buffer_bytes
        return not known and not full and not self._closing and self._backoff.ready()

    def write(self, blocks: Sequence[ToWrite]) -> Written:
        """Queue blocks; their pages are the store's from now on. None is told as kept: ``changes`` tells."""
        for block in blocks:
            require_short(block.tenant, "a tenant's name")
            size_bytes = _object_bytes(block.pages.size_bytes)
            with self._lock:
                if block.key in self._queued or self._book.entry_of(block.key) is not None:
                    continue
                full = self._queued_bytes + size_bytes > self.limits.buffer_bytes
                if full or self._closing or not self._backoff.ready():
                    self.counters["dropped"] += 1
                    continue
                self._queued.add(block.key)
                self._queued_bytes += size_bytes
            self._submit(partial(self._upload, block))
        return Written()

    def _submit(self, job: Callable[[], None]) -> None:
        self._next += 1
        self._workers[self._next % len(self._workers)].submit(lambda: self._run(job))

    def _run(self, job: Callable[[], None]) -> None:
        try:
            job()
        except Exception:  # a defect here must not end the thread
            log.exception("a job of the object store failed unexpectedly")

    def _upload(self, block: ToWrite) -> None:
        size_bytes = _object_bytes(block.pages.size_bytes)
        try:
            self._put(block, size_bytes)
        except OSError as error:
            self._count("dropped")
            self._backoff.failed(str(error))
        finally:
            with self._lock:
                self._queued.discard(block.key)
                self._queued_bytes -= size_bytes

    def _put(self, block: ToWrite, size_bytes: int) -> None:
        if self._closing or not self._backoff.ready():
            return self._count("dropped")
        if not self._listed_once:
            self._list_all()  # before that it is not known whether there is room
        tenant = short_digest(block.tenant)
        entry = ObjectEntry(block.used_us, self._model, block.key, tenant, size_bytes)
        with self._lock:
            if self._book.entry_of(block.key) is not None:
                return None  # another node was quicker
        if not self._make_room(entry):
            return self._count("refused")
        header = make_header(block_meta(block), block.pages.payload, self.fingerprint, entry.written_us)
        head = encode(header)
        try:
            self._client.put(entry.name, [memoryview(head), block.pages.whole])
        except BaseException:
            self._forget(entry)
            raise
        self._backoff.worked()
        with self._lock:
            self._add(entry)
        return self._count("written")

    def _forget(self, entry: ObjectEntry) -> None:
        with self._lock:
            self._book.remove(entry)

    def _count(self, what: str, more: int = 1) -> None:
        with self._lock:
            self.counters[what] += more

    # --- room ---------------------------------------------------------------------------------

    def _limit_of(self, tenant: str | None) -> int:
        if tenant is None:
            return self.bounds.limit_bytes
        most = self._most_bytes_of.get(tenant, self.bounds.tenant_limit_bytes)
        return self.bounds.limit_bytes if most is None else most

    def _make_room(self, newcomer: ObjectEntry) -> bool:
        """Remove the oldest objects until this one fits within both bounds; count it. False: it cannot."""
        size_bytes, tenant = newcomer.size_bytes, newcomer.tenant
        if size_bytes > min(self._limit_of(tenant), self._limit_of(None)):
            return False
        while True:
            with self._lock:
                victims = self._victims(size_bytes, tenant) or self._victims(size_bytes, None)
                if not victims:
                    self._book.begin(newcomer, self.clock_us())
                    return True
            self._delete(victims)

    def _keep_bounds(self) -> None:
        """The bounds may be lower than those of the nodes that have written."""
        for whose in (*self.usage(), None):
            while True:
                with self._lock:
                    victims = self._victims(0, whose)
                if not victims:
                    break
                self._delete(victims)

    def _delete(self, victims: Sequence[ObjectEntry]) -> None:
        self._client.delete([victim.name for victim in victims])
        self._count("evicted", len(victims))

    def _victims(self, size_bytes: int, tenant: str | None) -> list[ObjectEntry]:
        """The oldest objects whose room is wanted, taken out of the book; none when there is room."""
        limit_bytes = self._limit_of(tenant)
        over = self._book.used_bytes(tenant) + size_bytes - limit_bytes
        spare = limit_bytes // _SPARE_SHARE
        victims: list[ObjectEntry] = []
        while over > 0 or victims:
            victim = self._book.oldest(tenant)
            if victim is None or len(victims) == _DELETED_AT_ONCE:
                break
            if over <= 0 and over + spare < victim.size_bytes:
                break
            self._book.remove(victim)
            victims.append(victim)
            over -= victim.size_bytes
        return victims

    # --- reading ------------------------------------------------------------------------------

    def read(self, record: Record, pages: Pages) -> None:
        """The bytes of a record, verified, into ``pages``, which has just the size that was written.

        ``Damaged``: they are not what was written; ``FileNotFoundError``: it has been removed; both are known
        from then on. ``ObjectsAway``: the store. What is in ``pages`` is undefined then.
        """
        self._fetch(record.key, lambda data, entry: _verify(data, entry, self.fingerprint, pages))

    def fetch(self, block: BlockMeta, pages: Pages) -> None:
        """As ``read``, and the record must be just this block. ``pages`` has room for ``size_of`` bytes, and
        the length of the payload afterwards."""
        self._fetch(block.id, lambda data, entry: _verify_block(data, entry, self.fingerprint, block, pages))

    def _fetch(self, key: BlockId, verify: Callable[[memoryview, ObjectEntry], None]) -> None:
        entry = self._entry(key)
        try:
            data = self._get(entry)
        except FileNotFoundError:  # removed, or renewed by another node under a name that we do not know yet
            self._forget(entry)
            self._look()
            entry = self._entry(key)
            data = self._get(entry)
        try:
            verify(data, entry)
        except Damaged as error:
            self._note_damage(entry, error)
            raise
        self._damaged = 0

    def _entry(self, key: BlockId) -> ObjectEntry:
        with self._lock:
            entry = self._book.entry_of(key)
        if entry is None:
            raise FileNotFoundError("the object is not there any more")
        return entry

    def _get(self, entry: ObjectEntry) -> memoryview:
        try:
            return self._client.get(entry.name, entry.size_bytes)
        except Damaged as error:
            self._note_damage(entry, error)
            raise

    def _note_damage(self, entry: ObjectEntry, error: Damaged) -> None:
        """It is left where it is: what is wrong may be this node's way to the store."""
        with self._lock:
            self._book.distrust(entry)
            self._damaged += 1
            many = self._damaged >= _DAMAGED_IN_A_ROW
        if many:
            raise ObjectsAway("it gives wrong bytes", str(error)) from error

    def touch(self, used: Sequence[tuple[BlockId, int]]) -> None:
        """These blocks were used at that time (in microseconds)."""
        with self._lock:
            known = [(self._book.entry_of(key), used_us) for key, used_us in used]
        for entry, used_us in known:
            if entry is not None and used_us > entry.written_us + _RENEW_US and self._backoff.ready():
                self._submit(partial(self._renew, entry))

    def _renew(self, entry: ObjectEntry) -> None:
        newer = ObjectEntry(self.clock_us(), entry.model, entry.key, entry.tenant, entry.size_bytes)
        try:
            if self._closing or not self._make_room(newer):
                return None
            with self._lock:
                still = self._book.entry_of(entry.key) == entry  # it may have had to go for its own copy
            if not still:
                return self._forget(newer)
            self._client.copy(entry.name, newer.name)
            with self._lock:
                self._add(newer)
                self._book.remove(entry)
            self._client.delete([entry.name])
        except FileNotFoundError:
            self._forget(newer)
            self._forget(entry)
        except OSError as error:
            self._backoff.failed(str(error))

    # --- end ----------------------------------------------------------------------------------

    def check(self) -> None:
        """Assert that the book adds up, and that what it knows of is within the bounds."""
        with self._lock:
            self._book.check()
            assert self._book.used_bytes() <= self.bounds.limit_bytes
            for tenant in self._book.usage():
                assert self._book.used_bytes(tenant) <= self._limit_of(tenant)
            assert self._queued_bytes >= 0

    def close(self) -> None:
        """Put what was queued, for ``close_s`` at most. A second call does nothing."""
        if self._closing:
            return
        deadline_s = time.monotonic() + self.limits.close_s
        finished = [w.close(max(0.0, deadline_s - time.monotonic())) for w in self._workers]
        self._closing = True
        if not all(finished):
            log.warning("the object store did not take everything in time; the rest is computed again")


def _object_bytes(payload_bytes: int) -> int:
    return PAGE_BYTES + padded(payload_bytes)


def _verify(data: memoryview, entry: ObjectEntry, fingerprint: str, pages: Pages) -> None:
    """``Damaged`` unless this is the record that the object's name promises, whole and of this model."""
    if len(data) != _object_bytes(pages.size_bytes):
        raise Damaged("the object has another size than its record")
    _, payload = _payload(data, entry, fingerprint)
    if len(payload) != pages.size_bytes:
        raise Damaged("the record holds another length than the block has")
    pages.fill(payload)


def _verify_block(
    data: memoryview, entry: ObjectEntry, fingerprint: str, block: BlockMeta, pages: Pages
) -> None:
    """Likewise, of a block about which more is known, and whose payload may be shorter than its room."""
    header, payload = _payload(data, entry, fingerprint)
    if header.meta() != block:
        raise Damaged("the header does not describe this block")
    if len(payload) > pages.size_bytes:
        raise Damaged("the record is longer than it was announced")
    pages.size_bytes = len(payload)
    pages.fill(payload)


def _payload(data: memoryview, entry: ObjectEntry, fingerprint: str) -> tuple[RecordHeader, memoryview]:
    if len(data) != entry.size_bytes:
        raise Damaged("the object has another size than its record")
    header = decode(data[:PAGE_BYTES])
    if header.id != entry.key or header.fingerprint != fingerprint:
        raise Damaged("the header belongs to another record")
    payload = data[PAGE_BYTES : PAGE_BYTES + header.payload_bytes]
    verify_payload(header, payload)
    return header, payload

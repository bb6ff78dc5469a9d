"""Object stores for tests: one that is told to fail, and engines of several nodes on one of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from stepwell.tiers.objects.client import ObjectClient, ObjectsAway
from stepwell.tiers.objects.names import ObjectEntry
from stepwell.tiers.objects.store import ColdLimits, ColdStore
from stepwell.tiers.shared.base import RecordStore
from stepwell.tiers.shared.store import Bounds
from stepwell.tiers.shared.tier import JobEnded, JobItem, LookupAnswer, SharedTier, TierLimits
from tests.tiers.harness import ManualClock, ManualWorker, name_of

BLOCK = 20_000
OBJECT = 24_576
"""A block's record: a page for the header, and whole pages for its bytes."""
LIMIT = 6 << 20


def content(number: int) -> bytes:
    """The only bytes that this block may ever have."""
    return (name_of(number) * (BLOCK // 16 + 1))[:BLOCK]


class FaultyClient(ObjectClient):
    """A store that can be told to be away, to be full of holes, or to give other bytes than were put."""

    away = ""
    holes = False
    calls = 0
    wrong: Callable[[bytes], bytes] | None = None
    during: Callable[[], object] | None = None
    """What happens elsewhere while the next call is under way."""

    def _step(self) -> None:
        self.calls += 1
        happening, self.during = self.during, None
        if happening is not None:
            happening()
        if self.away:
            raise ObjectsAway(self.away, "")

    def put(self, name: str, buffers: Sequence[memoryview]) -> None:
        self._step()
        super().put(name, buffers)

    def get(self, name: str, size_bytes: int) -> memoryview:
        self._step()
        if self.holes:
            raise FileNotFoundError(name)
        data = super().get(name, size_bytes)
        return data if self.wrong is None else memoryview(self.wrong(bytes(data)))

    def delete(self, names: Sequence[str]) -> None:
        self._step()
        super().delete(names)

    def copy(self, name: str, to: str) -> None:
        self._step()
        super().copy(name, to)

    def list(self, since_us: int = 0) -> list[ObjectEntry]:
        self._step()
        return super().list(since_us)


class Node:
    """An engine's host memory and a tier over a shared store; its threads run when the test says so."""

    def __init__(self, make_store: Callable[[Node], RecordStore]) -> None:
        self.clock = ManualClock()
        self.now_us = 1_700_000_000_000_000
        self.workers: dict[str, ManualWorker] = {}
        self.memory = [bytearray(BLOCK) for _ in range(64)]
        self.store = make_store(self)
        self.tier = SharedTier(
            self.store,
            BLOCK,
            limits=TierLimits(deadline_s=5.0, readers=1),
            clock=self.clock,
            make_worker=self.make_worker,
            name="the object store",
            lines=getattr(self.store, "lines", None),
        )
        self.jobs = 0
        self.settle()

    def make_worker(self, name: str) -> ManualWorker:
        return self.workers.setdefault(name, ManualWorker())

    def clock_us(self) -> int:
        return self.now_us

    def pass_s(self, seconds: float) -> None:
        self.clock.now_s += seconds
        self.now_us += round(seconds * 1e6)

    def settle(self) -> list[JobEnded]:
        """Run all that is queued, and what that queues."""
        while any(worker.jobs for worker in self.workers.values()):
            for worker in [*self.workers.values()]:
                worker.run_all()
        return self.tier.ended()

    def look(self) -> None:
        """A new request comes a while later: what others have written is found out."""
        self.pass_s(2)
        self.tier.ask()
        self.settle()

    def items(self, numbers: Sequence[int]) -> list[JobItem]:
        return [
            JobItem(name_of(n), lambda n=n: memoryview(self.memory[n % 64]), depth)  # type: ignore[misc]
            for depth, n in enumerate(numbers)
        ]

    def put(self, *numbers: int, tenant: str = "a") -> list[JobEnded]:
        for number in numbers:
            self.memory[number % 64][:] = content(number)
        self.jobs += 1
        self.tier.store_blocks(self.jobs, self.items(numbers), tenant)
        self.pass_s(0.001)
        return self.settle()

    def get(self, *numbers: int) -> JobEnded:
        for number in numbers:
            self.memory[number % 64][:] = bytes(BLOCK)
        self.jobs += 1
        self.tier.load_blocks(self.jobs, self.items(numbers))
        (ended,) = self.settle()
        for number in numbers:
            wanted = content(number) if name_of(number) in ended.done else bytes(BLOCK)
            assert bytes(self.memory[number % 64]) == wanted, "never another byte than was put"
        return ended

    def offers(self, number: int) -> bool:
        return self.tier.lookup(name_of(number)) is LookupAnswer.THERE

    def close(self) -> None:
        self.tier.close()


def cold_node(
    client: ObjectClient,
    *,
    limit_bytes: int = LIMIT,
    tenants: dict[str, int] | None = None,
    model: str = "model",
    limits: ColdLimits | None = None,
) -> Node:
    return Node(
        lambda node: ColdStore(
            client,
            Bounds(limit_bytes, tenants=tenants or {}),
            model,
            limits=limits or ColdLimits(uploads=2),
            clock=node.clock,
            clock_us=node.clock_us,
            make_worker=node.make_worker,
        )
    )


def folder_bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())

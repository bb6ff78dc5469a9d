"""A driver on the null engine with KV tiers that fail when they are told to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from stepwell.basics.clock import ManualClock
from stepwell.engines.base import SamplingParams
from stepwell.engines.null import NullConfig, NullEngine, NullText
from stepwell.ledger.keeper import Keeper
from stepwell.loop.driver import Driver
from stepwell.loop.requests import LOCAL_TENANT, Delta, Finished, Generation, Output, Rejected
from stepwell.policy.config import PolicyConfig
from stepwell.policy.scheduler import Scheduler
from stepwell.policy.types import BlockId, BlockMeta, Caller, KvTier, Moved, RequestId
from stepwell.tiers.base import Buffer, TierUsage
from tests.ledger.books import MemoryWriter, make_keeper

GREEDY = SamplingParams(temperature=0.0)


def with_caller(given: dict[str, Any]) -> dict[str, Any]:
    """A generation's fields, those of its caller gathered in one."""
    own = {field.name: given.pop(field.name) for field in fields(Caller) if field.name in given}
    return {**given, "caller": Caller(**{"tenant": LOCAL_TENANT, **own})}


class FlakyTiers:
    """Host and disk as dicts. Transfers end when ``finish`` allows; the next ones can be made to fail."""

    def __init__(self, host_bytes: int, disk_bytes: int) -> None:
        self.kept: dict[KvTier, dict[BlockId, tuple[BlockMeta, bytes]]] = {KvTier.HOST: {}, KvTier.DISK: {}}
        self.limits = {KvTier.HOST: host_bytes, KvTier.DISK: disk_bytes}
        self.queue: list[tuple[BlockMeta, KvTier, KvTier]] = []
        self.stalled = False
        self.fail_puts = 0
        self.fail_writes = 0
        self.fail_reads = 0
        self.lose_reads = 0

    def recovered(self) -> Sequence[BlockMeta]:
        return [meta for meta, _ in self.kept[KvTier.DISK].values()]

    def put_host(self, block: BlockMeta, data: Buffer) -> bool:
        if self._fails("fail_puts"):
            return False
        self.kept[KvTier.HOST][block.id] = (block, bytes(data))
        return True

    def get_host(self, block: BlockId) -> Buffer | None:
        entry = self.kept[KvTier.HOST].get(block)
        return entry[1] if entry else None

    def start(self, block: BlockMeta, source: KvTier, target: KvTier) -> None:
        self.queue.append((block, source, target))
        self._ready()  # it will have ended by the next poll

    def drop(self, block: BlockId, tier: KvTier) -> None:
        assert all(block != moving.id for moving, *_ in self.queue), "dropped while on its way"
        self.kept[tier].pop(block, None)

    def poll(self) -> list[Moved]:
        if self.stalled:
            return []
        ended = [self._end(*transfer) for transfer in self.queue]
        self.queue.clear()
        return ended

    def _end(self, block: BlockMeta, source: KvTier, target: KvTier) -> Moved:
        gone = block.id not in self.kept[source] or (target is KvTier.HOST and self._fails("lose_reads"))
        ok = not gone and not self._fails("fail_reads" if target is KvTier.HOST else "fail_writes")
        if ok:
            self.kept[target][block.id] = self.kept[source][block.id]
        return Moved(block.id, source, target, ok, block.size_bytes, 500, gone)

    def _fails(self, what: str) -> bool:
        left: int = getattr(self, what)
        setattr(self, what, max(0, left - 1))
        return left > 0

    def on_ready(self, callback: Callable[[], None]) -> None:
        self._ready = callback

    def usage(self, tier: KvTier) -> TierUsage:
        blocks = self.kept[tier].values()
        return TierUsage(sum(len(data) for _, data in blocks), self.limits[tier], len(blocks))

    def check(self) -> None:
        for tier, limit in self.limits.items():
            assert self.usage(tier).used_bytes <= limit

    def close(self) -> None:
        self.queue.clear()


@dataclass
class Answer:
    """What came back for one request."""

    outputs: list[Output] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(o.text for o in self.outputs if isinstance(o, Delta))

    @property
    def tokens(self) -> list[int]:
        return [info.token for o in self.outputs if isinstance(o, Delta) for info in o.tokens]

    @property
    def end(self) -> Finished | Rejected:
        last = self.outputs[-1]
        assert isinstance(last, Finished | Rejected), last
        return last

    @property
    def ended(self) -> bool:
        return bool(self.outputs) and isinstance(self.outputs[-1], Finished | Rejected)


@dataclass
class Rig:
    """A driver without a thread, and everything it stands on."""

    driver: Driver
    engine: NullEngine
    tiers: FlakyTiers
    clock: ManualClock
    books: MemoryWriter
    keeper: Keeper

    def ask(self, prompt: Sequence[int], new_tokens: int = 8, **generation: Any) -> Answer:
        answer = Answer()
        generation.setdefault("sampling", GREEDY)
        asked = Generation(prompt=tuple(prompt), max_new_tokens=new_tokens, **with_caller(generation))
        self.driver.submit(asked, answer.outputs.append)
        return answer

    def settle(self) -> None:
        self.tiers.stalled = False
        self.driver.run_until_idle(max_steps=20_000)


def make_rig(
    device: int = 16,
    host: int = 64,
    disk: int = 256,
    *,
    tiers: FlakyTiers | None = None,
    storage_every_us: int = 60_000_000,
    **config: Any,
) -> Rig:
    """``device``, ``host`` and ``disk`` in blocks of 16 tokens (units of 4)."""
    clock = ManualClock()
    null = {name: config.pop(name) for name in list(config) if name in NullConfig.__dataclass_fields__}
    sizes = NullConfig(
        device_blocks=device,
        block_tokens=16,
        token_bytes=8,
        prefill_us_per_token=2000,
        adapters=("red",),
        **null,
    )
    engine = NullEngine(sizes, clock)
    info = engine.info
    policy_config = PolicyConfig(
        block_tokens=16,
        unit_tokens=info.block_tokens if info.checkpoint_bytes else 4,
        device_blocks=device,
        block_bytes=info.block_bytes,
        token_bytes=info.token_bytes,
        host_bytes=host * info.block_bytes,
        disk_bytes=disk * info.block_bytes,
        context_tokens=info.context_tokens,
        depth_frames=info.depth_frames,
        checkpoint_bytes=info.checkpoint_bytes,
        device_states=info.device_states,
        **{"reserve_tokens": 8, "step_tokens": 64, "always_load": True, **config},
    )
    tiers = tiers or FlakyTiers(policy_config.host_bytes, policy_config.disk_bytes)
    keeper, books = make_keeper(policy_config, now_us=clock.now_us(), storage_every_us=storage_every_us)
    driver = Driver(
        engine, NullText(info), tiers, Scheduler(policy_config), clock=clock, books=keeper, strict=True
    )
    _watch_names(driver, engine)
    return Rig(driver, engine, tiers, clock, books, keeper)


def _watch_names(driver: Driver, engine: NullEngine) -> None:
    """Every block that is sealed bears the name of exactly the tokens that are in it: whoever finds it by
    that name gets what he asked for, and nobody gets another tenant's."""
    seal = engine.seal

    def named(request: RequestId, block: BlockMeta) -> None:
        chain = driver._live[request].chain
        stop = block.depth * 16 + block.n_tokens
        assert block.id == chain.name(stop), (
            f"tokens up to {stop} of request {request} are sealed under another name"
        )
        assert block.tenant == driver._live[request].generation.caller.tenant
        seal(request, block)

    engine.seal = named  # type: ignore[method-assign]


def expected_tokens(prompt: Sequence[int], new_tokens: int, sampling: SamplingParams = GREEDY) -> list[int]:
    """What the null engine answers when nothing ever moves: the oracle of every test here."""
    rig = make_rig(device=4096, host=0, disk=0)
    answer = rig.ask(prompt, new_tokens, sampling=sampling)
    rig.settle()
    return answer.tokens

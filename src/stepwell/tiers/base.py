"""The Tiers contract: what moves KV bytes between host memory and disk.

Device <-> host copies go through the engine and happen at once; the host pool is plain memory.
Host <-> disk transfers are queued, run beside the loop, and are reported by ``poll``.
All calls come from the driver's thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from stepwell.policy.types import BlockId, BlockMeta, KvTier, Moved

if TYPE_CHECKING:
    from stepwell.tiers.pages import Pages
    from stepwell.tiers.store import StoreUsage

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class TierUsage:
    """Bytes and blocks that one KV tier holds, and its bound."""

    used_bytes: int

    limit_bytes: int

    blocks: int
    overhead_bytes: int = 0
    """Most that one block takes beyond its ``size_bytes`` (headers, padding). What plans with the bound
    counts it for every block, or is refused when the tier is nearly full."""


class NodeEntry(Protocol):
    """A block that a disk store has pinned for a read."""

    payload_bytes: int
    forgotten: bool
    """It is not there any more, or not what it was."""


class NodeDisk(Protocol):
    """What ``LocalTiers`` asks of a disk store. Calls come from three threads: one that decides, one that
    writes (``write``, ``reap``) and one that reads (``read``). An entry is one that ``pin`` gave."""

    @property
    def limit_bytes(self) -> int: ...

    def recovered(self) -> list[BlockMeta]: ...

    def __contains__(self, block: BlockId) -> bool: ...

    def usage(self) -> StoreUsage: ...

    def write(self, block: BlockMeta, pages: Pages) -> int: ...

    def pin(self, block: BlockId) -> NodeEntry | None: ...

    def unpin(self, entry: Any) -> None: ...

    def read(self, entry: Any, block: BlockMeta, pages: Pages) -> None: ...

    def forget(self, block: BlockId, sequence: int | None = None) -> None: ...

    def reap(self) -> None: ...

    def resize(self, limit_bytes: int) -> int: ...

    def check(self) -> None: ...

    def close(self) -> None: ...


class Tiers(Protocol):
    """Host pool and disk store behind one face."""

    def recovered(self) -> Sequence[BlockMeta]:
        """Blocks that were found on disk at start, parents before children.

        A parent may be missing: it was in a faster KV tier when the last run ended. Its children are
        of use again as soon as it has been computed.
        """

    def put_host(self, block: BlockMeta, data: Buffer) -> bool:
        """Keep the bytes in host memory. False when the bound would be passed."""

    def get_host(self, block: BlockId) -> Buffer | None:
        """The bytes in host memory; valid until the block is dropped."""

    def start(self, block: BlockMeta, source: KvTier, target: KvTier) -> None:
        """Queue a transfer host -> disk or disk -> host. ``poll`` tells how it ended, exactly once.

        A transfer to host reserves its bytes at once, so that it cannot fail for lack of room later.
        ``Moved.duration_us`` is the time of the I/O with its checksum, without the wait in the queue; a
        transfer that was given up at its deadline says how long it was waited for.
        """

    def drop(self, block: BlockId, tier: KvTier) -> None:
        """Forget one copy. Dropping what is not there, or is on its way, is harmless.

        Dropping the target of a transfer under way makes it end as not ok; dropping its source does
        not disturb it.
        """

    def poll(self) -> list[Moved]:
        """The transfers that have ended since the last call, in order."""

    def on_ready(self, callback: Callable[[], None]) -> None:
        """``callback`` is called (from any thread) whenever ``poll`` has something new."""

    def usage(self, tier: KvTier) -> TierUsage:
        """How full a tier is (host or disk)."""

    def check(self) -> None:
        """Assert the invariants: bytes are the sum of the blocks and within the bound."""

    def close(self) -> None:
        """Finish writes that were started, release files and locks."""

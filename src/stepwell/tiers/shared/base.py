"""What ``SharedTier`` asks of a store that processes, or machines, share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from stepwell.policy.types import BlockId
from stepwell.tiers.pages import Pages
from stepwell.tiers.shared.index import Changes, Record
from stepwell.tiers.shared.store import Bounds, ToWrite, Written


class RecordStore(Protocol):
    """Records of one model that others write and read too. Calls come from any thread and may wait for it.

    Errors are ``OSError`` and ``sqlite3.Error``; ``Damaged`` and ``FileNotFoundError`` of ``read``: a miss.
    """

    bounds: Bounds

    def clock_us(self) -> int:
        """Now, comparable between all that use the store."""

    def bury_dead(self) -> int:
        """Take over what killed processes had begun; how many others use the store."""

    def touch(self, used: Sequence[tuple[BlockId, int]]) -> None:
        """These blocks were used at that time (in microseconds)."""

    def changes(self) -> Changes:
        """What has come and gone since the last call, by any process."""

    def usage(self) -> dict[str, tuple[int, int]]:
        """Bytes and blocks of each tenant, over all models."""

    def write(self, blocks: Sequence[ToWrite]) -> Written:
        """Keep blocks, whose pages are the store's from now on."""

    def read(self, record: Record, pages: Pages) -> None:
        """The bytes of a record, verified, into ``pages``."""

    def close(self) -> None:
        """Leave the store to the others."""

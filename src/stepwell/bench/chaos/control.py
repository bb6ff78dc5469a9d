"""Two numbers shared with the server that is tormented: how wrong its clock is, and how slow its disk."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

_FORMAT = struct.Struct("<qq")


class Control:
    """A page of shared memory in the file ``path``; both processes see a change at once."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        if create:
            path.write_bytes(bytes(_FORMAT.size))
        with path.open("r+b") as file:
            self._page = mmap.mmap(file.fileno(), _FORMAT.size)

    @property
    def clock_offset_ns(self) -> int:
        """What the wall clock shows too much (negative: too little)."""
        return int(_FORMAT.unpack_from(self._page)[0])

    @clock_offset_ns.setter
    def clock_offset_ns(self, value: int) -> None:
        _FORMAT.pack_into(self._page, 0, value, self.disk_delay_us)

    @property
    def disk_delay_us(self) -> int:
        """What each read and write of a KV record takes longer."""
        return int(_FORMAT.unpack_from(self._page)[1])

    @disk_delay_us.setter
    def disk_delay_us(self, value: int) -> None:
        _FORMAT.pack_into(self._page, 0, self.clock_offset_ns, value)

    def close(self) -> None:
        self._page.close()

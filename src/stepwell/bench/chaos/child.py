"""``stepwell serve`` as it is, but for its wall clock and its disk: ``-m ... CONTROL CONFIG``.

The two seams are those of the tests: ``time.time_ns``, and the two calls of ``tiers.files.Files`` that carry
bytes. Everything else is done to the server from outside.
"""

from __future__ import annotations

import mmap
import os
import runpy
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from stepwell.bench.chaos.control import Control
from stepwell.tiers.files import Files


def install(control: Control) -> None:
    """From now on this process's clock and disk are as ``control`` says."""
    real_ns = time.time_ns

    def time_ns() -> int:
        return real_ns() + control.clock_offset_ns

    def pwritev(self: Files, fd: int, buffers: Sequence[memoryview | mmap.mmap], offset: int) -> int:
        time.sleep(control.disk_delay_us / 1e6)
        return os.pwritev(fd, buffers, offset)

    def preadv(self: Files, fd: int, buffers: Sequence[memoryview | mmap.mmap], offset: int) -> int:
        time.sleep(control.disk_delay_us / 1e6)
        return os.preadv(fd, buffers, offset)

    time.time_ns = time_ns
    time.time = lambda: time_ns() / 1e9
    files = cast("Any", Files)
    files.pwritev, files.preadv = pwritev, preadv


def main(control: str, config: str) -> None:
    install(Control(Path(control)))
    sys.argv = ["stepwell", "serve", "--config", config]
    runpy.run_module("stepwell", run_name="__main__")  # as a shell would: what fails is one sentence


if __name__ == "__main__":
    main(*sys.argv[1:])

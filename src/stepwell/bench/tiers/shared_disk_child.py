"""The processes that ``stepwell bench shared-disk`` kills: they write blocks and read those of the other one.

A block's bytes follow from its name. Runs until it is killed, and says on standard output how many blocks
it has written and read and how many were wrong.
"""

from __future__ import annotations

import random
import sys
from contextlib import suppress
from hashlib import blake2b, shake_128
from pathlib import Path

from stepwell.tiers.pages import Pages
from stepwell.tiers.record import Damaged
from stepwell.tiers.shared.store import Bounds, SharedStore, ToWrite

BLOCK_BYTES = 256 << 10
LIMIT_BYTES = 16 << 20
NUMBERS = 90
"""Different blocks: more than the bound holds."""
_JOB_BLOCKS = 4


def key_of(number: int) -> bytes:
    return blake2b(number.to_bytes(8, "big"), digest_size=16).digest()


def content_of(number: int) -> bytes:
    """The only bytes that this block may ever have: every page is different."""
    page = shake_128(key_of(number)).digest(4092)
    return b"".join(n.to_bytes(4, "big") + page for n in range(BLOCK_BYTES // 4096))


def open_store(place: Path) -> SharedStore:
    return SharedStore(
        place, Bounds(LIMIT_BYTES, tenants={"tenant-0": 4 << 20}), "the model of the benchmark"
    )


def main() -> None:
    place, number = Path(sys.argv[1]), int(sys.argv[2])
    store, dice = open_store(place), random.Random(number)
    sys.stdout.write("at work\n")
    sys.stdout.flush()
    written = read = wrong = 0
    known = store.changes().present
    while True:
        chosen = dice.sample(range(NUMBERS), _JOB_BLOCKS)
        result = store.write(
            [
                ToWrite(key_of(n), f"tenant-{n % 3}", Pages.of(content_of(n)), store.clock_us() - depth)
                for depth, n in enumerate(chosen)
            ]
        )
        written += len(result.kept)
        changes = store.changes()
        known = changes.present if changes.everything else {**known, **changes.present}
        known = {key: record for key, record in known.items() if key not in changes.gone}
        for n in dice.sample(range(NUMBERS), _JOB_BLOCKS):
            if (record := known.get(key_of(n))) is not None:
                pages = Pages(BLOCK_BYTES)
                with suppress(Damaged, FileNotFoundError):
                    store.read(record, pages)
                    read += 1
                    wrong += bytes(pages.payload) != content_of(n)
        sys.stdout.write(f"{written} {read} {wrong}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()

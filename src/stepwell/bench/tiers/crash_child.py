"""The process that ``stepwell bench crash`` kills: real tiers under load, with bytes that can be checked.

A block's bytes follow from its name, page by page, so a reader knows what they must be:
another block's page, a page in the wrong place or an old page all show. Runs until it is killed and
says on standard output what it has done, one JSON object per line.
"""

from __future__ import annotations

import errno
import json
import logging
import mmap
import os
import random
import sys
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b, shake_128
from pathlib import Path

from stepwell.policy.types import BlockId, BlockMeta, KvTier
from stepwell.tiers.files import Files
from stepwell.tiers.local import LocalTiers, TransferLimits
from stepwell.tiers.store import DiskStore

TOKEN_BYTES = 23_040  # SmolLM2-135M: 30 layers, 3 KV heads of 64, keys and values, 2 bytes each
BLOCK_TOKENS = 64
BLOCK_BYTES = BLOCK_TOKENS * TOKEN_BYTES
HOST_BLOCKS = 12
IN_FLIGHT = 6
_PAGE = 4096


def block(number: int) -> BlockMeta:
    """Block ``number`` of the made-up workload: every eighth is a tail of some length."""
    name = blake2b(number.to_bytes(8, "big"), digest_size=16).digest()
    n_tokens = BLOCK_TOKENS if number % 8 else 1 + number * 7 % (BLOCK_TOKENS - 1)
    return BlockMeta(name, None, 0, n_tokens, (name,), f"tenant-{number % 3}", n_tokens * TOKEN_BYTES)


@lru_cache(maxsize=256)
def content(meta: BlockMeta) -> bytes:
    """The only bytes that this block may ever have; every page of every block is different."""
    pages = -(-meta.size_bytes // _PAGE)
    data = bytearray(shake_128(meta.id).digest(_PAGE) * pages)
    for page in range(pages):
        data[page * _PAGE : page * _PAGE + 4] = page.to_bytes(4, "big")
    return bytes(data[: meta.size_bytes])


class FickleFiles(Files):
    """A disk that now and then is full, fails, or takes only a part: the kernel may do all of it."""

    def __init__(self, dice: random.Random, share: float) -> None:
        super().__init__()
        self._dice, self._share = dice, share

    def pwritev(self, fd: int, buffers: Sequence[memoryview | mmap.mmap], offset: int) -> int:
        if self._dice.random() >= self._share:
            return super().pwritev(fd, buffers, offset)
        kind = self._dice.choice((errno.ENOSPC, errno.EIO, None))
        if kind is not None:
            raise OSError(kind, os.strerror(kind))
        part = memoryview(buffers[-1])[: len(buffers[-1]) // _PAGE // 2 * _PAGE]
        return os.pwritev(fd, [*buffers[:-1], part], offset)


class StoreLoad:
    """Random puts, writes, reads and drops over a few more blocks than the disk holds."""

    def __init__(self, tiers: LocalTiers, numbers: int, dice: random.Random) -> None:
        self.tiers, self.dice = tiers, dice
        self.blocks = [block(number) for number in range(numbers)]
        self.on_disk: dict[BlockId, BlockMeta] = {meta.id: meta for meta in tiers.recovered()}
        self.on_host: dict[BlockId, BlockMeta] = {}
        self.moving: dict[BlockId, BlockMeta] = {}
        self.counts = dict.fromkeys(
            ("written", "read", "dropped", "failed_writes", "failed_reads", "wrong"), 0
        )

    def step(self) -> None:
        self._take_in()
        if len(self.moving) >= IN_FLIGHT:
            return
        meta = self.dice.choice(self.blocks)
        if meta.id in self.moving:
            return
        if meta.id in self.on_disk:
            if self.dice.random() < 0.1:
                self._drop(meta)
            elif meta.id not in self.on_host:
                self._read(meta)
        else:
            self._write(meta)

    def _take_in(self) -> None:
        for moved in self.tiers.poll():
            meta = self.moving.pop(moved.block)
            if moved.target is KvTier.DISK:
                self._written(meta, moved.ok)
            else:
                self._came_back(meta, moved.ok, moved.gone)

    def _written(self, meta: BlockMeta, ok: bool) -> None:
        self.counts["written" if ok else "failed_writes"] += 1
        if ok:
            self.on_disk[meta.id] = meta

    def _came_back(self, meta: BlockMeta, ok: bool, gone: bool) -> None:
        if not ok:
            self.counts["failed_reads"] += 1
            if gone:
                self.on_disk.pop(meta.id, None)
            return
        self.on_host[meta.id] = meta
        self.counts["read"] += 1
        self.counts["wrong"] += self.tiers.get_host(meta.id) != content(meta)

    def _read(self, meta: BlockMeta) -> None:
        self._make_room_on_host(meta)
        self.moving[meta.id] = meta
        self.tiers.start(meta, KvTier.DISK, KvTier.HOST)

    def _write(self, meta: BlockMeta) -> None:
        self._make_room_on_host(meta)
        if meta.id not in self.on_host and not self.tiers.put_host(meta, content(meta)):
            return
        self.on_host[meta.id] = meta
        usage = self.tiers.usage(KvTier.DISK)
        needed = meta.size_bytes + usage.overhead_bytes
        if usage.used_bytes + needed * IN_FLIGHT > usage.limit_bytes and self.on_disk:
            idle = [held for held in self.on_disk.values() if held.id not in self.moving]
            for victim in self.dice.sample(idle, min(2, len(idle))):
                self._drop(victim)
        self.moving[meta.id] = meta
        self.tiers.start(meta, KvTier.HOST, KvTier.DISK)

    def _drop(self, meta: BlockMeta) -> None:
        self.tiers.drop(meta.id, KvTier.DISK)
        self.on_disk.pop(meta.id, None)
        self.counts["dropped"] += 1

    def _make_room_on_host(self, meta: BlockMeta) -> None:
        usage = self.tiers.usage(KvTier.HOST)
        idle = [held for held in self.on_host.values() if held.id not in self.moving]
        while idle and usage.used_bytes + meta.size_bytes > usage.limit_bytes:
            victim = idle.pop(0)
            self.tiers.drop(victim.id, KvTier.HOST)
            del self.on_host[victim.id]
            usage = self.tiers.usage(KvTier.HOST)


def main(directory: str, limit_bytes: str, numbers: str, fingerprint: str, seed: str, fickle: str) -> None:
    """Load the tiers until killed. Arguments as text: this is a process of its own."""
    logging.getLogger("stepwell.tiers").setLevel(logging.ERROR)  # failing disks are the point here
    dice = random.Random(seed)
    files = FickleFiles(dice, float(fickle))
    store = DiskStore(Path(directory), int(limit_bytes), fingerprint, files=files)
    limits = TransferLimits(read_deadline_s=60.0)
    tiers = LocalTiers(HOST_BLOCKS * BLOCK_BYTES, store, limits=limits)
    load = StoreLoad(tiers, int(numbers), dice)
    parent, said = os.getppid(), dict[str, int]()
    print(json.dumps({"ready": len(load.on_disk)}), flush=True)
    while os.getppid() == parent:  # nothing is left to kill us: end
        load.step()
        if load.counts != said:
            said = dict(load.counts)
            print(json.dumps(said), flush=True)
    tiers.close()


if __name__ == "__main__":
    main(*sys.argv[1:])

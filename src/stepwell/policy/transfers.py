"""Transfers between KV tiers that have ended, well or badly: the book is corrected where it went wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from stepwell.policy.block_index import Block
from stepwell.policy.types import DEVICE, DISK, HOST, Moved

if TYPE_CHECKING:
    from stepwell.policy.block_manager import BlockManager

_WRITE_PAUSE_US: Final = 1_000_000  # after a failed disk write
_MOST_LOADS: Final = 3  # that fail, after which the bytes are not tried again
_LOAD_SHUN_US: Final = 250_000  # after a failed load, and twice as long after the next
_READ_SHUN_US: Final = 5_000_000  # after a failed or late disk read of a block


def transfer_ended(memory: BlockManager, event: Moved) -> None:
    """Take in one transfer; its move was booked as if it had already succeeded."""
    memory.costs.saw_move(event)
    block = memory.index.get(event.block)
    if (event.source, event.target) == (HOST, DISK):
        _write_ended(memory, event, block)
    elif (event.source, event.target) == (DISK, HOST):
        _read_ended(memory, event, block)
    elif not event.ok and block is not None:
        _copy_failed(memory, event, block)


def _write_ended(memory: BlockManager, event: Moved, block: Block | None) -> None:
    assert block is not None and block.moving is DISK
    memory.writes_in_flight -= 1
    block.moving = None
    memory.eviction.block_freed(block)
    memory.disk_used -= memory.config.disk_size_of(block.meta.size_bytes)
    if event.ok:
        memory.arrive(block, DISK)
    else:
        memory.writes_paused_until_us = memory.now_us + _WRITE_PAUSE_US
    if block.host and (event.gone or (block.leaving and event.ok)):
        memory.evict_from_host(block)
    block.leaving = False
    memory.remove_if_nowhere(block)


def _read_ended(memory: BlockManager, event: Moved, block: Block | None) -> None:
    assert block is not None and block.moving is HOST
    memory.reads_in_flight -= 1
    memory.reading_bytes -= block.meta.size_bytes
    memory.host_used -= block.meta.size_bytes
    block.moving = None
    memory.eviction.block_freed(block)
    if event.ok:
        block.read_unused = True
        memory.arrive(block, HOST)
    else:
        block.shunned_until_us = memory.now_us + _READ_SHUN_US
    if event.gone:
        memory.drop(block, DISK)
    else:
        memory.remove_if_nowhere(block)


def _copy_failed(memory: BlockManager, event: Moved, block: Block) -> None:
    if event.target is HOST and block.host:
        memory.drop(block, HOST)
    elif event.target is DEVICE:
        if block.device:
            memory.lost_on_device(block)
        block.failed_loads += 1
        block.unloadable_until_us = memory.now_us + (_LOAD_SHUN_US << block.failed_loads)
        if event.gone and block.failed_loads >= _MOST_LOADS and block.host and block.moving is None:
            memory.drop(block, HOST)

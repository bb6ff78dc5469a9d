"""What the engine and the KV tiers of this machine really do: speeds, and when loading pays.

``Probe`` drives an ``Engine`` directly: prefill, decode, storing and loading of real blocks. The
crossover follows from what it measured: loading n tokens against computing them at some depth.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from stepwell.engines.base import BatchItem, Buffer, Engine, SamplingParams, TextModel
from stepwell.engines.prose import prose
from stepwell.policy.chain import TokenChain, root_hash
from stepwell.policy.costs import PrefillFit
from stepwell.policy.types import BlockMeta

PIECE_TOKENS = 256
"""The driver's default step: what prefill is measured at."""
REPEATS = 5
GREEDY = SamplingParams(temperature=0.0, ignore_eos=True)
DEPTHS = (0, 1024, 4096)
LENGTHS = (16, 64, 256, 1024, 4096)
_UNIT_TOKENS = 16


@dataclass(frozen=True, slots=True)
class PieceTime:
    """One engine step of ``count`` tokens behind ``start`` others."""

    start: int
    count: int
    duration_us: float


@dataclass(slots=True)
class ReturnSpeeds:
    """Everything measured. Per-block times are microseconds of one full block, all repeats."""

    block_tokens: int
    prefill: list[PieceTime] = field(default_factory=list)
    decode_us: dict[int, float] = field(default_factory=dict)
    """Sequences in the batch -> microseconds per step."""
    store_us: list[float] = field(default_factory=list)
    load_us: list[float] = field(default_factory=list)
    return_us: list[float] = field(default_factory=list)
    """All blocks of the probe's context back from host, per repeat."""
    return_tokens: int = 0
    disk_one_us: float | None = None
    """One block back from disk to host."""
    disk_many_us: float | None = None
    """``return_tokens`` back from disk to host."""

    @property
    def prefill_tokens_per_s(self) -> float:
        return 1e6 * sum(p.count for p in self.prefill) / sum(p.duration_us for p in self.prefill)

    def recompute_us(self, tokens: int, depth: int) -> float:
        """Time to compute ``tokens`` tokens behind ``depth`` others, by the fit the gate uses too."""
        fit = PrefillFit()
        for piece in self.prefill:
            fit.add(piece.count, _depth_sum(piece.start, piece.count), round(piece.duration_us * 1000))
        return fit.estimate_ns(tokens, _depth_sum(depth, tokens)) / 1000

    def host_us(self, tokens: int) -> float:
        """Time to bring ``tokens`` tokens back from host; a part of a block counts as a whole one."""
        return median(self.load_us) * -(-tokens // self.block_tokens)

    def disk_us(self, tokens: int) -> float | None:
        """The same from disk: to host, and from there to the device."""
        if self.disk_one_us is None or self.disk_many_us is None:
            return None
        blocks = -(-tokens // self.block_tokens)
        many = max(2, self.return_tokens // self.block_tokens)
        slope_us = max(0.0, (self.disk_many_us - self.disk_one_us) / (many - 1))
        return self.disk_one_us + slope_us * (blocks - 1) + self.host_us(tokens)

    def as_json(self) -> dict[str, Any]:
        return {
            "prefill_tokens_per_s": self.prefill_tokens_per_s,
            "decode_tokens_per_s": {n: 1e6 * n / us for n, us in self.decode_us.items()},
            "store_block_us": median(self.store_us),
            "load_block_us": median(self.load_us),
            "return_tokens": self.return_tokens,
            "return_from_host_us": median(self.return_us),
            "return_from_disk_us": self.disk_us(self.return_tokens),
        }


def _depth_sum(start: int, count: int) -> int:
    return count * (2 * start + count) // 2


@dataclass(frozen=True, slots=True)
class Crossover:
    """From how many tokens on loading beats recomputing; None: not within ``LENGTHS[-1]``."""

    kv_tier: str
    depth: int
    tokens: int | None


def crossovers(speeds: ReturnSpeeds) -> list[Crossover]:
    """Per KV tier and depth, the shortest run of tokens that is worth loading."""
    return [
        Crossover(kv_tier, depth, _crossover(speeds, load, depth))
        for kv_tier, load in (("host", speeds.host_us), ("disk", speeds.disk_us))
        for depth in DEPTHS
    ]


def _crossover(speeds: ReturnSpeeds, load: Callable[[int], float | None], depth: int) -> int | None:
    for tokens in range(_UNIT_TOKENS, LENGTHS[-1] + 1, _UNIT_TOKENS):
        load_us = load(tokens)
        if load_us is None:
            return None
        if load_us < speeds.recompute_us(tokens, depth):
            return tokens
    return None


class Probe:
    """Measures one engine that is not in use otherwise. Leaves it empty."""

    def __init__(self, engine: Engine, text: TextModel) -> None:
        self.engine = engine
        self._text = text
        self._next_request = 1

    def measure(self, tokens: int = 1024, batch: int = 12) -> ReturnSpeeds:
        """Everything, on a context of ``tokens`` tokens (rounded down to whole blocks)."""
        info = self.engine.info
        speeds = ReturnSpeeds(info.block_tokens)
        blocks = max(1, min(tokens // info.block_tokens, info.device_blocks - 1))
        self.prefill(info.block_tokens)  # the first step of a process is slower than all others
        metas, speeds.prefill = self.keep(blocks)
        self._copies(metas, speeds)
        self._drop(metas)
        speeds.return_tokens = blocks * info.block_tokens
        room = min(batch, info.max_sequences, info.device_blocks // 2)
        for sequences in sorted({1, max(1, room)}):
            speeds.decode_us[sequences] = self.decode(sequences, steps=12, depth_tokens=info.block_tokens)
        return speeds

    def prefill(self, tokens: int) -> list[PieceTime]:
        """Compute a prompt of ``tokens`` tokens in pieces and forget it."""
        request = self._open()
        pieces = self._run_prompt(request, self.tokens(tokens, request))
        self._end(request)
        return pieces

    def decode(self, sequences: int, *, steps: int, depth_tokens: int) -> float:
        """Median microseconds of a step that gives every one of ``sequences`` a token."""
        requests = [self._open() for _ in range(sequences)]
        for request in requests:
            self._run_prompt(request, self.tokens(depth_tokens - steps - 2, request))
        times = []
        for step in range(steps + 2):
            start = depth_tokens - steps - 2 + step
            batch = [BatchItem(request, start, (token,), True) for request in requests for token in (100,)]
            times.append(self._timed(batch))
        for request in requests:
            self._end(request)
        return median(times[2:])

    def copy_us(self) -> float:
        """Microseconds to store or load one full block, whichever is slower."""
        speeds = ReturnSpeeds(self.engine.info.block_tokens)
        metas, _ = self.keep(4)
        self._copies(metas, speeds)
        self._drop(metas)
        return max(median(speeds.store_us), median(speeds.load_us))

    def keep(self, blocks: int) -> tuple[list[BlockMeta], list[PieceTime]]:
        """Compute a prompt of so many blocks and leave them, sealed, on the device. A running state is kept
        at its end alone, as at the end of a turn."""
        info = self.engine.info
        request = self._open()
        tokens = self.tokens(blocks * info.block_tokens, request)
        if info.checkpoint_bytes:
            self.engine.keep_state(request, len(tokens))
        pieces = self._run_prompt(request, tokens)
        metas = self._metas(tokens, blocks)
        for meta in metas:
            self.engine.seal(request, meta)
        self._end(request)
        return metas, pieces

    def tokens(self, count: int, salt: int) -> list[int]:
        """Text of exactly ``count`` tokens, another one for every ``salt``."""
        words = prose(random.Random(salt), max(8, count))
        found = self._text.tokenize(f"{salt} {words}", add_bos=False, parse_special=False)
        return (found * (count // max(1, len(found)) + 1))[:count]

    # --- steps --------------------------------------------------------------------------------

    def _open(self) -> int:
        request = self._next_request
        self._next_request += 1
        self.engine.open(request, (), 0, GREEDY)
        return request

    def _end(self, request: int) -> None:
        self.engine.close(request)
        self.engine.forget(request)

    def _run_prompt(self, request: int, tokens: Sequence[int]) -> list[PieceTime]:
        pieces = []
        for start in range(0, len(tokens), PIECE_TOKENS):
            piece = tokens[start : start + PIECE_TOKENS]
            last = start + len(piece) == len(tokens)
            spent_us = self._timed([BatchItem(request, start, piece, last)])
            pieces.append(PieceTime(start, len(piece), spent_us))
        return pieces

    def _timed(self, batch: Sequence[BatchItem]) -> float:
        started = time.perf_counter_ns()
        self.engine.run(batch)
        return (time.perf_counter_ns() - started) / 1000

    # --- blocks -------------------------------------------------------------------------------

    def _metas(self, tokens: Sequence[int], blocks: int) -> list[BlockMeta]:
        info = self.engine.info
        chain = TokenChain(root_hash(info.fingerprint, "probe"), _UNIT_TOKENS, tokens)
        per_block = info.block_tokens // _UNIT_TOKENS
        metas: list[BlockMeta] = []
        for depth in range(blocks):
            units = tuple(chain.units[depth * per_block : (depth + 1) * per_block])
            parent = metas[-1].id if metas else None
            size_bytes = info.block_bytes - (info.checkpoint_bytes if depth + 1 < blocks else 0)
            metas.append(BlockMeta(units[-1], parent, depth, info.block_tokens, units, "probe", size_bytes))
        return metas

    def _copies(self, metas: Sequence[BlockMeta], speeds: ReturnSpeeds) -> None:
        """Store all blocks, drop them, load them back; several times."""
        for _ in range(REPEATS):
            stored: list[Buffer] = []
            for meta in metas:
                started = time.perf_counter_ns()
                stored.append(self.engine.store(meta.id))
                speeds.store_us.append((time.perf_counter_ns() - started) / 1000)
            self._drop(metas)
            began = time.perf_counter_ns()
            for meta, data in zip(metas, stored, strict=True):
                started = time.perf_counter_ns()
                self.engine.load(meta, data)
                speeds.load_us.append((time.perf_counter_ns() - started) / 1000)
            speeds.return_us.append((time.perf_counter_ns() - began) / 1000)

    def _drop(self, metas: Sequence[BlockMeta]) -> None:
        for meta in reversed(metas):
            self.engine.drop(meta.id)

"""The engine's memory half against an imitation of llama.cpp's cache, by random operations.

After every operation: each sequence and each block holds its own tokens, every one, in cells that
ascend with the position and lie at the same place in their frame, and nothing was overwritten.
"""

from __future__ import annotations

from typing import ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.engines.fake_kv import FakeKv

from stepwell.engines.base import EngineError, NoRoom
from stepwell.engines.llamacpp.cells import FRAME_TOKENS, SCRATCH, Cells, Filler
from stepwell.engines.llamacpp.device import Device
from stepwell.engines.llamacpp.homes import Homes, TwinHomes
from stepwell.policy.types import BlockMeta

N_FRAMES, N_RUNNING, WINDOW = 10, 4, 200
FILLER_DEPTH = 300


def make(window: int = 0, n_homes: int = 40, n_frames: int = N_FRAMES) -> tuple[FakeKv, Device]:
    kv = FakeKv((n_frames + 1) * FRAME_TOKENS, window)
    first_home = 1 + N_RUNNING
    ids = range(first_home, first_home + n_homes)
    seen = TwinHomes(kv, {home: home + n_homes for home in ids}) if window else kv
    homes = Homes(ids)
    fillers = [_filler(kv, FILLER_DEPTH + i) for i in range(-(-n_frames // n_homes))]
    cells = Cells(seen, n_frames, homes, fillers)
    return kv, Device(seen, cells, homes, range(1, first_home), range(FRAME_TOKENS + 1))


def _filler(kv: FakeKv, depth: int) -> Filler:
    assert kv.put([(depth * FRAME_TOKENS + i, SCRATCH, "filler") for i in range(FRAME_TOKENS)])
    filler = Filler(depth, kv.save(SCRATCH, FRAME_TOKENS))
    kv.remove(SCRATCH)
    return filler


def meta_of(path: tuple[str, ...]) -> BlockMeta:
    """The block that ends a path; a word per token, all words of the prefix in its name."""
    depth, n = divmod(len(path) - 1, FRAME_TOKENS)
    parent = name_of(path[: depth * FRAME_TOKENS]) if depth else None
    return BlockMeta(name_of(path), parent, depth, n + 1, (), "local", 0)


def name_of(path: tuple[str, ...]) -> bytes:
    return repr((len(path), hash(path))).encode()


class Memory(RuleBasedStateMachine):
    """Sequences grow, are sealed and closed; blocks are stored, dropped, loaded and opened again."""

    window: ClassVar[int] = 0
    n_homes: ClassVar[int] = 40

    def __init__(self) -> None:
        super().__init__()
        self.kv, self.device = make(self.window, self.n_homes)
        self.runs: dict[int, tuple[str, ...]] = {}
        self.blocks: dict[bytes, tuple[str, ...]] = {}
        self.stored: dict[bytes, tuple[tuple[str, ...], bytearray]] = {}
        self.requests = 0
        self.words = 0

    def pick(self, things: dict, number: int):  # type: ignore[no-untyped-def,type-arg]
        return sorted(things)[number % len(things)]

    @rule(number=st.integers(0, 99), part=st.integers(1, FRAME_TOKENS))
    def open(self, number: int, part: int) -> None:
        path: tuple[str, ...] = ()
        blocks: list[bytes] = []
        if self.blocks and number % 4:
            chosen = self.blocks[self.pick(self.blocks, number)]
            whole = (len(chosen) - 1) // FRAME_TOKENS * FRAME_TOKENS
            path = chosen[: min(len(chosen), whole + part)]
            starts = range(FRAME_TOKENS, whole + 1, FRAME_TOKENS)
            blocks = [name_of(chosen[:end]) for end in starts] + [name_of(chosen)]
        request = self.requests = self.requests + 1
        try:
            self.device.open(request, blocks, len(path))
        except NoRoom:
            assert len(self.runs) == N_RUNNING or not self.device.n_free or self.n_homes < 40
        else:
            self.runs[request] = path

    @precondition(lambda self: self.runs)
    @rule(
        numbers=st.lists(st.integers(0, 99), min_size=1, max_size=3),
        count=st.sampled_from([1, 7, 60, 64, 65, 130, 200]),
        ok=st.sampled_from([True] * 9 + [False]),
    )
    def grow(self, numbers: list[int], count: int, ok: bool) -> None:
        requests = sorted({self.pick(self.runs, number) for number in numbers})
        ready = []
        for request in requests:
            if self.device.ends_sealed(request):
                continue
            try:
                self.device.reserve(request, count)
            except NoRoom:
                continue
            ready.append((request, count))
        if ready:
            self.decode(ready, ok)

    @precondition(lambda self: self.runs)
    @rule(number=st.integers(0, 99), count=st.integers(2, 40), right=st.integers(1, 40))
    def draft(self, number: int, count: int, right: int) -> None:
        """Some tokens of which the last ones turn out wrong, within a frame that they do not fill."""
        request = self.pick(self.runs, number)
        count = min(count, FRAME_TOKENS - 1 - len(self.runs[request]) % FRAME_TOKENS)
        if count < 2 or self.device.ends_sealed(request):
            return
        try:
            self.device.reserve(request, count)
        except NoRoom:
            return
        self.decode([(request, count)], ok=True)
        kept = len(self.runs[request]) - count + min(count, right)
        self.device.take_back(request, kept)
        self.runs[request] = self.runs[request][:kept]

    def decode_for(self, requests: list[int], count: int) -> None:
        for request in requests:
            self.device.reserve(request, count)
        self.decode([(request, count) for request in requests], ok=True)

    def decode(self, items: list[tuple[int, int]], ok: bool) -> None:
        tokens, longer = [], {}
        for request, count in items:
            fresh = tuple(f"w{self.words + i}" for i in range(count))
            self.words += count
            longer[request] = self.runs[request] + fresh
        for stretch in self.device.prepare(items):
            request, _ = items[stretch.item]
            at, seq = len(self.runs[request]) + stretch.offset, self.device.runs[request].seq
            tokens += [(p, seq, longer[request][p]) for p in range(at, at + stretch.count)]
        if ok:
            assert self.kv.put(tokens)
            self.device.commit(items)
            self.runs |= longer
        else:  # llama.cpp failed and took back what it had placed
            self.device.close([request for request, _ in items])
            for request, _ in items:
                del self.runs[request]

    @precondition(lambda self: self.runs)
    @rule(number=st.integers(0, 99), tail=st.booleans())
    def seal(self, number: int, tail: bool) -> None:
        request = self.pick(self.runs, number)
        path = self.runs[request]
        ends = [*range(FRAME_TOKENS, len(path) + 1, FRAME_TOKENS)]
        if tail and len(path) % FRAME_TOKENS:
            ends.append(len(path))
        for end in ends:
            node = self.device.runs[request].nodes[(end - 1) // FRAME_TOKENS]
            if node.block is not None:
                continue
            meta = meta_of(path[:end])
            if meta.id in self.blocks:  # computed twice: the policy seals no more of this request
                break
            self.device.seal(request, meta)
            self.blocks[meta.id] = path[:end]

    @precondition(lambda self: self.runs)
    @rule(number=st.integers(0, 99))
    def close(self, number: int) -> None:
        request = self.pick(self.runs, number)
        self.device.close([request])
        del self.runs[request]

    @precondition(lambda self: self.blocks)
    @rule(number=st.integers(0, 99))
    def put_away(self, number: int) -> None:
        name = self.pick(self.blocks, number)
        node = self.device.blocks[name]
        if node.users or node.children:
            with pytest.raises(EngineError):
                self.device.drop(name)
            return
        self.stored[name] = (self.blocks.pop(name), self.device.store(name))
        self.device.drop(name)

    @precondition(lambda self: self.stored)
    @rule(number=st.integers(0, 99))
    def load(self, number: int) -> None:
        name = self.pick(self.stored, number)
        path, data = self.stored[name]
        meta = meta_of(path)
        if name in self.blocks or (meta.parent is not None and meta.parent not in self.blocks):
            return
        data_of_size = SizedData(data, meta.n_tokens)
        try:
            self.device.load(meta, data_of_size)
        except NoRoom:
            assert not self.device.n_free or self.n_homes < 40
        else:
            self.blocks[name] = path

    @invariant()
    def the_device_is_in_order(self) -> None:
        self.device.check()

    @invariant()
    def each_has_its_own_tokens(self) -> None:
        for request, path in self.runs.items():
            self.look_at(self.device.runs[request].seq, path, 0)
        for name, path in self.blocks.items():
            node = self.device.blocks[name]
            self.look_at(node.home, path, node.first)

    def look_at(self, seq: int, path: tuple[str, ...], first: int) -> None:
        held = [
            (i, cell)
            for i, cell in enumerate(self.kv.cells)
            if seq in cell.holders and first <= cell.position < len(path)
        ]
        assert [cell.position for _, cell in held] == list(range(first, len(path)))
        for i, cell in held:
            assert cell.content == path[cell.position], "somebody else's token"
            assert i % FRAME_TOKENS == cell.position % FRAME_TOKENS


class SizedData(bytearray):
    """The imitation's bytes; their length says how many tokens they are, as with llama.cpp's."""

    def __init__(self, data: bytearray, n_tokens: int) -> None:
        super().__init__(data)
        self._n_tokens = n_tokens

    def __len__(self) -> int:
        return self._n_tokens


class MemoryWithWindow(Memory):
    window = WINDOW


class MemoryWithFewHomes(Memory):
    n_homes = 7


def test_a_window_does_not_eat_what_a_running_sequence_has_not_sealed() -> None:
    """llama.cpp overwrites cells that one id holds once they are a window behind its newest."""
    memory = MemoryWithWindow()
    memory.open(0, 1)
    memory.open(0, 1)
    for _ in range(6):
        memory.decode_for([1], 60)
        memory.decode_for([2], 30)
        memory.each_has_its_own_tokens()
    assert [len(path) for path in memory.runs.values()] == [360, 180] and memory.window < 360
    memory.the_device_is_in_order()


_SETTINGS = settings(max_examples=60, stateful_step_count=50, deadline=None)
TestMemory = Memory.TestCase
TestMemory.settings = _SETTINGS
TestMemoryWithWindow = MemoryWithWindow.TestCase
TestMemoryWithWindow.settings = _SETTINGS
TestMemoryWithFewHomes = MemoryWithFewHomes.TestCase
TestMemoryWithFewHomes.settings = _SETTINGS

"""What the modelled machine costs: a few integers, so that a run is the same every time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from stepwell.policy.types import Piece
from stepwell.simulate.sums import floor_sum

Depths = tuple[int, int]
"""Over a batch's tokens, how many stand before each: over pieces of prompts, and over those that decode."""


class StepCosts(Protocol):
    """What a modelled machine takes for what it does. All answers are whole microseconds."""

    @property
    def copy_us_per_block(self) -> int:
        """Device to host or back, one block; the step waits for it."""

    @property
    def token_bytes(self) -> int:
        """KV of one token."""

    @property
    def instant_disk(self) -> bool:
        """Transfers end at the next step."""

    @property
    def tile_tokens(self) -> int:
        """In batches of at least so many tokens attention is computed in tiles: the depth of those that
        decode is then ``depth_apart``. 0: in none."""

    def step_us(self, prefill: int, decoding: int, prompt_depth: int, depth: int) -> int:
        """One batch: tokens of prompts, sequences that decode, and the two ``Depths``."""

    def strides_us(self, count: int, decoding: int, depth: int) -> int:
        """``count`` steps that only decode, each of which finds ``decoding`` tokens more before it: exactly
        the sum of their ``step_us``, without a loop over them."""

    def prefill_us(self, start: int, stop: int) -> int:
        """Computing tokens ``[start, stop)`` of one prompt."""

    def read_us(self, size_bytes: int) -> int:
        """From disk."""

    def write_us(self, size_bytes: int) -> int:
        """To disk."""


@dataclass(frozen=True, slots=True)
class MachineModel:
    """Times of one machine. The defaults are about those of SmolLM2 135M on two cores (docs/benchmarks.md).

    The cost of a batch is the null engine's: linear in prompt tokens, plus what attention adds for every
    token that stands before each of them, plus a step and a share per sequence that decodes.
    """

    prefill_us_per_token: int = 1_000
    depth_ns_per_token: int = 250
    """What every earlier token adds to the cost of one."""
    decode_us_per_step: int = 4_000
    decode_us_per_sequence: int = 2_500
    copy_us_per_block: int = 150
    """Device to host or back, one block. The step waits for it, as in the driver."""
    read_bytes_per_s: int = 1_200_000_000
    write_bytes_per_s: int = 800_000_000
    transfer_us: int = 100
    """What a transfer to or from disk takes besides its bytes."""
    token_bytes: int = 23_040
    instant_disk: bool = False
    """Transfers end at the next step, as those of ``MemoryTiers`` do (to compare the two)."""

    @property
    def tile_tokens(self) -> int:
        return 0

    def step_us(self, prefill: int, decoding: int, prompt_depth: int, depth: int) -> int:
        depth_tokens = prompt_depth + depth
        cost_us = prefill * self.prefill_us_per_token + depth_tokens * self.depth_ns_per_token // 1000
        if decoding:
            cost_us += self.decode_us_per_step + decoding * self.decode_us_per_sequence
        return cost_us

    def strides_us(self, count: int, decoding: int, depth: int) -> int:
        fixed_us = self.decode_us_per_step + decoding * self.decode_us_per_sequence
        ns = self.depth_ns_per_token
        return count * fixed_us + floor_sum(count, 1000, ns * decoding, ns * depth)

    def prefill_us(self, start: int, stop: int) -> int:
        """Computing tokens ``[start, stop)`` of one prompt."""
        tokens = stop - start
        depth = tokens * (start + stop) // 2
        return tokens * self.prefill_us_per_token + depth * self.depth_ns_per_token // 1000

    def read_us(self, size_bytes: int) -> int:
        return self._fixed_us() + size_bytes * 1_000_000 // self.read_bytes_per_s

    def write_us(self, size_bytes: int) -> int:
        return self._fixed_us() + size_bytes * 1_000_000 // self.write_bytes_per_s

    def _fixed_us(self) -> int:
        return 0 if self.instant_disk else self.transfer_us


def depths_of(pieces: Sequence[Piece]) -> Depths:
    """The depths of a batch; together they are what ``Computed`` has."""
    prompts = sum(p.count * (2 * p.start + p.count) // 2 for p in pieces if p.count > 1)
    return prompts, sum(p.start for p in pieces if p.count == 1)


def depth_apart(
    prompts: Iterable[Sequence[bytes]], decoding: Iterable[tuple[Sequence[bytes], int]], unit_tokens: int
) -> int:
    """Tokens before those that decode, each once, without what prompts of the same batch have before them.
    ``prompts``: names of the units up to where each piece ends; ``decoding``: a turn's units, and how many
    of its tokens are computed."""
    read: set[bytes] = set()
    for units in prompts:
        read.update(units)
    apart: set[bytes] = set()
    rest = 0
    for units, computed in decoding:
        apart.update(units[: computed // unit_tokens])
        rest += computed % unit_tokens
    return len(apart - read) * unit_tokens + rest

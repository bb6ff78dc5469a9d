"""llama.cpp on a CPU as a cost model: its attention has three ways to compute, and each has its own line.

A step of one token runs on one thread (``engines/llamacpp/native.py``). A step of some tokens computes
attention row by row: every token pays for every token before it. From ``TILE_TOKENS`` tokens on it goes in
tiles of so many tokens: cheaper for prompts, dearer for a sequence that decodes among them, because its
tile reads the whole context for the sake of one row. What two sequences share is then read once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stepwell.errors import StepwellError
from stepwell.simulate.fit import fit
from stepwell.simulate.sums import floor_sum

TILE_TOKENS = 64
"""GGML_FA_TILE_Q of llama.cpp (ggml-cpu/common.h)."""
FEWEST_STEPS = 10
_PS_PER_US = 1_000_000
_ROUNDS = 6
_NEAR = 0.05
"""Errors below this are noise: they pull no less than smaller ones."""
Row = tuple[float, float, float, float, float, float, float, float]


@dataclass(frozen=True, slots=True)
class LlamaCppCosts:
    """Times of one machine, in whole picoseconds. It is a ``StepCosts``."""

    lone_ps: int
    """A step of a single token."""
    lone_depth_ps: int
    """What every token before it adds."""
    step_ps: int
    """What every other step takes."""
    prompt_token_ps: int
    sequence_ps: int
    depth_ps: int
    """Row by row: what every earlier token adds to each token."""
    tile_depth_ps: int
    """In tiles: what every earlier token adds to a prompt's token."""
    tile_sequence_ps: int
    """In tiles: what every token before a sequence that decodes adds."""
    token_bytes: int
    copy_us_per_block: int = 0
    read_bytes_per_s: int = 500_000_000
    write_bytes_per_s: int = 500_000_000
    transfer_us: int = 100
    instant_disk: bool = False

    @property
    def tile_tokens(self) -> int:
        return TILE_TOKENS

    def step_us(self, prefill: int, decoding: int, prompt_depth: int, depth: int) -> int:
        return self._ps(prefill, decoding, prompt_depth, depth) // _PS_PER_US or 1

    def _ps(self, prefill: int, decoding: int, prompt_depth: int, depth: int) -> int:
        tokens = prefill + decoding
        if tokens == 1:
            return self.lone_ps + (prompt_depth + depth) * self.lone_depth_ps
        ps = self.step_ps + prefill * self.prompt_token_ps + decoding * self.sequence_ps
        if tokens < TILE_TOKENS:
            return ps + (prompt_depth + depth) * self.depth_ps
        return ps + prompt_depth * self.tile_depth_ps + depth * self.tile_sequence_ps

    def strides_us(self, count: int, decoding: int, depth: int) -> int:
        first, second = self._ps(0, decoding, 0, depth), self._ps(0, decoding, 0, depth + decoding)
        if first < _PS_PER_US:  # a step takes a microsecond at least
            return sum(self.step_us(0, decoding, 0, depth + decoding * i) for i in range(count))
        return floor_sum(count, _PS_PER_US, second - first, first)

    def prefill_us(self, start: int, stop: int) -> int:
        """In pieces that are long enough for tiles, without the steps themselves."""
        tokens = stop - start
        depth = tokens * (start + stop) // 2
        return (tokens * self.prompt_token_ps + depth * self.tile_depth_ps) // _PS_PER_US

    def read_us(self, size_bytes: int) -> int:
        return self.transfer_us + size_bytes * 1_000_000 // self.read_bytes_per_s

    def write_us(self, size_bytes: int) -> int:
        return self.transfer_us + size_bytes * 1_000_000 // self.write_bytes_per_s


def row_of(prefill: int, decoding: int, prompt_depth: int, depth: int) -> Row:
    """What each line of the model is multiplied by in a step, in the order of its fields."""
    if prefill + decoding == 1:
        return 1, prompt_depth + depth, 0, 0, 0, 0, 0, 0
    if prefill + decoding < TILE_TOKENS:
        return 0, 0, 1, prefill, decoding, prompt_depth + depth, 0, 0
    return 0, 0, 1, prefill, decoding, 0, prompt_depth, depth


def fit_costs(rows: Sequence[Row], took_us: Sequence[int], token_bytes: int) -> LlamaCppCosts:
    """The lines by least squares of relative errors; copies and transfers are left as they are by default.
    What no step shows is taken from the nearest thing that was seen. ``StepwellError``: too few steps."""
    if len(rows) < FEWEST_STEPS:
        raise StepwellError(f"{len(rows)} steps are too few to fit a machine to: {FEWEST_STEPS} are needed")
    scaled = [[value / us for value in row] for row, us in zip(rows, took_us, strict=True)]
    # Outliers (a pause of the whole process) would bend the lines: what is far off counts less and less.
    found = fit(scaled, [1.0] * len(scaled))
    for _ in range(_ROUNDS):
        off = [abs(sum(a * b for a, b in zip(row, found, strict=True)) - 1) for row in scaled]
        pull = [1 / max(_NEAR, error) ** 0.5 for error in off]
        weighted = [[value * p for value in row] for row, p in zip(scaled, pull, strict=True)]
        found = fit(weighted, pull)
    # Pauses do take time, and queues grow with the mean: the lines are raised until the sum is right.
    guessed = sum(sum(a * b for a, b in zip(row, found, strict=True)) for row in rows)
    raised = sum(took_us) / guessed if guessed else 1.0
    seen = [any(row[at] for row in rows) for at in range(len(found))]
    lines = [round(value * raised * _PS_PER_US) for value in _completed(found, seen)]
    lone, lone_depth, step, prompt, sequence, depth, tile_depth, tile_sequence = lines
    return LlamaCppCosts(
        lone, lone_depth, step, prompt, sequence, depth, tile_depth, tile_sequence, token_bytes
    )


def _completed(found: list[float], seen: list[bool]) -> list[float]:
    """Lines of which there was no step: one token alone is a small step, small steps are lone ones of many,
    tiles are no dearer than rows."""
    lone, lone_depth, step, prompt, sequence, depth, tile_depth, tile_sequence = found
    if not seen[0]:
        lone, lone_depth = step + sequence, depth or tile_depth
    if not seen[4]:
        sequence = lone if not seen[2] else prompt
    if not seen[3]:
        prompt = sequence
    if not seen[5]:
        depth = lone_depth if seen[1] else tile_depth
    if not seen[6]:
        tile_depth = depth
    if not seen[7]:
        tile_sequence = TILE_TOKENS * tile_depth
    return [lone, lone_depth, step, prompt, sequence, depth, tile_depth, tile_sequence]

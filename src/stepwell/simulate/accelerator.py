"""A replica of accelerators as a cost model: straight lines of a roofline, in whole picoseconds.

Decoding reads weights and KV; prompts compute. So a token that stands before another costs one thing to what
decodes (its KV is read) and another to a prompt (attention is computed), other than on two CPU cores, where
``MachineModel`` has one figure for both.
"""

from __future__ import annotations

from dataclasses import dataclass

from stepwell.simulate.sums import floor_sum

PS_PER_US = 1_000_000


@dataclass(frozen=True, slots=True)
class Accelerator:
    """Times of one replica. It is a ``StepCosts``."""

    step_ps: int
    """What every batch takes: the weights that any token needs, launches, the loop."""
    prompt_token_ps: int
    prompt_depth_ps: int
    """What every earlier token adds to a prompt's token."""
    sequence_ps: int
    """What every sequence that decodes adds."""
    depth_ps: int
    """What every token of its context adds to that."""
    token_bytes: int
    copy_us_per_block: int = 0
    """Device to host or back."""
    read_bytes_per_s: int = 1
    write_bytes_per_s: int = 1
    transfer_us: int = 100
    """What a transfer to or from disk takes besides its bytes."""
    experts_ps: int = 0
    """Of a mixture: what reading all weights adds to reading those of one token."""
    expert_tokens: int = 1
    """Of a mixture: after so many tokens 63 % of the experts are in use."""
    instant_disk: bool = False

    @property
    def tile_tokens(self) -> int:
        return 0

    def step_us(self, prefill: int, decoding: int, prompt_depth: int, depth: int) -> int:
        ps = (
            self.step_ps
            + prefill * self.prompt_token_ps
            + prompt_depth * self.prompt_depth_ps
            + decoding * self.sequence_ps
            + depth * self.depth_ps
        )
        if self.experts_ps:
            ps += self._experts(prefill + decoding)
        return ps // PS_PER_US or 1

    def strides_us(self, count: int, decoding: int, depth: int) -> int:
        ps = self.step_ps + decoding * self.sequence_ps + depth * self.depth_ps
        if self.experts_ps:
            ps += self._experts(decoding)
        if ps < PS_PER_US:  # a step takes a microsecond at least
            return sum(self.step_us(0, decoding, 0, depth + decoding * i) for i in range(count))
        return floor_sum(count, PS_PER_US, self.depth_ps * decoding, ps)

    def _experts(self, tokens: int) -> int:
        """The share of experts that so many tokens touch, ``1 - (1 - 1/n)^tokens``, in whole numbers."""
        share, left, base = max(0, tokens - 1), 1 << 16, (1 << 16) - (1 << 16) // max(2, self.expert_tokens)
        while share:
            if share & 1:
                left = left * base >> 16
            base, share = base * base >> 16, share >> 1
        return self.experts_ps * ((1 << 16) - left) >> 16

    def prefill_us(self, start: int, stop: int) -> int:
        tokens = stop - start
        depth = tokens * (start + stop) // 2
        return (tokens * self.prompt_token_ps + depth * self.prompt_depth_ps) // PS_PER_US

    def read_us(self, size_bytes: int) -> int:
        return self.transfer_us + size_bytes * 1_000_000 // self.read_bytes_per_s

    def write_us(self, size_bytes: int) -> int:
        return self.transfer_us + size_bytes * 1_000_000 // self.write_bytes_per_s

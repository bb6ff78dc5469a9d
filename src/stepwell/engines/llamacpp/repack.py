"""Which weights llama.cpp's CPU code repacks, and what that does to a token's result.

Weights of some types are laid out anew at load so that several rows are multiplied at once
(ggml/src/ggml-cpu/repack.cpp). Whether a probe of a few tokens sees the other roundings is a matter of luck
(a Q4_K model: 2 or 3 texts of 40), so the types decide.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping

Weights = Mapping[str, tuple[int, int]]
"""Name of a tensor -> (number of dimensions, ``enum ggml_type``)."""

_Q4_0, _Q8_0, _Q2_K, _Q3_K, _Q4_K, _Q5_K, _Q6_K, _IQ4_NL, _MXFP4 = 2, 8, 10, 11, 12, 13, 14, 20, 39
_EVERYWHERE = frozenset({_Q4_0, _Q2_K, _Q3_K, _Q4_K, _Q5_K, _Q6_K, _IQ4_NL, _MXFP4})
_NOT_X86 = frozenset({_Q8_0})
_LATENT = ("attn_k_b.weight", "attn_v_b.weight")


def packed_types(machine: str = "") -> frozenset[int]:
    """Types that may be repacked on this kind of processor."""
    x86 = (machine or platform.machine()).lower() in {"x86_64", "amd64", "i686"}
    return _EVERYWHERE if x86 else _EVERYWHERE | _NOT_X86


def rows_differ(weights: Weights) -> bool:
    """Whether the last rows of a batch may be multiplied otherwise than the rest."""
    return any(kind in packed_types() for _, kind in weights.values())


def must_not_repack(weights: Weights) -> bool:
    """Latent attention with one head: its matrices are two-dimensional, so llama.cpp repacks them too, and
    multiplies them with rows that do not lie one behind the other. Results then depend on the batch."""
    return any(
        name.endswith(_LATENT) and dimensions == 2 and kind in packed_types()
        for name, (dimensions, kind) in weights.items()
    )

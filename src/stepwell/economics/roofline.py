"""Time of serving on a modelled part: what memory, arithmetic and links need, each times a fitted constant.

With continuous batching and chunked prefill, the time per output token holds the decode step itself and a
share of the prefill of requests that come meanwhile: each of ``batch`` sequences brings one prompt per
``output_tokens``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import exp

from stepwell.catalogue.kv import kv_bytes, stored_kv_bytes_per_chip
from stepwell.catalogue.load import Entry
from stepwell.errors import BadInput

TERMS = (
    "weights", "kv", "arithmetic", "layer_us", "step_ms", "link", "link_call_us",
    "prefill", "prefill_link", "sequence_10us", "first_ms", "prompt_layer_100us",
)  # fmt: skip
"""Constants without a unit scale a bound of the roofline; the others are times."""
PREFILL_TERMS = frozenset({"prefill", "prefill_link", "first_ms", "prompt_layer_100us"})

RESERVED_GB_PER_CHIP = 3.5
"""Activations and communication buffers (AIConfigurator's figure)."""
HBM_USED = 0.9


@dataclass(frozen=True, slots=True)
class Serving:
    """A batch of like requests on one replica of ``chips`` parts in tensor parallel."""

    model: Entry
    part: Entry
    chips: int
    weight_bytes: float
    """Bytes of one weight: 2, 1 (fp8), 0.56 (fp4 with its scales)."""
    kv_value_bytes: float
    batch: int
    input_tokens: float
    output_tokens: float
    cached_tokens: float = 0.0

    def with_batch(self, batch: int) -> Serving:
        return replace(self, batch=batch)


def flops_per_s(part: Entry, weight_bytes: float) -> float:
    """Dense arithmetic at the weights' precision; where a part has no faster unit, that of bf16."""
    bf16 = part.number("tflops_bf16")
    if weight_bytes < 1:
        return part.number("tflops_fp4", part.number("tflops_fp8", bf16)) * 1e12
    return (part.number("tflops_fp8", bf16) if weight_bytes == 1 else bf16) * 1e12


def _weights_read(s: Serving, batch: int) -> float:
    """Parameters that a step touches: all of a dense model; of a mixture those that are routed to."""
    total, active = s.model.number("params_b") * 1e9, s.model.number("active_params_b") * 1e9
    return total - (total - active) * exp(-(batch - 1) * active / total)


def terms(s: Serving) -> tuple[float, ...]:
    """The bounds in milliseconds per output token, in the order of ``TERMS``."""
    layers = sum(s.model.number(name) for name in ("layers", "window_layers", "linear_layers"))
    hbm, flops = s.part.number("hbm_tb_s") * 1e12, flops_per_s(s.part, s.weight_bytes)
    link = max(s.part.number("link_gb_s"), 1.0) * 1e9
    active, hidden = s.model.number("active_params_b") * 1e9, s.model.number("hidden_width")
    depth = s.input_tokens + s.output_tokens / 2
    fresh = s.input_tokens - s.cached_tokens
    rate = s.batch / s.output_tokens
    heads = s.model.number("heads") * (s.model.number("head_width") or 128)
    attention = 4 * s.model.number("layers") * heads * fresh * (s.cached_tokens + fresh / 2)
    spread = 4 * (s.chips - 1) / s.chips * layers * hidden * 2 / link * 1e3
    kv = stored_kv_bytes_per_chip(s.model, depth, s.kv_value_bytes, s.chips)
    return (
        _weights_read(s, s.batch) * s.weight_bytes / s.chips / hbm * 1e3,
        s.batch * kv / hbm * 1e3,
        2 * active * s.batch / s.chips / flops * 1e3,
        layers * 1e-3,
        1.0,
        spread * s.batch,
        layers * 1e-3 if s.chips > 1 else 0.0,
        rate * (2 * active * fresh + attention) / s.chips / flops * 1e3,
        rate * fresh * spread,
        s.batch * 1e-2,
        rate,
        rate * layers * 1e-1,
    )


def tpot_ms(s: Serving, constants: Sequence[float]) -> float:
    """Milliseconds per output token with all that goes on meanwhile."""
    return sum(term * constant for term, constant in zip(terms(s), constants, strict=True))


def prefill_share(s: Serving, constants: Sequence[float]) -> float:
    """Share of that time that prompts take."""
    parts = zip(TERMS, terms(s), constants, strict=True)
    prompt = sum(term * constant for name, term, constant in parts if name in PREFILL_TERMS)
    return prompt / tpot_ms(s, constants)


def binding(s: Serving, constants: Sequence[float]) -> str:
    """The largest term, in words."""
    words = {"weights": "HBM bandwidth (weights)", "kv": "HBM bandwidth (KV)", "arithmetic": "arithmetic"} | {
        "prefill": "arithmetic (prompts)",
        "link": "links",
        "prefill_link": "links (prompts)",
    }
    sized = zip(TERMS, terms(s), constants, strict=True)
    name = max(sized, key=lambda item: item[1] * item[2])[0]
    return words.get(name, "overheads of the engine")


def kv_room_bytes(s: Serving) -> float:
    """Bytes of HBM that weights and buffers leave to KV, over all chips of a replica."""
    per_chip = s.part.number("hbm_gb") * HBM_USED - RESERVED_GB_PER_CHIP
    return s.chips * per_chip * 1e9 - s.model.number("params_b") * 1e9 * s.weight_bytes


def sequences_that_fit(s: Serving) -> int:
    """Contexts that lie in HBM at once. A latent is there once per chip."""
    one = kv_bytes(s.model, s.input_tokens + s.output_tokens, s.kv_value_bytes)
    copies = s.chips if s.model.number("mla_width") else 1
    return max(0, int(kv_room_bytes(s) // (one * copies)))


def largest_batch(s: Serving, constants: Sequence[float], target_ms: float) -> Serving:
    """The most sequences at once that meet the target and fit, or a sentence about what binds."""
    most = sequences_that_fit(s)
    where = f"{s.model.name} on {s.chips} x {s.part.name}"
    if most < 1:
        one = kv_bytes(s.model, s.input_tokens + s.output_tokens, s.kv_value_bytes)
        raise BadInput(
            f"{where}: HBM binds: {kv_room_bytes(s) / 1e9:,.0f} GB are left beside the weights, a context"
            f" of {s.input_tokens + s.output_tokens:,.0f} tokens needs {one / 1e9:,.1f} GB; use more chips"
        )
    time_ms = _tpot_by_batch(s, constants)
    if time_ms(1) > target_ms:
        raise BadInput(
            f"{where}: {target_ms:g} ms a token cannot be met: one sequence alone takes"
            f" {time_ms(1):.1f} ms, and {binding(s.with_batch(1), constants)} binds; use more chips"
        )
    low, high = 1, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if time_ms(middle) <= target_ms else (low, middle - 1)
    return s.with_batch(low)


def _tpot_by_batch(s: Serving, constants: Sequence[float]) -> Callable[[int], float]:
    """``tpot_ms`` for many batches: all terms but the weights are linear in the batch."""
    alone = s.with_batch(1)
    once = [term * constant for term, constant in zip(terms(alone), constants, strict=True)]
    twice = [term * constant for term, constant in zip(terms(s.with_batch(2)), constants, strict=True)]
    fixed, each = sum(once[1:]), sum(twice[1:]) - sum(once[1:])
    weights = once[0] / _weights_read(s, 1)

    def time_ms(batch: int) -> float:
        return weights * _weights_read(s, batch) + fixed + each * (batch - 1)

    return time_ms


def requests_per_s(s: Serving, constants: Sequence[float]) -> float:
    """Of one replica that is always full."""
    return s.batch / (s.output_tokens * tpot_ms(s, constants) / 1e3)

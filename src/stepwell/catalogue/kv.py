"""Bytes of KV that a model keeps for a context: grouped heads, latents, windows, linear attention."""

from __future__ import annotations

from stepwell.catalogue.load import Entry


def kv_bytes_per_token(model: Entry, value_bytes: float) -> float:
    """What each further token of a long context adds. ``value_bytes``: 2 for bf16, 1 for fp8.

    Grouped heads keep keys and values; a latent (MLA) is stored once for both.
    """
    layers = model.number("layers")
    latent = model.number("mla_width")
    if latent:
        return layers * latent * value_bytes
    return 2 * layers * model.number("kv_heads") * model.number("head_width") * value_bytes


def kv_bytes(model: Entry, context_tokens: float, value_bytes: float) -> float:
    """A whole context. Windowed layers keep their last tokens only."""
    windows = 2 * model.number("window_layers") * model.number("kv_heads") * model.number("head_width")
    kept = min(context_tokens, model.number("window_tokens"))
    return kv_bytes_per_token(model, value_bytes) * context_tokens + windows * kept * value_bytes


def stored_kv_bytes_per_chip(model: Entry, context_tokens: float, value_bytes: float, chips: int) -> float:
    """One chip's share under tensor parallelism: heads are split as far as there are any, a latent is not."""
    whole = kv_bytes(model, context_tokens, value_bytes)
    if model.number("mla_width"):
        return whole
    return whole / min(chips, max(1.0, model.number("kv_heads")))

"""What is promised for a model with these settings: exact, same tokens, or not served, and why."""

from __future__ import annotations

from dataclasses import dataclass

from stepwell.basics.units import format_size
from stepwell.engines.base import EngineInfo
from stepwell.settings.engine import EngineSettings

NOT_SERVED = "not served"


@dataclass(frozen=True, slots=True)
class Promise:
    word: str
    """``exact``, ``same tokens`` or ``not served``."""
    why: str

    def line(self) -> str:
        return f"Promise: {self.word}: {self.why}"


def promise_of(engine: EngineSettings, info: EngineInfo) -> Promise:
    """Of a model that was loaded."""
    if engine.kind != "llamacpp":
        return Promise("exact", "the null engine computes nothing that could differ")
    if engine.n_gpu_layers:
        return Promise(
            "same tokens",
            "greedy answers do not change when KV moves, if the same requests share the batches; the last "
            "bits of a logit may, because layers on a GPU add up in an order of their own (untested here)",
        )
    if not engine.exact_lone_decode:
        return Promise(
            "same tokens", "exact_lone_decode is off, so a lone answer may depend on where its KV lies"
        )
    why = "KV that moved to host or disk and back changes no bit of a logit"
    if info.checkpoint_bytes:
        why += (
            f"; its running state of {format_size(info.checkpoint_bytes)} is kept where turns end, where "
            "agents part and now and then between, and a prompt goes on from the last of them that is stored"
        )
    return Promise("exact", why)

"""The settings of models: ``[engine]``, and ``[[models]]`` for further ones beside the first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, StringConstraints

from stepwell.errors import BadInput
from stepwell.settings.values import Count, OptionalSizeBytes

KvType = Literal["f16", "bf16", "f32", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"]
"""What llama.cpp can keep K and V in."""

AdapterName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """The model and the device."""

    model: str = "smollm2"
    """``smollm2``, ``gemma3`` or the path of a GGUF file."""
    name: str = ""
    """Under which clients ask for the model; empty: the file's name."""
    kind: Literal["llamacpp", "vllm", "null"] = "llamacpp"
    """``vllm`` is vLLM's own server behind this one; ``model`` is a folder then. ``null`` computes nothing
    and takes the time a cost model says: for load tests of the rest."""
    vllm_args: str = ""
    """Further flags of vLLM's own server, as in a shell: ``--max-num-seqs 16 --enforce-eager``."""
    device_kv_tokens: Annotated[int, Field(ge=256, le=2**31 - 1)] = 8192
    """Room for KV on the device, in tokens, all agents together."""
    context_tokens: Count | None = None
    """The longest prompt plus answer; None: what the model was trained for."""
    max_sequences: Annotated[int, Field(ge=1, le=255)] = 64
    """How many agents may run at once (llama.cpp has 256 sequences, one is ours)."""
    threads: Count | None = None
    """None: as many as this process may use."""
    adapters: dict[AdapterName, Path] = field(default_factory=dict)
    """LoRA adapters (GGUF files) by name. A request names one in its model: ``MODEL:ADAPTER``."""
    n_gpu_layers: Annotated[int, Field(ge=-1)] = 0
    """Layers on the GPU; -1: all."""
    kv_type_k: KvType = "f16"
    """Of keys; see ``kv_type_v``."""
    kv_type_v: KvType = "f16"
    """Quantised KV halves all three KV tiers and changes results."""
    exact_lone_decode: bool = True
    """Decode a lone sequence in a way that does not depend on where its KV lies. Costs about a fifth of
    lone decode speed on two cores; off, a token may change because a cache moved."""
    unload_after_s: Annotated[float, Field(gt=0)] | None = None
    """A model that had no turn for so long gives its memory back, and its KV goes down to host and disk; the
    next request loads it again. None: models stay."""
    memory: OptionalSizeBytes = None
    """Weights and device KV of all models that are loaded at a time. One that is asked for and does not fit
    takes the place of the one that was idle longest. None: all are loaded."""
    turn_s: Annotated[float, Field(gt=0)] = 30.0
    """How long a model that is never idle keeps its place while another waits for ``memory``."""


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A further model. What it does not say is as in ``[engine]``."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,127}$")]
    """Under which clients ask for it."""
    model: str = ""
    """``smollm2``, ``gemma3`` or the path of a GGUF file; needed but for the null engine."""
    device_kv_tokens: Annotated[int, Field(ge=256, le=2**31 - 1)] | None = None
    """Room for its KV on the device, in tokens."""
    context_tokens: Count | None = None
    """The longest prompt plus answer."""
    max_sequences: Annotated[int, Field(ge=1, le=255)] | None = None
    """How many of its agents may run at once."""
    threads: Count | None = None
    """CPU threads while it computes; models take turns."""
    adapters: dict[AdapterName, Path] = field(default_factory=dict)
    """Its LoRA adapters."""
    n_gpu_layers: Annotated[int, Field(ge=-1)] | None = None
    """Layers on the GPU."""
    kv_type_k: KvType | None = None
    """Of keys."""
    kv_type_v: KvType | None = None
    """Of values."""

    def engine(self, engine: EngineSettings) -> EngineSettings:
        """Its own settings, over those of ``[engine]``."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "adapters"}
        given = {name: value for name, value in own.items() if value is not None}
        return replace(engine, adapters=self.adapters, **given)


def require_models(entries: Sequence[ModelEntry], engine: EngineSettings) -> None:
    """Raises ``BadInput``: names that repeat, a model without a file, an engine that has one model."""
    names = [entry.name for entry in entries]
    for entry in entries:
        if names.count(entry.name) > 1:
            raise BadInput(f"models: the name {entry.name!r} is there twice")
        if not entry.model and engine.kind != "null":
            raise BadInput(
                f"models: {entry.name!r} needs a model: smollm2, gemma3 or the path of a GGUF file"
            )
    if entries and engine.kind == "vllm":
        raise BadInput("models: behind vLLM's own server there is one model")

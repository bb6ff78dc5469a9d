"""A replica of a catalogue part as the simulation's cost model: the roofline's lines, one figure for each."""

from __future__ import annotations

from dataclasses import dataclass, replace

from stepwell.basics.per_tier import PerTier
from stepwell.catalogue.kv import kv_bytes, kv_bytes_per_token
from stepwell.catalogue.load import Entry
from stepwell.economics.roofline import TERMS, Serving, kv_room_bytes, terms
from stepwell.errors import BadInput
from stepwell.simulate.accelerator import Accelerator
from stepwell.simulate.llamacpp_costs import LlamaCppCosts
from stepwell.simulate.machine_file import FittedMachine

HOST_LINK_USED = 0.8
COPY_START_US = 10.0
"""What a copy of one block between host and device takes besides its bytes."""
DISK_START_US = 80
_PS_PER_MS = 1e9
_LONG = 1_000_000.0


@dataclass(frozen=True, slots=True)
class ReplicaModel:
    """One replica: what it costs in time, and its room for KV."""

    model: Accelerator | LlamaCppCosts
    room: PerTier[int]
    """In blocks."""
    block_bytes: int


def replica_model(
    serving: Serving,
    constants: tuple[float, ...],
    block_tokens: int,
    dram_gb: float,
    ssd: Entry,
    drives: float,
) -> ReplicaModel:
    """``serving``: model, part, chips and precisions; its batch and lengths do not matter, but what a prompt
    costs once is spread over ``input_tokens``."""
    token = kv_bytes_per_token(serving.model, serving.kv_value_bytes)
    if token <= 0:
        raise BadInput(f"{serving.model.name} keeps no KV for a token: there is nothing to simulate")
    copies = serving.chips if serving.model.number("mla_width") else 1
    block_bytes = int(block_tokens * token)
    device_blocks = int(kv_room_bytes(serving) // (block_bytes * copies))
    if device_blocks < 1:
        raise BadInput(
            f"{serving.model.name} on {serving.chips} x {serving.part.name}: HBM binds, no room is left for"
            " KV beside the weights; use more chips or smaller weights"
        )
    link = serving.part.get("host_link_gb_s")
    link_bytes_s = float(link) * 1e9 * serving.chips * HOST_LINK_USED
    model = replace(
        _lines(serving, constants),
        token_bytes=int(token),
        copy_us_per_block=round(COPY_START_US + block_bytes * copies / link_bytes_s * 1e6),
        read_bytes_per_s=max(1, int(drives * ssd.number("read_gb_s") * 1e9)),
        write_bytes_per_s=max(1, int(drives * ssd.number("write_gb_s") * 1e9)),
        transfer_us=DISK_START_US,
    )
    disk_bytes = drives * ssd.number("drive_tb") * 1e12
    room = PerTier(device_blocks, int(dram_gb * 1e9 // block_bytes), int(disk_bytes // block_bytes))
    return ReplicaModel(model, room, block_bytes)


def fitted_replica(machine: FittedMachine, block_tokens: int) -> ReplicaModel:
    """A machine that was fitted to a run, with blocks of another size. ``BadInput``: not even one fits."""
    block_bytes = block_tokens * machine.lines.token_bytes
    device_blocks = machine.device_tokens // block_tokens
    if device_blocks < 1:
        raise BadInput(
            f"{machine.source} had room for {machine.device_tokens:,} tokens on its device, less than a block"
            f" of {block_tokens}: give smaller --block-tokens"
        )
    room = PerTier(device_blocks, machine.host_bytes // block_bytes, machine.disk_bytes // block_bytes)
    return ReplicaModel(machine.for_blocks(block_tokens), room, block_bytes)


def _lines(serving: Serving, constants: tuple[float, ...]) -> Accelerator:
    """The roofline is a sum of terms that are linear in sequences, in their depth, and in prompt tokens; so
    differences of it at a few points are the lines."""
    decode = {"weights", "kv", "arithmetic", "layer_us", "step_ms", "link", "link_call_us", "sequence_10us"}
    alone = replace(serving, batch=1, input_tokens=_LONG, output_tokens=_LONG, cached_tokens=_LONG)
    named = {name: t * c for name, t, c in zip(TERMS, terms(alone), constants, strict=True) if name in decode}
    context = alone.input_tokens + alone.output_tokens / 2
    whole = kv_bytes(serving.model, context, serving.kv_value_bytes)
    growing = kv_bytes_per_token(serving.model, serving.kv_value_bytes) * context
    depth_ms = named["kv"] * (growing / whole) / context
    kept_ms = named["kv"] * (1 - growing / whole)
    sequence_ms = named["arithmetic"] + named["link"] + named["sequence_10us"] + kept_ms
    step_ms = named["weights"] + named["layer_us"] + named["step_ms"] + named["link_call_us"]
    prompt_ms, deep_ms = _prompt_lines(serving, constants)
    total, active = serving.model.number("params_b"), serving.model.number("active_params_b")
    experts_ms = named["weights"] * (total / active - 1)
    return Accelerator(
        step_ps=round(step_ms * _PS_PER_MS),
        prompt_token_ps=round(prompt_ms * _PS_PER_MS),
        prompt_depth_ps=round(deep_ms * _PS_PER_MS),
        sequence_ps=round(sequence_ms * _PS_PER_MS),
        depth_ps=round(depth_ms * _PS_PER_MS),
        token_bytes=1,
        experts_ps=round(experts_ms * _PS_PER_MS) if experts_ms > 0 else 0,
        expert_tokens=max(1, round(total / active)),
    )


def _prompt_lines(serving: Serving, constants: tuple[float, ...]) -> tuple[float, float]:
    """Milliseconds of a prompt's token, and of every token before it."""
    prompt = {"prefill", "prefill_link", "first_ms", "prompt_layer_100us"}

    def whole_ms(tokens: float) -> float:
        one = replace(serving, batch=1, input_tokens=tokens, output_tokens=1.0, cached_tokens=0.0)
        parts = zip(TERMS, terms(one), constants, strict=True)
        return sum(term * constant for name, term, constant in parts if name in prompt)

    usual = max(1.0, serving.input_tokens)
    once_ms = whole_ms(0.0)
    short, long = whole_ms(usual) - once_ms, whole_ms(2 * usual) - once_ms
    deep_ms = max(
        0.0, (long - 2 * short) / usual**2
    )  # n tokens have n^2 / 2 before them, twice as many 4 times
    return (short - deep_ms * usual**2 / 2) / usual + once_ms / usual, deep_ms

"""From a model and the operator's wishes to a device that is ready, with what has to be measured once."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from stepwell.basics.this_machine import memory_bytes, usable_cores
from stepwell.engines.llamacpp.cells import FRAME_TOKENS, SCRATCH, Cells, Filler, Kv
from stepwell.engines.llamacpp.config import LlamaCppConfig, ModelError
from stepwell.engines.llamacpp.device import Device
from stepwell.engines.llamacpp.homes import Homes, TwinHomes
from stepwell.engines.llamacpp.native import KV_TYPES, MAX_SEQUENCES, NativeContext, NativeModel
from stepwell.engines.llamacpp.padding import PAD, PAD_CELLS, Padding
from stepwell.engines.llamacpp.repack import rows_differ
from stepwell.engines.llamacpp.states import MARKS, PureStateContext, StatefulContext

_FIRST_RUNNING = 2
_MIN_HOMES = 32
_ROWS_AT_ONCE = 4
"""How many tokens llama.cpp's repacked weights are multiplied with at once (repack.cpp)."""
_PROBES = 4
_LEAST_IDS = 32
_ID_STATE_BYTES = 512 << 20
MOST_STATE_BYTES = 4 << 30
_STATES_SHARE = 4
"""Of the machine's memory the states on the device take no more than this part."""
LEAST_STATES = 4

_MOST_TOKENS = 1 << 26
"""Beyond any device there is, and within llama.cpp's 32-bit counts."""

_log = logging.getLogger("stepwell.llamacpp")


@dataclass(frozen=True, slots=True)
class Made:
    """A context with its cache in order, and how it is used."""

    context: NativeContext
    device: Device
    padding: Padding
    device_blocks: int
    size_of: Sequence[int]
    """Bytes of the cells of so many tokens of a block; a state comes on top."""
    depth_frames: int
    """How many frames may hold one depth, see ``EngineInfo``."""
    max_sequences: int
    """As wished, or fewer: see ``fitting``."""
    device_states: int
    """See ``EngineInfo``."""


def make_device(model: NativeModel, config: LlamaCppConfig) -> Made:
    """Build everything that holds KV. ``ModelError`` when model, machine and wishes do not fit."""
    threads = config.threads or usable_cores()
    n_ids = _ids_for(model, config)
    config = fitting(config, n_ids - MARKS if model.stateful else n_ids, doubled=model.window_tokens > 0)
    _check_config(config)
    device_blocks = config.device_kv_tokens // FRAME_TOKENS
    n_frames = device_blocks + 1  # one more for padding, whether it turns out to be needed or not
    context = _context(model, config, n_frames * FRAME_TOKENS, threads, n_ids)
    try:
        pads = config.exact_lone_decode and not model.stateful
        padding = Padding(lone=pads and threads > 2, rows=_rows_at_once(model, context) if pads else 1)
        return _with_device(model, config, context, padding, device_blocks)
    except ModelError:
        context.free()
        raise


def _check_config(config: LlamaCppConfig) -> None:
    if not 2 * FRAME_TOKENS <= config.device_kv_tokens <= _MOST_TOKENS:
        raise ModelError(f"device_kv_tokens must be from {2 * FRAME_TOKENS} to {_MOST_TOKENS}")
    if not 1 <= config.max_sequences <= MAX_SEQUENCES - _FIRST_RUNNING - _MIN_HOMES:
        most = MAX_SEQUENCES - _FIRST_RUNNING - _MIN_HOMES
        raise ModelError(f"max_sequences must be from 1 to {most}")
    for name in (config.kv_type_k, config.kv_type_v):
        if name not in KV_TYPES:
            raise ModelError(f"KV type {name!r} is not one of {', '.join(KV_TYPES)}")
    if config.context_tokens is not None and config.context_tokens < 1:
        raise ModelError("context_tokens must be at least 1")
    if config.threads is not None and config.threads < 1:
        raise ModelError("threads must be at least 1")


def _context(
    model: NativeModel, config: LlamaCppConfig, n_cells: int, threads: int, n_ids: int
) -> NativeContext:
    if model.pure_state:
        return PureStateContext(model, config, n_cells, threads, n_ids)
    kind = StatefulContext if model.stateful else NativeContext
    return kind(model, config, n_cells, threads, n_ids)


def _ids_for(model: NativeModel, config: LlamaCppConfig) -> int:
    """Sequence ids to ask for. llama.cpp allocates a state for each, so large states have fewer."""
    if not model.stateful:
        return MAX_SEQUENCES
    small = _context(model, config, 2 * FRAME_TOKENS, 1, _LEAST_IDS)
    size_bytes = small.checkpoint_bytes
    small.free()
    return max(_LEAST_IDS, min(MAX_SEQUENCES, _ID_STATE_BYTES // size_bytes))


def states_for(checkpoint_bytes: int, device_blocks: int, memory_bytes: int, most: int | None = None) -> int:
    """How many running states the device holds; 0: one for every block. ``ModelError`` when there is no room
    for any to speak of."""
    if not checkpoint_bytes:
        return 0
    room_bytes = min(MOST_STATE_BYTES, memory_bytes // _STATES_SHARE)
    states = room_bytes // checkpoint_bytes
    if states < LEAST_STATES:
        raise ModelError(
            f"the model keeps a running state of {checkpoint_bytes:,} bytes, and {LEAST_STATES} of them do "
            f"not fit into {room_bytes:,} bytes, the part of this machine's memory that is for them"
        )
    states = states if most is None else min(states, max(most, LEAST_STATES))
    return states if states < device_blocks else 0


def _rows_at_once(model: NativeModel, context: NativeContext) -> int:
    """Batches are filled up to a multiple of this. The types of the weights decide; the probe is for types
    that are repacked on a processor we do not know.

    A token does not depend on those after it. So 15 tokens alone and the first 15 of 16 must give the
    same logits; where they do not, the three that were left over from fours made the difference.
    """
    if rows_differ(model.header.weights):
        return _ROWS_AT_ONCE
    n = 4 * _ROWS_AT_ONCE
    for text in range(_PROBES):
        few, many = _logits_of(context, n - 1, text), _logits_of(context, n, text)
        if not np.array_equal(few, many[: n - 1]):
            return _ROWS_AT_ONCE
    return 1


def _logits_of(
    context: NativeContext, n_tokens: int, text: int
) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Logits of a made-up prefix of different tokens."""
    step = max(1, context.vocab_size // 64) + text
    tokens = [i * step % context.vocab_size for i in range(1, n_tokens + 1)]
    status = context.decode(tokens, range(n_tokens), [SCRATCH] * n_tokens, range(n_tokens))
    assert status == 0, f"llama.cpp cannot run this model (status {status})"
    logits = np.stack([context.logits(i).copy() for i in range(n_tokens)])
    context.remove(SCRATCH)
    return logits


def _with_device(
    model: NativeModel, config: LlamaCppConfig, context: NativeContext, padding: Padding, device_blocks: int
) -> Made:
    n_frames = device_blocks + padding.any
    kv, homes, n_homes = _homes(model, config, context)
    n_depths = -(-n_frames // n_homes)
    deepest = -(-max(model.trained_context, n_frames * FRAME_TOKENS) // FRAME_TOKENS)
    size_of = _measure_blocks(context)
    fillers = _make_fillers(context, range(deepest, deepest + n_depths))
    cells = Cells(kv, n_frames, homes, fillers)
    running = range(_FIRST_RUNNING, _FIRST_RUNNING + config.max_sequences)
    states = states_for(context.checkpoint_bytes, device_blocks, memory_bytes(), config.most_states)
    device = Device(kv, cells, homes, running, size_of, context, states)
    if padding.any:
        device.hold_back(PAD_CELLS)
        padding.fill(context)
        assert context.span(PAD) == (0, PAD_CELLS - 1)
    return Made(context, device, padding, device_blocks, size_of, n_homes, config.max_sequences, states)


def _homes(model: NativeModel, config: LlamaCppConfig, context: NativeContext) -> tuple[Kv, Homes, int]:
    """The ids that keep frames, how many these are, and the memory as seen through them."""
    ids = range(_FIRST_RUNNING + config.max_sequences, context.n_ids)
    if model.window_tokens <= 0:
        return context, Homes(ids), len(ids)
    if model.window_tokens <= FRAME_TOKENS:
        raise ModelError(
            f"the model's sliding window of {model.window_tokens} tokens is shorter than a block and one "
            f"token ({FRAME_TOKENS + 1}), which this engine cannot keep safe"
        )
    half = len(ids) // 2
    twins = dict(zip(ids[:half], ids[half:], strict=False))
    return TwinHomes(context, twins), Homes(ids[:half]), half


def fitting(config: LlamaCppConfig, n_ids: int, *, doubled: bool) -> LlamaCppConfig:
    """As wished, with fewer sequences where the ids would not last.

    Those that run and those opened in the same step may all be at one depth, and need a frame each.
    """
    ids = n_ids - _FIRST_RUNNING
    per_depth = (ids - config.max_sequences) // (2 if doubled else 1)
    frames = config.device_kv_tokens // FRAME_TOKENS + 1
    most = (ids - 1) // 5 - 1 if doubled else (ids - 1) // 3
    if frames <= per_depth or config.max_sequences <= most:
        return config
    _log.warning("%d sequences at once, not %d: llama.cpp has no ids for more", most, config.max_sequences)
    return replace(config, max_sequences=most)


def _fill_scratch(context: NativeContext, first: int) -> None:
    tokens = [0] * FRAME_TOKENS
    status = context.decode(tokens, range(first, first + FRAME_TOKENS), [SCRATCH] * FRAME_TOKENS, [])
    assert status == 0, f"llama.cpp cannot run this model (status {status})"
    context.forget_state(SCRATCH)  # what is measured and stored are cells


def _measure_blocks(context: NativeContext) -> list[int]:
    """Bytes of a stored block for every length; llama.cpp adds the same for every token."""
    _fill_scratch(context, 0)
    sizes = [0] * (FRAME_TOKENS + 1)
    for n in range(FRAME_TOKENS, 0, -1):
        sizes[n] = context.state_bytes(SCRATCH)
        context.remove(SCRATCH, n - 1, n)
    steps = {sizes[n] - sizes[n - 1] for n in range(2, FRAME_TOKENS + 1)}
    if len(steps) != 1:
        raise ModelError("this model keeps KV that cannot be cut into blocks of tokens")
    return sizes


def _make_fillers(context: NativeContext, depths: range) -> list[Filler]:
    """Saved frames at these depths. What is in them does not matter, where they claim to be does."""
    can_shift = context.can_shift()
    first = depths.start * FRAME_TOKENS
    _fill_scratch(context, 0 if can_shift else first)
    size_bytes = context.state_bytes(SCRATCH)
    fillers = []
    for depth in depths:
        if can_shift:
            context.shift(SCRATCH, depth * FRAME_TOKENS - context.span(SCRATCH)[0])
        elif depth > depths.start:
            context.remove(SCRATCH)
            _fill_scratch(context, depth * FRAME_TOKENS)
        fillers.append(Filler(depth, context.save(SCRATCH, size_bytes)))
        first = depth * FRAME_TOKENS
        assert context.span(SCRATCH) == (first, first + FRAME_TOKENS - 1)
    # Also makes llama.cpp forget that it meant to rotate the keys of what was shifted.
    context.clear()
    return fillers

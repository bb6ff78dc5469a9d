"""The simulation's cost model of a part is the roofline's: the same steps take the same time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stepwell.catalogue.load import entries, entry
from stepwell.economics.constants import load_constants
from stepwell.economics.replica import replica_model
from stepwell.economics.roofline import PREFILL_TERMS, TERMS, Serving, kv_room_bytes, terms
from stepwell.errors import BadInput

SSD = entry("memory", "ssd-1dwpd")


def decode_ms(serving: Serving, constants: tuple[float, ...]) -> float:
    parts = zip(TERMS, terms(serving), constants, strict=True)
    return sum(term * constant for name, term, constant in parts if name not in PREFILL_TERMS)


@pytest.mark.parametrize("part", ["h100", "h200", "b200", "mi300x", "tpu-v6e"])
@pytest.mark.parametrize("model", ["llama-3.1-70b", "qwen3-32b", "deepseek-v3"])
@pytest.mark.parametrize("engine", ["all", "vllm"])
def test_a_step_takes_what_the_roofline_says(part: str, model: str, engine: str) -> None:
    constants = tuple(load_constants(engine))
    weight = 1.0 if model != "deepseek-v3" else 0.56
    serving = Serving(entry("models", model), entry("parts", part), 64, weight, 2.0, 1, 8000.0, 100.0)
    found = replica_model(serving, constants, 64, 100.0, SSD, 2.0)
    for batch, context in ((1, 1000), (16, 8000), (64, 100_000)):
        one = replace(
            serving,
            batch=batch,
            input_tokens=float(context),
            output_tokens=1e-6,
            cached_tokens=float(context),
        )
        asked_us = decode_ms(one, constants) * 1000
        given_us = found.model.step_us(0, batch, 0, batch * context)
        dense = entry("models", model).number("params_b") == entry("models", model).number("active_params_b")
        assert given_us == pytest.approx(asked_us, rel=0.01 if dense else 0.12)


def test_a_prompt_takes_what_the_roofline_says() -> None:
    constants = tuple(load_constants("vllm"))
    serving = Serving(entry("models", "llama-3.1-70b"), entry("parts", "h200"), 4, 1.0, 2.0, 1, 20_000.0, 1.0)
    model = replica_model(serving, constants, 64, 100.0, SSD, 2.0).model
    for tokens in (1_000, 20_000, 100_000):
        one = replace(serving, input_tokens=float(tokens))
        parts = zip(TERMS, terms(one), constants, strict=True)
        asked_us = sum(t * c for name, t, c in parts if name in PREFILL_TERMS) * 1000
        assert model.prefill_us(0, tokens) == pytest.approx(asked_us, rel=0.02)


def test_rooms_are_what_memory_holds() -> None:
    constants = tuple(load_constants("all"))
    serving = Serving(entry("models", "llama-3.1-8b"), entry("parts", "h100"), 1, 2.0, 2.0, 1, 1000.0, 1.0)
    found = replica_model(serving, constants, 64, 10.0, SSD, 1.0)
    assert found.block_bytes == 64 * 131_072
    assert found.room.device == int(kv_room_bytes(serving) // found.block_bytes)
    assert found.room.host == int(10e9 // found.block_bytes)
    with pytest.raises(BadInput, match="HBM binds"):
        replica_model(replace(serving, model=entry("models", "llama-3.1-405b")), constants, 64, 0, SSD, 0)


def test_every_part_with_a_host_link_can_be_simulated() -> None:
    constants = tuple(load_constants("all"))
    for part in entries("parts").values():
        if part.find("host_link_gb_s") is not None and part.key != "this-machine":
            serving = Serving(entry("models", "qwen3-0.6b"), part, 1, 2.0, 2.0, 1, 1000.0, 1.0)
            assert replica_model(serving, constants, 64, 1.0, SSD, 0.0).model.step_us(0, 1, 0, 100) > 0

from __future__ import annotations

import pytest

from stepwell.catalogue.kv import kv_bytes, kv_bytes_per_token, stored_kv_bytes_per_chip
from stepwell.catalogue.load import MARKS, entries, entry, read_entries
from stepwell.errors import BadInput

SOURCES = '\n[sources]\na = { text = "a page", date = "2026-01" }\n'


@pytest.mark.parametrize("table", ["parts", "memory", "models", "workloads", "prices"])
def test_every_figure_has_a_mark_a_source_and_a_date(table: str) -> None:
    figures = [f for found in entries(table).values() for f in found.figures.values()]
    assert figures
    assert all(f.mark in MARKS and f.source and f.date for f in figures)


@pytest.mark.parametrize("figure", ["80", '[80, "V"]', '[80, "X", "a"]', '[80, "V", "b"]', '[-1, "V", "a"]'])
def test_a_figure_without_mark_or_source_is_refused(figure: str) -> None:
    with pytest.raises(ValueError, match=r"x\.hbm_gb"):
        read_entries(f'[parts.x]\nname = "x"\nhbm_gb = {figure}\n{SOURCES}', "parts")


def test_parts_named_by_the_issue_are_there() -> None:
    named = {"h100", "h200", "b200", "b300", "gb200", "gb300", "mi300x", "this-machine"}
    assert named | {f"tpu-{v}" for v in ("v5e", "v5p", "v6e", "v7")} <= set(entries("parts"))


@pytest.mark.parametrize(
    ("key", "kv_bytes_bf16"),
    [
        ("llama-3.1-8b", 131_072),
        ("llama-3.1-70b", 327_680),
        ("llama-3.1-405b", 516_096),
        ("qwen3-32b", 262_144),
        ("qwen3-30b-a3b", 98_304),
        ("minimax-m2.5", 253_952),
        ("deepseek-v3", 70_272),
        ("glm-5", 89_856),
        ("qwen3.5-397b-a17b", 30_720),
        ("gpt-oss-120b", 36_864),
        ("gemma-3-27b", 81_920),
    ],
)
def test_kv_bytes_per_token_are_the_published_ones(key: str, kv_bytes_bf16: int) -> None:
    assert kv_bytes_per_token(entry("models", key), 2) == kv_bytes_bf16


def test_windowed_layers_stop_growing() -> None:
    model = entry("models", "gemma-3-27b")
    state = kv_bytes(model, 100_000, 2) - 100_000 * kv_bytes_per_token(model, 2)
    assert state == 416 * 2**20


def test_a_latent_is_not_split_over_chips() -> None:
    latent, heads = entry("models", "deepseek-v3"), entry("models", "llama-3.1-70b")
    assert stored_kv_bytes_per_chip(latent, 1000, 2, 8) == kv_bytes(latent, 1000, 2)
    assert stored_kv_bytes_per_chip(heads, 1000, 2, 16) == kv_bytes(heads, 1000, 2) / 8


def test_unknown_hardware_is_one_sentence() -> None:
    with pytest.raises(BadInput, match="did you mean h200"):
        entry("parts", "H20O")

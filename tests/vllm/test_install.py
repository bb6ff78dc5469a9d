"""Bad models and missing vLLM are one sentence, told before anything starts."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from stepwell.errors import BadInput
from stepwell.vllm import install
from stepwell.vllm.command_line import transfer_config


def make_model(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    (folder / "tokenizer.json").write_text("{}")
    header = json.dumps({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(16))
    return folder


def test_a_whole_model_is_described(tmp_path: Path) -> None:
    found = install.examine_model(make_model(tmp_path / "m"))
    assert (found["architecture"], found["tensors"]) == ("LlamaForCausalLM", 1)


def cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def garble(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(b"\xff" * 40)


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (cut, "do not agree"),
        (garble, "do not agree"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"abc"), "do not agree"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no weights"),
        (lambda folder: (folder / "config.json").unlink(), "cannot be read"),
        (lambda folder: (folder / "config.json").write_text("{"), "not JSON"),
        (lambda folder: (folder / "config.json").write_text("{}"), "no architecture"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "no tokenizer"),
        (
            lambda folder: (folder / "model.safetensors.index.json").write_text(
                '{"weight_map": {"a": "x.safetensors"}}'
            ),
            "is not there",
        ),
    ],
)
def test_a_damaged_model_is_one_sentence(tmp_path: Path, harm: Callable[[Path], object], says: str) -> None:
    folder = make_model(tmp_path / "m")
    harm(folder)
    with pytest.raises(BadInput, match=says):
        install.examine_model(folder)


def test_a_gguf_is_told_the_way(tmp_path: Path) -> None:
    file = tmp_path / "a.gguf"
    file.write_bytes(b"GGUF")
    with pytest.raises(BadInput, match="stepwell vllm convert"):
        install.examine_model(file)


@pytest.mark.parametrize(
    ("found", "says"),
    [(None, "not installed"), (("vllm", "0.31.2"), "0.31.2 is installed"), (("vllm", "0.33.0"), "0.33.0")],
)
def test_no_vllm_or_another_version_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, found: tuple[str, str] | None, says: str
) -> None:
    monkeypatch.setattr(install, "installed", lambda: found)
    with pytest.raises(install.NoVllm, match=says):
        install.require_vllm()


def test_the_configuration_names_our_parts(tmp_path: Path) -> None:
    config = transfer_config(1 << 30, 1 << 32, tmp_path, 1 << 30)
    extra = config["kv_connector_extra_config"]
    assert isinstance(extra, dict)
    assert extra["secondary_tiers"][0]["max_bytes_per_tenant"] == 1 << 30
    with pytest.raises(BadInput, match="--disk-dir"):
        transfer_config(1 << 30, 1 << 32, None)

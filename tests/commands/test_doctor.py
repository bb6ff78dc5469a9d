"""What doctor promises for a model file, before anybody serves it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from stepwell.bench.zoo.child import model_file
from stepwell.commands.doctor.doctor import DoctorFlags, device_line, doctor
from stepwell.commands.doctor.objects import examine_objects, objects_line
from stepwell.commands.doctor.promise import promise_of
from stepwell.engines.null import NullConfig, NullEngine
from stepwell.settings.engine import EngineSettings
from stepwell.settings.file import ObjectSettings
from stepwell.tiers.objects.client import ObjectClient, ObjectsAway

INFO = NullEngine(NullConfig()).info


def test_a_served_model_is_exact(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, report = model_file(tmp_path, "lfm2"), tmp_path / "doctor.json"
    code = doctor(
        flags=DoctorFlags(model=str(path), device_kv_tokens=2048, disk_kv="0", threads=1), json_file=report
    )
    shown = capsys.readouterr().out
    assert code == 0 and "Promise: exact:" in shown and "running state of" in shown
    assert json.loads(report.read_text())["results"]["promise"]["word"] == "exact"


@pytest.mark.parametrize("name", ["t5", "deepseek4"])
def test_what_is_not_served_is_said_with_its_reason(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, report = model_file(tmp_path, name), tmp_path / "doctor.json"
    assert doctor(flags=DoctorFlags(model=str(path), threads=1), json_file=report) == 2
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"Promise: not served: model {path} ")
    found = json.loads(report.read_text())["results"]["promise"]
    assert found["word"] == "not served" and found["why"] in line


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "bert",
            "makes vectors of 128 numbers from up to 512 tokens for /v1/embeddings (embeddings.model, or",
        ),
        ("llama-embed", "for /v1/embeddings"),
        ("bert:pool4", "makes scores from up to 512 tokens for /v1/rerank (embeddings.rerank_model, or an"),
    ],
)
def test_what_makes_vectors_is_said_with_its_place(
    name: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, report = model_file(tmp_path, name), tmp_path / "doctor.json"
    assert doctor(flags=DoctorFlags(model=str(path), threads=1), json_file=report) == 0
    shown = capsys.readouterr().out
    assert words in shown and "tokens/s in sixteen short texts" in shown
    results = json.loads(report.read_text())["results"]
    assert results["promise"]["word"] == ("exact" if results["differ"] == 0 else "close")
    assert results["again"] and results["differ"] < 1e-4


def test_a_damaged_file_that_names_a_pooling_is_not_served(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = model_file(tmp_path, "bert")
    path.write_bytes(path.read_bytes()[:-20_000])
    assert doctor(flags=DoctorFlags(model=str(path), threads=1)) == 2
    assert capsys.readouterr().out.startswith("Promise: not served: ")


def test_gpu_layers_and_inexact_steps_promise_tokens_only() -> None:
    assert promise_of(EngineSettings(), INFO).word == "exact"
    assert promise_of(EngineSettings(n_gpu_layers=-1), INFO).word == "same tokens"
    assert promise_of(EngineSettings(exact_lone_decode=False), INFO).word == "same tokens"
    assert "untested" in promise_of(EngineSettings(n_gpu_layers=8), INFO).why


def test_a_running_state_is_named_with_its_size() -> None:
    info = replace(INFO, checkpoint_bytes=3 << 20)
    assert "3 MiB" in promise_of(EngineSettings(), info).why


def test_every_device_of_the_build_is_shown() -> None:
    pytest.importorskip("llama_cpp")
    from stepwell.engines.llamacpp.devices import devices

    found = devices()
    assert [device.kind for device in found].count("cpu") == 1
    assert all(device.name and device.total_bytes >= device.free_bytes for device in found)


def test_a_gpu_that_nothing_is_computed_on_is_said() -> None:
    gpu = {
        "name": "Vulkan0",
        "description": "A card",
        "kind": "gpu",
        "free_bytes": 2**30,
        "total_bytes": 2**31,
    }
    line = device_line(gpu, 0)
    assert "Vulkan0 (gpu), A card, 2 GiB memory (1 GiB free)" in line
    assert "engine.n_gpu_layers" in line
    assert "engine.n_gpu_layers" not in device_line(gpu, -1)
    assert "memory" not in device_line(gpu | {"total_bytes": 0}, -1)


def test_an_object_store_is_tried(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("obstore")
    path, report = model_file(tmp_path, "lfm2"), tmp_path / "doctor.json"
    given = {"model": str(path), "device_kv_tokens": 2048, "disk_kv": "0", "threads": 1}
    assert doctor(flags=DoctorFlags(**given, objects=str(tmp_path / "objects")), json_file=report) == 0  # type: ignore[arg-type]
    shown = capsys.readouterr().out
    assert f"Object store: {tmp_path / 'objects'} can be listed, written to and read; a block of" in shown
    found = json.loads(report.read_text())["results"]["objects"]
    assert found["problem"] is None
    assert min(found["put_s"], found["get_s"]) > 0
    assert not list((tmp_path / "objects").glob("probe/*"))


@pytest.mark.parametrize("refused", ["list", "put", "get"])
def test_what_an_object_store_does_not_do_is_one_sentence(
    refused: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("obstore")

    def refuse(*_: object) -> None:
        raise ObjectsAway("it refuses these credentials", "")

    monkeypatch.setattr(ObjectClient, refused, refuse)
    wanted = ObjectSettings(str(tmp_path))
    found = examine_objects(wanted, 5_000)
    assert found is not None
    assert found.speeds is None
    words = {
        "list": "cannot be listed",
        "put": "cannot be written to",
        "get": "does not give back what was written",
    }
    assert objects_line(wanted, found) == (
        f"Object store: {tmp_path}: the object store {words[refused]}: it refuses these credentials; "
        "blocks would be computed again"
    )


def test_an_address_that_is_none_is_said() -> None:
    wanted = ObjectSettings("ftp://nowhere/kv")
    found = examine_objects(wanted, 5_000)
    assert found is not None and found.problem is not None and "is no object store" in found.problem


def test_it_says_of_vllm_what_it_can_where_llama_cpp_is_not_installed() -> None:
    script = (
        "import sys; sys.modules['llama_cpp'] = None; from stepwell import cli; "
        "sys.exit(cli.run(['doctor', '--engine', 'vllm', '--model', 'nowhere']))"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert found.returncode == 2 and "llama" not in found.stderr and len(found.stderr.splitlines()) == 1

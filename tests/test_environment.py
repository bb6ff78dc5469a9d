"""``scripts/environment.py``: what a newcomer sees while llama.cpp is compiled."""

from __future__ import annotations

import importlib.util
import queue
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def environment() -> ModuleType:
    spec = importlib.util.spec_from_file_location("environment", ROOT / "scripts" / "environment.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("line", "step"),
    [
        ("Collecting pydantic==2.14.3", "fetching pydantic"),
        ("  Downloading a/b/numpy-2.4.6.whl (16.9 MB)", "downloading numpy-2.4.6.whl (16.9 MB)"),
        ("  Building wheel for llama-cpp-python (pyproject.toml): started", "building llama-cpp-python"),
        ("  [ 6/140] Building CXX object ggml.cpp.o", "compiling llama.cpp, 6/140"),
        ("  [ 35%] Building CXX object ggml.cpp.o", "compiling llama.cpp, 35%"),
        ("Installing collected packages: a, b, c", "installing 3 packages"),
        ("  Using cached something", ""),
        ("", ""),
    ],
)
def test_pips_lines_become_steps(environment: ModuleType, line: str, step: str) -> None:
    assert environment.step_of(line) == step


def test_everything_pip_said_is_kept_for_the_case_that_it_fails(environment: ModuleType) -> None:
    lines: queue.Queue[str | None] = queue.Queue()
    for line in ("Collecting a", "error: no room", None):
        lines.put(line)
    assert environment.follow(lines, 0.0) == ["Collecting a", "error: no room"]


def test_without_a_compiler_there_is_one_sentence_before_the_long_build(
    environment: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    absent = subprocess.CompletedProcess([], 1, stdout="No locally built wheels cached.")
    monkeypatch.setattr(environment.subprocess, "run", lambda *args, **kwargs: absent)
    monkeypatch.setattr(environment.shutil, "which", lambda name: None)
    with pytest.raises(SystemExit) as caught:
        environment.prepare_llama_build()
    assert caught.value.code == 1
    assert "install g++ or clang++" in capsys.readouterr().err
    monkeypatch.setattr(environment.shutil, "which", lambda name: "/usr/bin/c++")
    environment.prepare_llama_build()
    assert "5 to 10 minutes" in capsys.readouterr().out


def test_the_users_build_flags_come_last(environment: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CMAKE_ARGS", "-DGGML_CUDA=on")
    flags = environment.build_environment()["CMAKE_ARGS"].split()
    assert flags[-1] == "-DGGML_CUDA=on"
    assert "-DLLAMA_BUILD_TOOLS=OFF" in flags

"""``scripts/environment.py``: what a newcomer sees while llama.cpp is compiled."""

from __future__ import annotations

import importlib.util
import queue
import re
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def environment() -> ModuleType:
    return script("environment")


@pytest.fixture(scope="module")
def hashes() -> ModuleType:
    return script("hashes")


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


@pytest.mark.parametrize("what", ["demo", "test"])
def test_all_that_is_asked_for_is_pinned(environment: ModuleType, hashes: ModuleType, what: str) -> None:
    named = environment.wanted(environment.EXTRAS[what], environment.GROUPS[what])
    pinned = {hashes.key(pin).partition("==")[0] for pin in hashes.pins()}
    assert {hashes.key(re.split(r"[\[<>=]", one)[0] + "==").partition("==")[0] for one in named} <= pinned


def test_an_extra_of_extras_is_what_they_ask_for(environment: ModuleType) -> None:
    assert {"pyxirr>=0.10", "matplotlib>=3.11"} <= set(environment.wanted("plans", []))
    assert not any(one.startswith("stepwell") for one in environment.wanted("all", ["dev"]))


# --- hashes -----------------------------------------------------------------------------------


def test_every_pin_has_its_hashes_and_no_host_is_named(hashes: ModuleType) -> None:
    text = hashes.HASHES.read_text("utf-8")
    assert hashes.wrong(hashes.read(text)) == []
    assert "://" not in text and hashes.written(hashes.read(text)) == text


def test_a_file_that_has_become_another_is_not_taken(
    hashes: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = f"sha256:{'0' * 64}", f"sha256:{'1' * 64}"
    monkeypatch.setattr(hashes, "PINS", tmp_path / "constraints.txt")
    monkeypatch.setattr(hashes, "HASHES", tmp_path / "hashes.txt")
    monkeypatch.setattr(hashes.sys, "argv", ["hashes.py"])
    (tmp_path / "constraints.txt").write_text("# names\nA_b==1.0\n")

    def answered(*found: str) -> int:
        monkeypatch.setattr(hashes, "ask", lambda: {"a-b==1.0": frozenset(found)})
        return int(hashes.main())

    assert answered(old) == 0
    assert answered(old, new) == 0
    kept = (tmp_path / "hashes.txt").read_text()
    assert kept.endswith(f"A_b==1.0 \\\n    --hash={old} \\\n    --hash={new}\n")
    assert answered(new) == 1
    assert "files of a-b==1.0 are not what they were" in capsys.readouterr().err
    assert (tmp_path / "hashes.txt").read_text() == kept


def test_a_pin_that_nobody_has_hashed_is_named(
    hashes: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hashes, "PINS", tmp_path / "constraints.txt")
    (tmp_path / "constraints.txt").write_text("a==1\n")
    monkeypatch.setattr(hashes.sys, "argv", ["hashes.py", "--check"])
    assert hashes.main() == 1
    said = capsys.readouterr().err
    assert "hashes: a==1 has no hashes" in said and "commit what it writes" in said

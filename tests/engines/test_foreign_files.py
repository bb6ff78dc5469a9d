"""Model files are foreign input: whatever is in one, there is one sentence and the process lives."""

from __future__ import annotations

import random
import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.engines.tiny_gguf import Shape, parts, write

pytest.importorskip("llama_cpp")

from stepwell.engines.llamacpp import LlamaCppConfig, ModelError, first_load, load_llamacpp
from stepwell.engines.llamacpp.first_load import try_files
from stepwell.engines.llamacpp.header import inspect, read_header
from stepwell.engines.llamacpp.native import NativeModel

MUTATIONS = 200
ABSURD = (0, 1, 0x7F, 0xFF, 0xFFFF, 1 << 31, (1 << 32) - 1, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)


def mutated(header: bytes, draw: random.Random) -> bytes:
    """One to three places changed: a byte, a count, a piece cut out or doubled."""
    data = bytearray(header)
    for _ in range(draw.randint(1, 3)):
        at = draw.randrange(4, len(data) - 8)
        match draw.randrange(4):
            case 0:
                data[at] ^= 1 << draw.randrange(8)
            case 1:
                data[at : at + 8] = struct.pack("<Q", draw.choice(ABSURD))
            case 2:
                data[at : at + 4] = struct.pack("<I", draw.choice(ABSURD) & 0xFFFFFFFF)
            case 3:
                length = draw.randint(1, 64)
                data[at : at + length] = b"" if draw.random() < 0.5 else 2 * data[at : at + length]
    return bytes(data)


def one_sentence(error: BaseException) -> bool:
    return isinstance(error, ModelError) and "\n" not in str(error) and len(str(error)) < 600


def refusal(call: Callable[[], object]) -> ModelError | None:
    try:
        call()
    except ModelError as error:
        return error
    return None


def test_two_hundred_mutated_headers_do_no_harm(tmp_path: Path) -> None:
    """Each is refused in a sentence, or tried in a child; what the child passes, this process can load."""
    header, data = parts()
    draw = random.Random(12)
    left: list[Path] = []
    for number in range(MUTATIONS):
        path = tmp_path / f"{number}.gguf"
        path.write_bytes(mutated(header, draw) + data)
        refused = refusal(lambda path=path: inspect(path))  # type: ignore[misc]
        if refused is None:
            left.append(path)
        else:
            assert one_sentence(refused)
    assert 10 < len(left) < MUTATIONS - 20
    verdicts = try_files(left)
    assert not any("\n" in verdict for verdict in verdicts)
    fine = [path for path, verdict in zip(left, verdicts, strict=True) if not verdict]
    assert fine
    for path in fine:
        refused = refusal(lambda path=path: NativeModel(LlamaCppConfig(path, "tiny")))  # type: ignore[misc]
        assert refused is None or one_sentence(refused)


def test_a_file_cut_anywhere_is_one_sentence(tmp_path: Path) -> None:
    header, _ = parts()
    path = tmp_path / "cut.gguf"
    for length in (*range(4, 300, 7), *range(300, len(header), 211)):
        path.write_bytes(header[:length])
        with pytest.raises(ModelError) as error:
            inspect(path)
        assert one_sentence(error.value)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        (struct.pack("<IQQ", 3, 1 << 40, 1), "claims 1099511627776 tensors"),
        (struct.pack("<IQQ", 3, 1, 1 << 62), "settings"),
        (struct.pack("<IQQ", 9, 1, 1), "version 9"),
        (struct.pack("<IQQQ", 3, 0, 1, 1 << 60), "bytes for the name of a setting"),
        (struct.pack("<IQQ", 3, 0, 0), "no architecture"),
    ],
)
def test_absurd_counts_are_named(tmp_path: Path, setting: bytes, sentence: str) -> None:
    path = tmp_path / "absurd.gguf"
    path.write_bytes(b"GGUF" + setting)
    with pytest.raises(ModelError, match=sentence):
        inspect(path)


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "come to an end"),
        ("{{ 'x' * 1500000000 }}", "gigabyte|come to an end"),
    ],
    ids=["endless", "huge"],
)
def test_templates_without_bounds_are_refused(tmp_path: Path, template: str, sentence: str) -> None:
    path = write(tmp_path / "template.gguf", replace(Shape(), template=template))
    with pytest.raises(ModelError, match=sentence):
        load_llamacpp(LlamaCppConfig(path, "tiny"))


def test_a_busy_machine_gets_longer_by_the_clock_than_by_its_cpu_time() -> None:
    program = (
        "import signal\n"
        "from stepwell.engines.llamacpp.first_load import BUSY, _end_after\n"
        "_end_after(100)\n"
        "cpu, clock = (signal.getitimer(one)[0] for one in (signal.ITIMER_PROF, signal.ITIMER_REAL))\n"
        "assert BUSY > 1 and 50 < cpu <= 100.1 and clock > 2 * cpu, (cpu, clock)\n"
        "_end_after(1)\n"
        "while True: pass\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ended.returncode in (-signal.SIGPROF, -signal.SIGALRM), ended.stderr


def test_a_file_that_has_passed_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = LlamaCppConfig(write(tmp_path / "tiny.gguf"), "tiny")
    tried: list[object] = []
    monkeypatch.setattr(first_load, "try_files", lambda paths: tried.append(paths) or [""])
    for expected in (1, 1):
        first_load.ensure_loadable(config, tmp_path / "passed")
        assert len(tried) == expected
    write(tmp_path / "tiny.gguf", seed=2)
    first_load.ensure_loadable(config, tmp_path / "passed")
    assert len(tried) == 2


def test_parts_of_a_split_model_are_told_apart(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.gguf")
    assert read_header(whole).architecture == "llama"
    first = tmp_path / "m-00001-of-00002.gguf"
    first.write_bytes(whole.read_bytes())
    with pytest.raises(ModelError, match=r"m-00002-of-00002\.gguf cannot be read"):
        inspect(first)
    (tmp_path / "m-00002-of-00002.gguf").write_bytes(whole.read_bytes())
    with pytest.raises(ModelError, match="not the part that its name says"):
        inspect(first)

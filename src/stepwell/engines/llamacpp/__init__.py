"""The real engine: llama.cpp inside the process. Needs the extra ``llamacpp``."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from stepwell.engines.llamacpp.config import LlamaCppConfig, ModelError
from stepwell.engines.llamacpp.engine import LlamaCppEngine
from stepwell.engines.llamacpp.fingerprint import file_digest, fingerprint
from stepwell.engines.llamacpp.first_load import ensure_loadable
from stepwell.engines.llamacpp.header import inspect
from stepwell.engines.llamacpp.native import NativeModel
from stepwell.engines.llamacpp.text import LlamaCppText
from stepwell.models import cache_dir

__all__ = ["LlamaCppConfig", "LlamaCppEngine", "LlamaCppText", "ModelError", "load_llamacpp"]


def load_llamacpp(config: LlamaCppConfig) -> tuple[LlamaCppEngine, LlamaCppText]:
    """Load a model. ``ModelError`` (one sentence) when it is missing, damaged or of an unfit kind.

    The header is checked first, and a file that is new here is loaded in a child process before this one
    touches it. The file is hashed beside the loading: two gigabytes take about a second.
    """
    inspect(config.model_path)
    with ThreadPoolExecutor(1) as pool:
        digest = pool.submit(_digest_or_nothing, config)
        ensure_loadable(config, cache_dir() / "loaded")
        model = NativeModel(config)
        engine = LlamaCppEngine(model, config, fingerprint(config, digest.result()))
    return engine, LlamaCppText(model, config.model_name, engine.info.context_tokens)


def _digest_or_nothing(config: LlamaCppConfig) -> str:
    try:
        return file_digest(config.model_path)
    except OSError:
        return ""  # ``NativeModel`` reads the same file and has the better sentence

"""``stepwell doctor`` on a file that makes vectors or rankings: what it is, what is promised, how fast."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path

from stepwell.commands.doctor.promise import NOT_SERVED, Promise
from stepwell.console.progress import Ticker
from stepwell.console.report import Report
from stepwell.embed.base import EmbeddingError, Wishes
from stepwell.embed.process import EmbeddingProcess
from stepwell.engines.models import resolve_model
from stepwell.settings.file import Settings

CLOSE = "close"
"""As far as floats go: not to the bit."""
_QUERY = "How deep is the well?"
_TEXTS = tuple(
    f"Step {number} of the stairs lies {'under water ' * (number % 5)}in year {1800 + 7 * number}."
    for number in range(16)
)


@dataclass(frozen=True, slots=True)
class VectorFindings:
    """Of one file."""

    ranks: bool
    dimensions: int
    max_tokens: int
    differ: float
    """The most by which a number of an input's vector, or its score, differs alone and beside others."""
    again: bool
    """Whether the same question gives the same numbers to the last bit."""
    tokens_per_s: float
    load_s: float


def file_of_vectors(settings: Settings) -> Path | None:
    """The model of these settings if it makes no text. Raises ``StepwellError``."""
    from stepwell.engines.llamacpp.header import inspect, makes_vectors

    if settings.engine.kind != "llamacpp":
        return None
    path = Path(resolve_model(settings.engine.model).path)
    return path if makes_vectors(inspect(path)) else None


def examine_vectors(settings: Settings, path: Path, progress: Ticker) -> VectorFindings:
    """Load it in a process of its own, and compute sixteen texts alone, together and again. Raises
    ``EmbeddingError``."""
    own = settings.embeddings
    threads = settings.engine.threads or own.threads
    process = EmbeddingProcess(path.stem, Wishes(str(path.absolute()), threads, own.max_tokens))
    try:
        progress.phase(f"loading {path}")
        begun_s = time.perf_counter()
        about = process.about()
        load_s = time.perf_counter() - begun_s
        progress.phase("computing sixteen texts alone and together")
        alone = [_numbers(process, [text], about.ranks)[0] for text in _TEXTS]
        before_us = process.spent_us
        together = _numbers(process, _TEXTS, about.ranks)
        spent_us = max(1, process.spent_us - before_us)
        again = _numbers(process, _TEXTS, about.ranks) == together
        tokens = sum(process.count_pairs(_QUERY, _TEXTS) if about.ranks else process.count(_TEXTS))
    finally:
        process.close()
    pairs = [
        pair for one, other in zip(alone, together, strict=True) for pair in zip(one, other, strict=True)
    ]
    differ = max(abs(a - b) for a, b in pairs)
    rate = tokens * 1e6 / spent_us
    return VectorFindings(about.ranks, about.dimensions, about.max_tokens, differ, again, rate, load_s)


def _numbers(process: EmbeddingProcess, texts: tuple[str, ...] | list[str], ranks: bool) -> list[list[float]]:
    if ranks:
        return [[score] for score in process.rank(_QUERY, texts)]
    return [list(vector) for vector in process.embed(texts)]


def promise_of_vectors(found: VectorFindings) -> Promise:
    """Beside other inputs llama.cpp adds up in another order, as in a step of the chat model."""
    what = "scores" if found.ranks else f"vectors of {found.dimensions} numbers"
    route = "/v1/rerank (embeddings.rerank_model" if found.ranks else "/v1/embeddings (embeddings.model"
    where = f"{route}, or an entry of [[models]]), in a process of its own"
    makes = f"makes {what} from up to {found.max_tokens:,} tokens for {where}"
    if found.differ == 0:
        return Promise("exact", f"{makes}; alone or beside other inputs not one bit differs")
    return Promise(
        CLOSE,
        f"{makes}; the same request gives the same bits{'' if found.again else ' NOT here'}, and "
        f"beside other inputs a number differs by at most {found.differ:.1e} (sixteen texts)",
    )


def report_of_vectors(settings: Settings, path: Path, progress: Ticker) -> Report:
    """The whole examination; a file that cannot be served is a promise of that."""
    chosen = {"model": str(path), "threads": settings.engine.threads or settings.embeddings.threads}
    try:
        found = examine_vectors(settings, path, progress)
    except EmbeddingError as error:
        return Report("doctor", chosen, {"promise": asdict(Promise(NOT_SERVED, str(error)))})
    results = {"promise": asdict(promise_of_vectors(found)), **asdict(found)}
    return Report("doctor", chosen, results)


def vector_lines(report: Report) -> list[str]:
    """What a person reads of it."""
    results = report.results
    lines = [Promise(**results["promise"]).line()]
    if "load_s" in results:
        lines.append(
            f"Speed: {results['tokens_per_s']:,.0f} tokens/s in sixteen short texts, "
            f"{report.settings['threads']} thread{'s' if report.settings['threads'] > 1 else ''}; "
            f"loaded in {results['load_s']:.1f} s."
        )
    return lines

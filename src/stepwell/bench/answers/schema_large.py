"""``stepwell bench schemas --large KB``: what a very large schema costs, before the first token and at each.

The same greedy answer is begun under none, under a small and under the large schema, each alone on the
engine. The limit of tokens cuts it: how it ends is the business of the other half of this benchmark.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from stepwell.basics.quantiles import percentile
from stepwell.bench.answers.random_schema import Json
from stepwell.bench.harness import BenchRun
from stepwell.console.output import sheet
from stepwell.engines.base import BatchItem, Engine, SamplingParams, TextModel

TOKENS = 64
"""Of an answer."""
COLUMNS = {
    "schema": "{schema}",
    "bytes": "{schema_bytes:,}",
    "usable, first": "{first_validate_ms:.2f}",
    "again": "{again_validate_ms:.2f}",
    "token p50": "{median_ms:.2f}",
    "p99": "{p99_ms:.2f}",
}


@dataclass(frozen=True, slots=True)
class SchemaCost:
    """One answer. Times are milliseconds of the wall clock."""

    schema: str
    schema_bytes: int
    first_validate_ms: float
    """Until the schema is known to be usable, the first time; the mask of the first token included."""
    again_validate_ms: float
    token_ms: list[float]
    """Of every token after the first, as it came."""

    @property
    def median_ms(self) -> float:
        return median(self.token_ms)

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "median_ms": self.median_ms, "p99_ms": percentile(self.token_ms, 99)}


def large_schema(size_bytes: int) -> Json:
    """An object that lists records of many kinds: about so many bytes as JSON. Kinds differ in the names of
    their fields, in values and in bounds, and have descriptions, as schemas of tools do."""
    kinds: list[Json] = []
    size = 0
    while size < size_bytes:
        kinds.append(_kind(len(kinds)))
        size += len(json.dumps(kinds[-1])) + 2
    records = {"type": "array", "items": {"anyOf": kinds}, "minItems": 1}
    return {"type": "object", "properties": {"records": records}, "required": ["records"]}


def _kind(number: int) -> Json:
    colours = [f"{word} {number}" for word in ("red", "green", "blue", "grey")]
    fields: Json = {
        "kind": {"const": f"kind_{number}"},
        f"name_{number}": {
            "type": "string",
            "maxLength": 20 + number % 30,
            "description": "What it is called.",
        },
        f"count_{number}": {"type": "integer", "minimum": number, "maximum": 10 * number + 9},
        f"colour_{number}": {"enum": colours, "description": "One of the colours that this kind comes in."},
        f"code_{number}": {"type": "string", "pattern": f"^[A-Z]{{{1 + number % 4}}}-[0-9]{{3}}$"},
        f"parts_{number}": {"type": "array", "items": {"type": "number"}, "maxItems": 1 + number % 7},
    }
    return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}


def measure(engine: Engine, text: TextModel, size_bytes: int, tokens: int = TOKENS) -> list[SchemaCost]:
    """None, small, large."""
    prompt = text.tokenize_chat(text.render_chat([{"role": "user", "content": "List the records as JSON."}]))
    schemas = (("none", None), ("small", large_schema(1)), ("large", large_schema(size_bytes)))
    written = [(name, None if schema is None else json.dumps(schema)) for name, schema in schemas]
    _answer(engine, 1, prompt, SamplingParams(temperature=0, ignore_eos=True), 2)  # the first of a process
    return [
        _cost(engine, number, prompt, name, schema, tokens)
        for number, (name, schema) in enumerate(written, start=2)
    ]


def _cost(
    engine: Engine, number: int, prompt: Sequence[int], name: str, schema: str | None, tokens: int
) -> SchemaCost:
    sampling = SamplingParams(temperature=0, ignore_eos=True, json_schema=schema)
    first_ms, again_ms = _validated_ms(engine, sampling), _validated_ms(engine, sampling)
    times = _answer(engine, number, prompt, sampling, tokens)
    return SchemaCost(name, len(schema or ""), first_ms, again_ms, times)


def _validated_ms(engine: Engine, sampling: SamplingParams) -> float:
    started_ns = time.perf_counter_ns()
    engine.validate(sampling)
    return (time.perf_counter_ns() - started_ns) / 1e6


def _answer(
    engine: Engine, number: int, prompt: Sequence[int], sampling: SamplingParams, tokens: int
) -> list[float]:
    """Milliseconds of every token after the first."""
    engine.open(number, [], 0, sampling)
    items, at = [BatchItem(number, 0, prompt, True)], len(prompt)
    times: list[float] = []
    for _ in range(tokens):
        started_ns = time.perf_counter_ns()
        (sampled,) = engine.run(items)
        times.append((time.perf_counter_ns() - started_ns) / 1e6)
        items, at = [BatchItem(number, at, [sampled.token], True)], at + 1
        if sampled.failed:
            break
    engine.close(number)
    engine.forget(number)
    return times[1:]


def fill(run: BenchRun, found: Sequence[SchemaCost]) -> None:
    """Report it under a name of its own."""
    run.bench = "schemas-large"
    run.results = {"costs": [one.as_json() for one in found]}
    run.show(sheet("Milliseconds by schema", COLUMNS, run.results["costs"]))

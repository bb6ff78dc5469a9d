"""What a very large schema costs: the schema is what it says, and every part of the report is filled."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from stepwell.bench.answers.schema_large import fill, large_schema, measure
from stepwell.bench.harness import BenchRun
from stepwell.console.progress import ticker


@pytest.mark.parametrize("size_bytes", [1, 20_000, 200_000])
def test_a_schema_is_about_as_large_as_asked(size_bytes: int) -> None:
    schema = large_schema(size_bytes)
    Draft202012Validator.check_schema(schema)
    assert 0 <= len(json.dumps(schema)) - size_bytes < 1_500
    kinds = schema["properties"]["records"]["items"]["anyOf"]
    assert len({json.dumps(kind) for kind in kinds}) == len(kinds)


def test_a_small_one_is_measured_beside_none(tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    from stepwell.bench.zoo.child import model_file
    from stepwell.engines.llamacpp import LlamaCppConfig, load_llamacpp

    path = model_file(tmp_path, "llama")
    engine, text = load_llamacpp(LlamaCppConfig(path, "tiny", 1024, max_sequences=2, threads=1))
    try:
        none, small, large = measure(engine, text, 4_000, tokens=6)
    finally:
        engine.close_engine()
    assert (none.schema_bytes, large.schema_bytes > small.schema_bytes > 500) == (0, True)
    assert all(len(one.token_ms) == 5 and one.median_ms > 0 for one in (none, small, large))
    with ticker() as progress:
        run = BenchRun("schemas", {}, progress=progress)
    fill(run, [none, small, large])
    assert run.bench == "schemas-large" and len(run.shown) == 1
    assert [cost["schema"] for cost in run.results["costs"]] == ["none", "small", "large"]

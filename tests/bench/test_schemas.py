"""Random schemas are ordinary ones, and an answer is judged by somebody else than made it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

pytest.importorskip("llama_cpp")

from stepwell import cli
from stepwell.bench.random_schema import random_schema
from stepwell.bench.schemas import what_is_wrong
from stepwell.engines.base import SamplingParams
from stepwell.engines.llamacpp.grammar import grammar_of


def test_every_random_schema_is_valid_and_can_be_enforced() -> None:
    for seed in range(100):
        schema = random_schema(seed)
        assert schema == random_schema(seed)
        Draft202012Validator.check_schema(schema)
        grammar_of(SamplingParams(json_schema=json.dumps(schema)))


def test_what_is_wrong_is_found_patterns_included() -> None:
    schema = {"properties": {"a": {"pattern": "^x$"}}, "required": ["a"]}
    assert what_is_wrong(schema, '{"a": "x"}') == ""
    assert what_is_wrong(schema, '{"a": "y"}') == "pattern at $.a"
    assert what_is_wrong(schema, '{"a": "x').startswith("it is not JSON")


def test_the_command(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    assert cli.run(["bench", "schemas", "--schemas", "2", "--json", str(out)]) == 0
    found = json.loads(out.read_text())
    assert found["results"]["ends"] == {"valid": 2, "wrong": 0, "cut": 0, "failed": 0, "refused": 0}
    assert all(verdict["reached"] for verdict in found["verdicts"])

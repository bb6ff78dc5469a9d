"""Random schemas are ordinary ones, and an answer is judged by somebody else than made it."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

pytest.importorskip("llama_cpp")

from stepwell import cli
from stepwell.bench.answers.random_schema import random_schema
from stepwell.bench.answers.schema_suite import DRAFT
from stepwell.bench.answers.schemas import Journal, SchemaAnswer, what_is_wrong
from stepwell.engines.base import SamplingParams
from stepwell.engines.llamacpp.grammar import grammar_of
from stepwell.errors import BadInput


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


def test_a_run_that_was_stopped_goes_on_with_what_it_had(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    journal = Journal(out, resume=False)
    kept = [SchemaAnswer(seed, [1, 2], "{}", "valid") for seed in (3, 4)]
    assert [journal.keep(one.seed, one) for one in kept] == kept
    partial = tmp_path / "out.json.partial"
    partial.write_bytes(partial.read_bytes() + b'{"seed": 5, "to')
    again = Journal(out, resume=True)
    assert again.known == {3: kept[0], 4: kept[1]}
    again.keep(6, SchemaAnswer(6, end="cut"))
    assert list(Journal(out, resume=True).known) == [3, 4, 6]
    assert Journal(out, resume=False).known == {}
    again.done()
    assert not partial.exists()
    with pytest.raises(BadInput, match="--resume needs --json"):
        Journal(None, resume=True)


SUITE = [
    {
        "description": "a number",
        "schema": {"type": "number", "minimum": 2},
        "tests": [
            {"description": "two", "data": 2, "valid": True},
            {"description": "one", "data": 1, "valid": False},
            {"description": "one that is told to be valid", "data": 1, "valid": True},
            {"description": "three that is told to be wrong", "data": 3, "valid": False},
        ],
    },
    {"description": "not", "schema": {"not": {"type": "null"}}, "tests": []},
    {"description": "false", "schema": False, "tests": []},
]


def test_the_suite_is_offered_from_a_package_or_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "suite" / "tests" / "draft2020-12"
    folder.mkdir(parents=True)
    (folder / "some.json").write_text(json.dumps(SUITE))
    package, out = tmp_path / "package.tar.gz", tmp_path / "out.json"
    data = json.dumps(SUITE).encode()
    with tarfile.open(package, "w:gz") as archive:
        for name in (f"jsonschema-1/{DRAFT}some.json", f"jsonschema-1/{DRAFT}optional/more.json"):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    results = []
    for suite in (package, tmp_path / "suite"):
        cli.run(["bench", "schema-suite", str(suite), "--json", str(out)])
        results.append(json.loads(out.read_text())["results"])
    assert results[0] == results[1]
    assert results[0] == {
        "schemas": 3,
        "accepted": 1,
        "refused": 2,
        "refused_by_keyword": {"(other)": 1, "not": 1},
        "instances_of_accepted": 4,
        "wrong": 1,
        "narrower": 1,
    }


def test_what_holds_no_suite_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.tar.gz").write_text("hello")
    for path in (tmp_path / "x.tar.gz", tmp_path, tmp_path / "none"):
        assert cli.run(["bench", "schema-suite", str(path)]) != 0
        said = capsys.readouterr().err
        assert str(path) in said and "Traceback" not in said

"""``stepwell bench schema-suite``: the JSON-Schema-Test-Suite through what answers are held to.

Each schema of the suite is refused by keyword and place, or compiled as for a request (over bytes, without a
model), and then all instances of its tests are offered to it as an answer. One that does not obey and could
have been written is *wrong*. One that obeys and could not have been written is *narrower*: masks allow less
than a schema, where that keeps a model from writing for ever or since properties come in the schema's order.
"""

from __future__ import annotations

import json
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from llguidance import LLMatcher

from stepwell.bench.harness import BenchRun, bench
from stepwell.console.output import table
from stepwell.console.report import Report, Verdict
from stepwell.engines.llamacpp.constraints import LIMITS, first_line
from stepwell.engines.llamacpp.grammar import of_schema
from stepwell.engines.llamacpp.schemas import Unenforceable, enforceable
from stepwell.engines.llamacpp.vocabulary import bytes_tokenizer
from stepwell.errors import BadInput

DRAFT = "json/tests/draft2020-12/"
OTHER = "(other)"
MOST_NOTES = 12
QUICK_SCHEMAS = 24


@dataclass(slots=True)
class SuiteCase:
    """One schema of the suite and what became of it."""

    file: str
    what: str
    end: str = ""
    why: str = ""
    keyword: str = ""
    instances: int = 0
    wrong: list[str] = field(default_factory=list)
    narrower: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        found = {"file": self.file, "what": self.what, "end": self.end, "why": self.why}
        return {**found, "instances": self.instances, "wrong": self.wrong, "narrower": self.narrower}


@bench("schema-suite")
def main(run: BenchRun, suite: Path, /) -> None:
    """Run the JSON-Schema-Test-Suite (draft 2020-12, without its optional part) through structured output.

    The source package of ``jsonschema`` carries the suite. Takes a minute, needs no model.

    Example, of two commands:

        pip download jsonschema==4.26.0 --no-binary jsonschema --no-deps
        stepwell bench schema-suite jsonschema-4.26.0.tar.gz

    Parameters
    ----------
    suite
        A .tar.gz with the suite in it, or the suite's folder.
    """
    found = []
    run.progress.phase("schemas")
    for case, schema, tests in islice(cases(suite), QUICK_SCHEMAS if run.quick else None):
        _try(case, schema, tests)
        found.append(case)
    if not found:
        raise BadInput(f"{suite} holds no tests of draft 2020-12: it has no folder {DRAFT}")
    run.settings = {"suite": suite.name, "schemas": len(found)}
    run.samples = [case.as_json() for case in found]
    _summarise(run, found)
    run.show(_table(run))


def cases(suite: Path) -> Iterator[tuple[SuiteCase, Any, list[dict[str, Any]]]]:
    """Every schema with its tests, by file. Raises ``BadInput``."""
    for name, data in _files(suite):
        try:
            groups = json.loads(data)
        except ValueError as error:
            raise BadInput(f"{name} in {suite} is not JSON: {error}") from None
        for group in groups:
            yield SuiteCase(name, group["description"]), group["schema"], group["tests"]


def _files(suite: Path) -> Iterator[tuple[str, bytes]]:
    if suite.is_dir():
        folder = suite / "tests" / "draft2020-12"
        yield from ((file.name, file.read_bytes()) for file in sorted(folder.glob("*.json")))
        return
    try:
        with tarfile.open(suite) as archive:
            members = sorted(archive.getmembers(), key=lambda member: member.name)
            for member in members:
                name = member.name.partition(DRAFT)[2]
                if name.endswith(".json") and "/" not in name and (file := archive.extractfile(member)):
                    yield name, file.read()
    except (OSError, tarfile.TarError) as error:
        raise BadInput(f"{suite} cannot be read: {error}") from None


def _try(case: SuiteCase, schema: Any, tests: list[dict[str, Any]]) -> None:
    case.instances = len(tests)
    try:
        if isinstance(schema, dict) and schema:
            enforceable(schema)
        matcher = LLMatcher(_tokenizer(), of_schema(json.dumps(schema)), log_level=0, limits=LIMITS)
    except Unenforceable as error:
        case.end, case.why, case.keyword = "refused", str(error), error.keyword
        return
    except ValueError as error:
        case.end, case.why, case.keyword = "refused", str(error), OTHER
        return
    if matcher.is_error():
        case.end, case.why, case.keyword = "refused", first_line(matcher.get_error()), OTHER
        return
    case.end = "accepted"
    for test in tests:
        written = any(_writes(matcher, text) for text in _texts(test["data"]))
        if written and not test["valid"]:
            case.wrong.append(test["description"])
        elif test["valid"] and not written:
            case.narrower.append(test["description"])


_tokenizer = cache(bytes_tokenizer)


def _texts(value: Any) -> tuple[str, str]:
    return json.dumps(value, ensure_ascii=False), json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _writes(matcher: LLMatcher, text: str) -> bool:
    """Whether a model held to the schema could have answered this."""
    mine, tokens = matcher.deep_copy(), list(text.encode("utf-8", "replace"))
    return mine.validate_tokens(tokens) == len(tokens) and mine.consume_tokens(tokens) and mine.is_accepting()


def _summarise(report: Report, found: list[SuiteCase]) -> None:
    accepted = [case for case in found if case.end == "accepted"]
    refused = Counter(case.keyword for case in found if case.end == "refused")
    wrong = [(case, what) for case in accepted for what in case.wrong]
    report.results = {
        "schemas": len(found),
        "accepted": len(accepted),
        "refused": sum(refused.values()),
        "refused_by_keyword": dict(sorted(refused.items(), key=lambda pair: (-pair[1], pair[0]))),
        "instances_of_accepted": sum(case.instances for case in accepted),
        "wrong": len(wrong),
        "narrower": sum(len(case.narrower) for case in accepted),
    }
    report.notes = [f"wrong: {case.file}, {case.what}: {what}" for case, what in wrong[:MOST_NOTES]]
    report.verdicts = [Verdict("Instances that do not obey and could be written", len(wrong), 0)]


def _table(report: Report) -> Any:
    found = report.results
    by_keyword = found["refused_by_keyword"].items()
    rows = [
        ["schemas accepted", f"{found['accepted']} of {found['schemas']}"],
        *([f"refused for {keyword}", str(count)] for keyword, count in by_keyword),
        ["instances of those accepted", str(found["instances_of_accepted"])],
        ["of these wrong", str(found["wrong"])],
        ["of these narrower", str(found["narrower"])],
    ]
    return table("JSON-Schema-Test-Suite, draft 2020-12", ("", ""), rows)

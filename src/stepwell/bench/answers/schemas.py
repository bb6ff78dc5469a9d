"""``stepwell bench schemas``: answers of a small model under random JSON schemas, each looked at again.

The check is not the one that makes the masks: ``jsonschema`` validates every answer that ended, patterns
included. An answer that was cut by its limit of tokens is counted by itself.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number
from jsonschema import Draft202012Validator

from stepwell.bench.answers import schema_large
from stepwell.bench.answers.random_schema import random_schema
from stepwell.bench.harness import BenchRun, RealModelOption, bench
from stepwell.bench.kept_rows import KeptRows
from stepwell.console.options import Flag, OptionalPositive
from stepwell.console.output import table
from stepwell.console.progress import Ticker
from stepwell.console.report import Verdict
from stepwell.engines.base import BatchItem, Engine, SamplingParams, TextModel
from stepwell.engines.llamacpp import LlamaCppConfig, load_llamacpp
from stepwell.engines.models import resolve_model
from stepwell.errors import BadInput

QUICK_SCHEMAS = 24
AT_ONCE = 8
MAX_TOKENS = 400
TOLD_EVERY, MOST_NOTES = 25, 10
ASK = "Fill in the form with made-up values. Answer in JSON."
ENDS = ("valid", "wrong", "cut", "failed", "refused")
"""``cut``: at its limit of tokens; ``failed``: its constraint left nothing to say; ``refused``: not begun."""


@dataclass(slots=True)
class SchemaAnswer:
    """One answer as it grows."""

    seed: int
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    end: str = ""
    why: str = ""

    def as_json(self) -> dict[str, Any]:
        said = {"seed": self.seed, "end": self.end, "why": self.why, "text": self.text}
        return {**said, "tokens": len(self.tokens)}


@bench("schemas")
def main(
    run: BenchRun,
    *,
    model: RealModelOption = "smollm2",
    count: Annotated[int, Parameter(name="--schemas", validator=Number(gte=1, lte=100_000))] = 1_000,
    seed: int = 0,
    max_tokens: Annotated[int, Parameter(validator=Number(gte=16, lte=10_000))] = MAX_TOKENS,
    resume: Flag = False,
    large: OptionalPositive = None,
) -> None:
    """Let a small model answer under random JSON schemas, and validate every answer with another library.

    A model of 135 million parameters writes nonsense; what counts is that it is valid nonsense.

    Example: ``stepwell bench schemas --schemas 100 --json schemas.json``

    Parameters
    ----------
    count
        How many schemas, each answered once.
    seed
        Seed of the first schema; the others follow.
    max_tokens
        Most tokens of an answer; a longer one is cut.
    resume
        Go on where a run with the same --json FILE was stopped: answers are kept in FILE.partial as they end.
    large
        Instead: what one schema of so many KB (1,000 bytes) costs, before the first token and at each.
    """
    count = min(count, QUICK_SCHEMAS) if run.quick else count
    file = resolve_model(model)
    config = LlamaCppConfig(file.path, file.name, device_kv_tokens=AT_ONCE * 512, max_sequences=AT_ONCE)
    engine, text = load_llamacpp(config)
    try:
        if large is not None:
            run.settings = {"model": file.name, "large_kb": large}
            schema_large.fill(run, _large(engine, text, large))
            return
        journal = Journal(run.json_file, resume=resume)
        seeds = [one for one in range(seed, seed + count) if one not in journal.known]
        for one in answers(engine, text, seeds, run.progress, max_tokens):
            journal.keep(one.seed, one)
    finally:
        engine.close_engine()
    kept = [one for number, one in journal.known.items() if seed <= number < seed + count]
    run.settings = {"model": file.name, "schemas": count, "seed": seed, "max_tokens": max_tokens}
    fill(run, sorted(kept, key=lambda one: one.seed))
    run.when_written.append(journal.done)


def _large(engine: Engine, text: TextModel, size_kb: int) -> list[schema_large.SchemaCost]:
    try:
        return schema_large.measure(engine, text, size_kb * 1_000)
    except ValueError as error:
        raise BadInput(f"a schema of {size_kb} KB is not taken: {error}") from error


def fill(run: BenchRun, found: list[SchemaAnswer]) -> None:
    """Figures, verdicts and the table."""
    ends = Counter(one.end for one in found)
    run.results = {"ends": {end: ends[end] for end in ENDS}}
    run.samples = [one.as_json() for one in found]
    bad = [one for one in found if one.end in ("wrong", "failed", "refused")]
    run.notes = [f"seed {one.seed}: {one.end}, {one.why}" for one in bad[:MOST_NOTES]]
    run.verdicts = [
        Verdict("Answers that ended and do not obey their schema", ends["wrong"] + ends["failed"], 0),
        Verdict("Schemas that are refused", ends["refused"], 0),
    ]
    row = [run.settings["model"], *(str(ends[end]) for end in ENDS)]
    run.show(table("Answers under random schemas", ("model", *ENDS), [row]))


class Journal(KeptRows[int, SchemaAnswer]):
    """Answers that have ended, in ``FILE.partial``, by seed."""

    def __init__(self, json_file: Path | None, *, resume: bool) -> None:
        beside = json_file is not None and str(json_file) != "-"
        if resume and not beside:
            raise BadInput("--resume needs --json FILE: answers are kept beside it")
        path = Path(f"{json_file}.partial") if beside else None
        if path is not None and not resume:
            path.write_text("", encoding="utf-8")
        super().__init__(
            path, lambda said: (said["seed"], SchemaAnswer(**said)), lambda _, answer: asdict(answer)
        )

    def done(self) -> None:
        """The report holds everything now."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def answers(
    engine: Engine, text: TextModel, seeds: Sequence[int], progress: Ticker, max_tokens: int = MAX_TOKENS
) -> Iterator[SchemaAnswer]:
    """Answers as they end; up to ``AT_ONCE`` are written side by side."""
    rendered = text.render_chat([{"role": "user", "content": ASK}])
    prompt = text.tokenize_chat(rendered)
    running: dict[int, SchemaAnswer] = {}
    waiting = iter(seeds)
    done = 0
    while True:
        while len(running) < AT_ONCE and (seed := next(waiting, None)) is not None:
            one = SchemaAnswer(seed)
            sampling = SamplingParams(temperature=1.0, seed=seed, json_schema=json.dumps(random_schema(seed)))
            try:
                engine.validate(sampling)
            except ValueError as error:
                one.end, one.why = "refused", str(error)
                yield one
                continue
            engine.open(seed, [], 0, sampling)
            running[seed] = one
        if not running:
            return
        items = [_item(one, prompt) for one in running.values()]
        for sampled in engine.run(items):
            one = running[sampled.request]
            one.tokens.append(sampled.token)
            if _ended(one, text, sampled.failed, max_tokens):
                del running[one.seed]
                engine.close(one.seed)
                engine.forget(one.seed)
                done += 1
                if done % TOLD_EVERY == 0:
                    progress.phase(f"{done} of {len(seeds)} answers")
                yield one


def _item(one: SchemaAnswer, prompt: list[int]) -> BatchItem:
    if not one.tokens:
        return BatchItem(one.seed, 0, prompt, True)
    return BatchItem(one.seed, len(prompt) + len(one.tokens) - 1, one.tokens[-1:], True)


def _ended(one: SchemaAnswer, text: TextModel, failed: str, max_tokens: int) -> bool:
    """Judge an answer that its last token ended."""
    if failed:
        one.end, one.why = "failed", failed
    elif text.is_end(one.tokens[-1]):
        detokenizer = text.detokenizer()
        one.text = "".join(map(detokenizer.add, one.tokens[:-1])) + detokenizer.flush()
        one.why = what_is_wrong(random_schema(one.seed), one.text)
        one.end = "wrong" if one.why else "valid"
    elif len(one.tokens) >= max_tokens:
        one.end = "cut"
    return bool(one.end)


def what_is_wrong(schema: dict[str, Any], text: str) -> str:
    """Why ``text`` does not obey ``schema``, patterns included; empty: it does."""
    try:
        value = json.loads(text)
    except ValueError as error:
        return f"it is not JSON: {error}"
    problem = next(Draft202012Validator(schema).iter_errors(value), None)
    return "" if problem is None else f"{problem.validator} at {problem.json_path}"

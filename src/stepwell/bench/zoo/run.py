"""``stepwell bench exactness --zoo``: every architecture that llama.cpp runs, a tiny random model each."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, replace
from os import environ
from pathlib import Path
from typing import Any

from stepwell.bench.child import Child
from stepwell.bench.harness import BenchRun, scratch
from stepwell.bench.page_table import write_between
from stepwell.bench.zoo.child import ZooWishes
from stepwell.bench.zoo.make import kind_of
from stepwell.bench.zoo.shapes import ARCHITECTURES
from stepwell.console.output import sheet
from stepwell.console.report import Verdict
from stepwell.errors import BadInput

MARKS = ("<!-- zoo -->", "<!-- end of zoo -->")
COLUMNS = {"model": "{name}", "verdict": "{verdict}", "logits compared": "{rows:,}", "why": "{why}"}
_MOST_HINTS = 8
_PAGE_WIDTH = 150
_ATTENDING = (
    "llama phi2 llama:tied deepseek2 qwen3moe gpt-oss gemma3:window512 cohere2 deepseek32 mimo2 gemma2 bloom"
)
_STORED = "qwen3:f32 llama:q4_0 llama:q4_k_m llama:q8_0 llama:kv_q8_0 deepseek2:q4_0"
_STATES = "lfm2 qwen35:q4_0 qwen35:states4 jamba falcon-h1 kimi-linear mamba mamba:states4 rwkv7"
KINDS = (*_ATTENDING.split(), *_STORED.split(), *_STATES.split())
"""One for each way of attending, laying out weights or storing KV: grouped heads, one head each, tied
embeddings, latent attention, experts, windows of 128 (with sinks) and 512, parallel blocks, a sparse
indexer, heads of two sizes, capped logits, ALiBi; f32 and quantised weights, quantised KV, packed latent;
short convolutions, delta nets, state spaces beside and without attention, RWKV; room for few states."""


def checked(names: Sequence[str]) -> list[str]:
    """The models meant: all architectures if none is named, ``kinds`` for the short list."""
    found: list[str] = []
    for name in names or ("all",):
        found += {"all": ARCHITECTURES, "kinds": KINDS}.get(name, (name,))
    for name in found:
        try:
            kind = kind_of(name)
        except ValueError as error:
            raise BadInput(f"--zoo: {error}") from error
        if kind.architecture not in ARCHITECTURES:
            near = [known for known in ARCHITECTURES if known.startswith(kind.architecture[:3])]
            hint = f" (is it one of {', '.join(near[:_MOST_HINTS])}?)" if near else ""
            raise BadInput(f"--zoo: the zoo has no {kind.architecture!r}{hint}")
    return found


class Zoo(Child):
    """A child that answers one name after the other. ``StepwellError`` when it ends early."""

    def __init__(self, wishes: ZooWishes) -> None:
        quiet = environ | {"GGML_NO_BACKTRACE": "1"}
        super().__init__("stepwell.bench.zoo.child", json.dumps(asdict(wishes)), hears=True, env=quiet)

    def row(self, name: str) -> dict[str, Any]:
        """What became of this model."""
        self.tell(name)
        found: dict[str, Any] = json.loads(self.line())
        return found


def fill(run: BenchRun, names: Sequence[str], wishes: ZooWishes) -> None:
    """Run the zoo in a folder of its own, and report it."""
    wanted = checked(names)
    run.settings = {"zoo": wanted} | {k: v for k, v in asdict(wishes).items() if k != "folder"}
    run.progress.phase(f"{len(wanted)} tiny models, {wishes.turns} turns each in two arms", len(wanted))
    with scratch("zoo") as folder, Zoo(replace(wishes, folder=str(folder))) as zoo:
        for name in wanted:
            run.samples.append(zoo.row(name))
            run.progress.advance()
    run.results, run.verdicts = dict(counts(run.samples)), verdicts(run.samples)
    run.show(sheet("The zoo", COLUMNS, run.samples))


def counts(found: Sequence[dict[str, Any]]) -> dict[str, int]:
    """How many models got each verdict, in the order of the alphabet."""
    kinds = sorted({row["verdict"] for row in found})
    return {kind: sum(row["verdict"] == kind for row in found) for kind in kinds}


def verdicts(found: Sequence[dict[str, Any]]) -> list[Verdict]:
    """Nothing may be wrong; what is refused is refused with a reason, and all others are exact."""
    number = counts(found)
    bad = sum(count for kind, count in number.items() if kind not in {"exact", "refused"})
    return [
        Verdict("models that are exact", number.get("exact", 0), 1, at_most=False),
        Verdict("models that are neither exact nor refused", bad, 0),
    ]


def write_page(page: Path, found: Sequence[dict[str, Any]]) -> None:
    """Put the table between the marks of a page. ``BadInput`` when it has none or cannot be written."""
    write_between(page, MARKS, markdown(found))


def markdown(found: Sequence[dict[str, Any]]) -> str:
    """The table of docs/models.md: what is exact in one paragraph, everything else line by line."""
    exact = [row["name"] for row in found if row["verdict"] == "exact"]
    named = f"**Exact ({len(exact)})**: {', '.join(f'`{name}`' for name in exact)}."
    lines = [textwrap.fill(named, _PAGE_WIDTH, break_on_hyphens=False), ""]
    lines += ["| architecture | verdict | why |", "|---|---|---|"]
    others = [row for row in found if row["verdict"] != "exact"]
    lines += [f"| `{row['name']}` | {row['verdict']} | {row['why']} |" for row in others]
    return "\n".join(lines) + "\n"

"""``stepwell demo``: the main job, end to end, on a real model."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from rich.console import Console

from stepwell import __version__
from stepwell.agents.crews.files import find_crew
from stepwell.agents.passages import reader_of
from stepwell.basics.this_machine import machine
from stepwell.console.options import Flag, no_option, require_writable
from stepwell.console.report import versions
from stepwell.console.stopping import told_to_stop
from stepwell.demo import figures as fig
from stepwell.demo.books import read_ledger
from stepwell.demo.expected import EXAMPLE, GENERAL
from stepwell.demo.job import DemoJob, run_job
from stepwell.demo.page import render_page
from stepwell.demo.plan import Rehearsal, TextCounter, capacity_for, held_tokens, rehearse, without_tiers
from stepwell.demo.record import Capacity, DemoCustomer, DemoRun
from stepwell.demo.report import make_console, print_end, print_plan, print_report, say
from stepwell.demo.screen import PlainScreen, make_screen
from stepwell.engines.models import base_model_note
from stepwell.errors import BadInput, StepwellError
from stepwell.launch import assemble
from stepwell.launch.embedded import embedded
from stepwell.ledger.base import LedgerError
from stepwell.ledger.pricing.costs import load_cost_book
from stepwell.ledger.pricing.prices import load_price_book
from stepwell.ledger.settings import LedgerSettings
from stepwell.library.documents import Document
from stepwell.library.load import load_document
from stepwell.server.callers.keys import KeyEntry
from stepwell.settings.engine import EngineSettings
from stepwell.settings.file import KvSettings, Settings, load

CUSTOMERS = (("Almond", "priority"), ("Birch", "default"), ("Cedar", "flex"))
CREW = "documents"
QUESTIONS = 3
"""Of each customer: its own, and what it asks of the same crew after that."""
QUICK_QUESTIONS = 2
QUICK_PATIENCE = 0.4
MAX_QUESTION_CHARS = 1_000
PROVISIONAL_DEVICE_TOKENS = 8_192
"""For the moment before the plan is made, when only the vocabulary is needed; no context may be longer."""


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Options:
    """The command line, but for the document."""

    questions: Annotated[tuple[str, ...], Parameter(name="--ask")] = ()
    """A question of your own. Give it up to three times: one per customer."""
    model: str = "smollm2"
    """smollm2, or the path of a GGUF file of a model that follows instructions."""
    json: Path | None = None
    """Write all figures here."""
    html: Path = Path("stepwell-demo.html")
    """Write the page with the picture here."""
    quick: Flag = False
    """Two questions per customer in place of three, for a first look."""
    compare: bool = True
    """Run the job again with KV tiers switched off."""
    disk_dir: Path | None = None
    """Where KV blocks go on disk while it runs. Default: a temporary directory."""
    price_book: str | None = None
    """What customers pay: a preset ('stepwell ledger books') or a TOML file. Default: local."""
    cost_book: str | None = None
    """What the machine costs: a preset or a TOML file. Default: laptop."""
    seed: int = 0
    """Seed of the model's choices and of the time that people read."""
    engine: Annotated[Literal["llamacpp", "null"], Parameter(show=False)] = "llamacpp"


AS_SHIPPED = Options()


def demo(
    document: Annotated[
        str | None,
        Parameter(
            help="Markdown, text or PDF; - reads standard input. Default: the example about stepwells.",
            allow_leading_hyphen=True,  # for "-"
            validator=no_option,
        ),
    ] = None,
    /,
    *,
    options: Options = AS_SHIPPED,
) -> int:
    """Three customers' crews of agents read a document and answer questions about it.

    Each customer has a session of the crew that ships as "documents": 'stepwell run documents FILE --ask ...'
    does the very same. The customers have different service tiers and work at the same time. Between two
    questions a person reads the answer, and the KV of the crew's agents waits: the device has room for a
    quarter of what all agents hold together, so it moves to host memory and disk and comes back. The job is
    then run again with host memory and disk switched off. Answers to the questions that ship are checked.

        stepwell demo
        stepwell demo report.pdf --ask "What does it recommend?"
        cat notes.md | stepwell demo - --ask "Who decides?" --json figures.json
        stepwell demo --model model.gguf --quick --seed 7
        stepwell demo --price-book openai-gpt-5 --cost-book h100-rented
    """
    return run_demo(document, options, make_console())


def run_demo(source: str | None, options: Options, console: Console) -> int:
    """Everything ``stepwell demo`` does, with the document ``source``. Raises ``StepwellError`` with one
    sentence when it cannot."""
    began_s = time.perf_counter()
    for path in (options.html, options.json):
        require_writable(path)
    document = load_document(source)
    customers = customers_for(options, is_example=source is None)
    say(console, f"Reading {document.name}: {document.words:,} words. {document.note}".rstrip())
    with told_to_stop(), scratch_directory(options.disk_dir) as directory:
        stage = prepare(options, document, customers, directory, console)
        runs = perform(stage, options, console)
    figures = collect(stage, document, runs)
    print_report(console, figures)
    options.html.write_text(render_page(figures), encoding="utf-8")
    if options.json is not None:
        options.json.write_bytes(figures.to_json())
    print_end(console, figures, options.html, options.json, time.perf_counter() - began_s)
    return 0


@dataclass(frozen=True, slots=True)
class Stage:
    """Everything that is settled before the first run."""

    settings: Settings
    job: DemoJob
    capacity: Capacity
    rehearsal: Rehearsal
    document_tokens: int
    model: str


def prepare(
    options: Options,
    document: Document,
    customers: tuple[DemoCustomer, ...],
    directory: Path,
    console: Console,
) -> Stage:
    """Rehearse the job with the model's own vocabulary, and size the KV tiers."""
    settings = settings_for(options, customers, directory)
    require_books(settings)
    patience = QUICK_PATIENCE if options.quick else 1.0
    job = DemoJob(
        find_crew(CREW), document, reader_of([document], points=True), customers, options.seed, patience
    )
    say(console, f"Loading {options.model} to count tokens ...")
    engine, text = assemble.load_engine(settings)
    try:
        if not text.has_chat_template:
            raise BadInput(
                f"{text.name} has no chat template: a crew needs a model that follows instructions"
            )
        counter = TextCounter(text)
        rehearsal = rehearse(job, counter)
        info = engine.info
        capacity = capacity_for(rehearsal, info.token_bytes, info.block_tokens, info.context_tokens)
        document_tokens = counter.count(document.text)
    finally:
        engine.close_engine()
    require_space(capacity.disk_bytes, directory)
    print_plan(console, customers, len(rehearsal.agents), rehearsal.turns, capacity)
    return Stage(settings, job, capacity, rehearsal, document_tokens, text.name)


def perform(stage: Stage, options: Options, console: Console) -> list[DemoRun]:
    """The run with KV tiers and, unless it is not wanted, the one without."""
    screen = make_screen(console, stage.job.customers, stage.rehearsal.agents)
    runs = [perform_one(stage, stage.capacity, "With KV tiers", screen, console)]
    if options.compare:
        say(console, "Now the same job without them (--no-compare skips it).")
        name = "Without: host memory and disk off"
        runs.append(perform_one(stage, without_tiers(stage.capacity), name, screen, console))
    return runs


def perform_one(
    stage: Stage, capacity: Capacity, name: str, screen: PlainScreen, console: Console
) -> DemoRun:
    """One run on a server of its own, and what its ledger says when it is gone."""
    settings = sized(stage.settings, capacity)
    agents, turns = stage.rehearsal.agents, stage.rehearsal.turns
    with embedded(settings) as node:
        run, said = run_job(node, stage.job, DemoRun(name, capacity, agents), turns, screen)
        run.held_tokens = held_tokens(said, TextCounter(node.node.text))
    books = settings.ledger
    assert books.path is not None
    try:
        run.ledger = read_ledger(books.path, run.agents, books.price_book, books.cost_book)
    except LedgerError as error:  # the run itself went well, and its figures are worth minutes
        say(console, f"What it cost is not known: {error}")
    return run


def collect(stage: Stage, document: Document, runs: Sequence[DemoRun]) -> fig.DemoFigures:
    """All figures of all runs."""
    customers, agents = stage.job.customers, len(stage.rehearsal.agents)
    made = tuple(fig.figures_of_run(run, customers) for run in runs)
    share = stage.capacity.device_tokens / stage.capacity.held_tokens
    return fig.DemoFigures(
        schema=fig.SCHEMA,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        stepwell=__version__,
        model=stage.model,
        machine=machine(),
        versions=versions(),
        document=fig.DocumentFigures(
            document.name, document.kind, document.title, document.words, stage.document_tokens
        ),
        customers=customers,
        agents=agents,
        device_share=share,
        runs=made,
        speedup=fig.speedup(made[0], made[1]) if len(made) == 2 else {},
        result=fig.result_sentence(made, agents, share),
    )


# --- what goes in ----------------------------------------------------------------------------------


def customers_for(options: Options, *, is_example: bool = True) -> tuple[DemoCustomer, ...]:
    """The three customers with their questions. Raises ``BadInput`` for questions that are none."""
    own = [question.strip() for question in options.questions]
    if len(own) > len(CUSTOMERS):
        raise BadInput(
            f"--ask was given {len(own)} times: there are {len(CUSTOMERS)} customers, one question each"
        )
    for question in own:
        if not question:
            raise BadInput("--ask is empty: give a question")
        if len(question) > MAX_QUESTION_CHARS:
            raise BadInput(
                f"--ask is {len(question):,} characters long: a question has at most {MAX_QUESTION_CHARS:,}"
            )
    count = QUICK_QUESTIONS if options.quick else QUESTIONS
    return tuple(
        DemoCustomer(name, service_tier, questions_of(number, own, is_example, count))
        for number, (name, service_tier) in enumerate(CUSTOMERS)
    )


def questions_of(customer: int, own: Sequence[str], is_example: bool, count: int) -> tuple[str, ...]:
    """The customer's own question, of which the last serves those that are left, and what follows it."""
    shipped = list(EXAMPLE) if is_example else list(GENERAL)
    if not own and is_example:
        own, shipped = shipped[: len(CUSTOMERS)], shipped[len(CUSTOMERS) :]
    first = own[min(customer, len(own) - 1)] if own else shipped[0]
    return tuple(dict.fromkeys([first, *shipped]))[:count]


def settings_for(options: Options, customers: Sequence[DemoCustomer], directory: Path) -> Settings:
    """Settings of the demo's server: the user's own, but for sizes, keys and places. Raises ``BadInput``."""
    if note := base_model_note(options.model):
        raise BadInput(f"{note} The demo needs one that does: leave --model out, or name a GGUF file")
    own = load(flags={"engine.model": options.model, "engine.kind": options.engine})
    keys = tuple(KeyEntry(key=c.api_key, tenant=c.tenant, service_tiers=(c.service_tier,)) for c in customers)
    engine = replace(own.engine, device_kv_tokens=PROVISIONAL_DEVICE_TOKENS)
    kv = replace(own.kv, host_kv=0, disk_kv=0, disk_dir=directory)
    ledger = LedgerSettings(
        path=str(directory / "ledger.db"),
        price_book=options.price_book or own.ledger.price_book,
        cost_book=options.cost_book or own.ledger.cost_book,
        storage_every_s=1,  # so that what idle agents cost is a line in the picture, not a staircase
    )
    return replace(
        own, engine=engine, kv=kv, keys=keys, keys_file=None, record=None, ledger=ledger, budgets=()
    )


def require_books(settings: Settings) -> None:
    """Find out before minutes of work that the books cannot be read. Raises ``BadInput``."""
    load_price_book(settings.ledger.price_book, [contract.name for contract in settings.contracts()])
    load_cost_book(settings.ledger.cost_book)


def sized(settings: Settings, capacity: Capacity) -> Settings:
    """The same settings with KV tiers of these sizes, and a ledger of its own."""
    engine: EngineSettings = replace(settings.engine, device_kv_tokens=capacity.device_tokens)
    kv: KvSettings = replace(settings.kv, host_kv=capacity.host_bytes, disk_kv=capacity.disk_bytes)
    name = f"ledger-{'without' if capacity.host_bytes == 0 else 'with'}.db"
    ledger = replace(settings.ledger, path=str(settings.kv.disk_dir / name))
    return replace(settings, engine=engine, kv=kv, ledger=ledger)


# --- places ----------------------------------------------------------------------------------------


@contextmanager
def scratch_directory(parent: Path | None) -> Iterator[Path]:
    """A directory for KV blocks that goes away with the demo."""
    try:
        if parent is not None:
            parent.mkdir(parents=True, exist_ok=True)
        directory = tempfile.TemporaryDirectory(
            prefix="stepwell-demo-", dir=parent, ignore_cleanup_errors=True
        )
    except OSError as error:
        raise BadInput(f"--disk-dir {parent}: {error.strerror}") from error
    with directory as name:
        yield Path(name)


def require_space(size_bytes: int, directory: Path) -> None:
    """Raises ``StepwellError`` when the disk has no room for what may sink to it."""
    free = shutil.disk_usage(directory).free
    if free < size_bytes:
        raise StepwellError(
            f"{directory} has {free // 2**20} MiB free and the demo may put {size_bytes // 2**20} MiB of KV "
            "there: "
            "name another place with --disk-dir"
        )

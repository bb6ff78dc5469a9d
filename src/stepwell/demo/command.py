"""``stepwell demo``: the main job, end to end, on a real model."""

from __future__ import annotations

import shutil
import signal
import tempfile
import threading
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
from stepwell.agents.pointing import offered_by
from stepwell.bench.common import machine, versions
from stepwell.commands.run_reading import reader_of
from stepwell.demo import figures as fig
from stepwell.demo.books import read_ledger
from stepwell.demo.crew import QUICK, Brief, Shape
from stepwell.demo.document import load_document
from stepwell.demo.expected import EXAMPLE
from stepwell.demo.node import loaded, open_node
from stepwell.demo.page import render_page
from stepwell.demo.plan import Rehearsal, TextCounter, capacity_for, rehearse, without_tiers
from stepwell.demo.reading import Assignment, CountTokens, assign, shorten
from stepwell.demo.record import Capacity, Customer, Run
from stepwell.demo.report import make_console, print_end, print_plan, print_report, say
from stepwell.demo.run import Job, crew_agents, run_job
from stepwell.demo.screen import Screen, make_screen
from stepwell.errors import BadInput, StepwellError
from stepwell.ledger.base import LedgerError
from stepwell.ledger.costs import load_cost_book
from stepwell.ledger.prices import load_price_book
from stepwell.ledger.settings import LedgerSettings
from stepwell.library.documents import Document
from stepwell.models import base_model_note
from stepwell.server.keys import KeyEntry
from stepwell.settings import EngineSettings, KvSettings, Settings, load

CUSTOMERS = (("Almond", "priority"), ("Birch", "default"), ("Cedar", "flex"))
GENERAL_QUESTION = "What is the most important point of this document?"
MAX_QUESTION_CHARS = 1_000
HEADINGS_TOKENS = 48
PROVISIONAL_DEVICE_TOKENS = 4_096
"""For the moment before the plan is made, when only the vocabulary is needed; no context may be longer."""


@dataclass(frozen=True, slots=True)
class Options:
    """The command line, understood."""

    document: str | None = None
    questions: tuple[str, ...] = ()
    model: str = "smollm2"
    json: Path | None = None
    html: Path = Path("stepwell-demo.html")
    quick: bool = False
    compare: bool = True
    disk_dir: Path | None = None
    price_book: str | None = None
    cost_book: str | None = None
    engine: Literal["llamacpp", "null"] = "llamacpp"


def demo(
    document: Annotated[
        str | None,
        Parameter(
            help="Markdown, text or PDF; - reads standard input. Default: the example about stepwells.",
            allow_leading_hyphen=True,  # for "-"
        ),
    ] = None,
    /,
    *,
    ask: Annotated[
        list[str] | None,
        Parameter(help="The question. Give it up to three times: one per customer.", negative=()),
    ] = None,
    model: Annotated[str, Parameter(help="smollm2 or the path of a GGUF file.")] = "smollm2",
    json: Annotated[Path | None, Parameter(help="Write all figures here.")] = None,
    html: Annotated[Path, Parameter(help="Write the page with the picture here.")] = Path(
        "stepwell-demo.html"
    ),
    quick: Annotated[
        bool, Parameter(help="Smaller crews that say less, for a first look.", negative=())
    ] = False,
    compare: Annotated[bool, Parameter(help="Run the job again with KV tiers switched off.")] = True,
    disk_dir: Annotated[
        Path | None,
        Parameter(help="Where KV blocks go on disk while it runs. Default: a temporary directory."),
    ] = None,
    price_book: Annotated[
        str | None,
        Parameter(
            help="What customers pay: a preset ('stepwell ledger books') or a TOML file. Default: local."
        ),
    ] = None,
    cost_book: Annotated[
        str | None,
        Parameter(help="What the machine costs: a preset or a TOML file. Default: laptop."),
    ] = None,
    engine: Annotated[Literal["llamacpp", "null"], Parameter(show=False)] = "llamacpp",
) -> int:
    """Three customers' crews of agents read a document and answer questions about it.

    Each crew has a lead, readers, a critic and a writer; the customers have different service tiers
    and work at the same time. The device has KV for a quarter of what their agents hold together, so
    the KV of agents that wait goes down to host memory and disk and comes back. The job is then run
    again with host memory and disk switched off. The page shows where each agent's KV lay and what it
    cost; the last table says who earned the machine's bill.

        stepwell demo
        stepwell demo report.pdf --ask "What does it recommend?"
        cat notes.md | stepwell demo - --ask "Who decides?" --json figures.json
        stepwell demo --model model.gguf --quick
        stepwell demo --price-book openai-gpt-5 --cost-book h100-rented
    """
    if document is not None and document.startswith("-") and document != "-":
        raise BadInput(f"unknown option {document} (stepwell demo --help explains)")
    options = Options(
        document,
        tuple(ask or ()),
        model,
        json,
        html,
        quick,
        compare,
        disk_dir,
        price_book,
        cost_book,
        engine,
    )
    return run_demo(options, make_console())


def run_demo(options: Options, console: Console) -> int:
    """Everything ``stepwell demo`` does. Raises ``StepwellError`` with one sentence when it cannot."""
    began_s = time.perf_counter()
    for path in (options.html, options.json):
        require_writable(path)
    document = load_document(options.document)
    customers = customers_for(options)
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
    customers: tuple[Customer, ...]
    job: Job
    agents: tuple[str, ...]
    capacity: Capacity
    rehearsal: Rehearsal
    readings: tuple[Assignment, ...]
    model: str


def prepare(
    options: Options, document: Document, customers: tuple[Customer, ...], directory: Path, console: Console
) -> Stage:
    """Read the document with the model's own vocabulary, rehearse, and size the KV tiers."""
    shape = QUICK if options.quick else Shape()
    settings = settings_for(options, customers, directory)
    require_books(settings)
    if note := base_model_note(options.model):
        say(console, note)
    say(console, f"Loading {options.model} to count tokens ...")
    with loaded(settings) as (info, text):
        counter = TextCounter(text)
        briefs, readings = write_briefs(document, customers, shape, counter)
        rehearsal = rehearse(briefs, shape, counter)
        capacity = capacity_for(rehearsal, info.token_bytes, info.block_tokens, info.context_tokens)
        model = text.name
    require_space(capacity.disk_bytes, directory)
    used, total = sum(r.used_tokens for r in readings) // len(readings), readings[0].total_tokens
    if used < total:
        say(
            console,
            f"The document has {total:,} tokens; each crew reads {used:,} of them: in every part the "
            "passages nearest to "
            "its question.",
        )
    agents = tuple(crew_agents(briefs, shape))
    print_plan(console, customers, len(agents), rehearsal.turns, capacity)
    job = Job(briefs, shape, rehearsal.turns)
    return Stage(settings, customers, job, agents, capacity, rehearsal, readings, model)


def perform(stage: Stage, options: Options, console: Console) -> list[Run]:
    """The run with KV tiers and, unless it is not wanted, the one without."""
    screen = make_screen(console, stage.customers, stage.agents)
    runs = [perform_one(stage, stage.capacity, "With KV tiers", screen, console)]
    if options.compare:
        say(console, "Now the same job without; it takes two to three times as long (--no-compare skips it).")
        name = "Without: host memory and disk off"
        runs.append(perform_one(stage, without_tiers(stage.capacity), name, screen, console))
    return runs


def perform_one(stage: Stage, capacity: Capacity, name: str, screen: Screen, console: Console) -> Run:
    """One run on a server of its own, and what its ledger says when it is gone."""
    settings = sized(stage.settings, capacity)
    with open_node(settings) as node:
        run = run_job(node, stage.job, capacity, name, screen)
    books = settings.ledger
    assert books.path is not None
    try:
        run.ledger = read_ledger(
            books.path, run.agents, run.began_us, run.duration_s, books.price_book, books.cost_book
        )
    except LedgerError as error:  # the run itself went well, and its figures are worth minutes
        say(console, f"What it cost is not known: {error}")
    return run


def collect(stage: Stage, document: Document, runs: Sequence[Run]) -> fig.DemoFigures:
    """All figures of all runs."""
    made = tuple(fig.figures_of_run(run, stage.customers, stage.rehearsal.shared_tokens) for run in runs)
    share = stage.capacity.device_tokens / stage.capacity.held_tokens
    return fig.DemoFigures(
        schema=fig.SCHEMA,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        stepwell=__version__,
        model=stage.model,
        machine=machine(),
        versions=versions(),
        document=_document_figures(document, stage.readings),
        customers=_customer_figures(stage),
        agents=len(stage.agents),
        device_share=share,
        runs=made,
        speedup=fig.speedup(made[0], made[1]) if len(made) == 2 else {},
        result=fig.result_sentence(made, len(stage.agents), share),
    )


def _customer_figures(stage: Stage) -> tuple[fig.CustomerFigures, ...]:
    return tuple(
        fig.CustomerFigures(c.name, c.service_tier, c.question, reading.best_quotes)
        for c, reading in zip(stage.customers, stage.readings, strict=True)
    )


def _document_figures(document: Document, readings: Sequence[Assignment]) -> fig.DocumentFigures:
    used = sum(reading.used_tokens for reading in readings) // len(readings)
    return fig.DocumentFigures(
        document.name, document.kind, document.title, document.words, readings[0].total_tokens, used
    )


# --- what goes in ----------------------------------------------------------------------------------


def customers_for(options: Options) -> tuple[Customer, ...]:
    """The three customers with their questions. Raises ``BadInput`` for questions that are none."""
    questions = options.questions or (
        tuple(EXAMPLE)[: len(CUSTOMERS)] if options.document is None else (GENERAL_QUESTION,)
    )
    if len(questions) > len(CUSTOMERS):
        raise BadInput(
            f"--ask was given {len(questions)} times: there are {len(CUSTOMERS)} customers, one question each"
        )
    for question in questions:
        if not question.strip():
            raise BadInput("--ask is empty: give a question")
        if len(question) > MAX_QUESTION_CHARS:
            raise BadInput(
                f"--ask is {len(question):,} characters long: a question has at most {MAX_QUESTION_CHARS:,}"
            )
    return tuple(
        Customer(
            name, service_tier, f"sk-demo-{name.lower()}", questions[min(number, len(questions) - 1)].strip()
        )
        for number, (name, service_tier) in enumerate(CUSTOMERS)
    )


def settings_for(options: Options, customers: Sequence[Customer], directory: Path) -> Settings:
    """Settings of the demo's server: the user's own, but for sizes, keys and places."""
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


def write_briefs(
    document: Document, customers: Sequence[Customer], shape: Shape, count: CountTokens
) -> tuple[tuple[Brief, ...], tuple[Assignment, ...]]:
    """What each crew is given, and how much of the document that is."""
    briefs, readings = [], []
    read_on = reader_of([document], points=True)
    for customer in customers:
        read = assign(document, customer.question, shape.readers, shape.pages, shape.page_tokens, count)
        common = common_words(document, customer, shape, count)
        offered = offered_by(read_on(customer.question, 0))
        briefs.append(Brief(customer, common, read.pages, read.quotes, read.best_quotes, offered))
        readings.append(read)
    return tuple(briefs), tuple(readings)


def common_words(document: Document, customer: Customer, shape: Shape, count: CountTokens) -> str:
    """What every agent of a crew knows; its KV is computed once per crew and shared."""
    headings = shorten("; ".join(document.headings[1:]), HEADINGS_TOKENS, count)
    lines = [
        "You answer questions from the text that you are given, in one short sentence.",
        f"Document: {document.title}",
        f"Contents: {headings}" if headings else "",
        f"It begins: {shorten(' '.join(document.text[:8_000].split()), shape.opening_tokens, count)}",
        f"Question: {customer.question}",
    ]
    return "\n".join(line for line in lines if line)


# --- places ----------------------------------------------------------------------------------------


def require_writable(path: Path | None) -> None:
    """Find out before minutes of work that the result cannot be written."""
    if path is None:
        return
    if path.is_dir():
        raise BadInput(f"{path} is a directory: name a file in it")
    if not path.parent.is_dir():
        raise BadInput(f"the directory {path.parent} does not exist: make it first")
    existed = path.exists()
    try:
        with path.open("ab"):
            pass
    except OSError as error:
        raise BadInput(f"{path} cannot be written: {error.strerror}") from error
    if not existed:
        path.unlink()


@contextmanager
def told_to_stop() -> Iterator[None]:
    """SIGTERM ends the demo like Ctrl-C: otherwise hundreds of megabytes of KV stay behind on disk."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


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

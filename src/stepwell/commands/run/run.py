"""``stepwell run``: a crew of agents answers a question, over any server or one of its own."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from stepwell.agents import events
from stepwell.agents.agent import VERBS
from stepwell.agents.client import Client
from stepwell.agents.crews.definition import Crew
from stepwell.agents.crews.files import find_crew
from stepwell.agents.crews.profile import FALLBACK_FLASH, PRO, Profile, apply, find_profile, general_says
from stepwell.agents.dry import first_requests
from stepwell.agents.passages import RestingPassage, reader_of, rests_on
from stepwell.agents.planner import open_session
from stepwell.agents.reading import with_tables
from stepwell.agents.request import Part
from stepwell.agents.result import Result
from stepwell.agents.servers import keep_models
from stepwell.agents.session import Reading, Session
from stepwell.agents.tools.registry import build_tools, require_tools, serving
from stepwell.agents.tools.workspace import WarehouseUrl, Workspace
from stepwell.basics.private import private_folder
from stepwell.basics.units import counted
from stepwell.commands.run.dry import Requests, last_line, print_requests
from stepwell.commands.run.flags import (
    AskOption,
    AttachOption,
    BudgetOption,
    CrewArgument,
    FileArgument,
    KeyOption,
    LibraryOption,
    LimitOption,
    OutputOption,
    ProfileOption,
    ResumeOption,
    RunModelOption,
    RunSeedOption,
    WarehouseOption,
)
from stepwell.commands.run.library import (
    Attach,
    FetchedLibraries,
    Kept,
    choose,
    from_library,
    kept,
    places_of_readers,
)
from stepwell.commands.run.limits import how_to_resume, with_limits
from stepwell.commands.run.look import NO_LOOK, LookFlags, traced, watched_files
from stepwell.commands.run.page import page_of
from stepwell.commands.run.spans import Listening, spans_of
from stepwell.commands.run.view import usd, watched
from stepwell.commands.run.watch import run_on_change
from stepwell.console.options import ResultOption
from stepwell.console.output import write_json
from stepwell.console.stopping import told_to_stop
from stepwell.errors import BadInput
from stepwell.launch.crew_servers import (
    Addressed,
    Given,
    Models,
    ServerOption,
    addresses,
    default_model,
    models_of,
    opened,
)
from stepwell.ledger.start import default_path
from stepwell.library.documents import Document
from stepwell.library.load import load_document

DATA_SUFFIXES = (".csv", ".tsv", ".parquet", ".duckdb", ".db")
TESTS_SUFFIX = ".py"
TESTS_CHECK = "visible_tests"
DATA_TOOLS = frozenset({"sql", "tables", "chart"})


def run(
    crew: CrewArgument,
    /,
    *files: FileArgument,
    ask: AskOption = (),
    server: ServerOption = (),
    key: KeyOption = None,
    model: RunModelOption = None,
    profile: ProfileOption = PRO,
    budget: BudgetOption = None,
    limit: LimitOption = (),
    seed: RunSeedOption = 0,
    look: LookFlags = NO_LOOK,
    resume: ResumeOption = None,
    output: OutputOption = None,
    warehouse: WarehouseOption = (),
    library: LibraryOption = (),
    attach: AttachOption = "auto",
    json_file: ResultOption = None,
) -> int:
    """A crew of agents answers a question: a planner splits it, others work at once, a writer answers.

    CREW is one that ships (calculation, code, data, documents) or a TOML or YAML file; FILES are what it
    works on: text, Markdown, PDF, HTML; tables for crews with SQL; tests (.py) for those that write
    programs. Without --server it starts its own, one for each model. The answer goes to standard output,
    all else to standard error. Example:

        stepwell run documents report.pdf --ask "Who paid for the well?" --ask "And who drank from it?"
        stepwell run code tests.py --profile flash --ask "Write a function median(xs)."
        stepwell run my-crew.toml --ask "Why?" --dry-run
        stepwell run data --warehouse postgresql://reader@db/shop --ask "Which month sold most?"

    A session that is stopped, by Ctrl-C, a limit, or a server that goes away, is kept, and --resume goes on.
    """
    console = Console(stderr=True, highlight=False)

    def once() -> int:
        made, chosen = wanted_crew(crew, profile, model, console)
        require_question(ask, resume)
        job = Job(
            *(with_limits(made, limit, budget), tuple(ask), files, Given.of(server, key)),
            *(model or chosen.model, seed, resume or _new_session(), output),
            warehouses=tuple(map(WarehouseUrl, warehouse)),
            library=tuple(library),
            attach=attach,
            otel=look.otel,
        )
        if look.dry_run:
            return job.dry_run(console, json_file)
        with traced(look, {"crew": made.name, "profile": chosen.name}) as listeners:
            answered = job.perform(console, listeners)
            return job.finish(answered, json_file, is_new=resume is None)

    return run_on_change(watched_files(crew, files), once, console) if look.watch else once()


def wanted_crew(crew: str, profile: str, model: str | None, console: Console) -> tuple[Crew, Profile]:
    """The crew under the profile, and the profile; one that is not written is explained. ``BadInput``."""
    made = find_crew(crew)
    chosen = find_profile(made, profile)
    if chosen is FALLBACK_FLASH:
        console.print(general_says(made.name), markup=False, soft_wrap=True)
    return apply(made, replace(chosen, model="") if model and chosen.model else chosen), chosen


def require_question(asks: Sequence[str], resume: Path | None) -> None:
    """Something to answer, or a session to go on with. Raises ``BadInput``."""
    if not all(ask.strip() for ask in asks) or not (asks or resume):
        raise BadInput('there is no question: give one, as in --ask "What does it say about wells?"')
    if resume is not None and not resume.is_file():
        raise BadInput(f"--resume {resume}: there is no such session")


def _new_session() -> Path:
    """Beside the books, where they usually are."""
    folder = default_path().parent / "sessions"
    private_folder(folder)
    return folder / f"crew-{uuid.uuid4().hex[:12]}.db"


@dataclass(frozen=True, slots=True)
class Readings:
    """What readers are given."""

    passages: Reading | None
    attached: Sequence[Part]


@dataclass(frozen=True, slots=True)
class Job:
    """The command line, understood."""

    crew: Crew
    asks: tuple[str, ...]
    """One question after the other; of a session that is resumed, those that follow."""
    files: tuple[Path, ...]
    given: Given
    model: str
    """Of roles that name none; empty: what there is."""
    seed: int
    session: Path
    output: Path | None
    warehouses: tuple[WarehouseUrl, ...] = ()
    library: tuple[str, ...] = ()
    attach: Attach = "auto"
    otel: bool = False

    def perform(self, console: Console, listeners: Sequence[events.Listener] = ()) -> list[AnsweredQuestion]:
        """Run the crew; what is stopped, by hand or by a full disk, says how to go on, in the last line."""
        try:
            return self._perform(console, listeners)
        except (KeyboardInterrupt, OSError, sqlite3.Error):
            if self.session.exists():
                console.print(how_to_resume(self.session, self.crew), markup=False, soft_wrap=True)
            raise

    def _perform(self, console: Console, listeners: Sequence[events.Listener]) -> list[AnsweredQuestion]:
        with ExitStack() as stack:
            stack.enter_context(told_to_stop())
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stepwell-run-")))
            library = from_library(self.given, self.library, scratch / "library")
            documents, tables = self.read_files(console, (*self.files, *library.files))
            workspace = self.workspace(scratch, tables)
            spans = stack.enter_context(spans_of(self.otel, console))
            addressed = stack.enter_context(
                addresses(self.given, self.models(), scratch, console, library.library)
            )
            attached = self.choose_attached(addressed, library, documents, console)
            rest = [text for path, text in documents.items() if path not in {one.path for one in attached}]
            reading = Readings(self.reader(rest), [one.part for one in attached])
            view = stack.enter_context(watched(console, self.crew.name))
            results = asyncio.run(
                self._session(addressed, workspace, reading, [view, *listeners], spans, console)
            )
            texts = list(documents.values())
            return [AnsweredQuestion(ask, result, rests_on(texts, result.answer)) for ask, result in results]

    def workspace(self, scratch: Path, tables: Sequence[Path]) -> Workspace:
        """Of the tools. Raises ``BadInput`` where one cannot be had."""
        made = Workspace(
            directory=self.output or scratch / "work",
            files=tuple(tables),
            mcp_servers=self.crew.mcp_servers,
            folder=self.crew.folder,
            warehouses=self.warehouses,
            tests=self.tests(),
        )
        require_tools(self.tool_names(), made)
        return made

    def dry_run(self, console: Console, json_file: Path | None) -> int:
        """The first prompt of each role, on standard output. No server is started or asked."""
        if self.library:
            raise BadInput("--dry-run asks no server, so it has no documents of the --library: name files")
        with tempfile.TemporaryDirectory(prefix="stepwell-run-") as scratch:
            documents, tables = self.read_files(console, self.files)
            workspace = self.workspace(Path(scratch), tables)
            requests = asyncio.run(self._first_requests(workspace, self.reader(list(documents.values()))))
        print_requests(requests, json_file)
        console.print(last_line(self.crew.name, requests), markup=False, soft_wrap=True)
        return 0

    async def _first_requests(self, workspace: Workspace, reading: Reading | None) -> Requests:
        """The tools are real: servers of theirs run for as long as they are asked what they offer."""
        async with serving(self.tool_names(), workspace):
            crew = self.crew if workspace.tests else without_tests(self.crew)
            toolbox = partial(build_tools, workspace=workspace)
            session = open_session(
                *(crew, Client("http://127.0.0.1"), ":memory:", toolbox),
                reading=await with_tables(reading, workspace),
            )
            session.model = self.default or "the server's only model"
            try:
                return first_requests(session, next(iter(self.asks), ""))
            finally:
                session.store.close()

    async def _session(
        self,
        addressed: Sequence[Addressed],
        workspace: Workspace,
        reading: Readings,
        listeners: Sequence[events.Listener],
        spans: Listening | None,
        console: Console,
    ) -> list[tuple[str, Result]]:
        toolbox = partial(build_tools, workspace=workspace)
        async with (
            serving(self.tool_names(), workspace),
            opened(addressed, self.given.api_key, self.seed) as servers,
        ):
            crew = self.crew if workspace.tests else without_tests(self.crew)
            passages = await with_tables(reading.passages, workspace)
            session = open_session(
                *(crew, servers, self.session, toolbox), reading=passages, attached=reading.attached
            )
            try:
                keep_models(session.store, session.crew, self.default)
                session.model = self.default or servers.places[0].name
                if (link := page_of(session, addressed[0].url)) is not None:
                    console.print(f"watch it: {link}", markup=False, soft_wrap=True)
                console.print(f"session file: {self.session}", markup=False, soft_wrap=True)
                session.tell.listeners.extend(listeners)
                if spans is not None:
                    session.tell.listeners.append(traced := spans(session))
                    servers.trace(traced.headers)
                return await ask_all(session, self.asks)
            finally:
                session.store.close()

    @property
    def default(self) -> str:
        """The model of roles that name none; empty: the only one of the server that was given."""
        return self.model or (self.given.default() if self.given else default_model())

    def models(self) -> Models:
        """Those that the crew needs, the default first."""
        found = models_of(self.crew, self.default)
        return {name: found[name] for name in sorted(found, key=lambda name: name != self.default)}

    def test_files(self) -> list[Path]:
        """Files of Python, where a role checks programs."""
        checked = any(role.check == TESTS_CHECK for role in self.crew.roles.values())
        return [file for file in self.files if checked and file.suffix == TESTS_SUFFIX]

    def tests(self) -> str:
        """The tests that came with the task, one file after another. Raises ``BadInput``."""
        try:
            return "\n\n".join(file.read_text("utf-8") for file in self.test_files())
        except (OSError, UnicodeError) as error:
            raise BadInput(f"tests cannot be read: {error}") from error

    def tool_names(self) -> list[str]:
        """Of all roles, but for the verbs, which are the runtime's."""
        names = {
            tool
            for role in self.crew.roles.values()
            for tool in (*role.tools, role.finish, role.narrow, role.check)
            if tool
        }
        return sorted(names.difference(VERBS))

    def choose_attached(
        self,
        addressed: Sequence[Addressed],
        library: FetchedLibraries,
        documents: Mapping[Path, Document],
        console: Console,
    ) -> list[Kept]:
        """Documents of the library that prompts begin with. Raises ``BadInput`` where all of them must."""
        insist = self.attach == "always"
        there = kept(library.files, documents)
        if insist and (library.note or not there):
            why = library.note or "there is no document of the library; name one with --library"
            raise BadInput(f"--attach always: {why.rstrip('.')}")
        say = partial(console.print, markup=False, soft_wrap=True)
        if library.note:
            say(library.note)
        if self.attach == "never" or library.note or not there:
            return []

        async def chosen() -> list[Kept]:
            async with opened(addressed, self.given.api_key, self.seed) as servers:
                places = places_of_readers(self.crew, servers, self.default)
                return await choose(there, places, say, insist=insist)

        return asyncio.run(chosen())

    def reader(self, documents: Sequence[Document]) -> Reading | None:
        """What finds the passages of readers; None where there is nothing to read."""
        points = any(role.points for role in self.crew.used_roles)
        return reader_of(documents, points=points) if documents else None

    def read_files(self, console: Console, files: Sequence[Path]) -> tuple[dict[Path, Document], list[Path]]:
        """Documents for readers, tables for SQL. Raises ``BadInput`` for what cannot be read."""
        wants_tables = any(DATA_TOOLS.intersection(role.tools) for role in self.crew.roles.values())
        tables = [file for file in files if wants_tables and file.suffix.lower() in DATA_SUFFIXES]
        if self.warehouses and not wants_tables:
            raise BadInput(f"the crew {self.crew.name} has no role that asks tables of a warehouse: try data")
        for file in tables:
            if not file.is_file():
                raise BadInput(f"{file} does not exist: name a CSV, Parquet or DuckDB file")
        others = {*tables, *self.test_files()}
        documents = {file: load_document(str(file)) for file in files if file not in others}
        for document in documents.values():
            if document.note:
                console.print(f"{document.name}: {document.note}", markup=False, soft_wrap=True)
        if documents and not any(role.reads for role in self.crew.roles.values()):
            names = ", ".join(document.name for document in documents.values())
            raise BadInput(
                f"the crew {self.crew.name} has no role that reads documents, such as {names}: try documents"
            )
        return documents, tables

    def finish(self, answered: Sequence[AnsweredQuestion], json_file: Path | None, *, is_new: bool) -> int:
        """The answers, the closing line, the figures; the exit code.

        Figures that cannot be written keep the session, and not the answers from being seen.
        """
        say = partial(print, file=sys.stderr, flush=True)
        for one in answered:
            if one.result.answer and str(json_file) != "-":
                print(one.result.answer, flush=True)
            if one.passage is not None:
                say(f"rests on {one.passage.place}: {one.passage.text}")
        result = answered[-1].result
        completed = result.status == "completed"
        if not completed:
            say(f"Not completed ({result.status}): {result.sentence}.")
        say(closing_line(result))
        if not completed:
            say(how_to_resume(self.session, self.crew, result))
        goes_away = completed and is_new
        if json_file is not None:
            kept = None if goes_away else str(self.session)
            figures = {"crew": self.crew.name, "session_file": kept} | asdict(result)
            write_json(json_file, figures | {"answers": [one.as_json() for one in answered]})
        if goes_away:
            for name in (self.session, *(Path(f"{self.session}-{end}") for end in ("wal", "shm"))):
                name.unlink(missing_ok=True)
        return 0 if completed else 1


@dataclass(frozen=True, slots=True)
class AnsweredQuestion:
    """A question, what came of it, and the passage that the answer rests on."""

    ask: str
    result: Result
    passage: RestingPassage | None

    def as_json(self) -> dict[str, Any]:
        passage = None if self.passage is None else asdict(self.passage)
        said = {"status": self.result.status, "answer": self.result.answer}
        return {"question": self.ask} | said | {"passage": passage}


async def ask_all(session: Session, asks: Sequence[str]) -> list[tuple[str, Result]]:
    """One question after the other, until one has no answer. A resumed session goes on with its own first."""
    kept = session.store.get("ask")
    left = list(asks) if kept is None else [kept, *(ask for ask in asks if ask != kept)]
    results: list[tuple[str, Result]] = []
    for number, ask in enumerate(left, 1):
        results.append((ask, await session.run(ask, more=number < len(left))))
        if results[-1][1].status != "completed":
            break
    return results


def without_tests(crew: Crew) -> Crew:
    """Without tests no program can be checked, and no second one need be written."""
    roles = {
        name: replace(role, check="", samples=1) if role.check == TESTS_CHECK else role
        for name, role in crew.roles.items()
    }
    return replace(crew, roles=roles)


def closing_line(result: Result) -> str:
    """What it took, in one line."""
    cost = "" if result.cost_microusd is None else f", {usd(result.cost_microusd)}"
    return (
        f"{counted(result.agents, 'agent')}, {counted(result.turns, 'turn')}, "
        f"{result.prompt_tokens:,} prompt tokens, "
        f"{result.visible_tokens:,} visible and {result.intermediate_tokens:,} intermediate answer tokens"
        f"{cost}, {result.duration_us / 1e6:.1f} s"
    )

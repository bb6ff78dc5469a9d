"""The front door: ``stepwell serve | demo | run | replay | disk | ledger | bench | doctor``.

Only names and one line each live here. A command's module is imported when it is called, so that
``stepwell --help`` is quick and works without any extra installed.
"""

from __future__ import annotations

import difflib
import errno
import json
import os
import platform
import sqlite3
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from cyclopts import App, CycloptsError, Parameter, UnusedCliTokensError

from stepwell import __version__
from stepwell.errors import BadInput, MissingExtra, StepwellError, install_line
from stepwell.telemetry.redaction import redacted

HELP = """Many agents on little fast memory: an OpenAI-compatible server with llama.cpp inside.

Every agent keeps its own KV cache. While an agent waits, its cache moves from
the device to host memory and on to disk, and comes back before it is needed.

    stepwell demo        run the main job on a real model, with a picture
    stepwell serve       start a server on http://127.0.0.1:8000/v1
    stepwell doctor      show what this machine can hold, and how fast it is

'stepwell COMMAND --help' explains a command with an example.
"""

EXTRA_OF_MODULE = {
    "llama_cpp": "llamacpp",
    "jinja2": "llamacpp",
    "numpy": "llamacpp",
    "pypdf": "documents",
    "xllamacpp": "peer",
    "psycopg": "postgres",
    "ray": "ray",
    "tenacity": "fleet",
    "duckdb": "analytics",
    "mcp": "mcp",
    "babel": "review",
    "exchange_calendars": "review",
    "pandas_market_calendars": "review",
    "empyrical": "review",
    "reportlab": "review",
    "cryptography": "review",
    "scipy": "soak",
}
"""Which extra brings a module that is imported late."""


@dataclass(frozen=True, slots=True)
class Command:
    """One command: its name, its function in this package, and its line in the list of commands."""

    name: str
    place: str
    summary: str

    @property
    def where(self) -> str:
        return f"stepwell.{self.place}"


TOP = (
    Command("serve", "commands.serve.serve:serve", "Serve a model over an OpenAI-compatible API."),
    Command("deploy", "commands.serve.deploy:deploy", "Serve many nodes at one address."),
    Command("completion", "cli:completion", "Print a completion script for a shell."),
    Command("demo", "demo.command:demo", "Run three customers' crews on a document."),
    Command("run", "commands.run.run:run", "Let a crew of agents answer a question."),
    Command("trace", "commands.run.trace:trace", "Show a traced run of a crew, step by step."),
    Command("replay", "commands.replay.replay:replay", "Replay a recording and compare the decisions."),
    Command("simulate", "commands.simulate.simulate:simulate", "Simulate a workload on a modelled fleet."),
    Command(
        "calibrate", "commands.calibrate.calibrate:calibrate", "Fit the hardware model to measured points."
    ),
    Command("why", "commands.why:why", "Show where the time of a request went."),
    Command("settings", "commands.settings:settings", "List every setting, its values and meaning."),
    Command("doctor", "commands.doctor.doctor:doctor", "Show what this machine can hold, and how fast."),
)
BENCHES = (
    ("stepwell.bench.engine.exactness", "Demotion changes no token and no logit."),
    ("stepwell.bench.engine.speculate", "Guessed tokens, on turns that copy."),
    ("stepwell.bench.engine.throughput", "Decode against llama.cpp's own loop."),
    ("stepwell.bench.engine.waiting", "How long llama.cpp's threads spin."),
    ("stepwell.bench.engine.overhead", "Time per step outside the engine."),
    ("stepwell.bench.answers.schema_suite", "The JSON-Schema-Test-Suite as requests."),
    ("stepwell.bench.answers.templates", "What of its last turn an agent reuses."),
    ("stepwell.bench.answers.schemas", "Answers under random schemas, checked again."),
    ("stepwell.bench.policy.policies", "Every eviction policy against an oracle."),
    ("stepwell.bench.policy.decisions", "Time of one decision, and how it grows."),
    ("stepwell.bench.plans.fidelity", "Live runs against their simulation."),
    ("stepwell.bench.tiers.crash", "Kill, damage and fill the disk store."),
    ("stepwell.bench.tiers.shared_disk", "Two processes on one disk, killed."),
    ("stepwell.bench.ledger.postings", "Postings a second into the ledger."),
    ("stepwell.bench.ledger.conservation", "The books against the machine."),
    ("stepwell.bench.ledger.metering", "What it costs to keep books."),
    ("stepwell.bench.server.pressure", "Twelve agents in too little KV memory."),
    ("stepwell.bench.server.attacks", "/health while one request does its worst."),
    ("stepwell.bench.server.neighbours", "Paid turns under a flood."),
    ("stepwell.bench.server.access_log", "What a line for each request costs."),
    ("stepwell.bench.server.watchers", "What fifty readers of /v1/watch cost."),
    ("stepwell.bench.server.batches", "A batch ordered by prefix, killed twice."),
    ("stepwell.bench.server.shared_document", "One document, ten agents, computed once."),
    ("stepwell.bench.chaos.chaos", "A server while all around it fails."),
    ("stepwell.bench.chaos.soak", "Whether anything grows in hours of load."),
    ("stepwell.bench.fleet.fleet", "Crews on several nodes, one of them killed."),
    ("stepwell.bench.fleet.router", "Time to choose a node for a turn."),
    ("stepwell.bench.fleet.affinity", "Where turns go, beside Ray's own router."),
    ("stepwell.bench.crews.crews", "The runtime of crews: its time, and kills."),
    ("stepwell.bench.crews.hints", "Crews with hints and without."),
    ("stepwell.bench.review.review", "The weekly review: what is wrong in it."),
    ("stepwell.bench.vllm.vllm", "Agents on vLLM: stock, its offloading, and ours."),
)
"""A measurement, whose command has the name of its module, and what it measures."""


def _bench(module: str, line: str) -> Command:
    return Command(
        module.rpartition(".")[2].replace("_", "-"), f"{module}:main".removeprefix("stepwell."), line
    )


GROUPS = {
    "vllm": (
        "Run vLLM with Stepwell's parts, and make a model folder for it.",
        (
            Command("serve", "commands.vllm:serve", "Start vLLM's own server with Stepwell's parts."),
            Command("convert", "commands.vllm:convert", "Make a folder that vLLM loads from a GGUF."),
        ),
    ),
    "disk": (
        "Inspect, verify or clear a directory of KV blocks on disk.",
        (
            Command("verify", "commands.disk:verify", "Check every record against its checksum."),
            Command("stat", "commands.disk:stat", "Show how much is stored, by tenant and model."),
            Command("clear", "commands.disk:clear", "Remove every block."),
        ),
    ),
    "library": (
        "Manage the documents that agents attach and search.",
        (
            Command("add", "commands.library.library:add", "Add documents: text, HTML, PDF, tables."),
            Command("import", "commands.library.importing:import_", "Copy tables from a warehouse."),
            Command("list", "commands.library.library:list_", "List the documents, newest first."),
            Command("rm", "commands.library.library:rm", "Remove documents by their ids."),
            Command("search", "commands.library.library:search", "Find the passages near a question."),
        ),
    ),
    "profile": (
        "Measure what each part of a crew's accuracy costs, and fit a profile that keeps what pays.",
        (
            Command("fit", "commands.profile.profile:fit", "Find the profile of a crew for a target."),
            Command(
                "compare",
                "commands.profile.compare:compare",
                "Compare single call, flash and pro: accuracy, tokens, cost.",
            ),
            Command("show", "commands.profile.profile:show", "Show what a profile makes of a crew."),
            Command("tasks", "commands.profile.profile:tasks", "Show a task set."),
        ),
    ),
    "review": (
        "Write a weekly review of markets from data, every number traced to its source.",
        (
            Command("write", "commands.review.review:write", "Write the review of a week in two languages."),
            Command("verify", "commands.review.review:verify", "Check a finished review, number by number."),
            Command("explain", "commands.review.review:explain", "Show how a figure was computed."),
            Command("fetch", "commands.review.fetch:fetch", "Ask the sources for a week's replies."),
            Command("query", "commands.review.query:query", "Run SQL over the facts of several weeks."),
        ),
    ),
    "signals": (
        "Keep a signed log of trading signals whose rules were fixed beforehand, and score it.",
        (
            Command("run", "commands.review.signals:run", "Compute today's signals and keep them."),
            Command("log", "commands.review.signals:log", "Show the log, or write it as a page."),
            Command("verify", "commands.review.signals:verify", "Check chain, signatures and signals."),
            Command(
                "score", "commands.review.signals:score_", "Show what they would have earned, after costs."
            ),
        ),
    ),
    "ledger": (
        "Show what every agent cost and earned.",
        (
            Command(
                "statement",
                "commands.ledger.statements:statement",
                "Show what customers used and were charged.",
            ),
            Command(
                "margin",
                "commands.ledger.statements:margin",
                "Show revenue, cost by resource, and displacement.",
            ),
            Command(
                "top", "commands.ledger.statements:top", "List the agents or sessions that cost or lose most."
            ),
            Command("backup", "commands.ledger.backup:backup", "Copy the books while the server runs."),
            Command(
                "compact", "commands.ledger.compact:compact_books", "Replace old postings by daily balances."
            ),
            Command("bill", "commands.ledger.bill:bill", "Write a customer's monthly bill as a page."),
            Command("books", "commands.ledger.books:books", "List the price books and cost books."),
            Command("verify", "commands.ledger.verify:verify", "Check the books, entry by entry."),
            Command(
                "export", "commands.ledger.export:export", "Export the books as CSV, Parquet or a spend log."
            ),
        ),
    ),
    "plan": (
        "Estimate costs and earnings before hardware is bought. "
        "All take --what-if KEY=VALUE, --html, --json.\n\n"
        "Begin with 'stepwell plan capacity h200'; for a contract: 'stepwell plan contract my.toml --new'.",
        (
            Command(
                "contract",
                "commands.plan.contract:contract",
                "Show the cash flow of a data centre and its customer.",
            ),
            Command(
                "capacity", "commands.plan.capacity:capacity", "Size a fleet: replicas, HBM, DRAM and SSD."
            ),
            Command(
                "price", "commands.plan.price:price", "Show the cost of a million tokens, and the margin."
            ),
            Command("storage", "commands.plan.storage:storage", "Size the disks for a product's users."),
            Command("hardware", "commands.plan.hardware:hardware", "Compare several parts at the same work."),
        ),
    ),
    "study": (
        "Answer a question that takes many simulated fleets, one command each.",
        (
            Command("ssd", "commands.study.ssd:ssd", "Show what disks below DRAM are worth, and their wear."),
            Command(
                "amplification",
                "commands.study.amplification:amplification",
                "Show the margin when agents use two and three times the tokens.",
            ),
            Command(
                "speed",
                "commands.study.speed:speed",
                "Measure how many requests are simulated in a CPU second.",
            ),
        ),
    ),
    "catalogue": (
        "Show the figures that plans rest on, each with its source.",
        (
            Command("hardware", "commands.catalogue:hardware", "List accelerators, memory and disks."),
            Command("models", "commands.catalogue:models", "List models: layers, KV, parameters."),
            Command("prices", "commands.catalogue:prices", "List vendors' prices of a million tokens."),
        ),
    ),
    "dashboards": (
        "Export dashboards for Grafana and alerts for Prometheus.",
        (Command("export", "commands.dashboards:export", "Write boards, alerts and a compose file."),),
    ),
    "bench": (
        "Run a measurement against a baseline. All take --quick and --json FILE.",
        (
            *(_bench(module, line) for module, line in BENCHES),
            Command("page", "bench.page:main", "Write docs/benchmarks from kept results."),
        ),
    ),
}


def build_app(tokens: Sequence[str] = ()) -> App:
    """The tree of commands. Those named in ``tokens`` explain themselves with their own docstring;
    the others show their line from the tables above and are not imported."""
    app = App(
        name="stepwell",
        help=HELP,
        version=__version__,
        help_format="markdown",
        suppress_keyboard_interrupt=False,
        # No "--empty-ask": an empty list is said by saying nothing.
        default_parameter=Parameter(negative_iterable="", show_default=_told_default),
    )
    for command in TOP:
        _mount(app, command, tokens)
    for name, (summary, commands) in GROUPS.items():
        group = App(name=name, help=summary)
        for command in commands:
            _mount(group, command, tokens)
        app.command(group)
    return app


def _told_default(value: object) -> str | None:
    """What help says of a default; nothing of one that is empty or off."""
    if value is False or value in (None, "", (), []):
        return None
    return " ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def _mount(app: App, command: Command, tokens: Sequence[str]) -> None:
    if command.name in tokens:
        app.command(command.where, name=command.name)
    else:
        app.command(command.where, name=command.name, help=command.summary)


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command and end the process: 0 well, 1 failed, 2 wrong input, 130 interrupted."""
    raise SystemExit(run(sys.argv[1:] if argv is None else list(argv)))


def run(tokens: Sequence[str]) -> int:
    """Run a command; the exit code. What is expected to go wrong is one sentence on stderr."""
    try:
        tokens = _with_dashes(tokens)
        if "--version" in tokens and "--json" in tokens:
            print(json.dumps(about()))
            return 0
        _require_known(tokens)
        app = build_app(tokens)
        result = app(tokens, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
    except CycloptsError as error:
        return _say(f"{_plain(error)} ({_help_line(tokens)} explains)", BadInput.exit_code)
    except StepwellError as error:
        return _say(str(error), error.exit_code)
    except ImportError as error:
        if (sentence := _missing_extra(error)) is None:
            raise
        return _say(sentence, MissingExtra.exit_code)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader (head, less) has seen enough; keep Python from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (OSError, sqlite3.Error) as error:
        if (sentence := _full_disk(error)) is not None:
            return _say(sentence, StepwellError.exit_code)
        if not isinstance(error, OSError) or error.filename is None:
            raise
        asked = _is_of_a_named_file(error, tokens)
        code = BadInput.exit_code if asked else StepwellError.exit_code
        return _say(f"{error.filename}: {error.strerror}", code)
    return result if isinstance(result, int) and not isinstance(result, bool) else 0


def completion(shell: Literal["bash", "zsh", "fish"]) -> None:
    """Print the completion script of a shell.

    Example: ``stepwell completion bash > ~/.local/share/bash-completion/completions/stepwell``

    Parameters
    ----------
    shell
        The shell that is to complete commands and flags.
    """
    print(build_app().generate_completion(shell=shell))


def about() -> dict[str, str | None]:
    """What a report of a fault should say first."""
    found: dict[str, str | None] = {"stepwell": __version__, "python": platform.python_version()}
    for package in ("llama-cpp-python", "starlette", "uvicorn", "openai", "anthropic"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found | {"platform": platform.platform()}


def _full_disk(error: OSError | sqlite3.Error) -> str | None:
    """The sentence where a disk is full, wherever that was found."""
    if isinstance(error, sqlite3.Error):
        full, why = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL, str(error)
    else:
        where = f"{error.filename}: " if error.filename else ""
        full, why = error.errno in (errno.ENOSPC, errno.EDQUOT), f"{where}{error.strerror}"
    return f"{why}; make room, then run the same again" if full else None


def _is_of_a_named_file(error: OSError, tokens: Sequence[str]) -> bool:
    """Whether a file that was typed is not there, or is not to be read or written: wrong input, then."""
    if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES):
        return False
    name = Path(os.fsdecode(error.filename))
    return any(Path(token.partition("=")[2] or token) == name for token in tokens)


def _require_known(tokens: Sequence[str]) -> None:
    """Cyclopts would import every command only to word this sentence."""
    names = [command.name for command in TOP] + list(GROUPS)
    for depth, token in enumerate(tokens[:2]):
        if token.startswith("-"):
            return
        if token not in names:
            spoken = " ".join(["stepwell", *tokens[:depth]])
            close = difflib.get_close_matches(token, names, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(sorted(names))}"
            raise BadInput(f"{spoken} has no command {token!r}: {hint}")
        if token not in GROUPS:
            return
        names = [command.name for command in GROUPS[token][1]]


def _with_dashes(tokens: Sequence[str]) -> list[str]:
    """``--json -`` as one word: the parser takes a lone hyphen for a flag whose name is missing."""
    joined: list[str] = []
    for token in tokens:
        if token == "-" and joined and joined[-1] == "--json":
            joined[-1] = "--json=-"
        else:
            joined.append(token)
    return joined


def _help_line(tokens: Sequence[str]) -> str:
    """The command to type for help on what was typed."""
    depth = 2 if tokens and tokens[0] in GROUPS else 1
    named = [token for token in tokens[:depth] if not token.startswith("-")]
    return " ".join(["stepwell", *named, "--help"])


def _say(sentence: str, code: int) -> int:
    print(f"stepwell: {redacted(sentence)}", file=sys.stderr)
    return code


def _plain(error: CycloptsError) -> str:
    """Cyclopts' message on one line, without its final stop."""
    if isinstance(error, UnusedCliTokensError):
        extra = ", ".join(repr(token) for token in error.unused_tokens or ())
        return f"{extra}: more than this command takes"
    return " ".join(str(error).split()).rstrip(".")


def _missing_extra(error: BaseException | None) -> str | None:
    """A sentence when the import failed because an extra is not installed."""
    while error is not None:
        if isinstance(error, ModuleNotFoundError) and error.name:
            module = error.name.partition(".")[0]
            if module in EXTRA_OF_MODULE:
                line = install_line(EXTRA_OF_MODULE[module])
                return f"the package {module} is not installed: in the checkout run  {line}"
        error = error.__cause__
    return None


if __name__ == "__main__":
    main()

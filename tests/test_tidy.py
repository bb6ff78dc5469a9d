"""House rules as tests. Style that is not executed does not exist."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "stepwell"

FUNCTION_LINES = 60
POLICY_FUNCTION_LINES = 50
FILE_LINES = 500
TEST_FILE_LINES = 600

# Whatever could make the same events give another decision on another day or another machine.
IMPURE_MODULES = {
    "asyncio", "concurrent", "datetime", "io", "logging", "multiprocessing", "os", "pathlib", "random",
    "secrets", "select", "signal", "socket", "sqlite3", "subprocess", "sys", "tempfile", "threading", "time",
    "uuid",
}  # fmt: skip
IMPURE_CALLS = {"open", "print", "input", "id", "hash", "exec", "eval", "vars", "globals"}
"""``hash`` of text differs from process to process, ``id`` from run to run."""

UNUSED_WORDS = {"slot", "slots", "swap", "swaps", "swapped", "swapping", "swarm", "swarms", "brain", "brains"}
MAY_PRINT = ("cli.py", "commands/", "bench/", "demo/")


def modules(room: str = "") -> list[Path]:
    return sorted((SOURCE / room).rglob("*.py"))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def where(path: Path, node: ast.AST | None = None) -> str:
    line = getattr(node, "lineno", None)
    return str(path.relative_to(ROOT)) + (f":{line}" if line else "")


@cache
def project_files() -> list[Path]:
    """What is committed, and what lies in the project's own folders and would be next."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    tracked = ["git", "ls-files", "-z"]
    new = [*tracked, "--others", "--exclude-standard", "--", "src", "tests", "docs", "scripts", "examples"]
    listed = "".join(
        subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode()
        for command in (tracked, new)
    )
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


def text_files() -> Iterator[tuple[Path, str]]:
    for path in project_files():
        content = path.read_bytes()
        if b"\0" not in content[:8192] and path.suffix != ".pdf":
            yield path, content.decode("utf-8")


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines, the docstring included: a function is read on one screen."""
    return (node.end_lineno or node.lineno) - node.lineno + 1


def test_functions_are_short() -> None:
    long = [
        f"{where(path, node)} {node.name}: {length(node)} lines"
        for path in [*modules(), *(ROOT / "tests").rglob("*.py"), *(ROOT / "scripts").glob("*.py")]
        for node in functions(path)
        if length(node) > (POLICY_FUNCTION_LINES if SOURCE / "policy" in path.parents else FUNCTION_LINES)
    ]
    assert not long


def test_files_hold_one_idea() -> None:
    long = {
        where(path): lines
        for path in modules()
        if (lines := len(path.read_text("utf-8").splitlines())) > FILE_LINES
    }
    assert not long


def test_files_of_tests_are_read_in_one_go() -> None:
    lines = {where(path): len(path.read_text("utf-8").splitlines()) for path in modules_of_tests()}
    assert {name: count for name, count in lines.items() if count > TEST_FILE_LINES} == {}


def test_every_test_asserts_something() -> None:
    """By itself, by what it expects to be raised, or through a function of tests/ that it calls. One that
    only runs shows that nothing is raised, and goes on passing when what it was for is gone."""
    silent = [
        f"{where(path, node)} {node.name}"
        for path in modules_of_tests()
        for node in functions(path)
        if node.name.startswith("test") and not asserts(path, node)
    ]
    assert not silent


@cache
def modules_of_tests() -> list[Path]:
    return sorted((ROOT / "tests").rglob("*.py"))


@cache
def defined(path: Path) -> dict[str, tuple[Path, ast.AST]]:
    """Functions and classes by name: those of the file, and those of files of tests/ that it imports."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    found: dict[str, tuple[Path, ast.AST]] = {
        node.name: (path, node) for node in tree(path).body if isinstance(node, kinds)
    }
    for _, name in imported(path):
        source = (ROOT / name.replace(".", "/")).with_suffix(".py")
        if name.startswith("tests.") and source.is_file():
            found = defined(source) | found
    return found


@cache
def asserts(path: Path, node: ast.AST) -> bool:
    """Whether a function or class does, or calls one of tests/ that does."""
    parts = list(ast.walk(node))
    called = [part.func for part in parts if isinstance(part, ast.Call)]
    named = [f.id for f in called if isinstance(f, ast.Name)]
    helpers = [defined(path)[name] for name in named if name in defined(path)]
    return (
        any(isinstance(part, ast.Assert | ast.Raise) for part in parts)
        or "run_state_machine_as_test" in named
        or any(isinstance(f, ast.Attribute) and f.attr in {"raises", "fail", "warns"} for f in called)
        or any(asserts(file, helper) for file, helper in helpers if helper is not node)
    )


def calls(path: Path) -> Iterator[tuple[ast.Call, str]]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield node, node.func.id


def test_only_the_front_door_prints() -> None:
    printing = [
        where(path, call)
        for path in modules()
        for call, name in calls(path)
        if name == "print" and not path.relative_to(SOURCE).as_posix().startswith(MAY_PRINT)
    ]
    assert not printing


def imported(path: Path) -> Iterator[tuple[ast.AST, str]]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{where(path, node)}: imports are absolute here"
            yield node, node.module or ""


def test_policy_knows_the_standard_library_only() -> None:
    allowed = set(sys.stdlib_module_names) - IMPURE_MODULES
    foreign = [
        f"{where(path, node)} {name}"
        for path in modules("policy")
        for node, name in imported(path)
        if name.partition(".")[0] not in allowed and not name.startswith("stepwell.policy")
    ]
    assert not foreign


def test_policy_calls_nothing_that_differs_between_runs() -> None:
    impure = [
        f"{where(path, call)} {name}"
        for path in modules("policy")
        for call, name in calls(path)
        if name in IMPURE_CALLS
    ]
    assert not impure


def is_set(node: ast.expr) -> bool:
    made = (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in {"set", "frozenset"}
    )
    return made or isinstance(node, ast.Set | ast.SetComp)


def test_policy_never_iterates_over_a_set() -> None:
    """A set's order depends on the process; a decision that depends on it cannot be replayed."""
    unordered = [
        where(path, node)
        for path in modules("policy")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.For | ast.comprehension) and is_set(node.iter)
    ]
    assert not unordered


MONEY = re.compile(r"(^|_)(usd|eur|price|money|fee|charge|microusd)(_|$)")


def test_money_is_never_a_float() -> None:
    floats = [
        where(path, node)
        for path in modules()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation is not None
        if MONEY.search(node.arg if isinstance(node, ast.arg) else ast.unparse(node.target))
        and re.search(r"\bfloat\b", ast.unparse(node.annotation))
    ]
    assert not floats


def is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"


def names(path: Path) -> Iterator[tuple[ast.AST, str]]:
    """Identifiers that this file introduces (not those of libraries that it calls)."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node, node.name
        elif isinstance(node, ast.arg):
            yield node, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and is_self(node.value):
            yield node, node.attr


def words(name: str) -> set[str]:
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)}


def test_the_words_are_those_of_names_md() -> None:
    wrong = [
        f"{where(path, node)} {name}"
        for path in modules()
        for node, name in names(path)
        if name != "__slots__" and words(name) & UNUSED_WORDS
    ]
    assert not wrong


PERSONS = re.compile(r"\b(nobody|somebody|whoever|everybody|anybody)\b", re.IGNORECASE)
ARM = "everybody"  # the arm of `bench pressure` with KV for all agents: kept results have that name
PERSONS_MEANT = {
    "docs/models.md": (ARM,),
    "src/stepwell/bench/server/pressure.py": (ARM,),
    "src/stepwell/economics/new_contract.toml": ("nobody's offer", "nobody renews"),
    "src/stepwell/engines/prose.py": ("nobody had asked",),
    "src/stepwell/review/sample_week/documents-events.md": ("somebody said",),
    "src/stepwell/simulate/traces.py": ('"everybody"',),  # a tenant: it is in recorded decisions
}
"""By file: what a line may say. Pages and charts of benchmarks are made of kept results."""


def test_a_thing_is_not_called_somebody() -> None:
    """Turns, processes and accounts are things: a sentence names them. Nobody is for persons."""
    wrong = [
        f"{where(path)}:{number} {line.strip()}"
        for path, text in text_files()
        for name in [str(path.relative_to(ROOT))]
        if name.startswith(("src/", "docs/", "README", "CONTRIBUTING"))
        and not name.startswith(("docs/benchmarks", "docs/charts", "src/stepwell/server/page/assets/vendor"))
        for number, line in enumerate(text.splitlines(), 1)
        if PERSONS.search(line) and not any(said in line for said in PERSONS_MEANT.get(name, ()))
    ]
    assert not wrong


def test_nothing_is_left_for_later() -> None:
    marks = re.compile(r"\b(" + "|".join(["FIX" + "ME", "XX" + "X", "TO" + "DO", "HA" + "CK"]) + r")\b")
    left = [
        where(path)
        for path, text in text_files()
        if path.suffix in {".py", ".md", ".toml"} and marks.search(text)
    ]
    assert not left


PRIVATE = re.compile(
    r"(?<![\w.])/(?:"
    + "|".join(["wo" + "rk", "ro" + "ot", "ho" + "me", "tmp/" + "w", "opt/" + "pypi"])
    + r")/"
    + r"|\bpy"
    + r"pi\.|python"
    + r"hosted|registry\.npm"
    + r"js|index-"
    + r"url|find-"
    + r"links"
)


def test_no_file_names_this_machine_or_an_index() -> None:
    """A path or a package index in a file works on one machine only."""
    found = [f"{where(path)}: {match[0]}" for path, text in text_files() if (match := PRIVATE.search(text))]
    assert not found


def test_text_files_end_with_one_newline() -> None:
    wrong = [
        where(path)
        for path, text in text_files()
        if text and (not text.endswith("\n") or text.endswith("\n\n"))
    ]
    assert not wrong


def test_nothing_large_is_committed() -> None:
    assert not [where(path) for path in project_files() if path.stat().st_size > 1 << 20]


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NULL_TWINS = {"stepwell.tiers.memory"}
"""Second implementations behind a seam, which keep its contract honest: their suite uses them."""


PUBLIC_DOORS = {
    *(
        f"stepwell.integrations.{name}"
        for name in ("langgraph", "openai_agents", "pydantic_ai", "smolagents")
    ),
    "stepwell.engines.llamacpp.tools",
    "stepwell.vllm.disk",
    "stepwell.vllm.guard",
    "stepwell.vllm.host",
    "stepwell.vllm.objects",
    "stepwell.vllm.owners",
    "stepwell.vllm.scheduler",
    "stepwell.vllm.spec",
}
"""Modules that only other people's programs import. tests/integrations and tests/vllm run each with its real
package; the other reads calls in a finished text, for programs that have one."""


def test_every_module_is_used() -> None:
    """By an import, by its name in a string, or by a command's place in the package."""
    used = {name for path in modules() for _, name in imported(path)}
    for path in modules():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ImportFrom):
                used |= {f"{node.module}.{alias.name}" for alias in node.names}
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                name, _, function = node.value.partition(":")
                used.add(f"stepwell.{name}" if function else name)
    dead = [
        where(path)
        for path in modules()
        if path.name not in {"__init__.py", "__main__.py"}
        and module_name(path) not in used | NULL_TWINS | PUBLIC_DOORS | {"stepwell.cli"}
    ]
    assert not dead


PROSE_COLUMNS = 120
GENERATED_PAGES = ("docs/benchmarks", "docs/settings.md", "docs/licences.md")
CODE_SPAN = re.compile(r"`[^`]*`")


def prose(text: str) -> Iterator[tuple[int, str]]:
    """Lines of a Markdown file that can be broken: no code, table or comment. Spans of code are left out."""
    fenced = False
    for number, line in enumerate(text.splitlines(), 1):
        start = line.lstrip()
        fenced ^= start.startswith("```")
        if not fenced and not start.startswith(("|", "<", "```")):
            yield number, CODE_SPAN.sub("", line)


def test_prose_is_read_in_a_diff() -> None:
    """A paragraph in one line is one changed line, whatever changed in it."""
    long = [
        f"{where(path)}:{number}: {len(line)} columns"
        for path, text in text_files()
        for name in [str(path.relative_to(ROOT))]
        if path.suffix == ".md" and (name.startswith("docs/") or path.parent == ROOT)
        if not name.startswith((*GENERATED_PAGES, "CHANGELOG"))
        for number, line in prose(text)
        if len(line) > PROSE_COLUMNS
    ]
    assert not long


def test_the_policy_is_told_in_two_pages() -> None:
    """The rules and what was measured have pages of their own."""
    assert len((ROOT / "docs" / "policy.md").read_text("utf-8").split()) <= 1_200


LINK = re.compile(r"\]\((?!https?://|#|mailto:)([^)#\s]+)")


def test_links_in_documents_lead_somewhere() -> None:
    dead = [
        f"{where(path)}: {target}"
        for path, text in text_files()
        if path.suffix == ".md"
        for target in LINK.findall(text)
        if not (path.parent / target).exists()
    ]
    assert not dead


def test_every_pin_has_its_hashes() -> None:
    """Somebody who adds a package learns it here, and not from an environment that cannot be made."""
    command = [sys.executable, str(ROOT / "scripts" / "hashes.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

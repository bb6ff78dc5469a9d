"""The files that docs/operate.md ships fit the program."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from configparser import ConfigParser
from pathlib import Path

import pytest

from stepwell import cli
from stepwell.loop.driver import _FLUSH_S
from stepwell.server.run import TELL_S
from stepwell.server.settings import ServerSettings
from stepwell.settings.file import load

ROOT = Path(__file__).resolve().parents[1]
UNIT = ROOT / "examples" / "operate" / "stepwell.service"


@pytest.fixture
def service() -> dict[str, str]:
    parser = ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(UNIT.read_text("utf-8"))
    return dict(parser["Service"])


def test_its_commands_are_understood(
    service: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config = tmp_path / "stepwell.toml"
    config.write_text('[engine]\nkind = "null"\n[server]\nport = 0\n')
    for name in ("ExecStartPre", "ExecStart"):
        program, *tokens = shlex.split(service[name])
        assert program == "/opt/stepwell/.venv/bin/stepwell"
        tokens = [str(config) if token.endswith(".toml") else token for token in tokens]
        if name == "ExecStart":
            tokens.append("--check")
        assert cli.run(tokens) == 0
        assert "all 16 checks passed" in capsys.readouterr().out
    assert service["ExecReload"] == "/bin/kill -HUP $MAINPID"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
def test_systemd_knows_every_line_of_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text("utf-8").replace("/opt/stepwell/.venv/bin/stepwell", "/bin/true"), "utf-8")
    command = ["systemd-analyze", "verify", str(unit)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stderr
    # It complains of a line by the file and the line's number, and ends with 0 nevertheless.
    assert [line for line in said.splitlines() if f"{unit}:" in line] == []


def test_the_settings_to_begin_with_are_valid_also_with_their_keys(tmp_path: Path) -> None:
    text = (ROOT / "examples" / "operate" / "stepwell.toml").read_text("utf-8")
    assert load(_file(tmp_path, text), None, {}).keys == ()
    with_keys = load(_file(tmp_path, re.sub(r"(?m)^# (?=\[\[|\w+ = )", "", text)), None, {})
    assert [(one.tenant, one.operator) for one in with_keys.keys] == [("acme", False), ("ops", True)]


def _file(folder: Path, text: str) -> Path:
    path = folder / "stepwell.toml"
    path.write_text(text, "utf-8")
    return path


def test_systemd_waits_for_as_long_as_draining_may_take(service: dict[str, str]) -> None:
    longest_s = ServerSettings().drain_s + TELL_S + _FLUSH_S + 10
    assert float(service["TimeoutStopSec"]) > longest_s


def test_the_files_that_the_page_names_are_there() -> None:
    page = (ROOT / "docs" / "operate.md").read_text("utf-8")
    named = re.findall(r"\]\(([^)#]+)\)", page)
    assert len(named) >= 6
    here = [name for name in named if not name.startswith("https://")]
    assert not [name for name in here if not (ROOT / "docs" / name).exists()]
    assert "stepwell_preemptions_total" in page
    metrics = (ROOT / "docs" / "api.md").read_text("utf-8")
    assert {name for name in re.findall(r"stepwell_\w+_total", page) if name not in metrics} == set()

"""No test and no bench keeps anything where the person who runs it keeps theirs."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx2
import pytest

from stepwell.bench.servers import our_server, running
from stepwell.ledger.start import default_path
from stepwell.settings.file import KvSettings, LibrarySettings
from tests.commands.test_serve import WITHOUT_SETTINGS

SAY = """
from stepwell.ledger.start import default_path
from stepwell.settings.file import KvSettings, LibrarySettings

print(default_path(), KvSettings().disk_dir, LibrarySettings().dir, sep="\\n")
"""


def usual_places() -> list[Path]:
    return [default_path(), KvSettings().disk_dir, LibrarySettings().dir]


@pytest.mark.parametrize("environment", [None, WITHOUT_SETTINGS], ids=["inherited", "taken-at-import"])
def test_the_usual_places_of_tests_and_their_children_are_temporary(
    environment: dict[str, str] | None,
) -> None:
    home = Path(pwd.getpwuid(os.getuid()).pw_dir)
    done = subprocess.run(
        [sys.executable, "-c", SAY], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n")[:-1] == [str(place) for place in usual_places()]
    for place in usual_places():
        assert place.is_relative_to(tempfile.gettempdir())
        assert not place.is_relative_to(home)


def test_a_server_of_a_bench_has_books_but_not_the_persons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that a person's server has, for it takes time; ``tests/bench`` holds every bench to the rest."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    arm = our_server(
        *("ours", "null"),
        device_kv_tokens=1_024,
        host_kv="1MiB",
        disk_kv="0",
        disk_dir=tmp_path / "kv",
        threads=1,
    )
    with running(arm):
        usage = f"{arm.base_url}/v1/organization/usage/completions"
        assert httpx2.get(usage, params={"start_time": 0}, trust_env=False).json()["object"] == "page"
    assert not (tmp_path / "data").exists()

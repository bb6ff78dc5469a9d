"""A run in several processes in which a test hangs ends by itself, and says which test and where it stood."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

LIMIT = ["-p", "no:cacheprovider", "-o", "timeout=1", "."]
HANGS = """
import threading

def test_stands_still():
    wait_for_what_never_comes()

def wait_for_what_never_comes():
    threading.Event().wait()
"""


def inner_run(folder: Path, *flags: str) -> str:
    (folder / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text())
    (folder / "test_hangs_inside.py").write_text(HANGS)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-c",
            ROOT / "pyproject.toml",
            "--rootdir",
            folder,
            *flags,
            *LIMIT,
        ],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode
    return done.stdout + done.stderr


def test_a_worker_that_hangs_ends_the_run_and_says_where_it_stood(tmp_path: Path) -> None:
    pytest.importorskip("xdist")
    makefile = (ROOT / "Makefile").read_text()
    flags = re.search(r"-n \$\(JOBS\) ([^)]+)\)", makefile)
    assert flags, "make test JOBS=2 no longer says how"

    said = inner_run(tmp_path, "-n", "2", *flags[1].split())

    assert "test_hangs_inside.py::test_stands_still took longer than 1 s" in said
    assert "wait_for_what_never_comes" in said
    assert said.count("node down") == 1


def test_a_test_that_hangs_in_one_process_ends_it_and_says_where_it_stood(tmp_path: Path) -> None:
    said = inner_run(tmp_path)

    assert "Timeout" in said
    assert "wait_for_what_never_comes" in said

"""What other servers' suites ask over HTTP is answered as there, or as docs/api.md says."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.fakes import FakeDriver, says, serving
from tests.server.peers import CASES, SAYS, Asked, PeerCase
from tests.server.wire import http

ROOT = Path(__file__).resolve().parents[2]
ONCE = list({case.ask: case for case in CASES}.values())
"""A function stands for several tests of theirs and is run once."""


@pytest.fixture(scope="module")
def asked() -> Iterator[Asked]:
    driver = FakeDriver(says(SAYS))
    with serving(driver) as server, http(server) as client:
        yield Asked(client, driver)


@pytest.mark.parametrize("case", ONCE, ids=lambda case: case.ask.__name__)
def test_it_is_as_there_or_as_we_say(asked: Asked, case: PeerCase) -> None:
    answered: list[int] = []
    asked.http.event_hooks = {"response": [lambda answer: answered.append(answer.status_code)]}
    case.ask(asked)
    assert answered and max(answered) < 500


def test_each_test_of_theirs_is_named_once() -> None:
    names = [(case.peer, case.file, case.name) for case in CASES]
    assert len(names) == len(set(names))


def test_the_table_is_up_to_date() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "peers.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr

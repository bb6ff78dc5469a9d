"""``bench attacks``: it watches what it says, and tells a server that stands still from one that is well."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from pathlib import Path

import pytest

from stepwell.bench.clocks import process_cpu_ns
from stepwell.bench.server import attacks
from stepwell.bench.server.attack_kinds import ATTACKS, AttackRequest, ManyConnections
from stepwell.bench.server.attacks import LIMIT_MS, HealthPoll, WatchedAttack
from stepwell.cli import run
from stepwell.console.report import Report

MOST_BYTES = 120 * 2**20


def test_attacks_on_a_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "found.json"
    words = ["bench", "attacks", "--quick", "--engine", "null", "--only", "4 MiB of", "--only", "silent"]
    assert run([*words, "--json", str(file)]) in (0, 1)  # how long it takes is this machine's business
    found = json.loads(file.read_text("utf-8"))
    quiet, brackets, silent = found["samples"]
    assert (quiet["attack"], brackets["answer"]) == ("nothing", "400")
    assert silent["answer"].endswith(" open")
    assert all(one["polls"] > 0 and one["failed"] == 0 and one["alive"] for one in found["samples"])
    assert "worst /health" in capsys.readouterr().out


def test_an_attack_that_does_not_exist(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "attacks", "--only", "meteor"]) == 2
    assert "--only 'meteor' is in no name of" in capsys.readouterr().err


@pytest.mark.parametrize("name", [name for name in ATTACKS if "57 MiB" not in name and "28 MiB" not in name])
def test_each_attack_is_made(name: str) -> None:
    with ExitStack() as stack:
        act = ATTACKS[name]("m", stack)
        post = getattr(act, "post", act)
        if isinstance(post, AttackRequest):
            assert 0 < len(post.body) < MOST_BYTES
            limit = 8 * 2**20
            assert "7.9 MiB" not in name or 0.75 * limit < len(post.body) < limit
        else:
            assert isinstance(act, ManyConnections)


def test_a_server_that_is_gone() -> None:
    poll = HealthPoll(1, os.getpid())
    poll.once()
    assert (poll.polls, poll.failed, poll.alive) == (1, 1, False)


def test_the_clock_of_a_process_goes_forward() -> None:
    clock = process_cpu_ns(os.getpid())
    if clock is None:
        pytest.skip("this system does not tell")
    before = clock()
    sum(range(200_000))
    assert clock() > before
    assert process_cpu_ns(2**22 + 1) is None


def test_the_verdicts_follow_the_worst() -> None:
    def one(name: str, worst_ms: float, *, failed: int = 0, alive: bool = True) -> WatchedAttack:
        return WatchedAttack(name, "400", 0.1, 9, failed, worst_ms, worst_ms / 2, alive)

    well, ill = Report("attacks", {}), Report("attacks", {})
    attacks.fill(well, [one("nothing", 900.0), one("a", 3.0), one("b", LIMIT_MS)])
    assert well.missed == [] and well.results["worst_attack"] == "b"
    attacks.fill(ill, [one("nothing", 1.0), one("a", 600.0, failed=1, alive=False)])
    assert len(ill.missed) == len(ill.verdicts)

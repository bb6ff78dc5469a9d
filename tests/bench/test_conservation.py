"""The books come to what the machine gave, through a kill; and the benchmark would see it if they did not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from stepwell.bench.ledger import conservation
from stepwell.bench.ledger.conservation import Audit, ConservationLine, Lived, _fill, audit
from stepwell.bench.ledger.conservation_child import Life
from stepwell.cli import run
from stepwell.console.report import Report
from stepwell.ledger.reading.verify import Verified
from stepwell.ledger.types import Kind, Resource


def test_a_killed_run_on_the_null_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lived: list[Lived] = []

    def audit_again(lives: Sequence[Lived]) -> Audit:
        """The same books, had the machine had twice the room on the device."""
        lived.extend(lives)
        right = audit(lives)
        room = lives[0].ready["capacity"]
        room[0] *= 2
        wrong = audit(lives).lines
        room[0] //= 2
        assert [line.resource for line in wrong if line.off_percent > 0.1] == [Resource.DEVICE]
        return right

    monkeypatch.setattr(conservation, "audit", audit_again)
    file, place = tmp_path / "c.json", tmp_path / "kept"
    code = run(["bench", "conservation", "--minutes", "4", "--json", str(file), "--keep", str(place)])
    result = json.loads(file.read_text("utf-8"))
    assert code == 0, (result["verdicts"], result["notes"])
    assert capsys.readouterr().out.rstrip().endswith("targets reached.")
    by_name = {line["resource"]: line for line in result["results"]["resources"]}
    assert set(by_name) == {resource.value for resource in conservation.SHOWN}
    assert all(line["off_percent"] < 0.1 for line in by_name.values())
    # It serves no model of embeddings.
    assert [name for name, line in by_name.items() if not line["given"]] == [Resource.EMBEDDING]
    assert by_name["compute_us"]["given"] > 200e6
    assert by_name["compute_us"]["by"]["agent"] > 0.2 * by_name["compute_us"]["given"]
    assert result["results"]["seen"]["kill -9"] == 1 and lived[0].killed and not lived[1].killed
    assert {path.name for path in place.glob("life-*.jsonl")} == {"life-1.jsonl", "life-2.jsonl"}


def test_a_run_in_which_nothing_happened_proves_nothing() -> None:
    lives = [
        Lived(Life("", n, "null", "null", 1, 60.0), ready={"recovered": [], "warm_blocks": 0}) for n in (1, 2)
    ]
    for one in lives:
        one.last = {"load": {"requests": 5}, "now_us": 9, "begun_us": 0, "moved": {}}
    report = Report("conservation", {})
    _fill(report, lives, Audit([], Verified(replayed=2), [9, 9], 1))
    assert [verdict.target for verdict in report.missed] == ["kinds of events that did not happen"]
    assert "preemptions" in report.notes[0] and "requests," not in report.notes[0]


def test_where_a_killed_life_ends() -> None:
    """With the last step that its books know; whatever began after that was lost."""
    lived = Lived(Life("", 1, "null", "null", 1, 60.0), killed=True, ready={"capacity": [3, 2, 1]})
    lived.last = {"now_us": 99, "begun_us": 10, "moved": {"device_host_bytes": 9}}
    for step_us, moved in ((20, 1), (31, 4), (40, 6), (52, 8)):
        lived.steps.append({"step_us": step_us, "moved": {"device_host_bytes": moved}})
    given = lived.given(30)  # the loop looked at its clock just before
    assert (given[Resource.COMPUTE], given[Resource.DEVICE], given[Resource.STORED]) == (21, 63, 4)
    assert [lived.lost_steps(now_us) for now_us in (30, 40, 52, 60)] == [2, 1, 0, 0]
    lived.killed = False
    assert (lived.lived_us(30), lived.lost_steps(30)) == (89, 0)


def test_what_is_off() -> None:
    posted = {Kind.AGENT: 600, Kind.IDLE: 390, Kind.OVERHEAD: 0, Kind.UNATTRIBUTED: 9}
    assert ConservationLine(Resource.COMPUTE, 1000, posted).off_percent == pytest.approx(0.1)
    assert ConservationLine(Resource.COMPUTE, 0, posted).off_percent == 100
    assert ConservationLine(Resource.READ, 0, dict.fromkeys(posted, 0)).off_percent == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--minutes", "0"], "--minutes must be between 1 and 1440"),
        (["--engine", "other"], "other"),
    ],
)
def test_bad_input(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "conservation", *arguments]) == 2
    assert sentence in capsys.readouterr().err


def test_a_directory_that_exists_is_not_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["bench", "conservation", "--keep", str(tmp_path)]) == 2
    assert "exists" in capsys.readouterr().err

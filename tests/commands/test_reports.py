"""Every plan, study and simulation writes a page and JSON, answers "what if", and says what is missing."""

from __future__ import annotations

import json
import re
from importlib import import_module
from pathlib import Path

import pytest
from tests.simulate.test_engine_run import META, folder, row
from tests.simulate.test_recorded import record

from stepwell.cli import GROUPS, TOP, Command, run

CALCULATE = [
    *(("plan", one) for one in GROUPS["plan"][1]),
    *(("study", one) for one in GROUPS["study"][1]),
    *(("", one) for one in TOP if one.name in ("simulate", "replay", "calibrate")),
]
NO_WHAT_IF = ("calibrate",)
"""It measures: nothing in it is supposed."""
AT_ONCE = ("storage",)
"""One multiplication per figure: there is nothing to wait for."""


def words(group: str, command: Command) -> list[str]:
    return [group, command.name] if group else [command.name]


@pytest.mark.parametrize(("group", "command"), CALCULATE, ids=lambda one: getattr(one, "name", one))
def test_every_command_that_calculates_has_the_same_flags(
    group: str, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*words(group, command), "--help"]) == 0
    shown = capsys.readouterr().out
    wanted = ["--html", "--json", *([] if command.name in NO_WHAT_IF else ["--what-if"])]
    assert [flag for flag in wanted if flag not in shown] == []
    assert "Example" in shown


@pytest.mark.parametrize(("group", "command"), CALCULATE, ids=lambda one: getattr(one, "name", one))
def test_every_command_that_takes_long_says_how_far_it_is(group: str, command: Command) -> None:
    """A bar with the time left, from the command's own file or from one that it is split into."""
    module = import_module(command.where.partition(":")[0])
    file = Path(str(module.__file__))
    texts = [one.read_text() for one in file.parent.glob(f"{file.stem}*.py")]
    bar = re.compile(r"\b(?:progress|track|Progress)\(")
    assert any(bar.search(text) for text in texts) != (command.name in AT_ONCE)


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reports") / "run.jsonl.gz"
    record(path)
    return path


def whole(page: Path) -> str:
    """A page that needs nothing from outside: chart, table, inputs and versions."""
    text = page.read_text(encoding="utf-8")
    assert "<svg" in text and "<table" in text and "Inputs" in text and "stepwell 0" in text
    assert not re.search(r"""(?:src|href)=["']https?:""", text.replace("xlink:", ""))
    return text


def test_speed_has_a_page_and_hangs_on_the_machine(tmp_path: Path) -> None:
    page, figures = tmp_path / "s.html", tmp_path / "s.json"
    asked = ["study", "speed", "--count", "3", "--doublings", "0", "--replicas", "1"]
    steps = []
    for more in ((), ("--what-if", "hbm_tb_s=x0.01")):
        assert run([*asked, *more, "--html", str(page), "--json", str(figures)]) == 0
        told = json.loads(figures.read_text())
        steps.append(told["rows"][0]["elapsed_s"])
    assert told["inputs"]["what_if"] == "hbm_tb_s=x0.01" and told["answer"] in whole(page)
    assert steps[1] > steps[0], "a machine with a hundredth of the bandwidth takes longer"


def test_calibration_by_a_run_or_by_several_has_a_page(tmp_path: Path) -> None:
    import tarfile

    place, page, figures = tmp_path / "run", tmp_path / "c.html", tmp_path / "c.json"
    folder(place, [row(n) for n in range(30)], META)
    assert run(["calibrate", str(place), "--html", str(page), "--json", str(figures)]) == 0
    error = json.loads(figures.read_text())["errors"]["E2E"]
    text = whole(page)
    assert f"E2E {error:+.1%}" in text and "step_ps" in text and str(tmp_path) not in text
    archive = tmp_path / "runs.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(place, "hw/a")
    assert run(["calibrate", str(archive), "--html", str(page)]) == 0
    assert "hw/a" in whole(page)


def test_calibration_by_a_recording_has_a_page(recording: Path, tmp_path: Path) -> None:
    page = tmp_path / "c.html"
    assert run(["calibrate", str(recording), "--html", str(page)]) == 0
    assert "every second step" in whole(page)


def test_a_replay_has_a_page_and_takes_what_if(
    recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, figures = tmp_path / "r.html", tmp_path / "r.json"
    write = ["--html", str(page), "--json", str(figures)]
    busy = []
    for more in ((), ("--what-if", "prefill_us_per_token=x100")):
        assert run(["replay", str(recording), "--policy", "lru,stepwell", *write, *more]) == 0
        busy.append(json.loads(figures.read_text())["runs"][0]["busy_s"])
        assert capsys.readouterr().out.strip().splitlines()[-1] in whole(page)
    assert busy[1] > busy[0]
    cost = []
    for more in ((), ("--what-if", "usd_hour_rent=x3")):
        assert run(["replay", str(recording), "--machine", "h100", *write, *more]) == 0
        cost.append(json.loads(figures.read_text())["runs"][1]["usd"])
    assert cost[1] == pytest.approx(3 * cost[0]) and "as recorded" in whole(page)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--html", "x.html"], "give --policy or --machine"),
        (["--what-if", "copy_us_per_block=1"], "give --policy or --machine"),
        (["--policy", "lru", "--what-if", "copy_us_per_blok=1"], "did you mean copy_us_per_block?"),
        (["--policy", "lru", "--what-if", "copy_us_per_block=0"], "is below one"),
        (["--policy", "lru", "--what-if", "copy_us_per_block=-3"], "at or above zero"),
        (["--machine", "h100", "--what-if", "usd_hour=1"], "there is no such input"),
    ],
)
def test_a_replay_of_what_cannot_be_is_one_sentence(
    flags: list[str], says: str, recording: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["replay", str(recording), *flags]) == 2
    error = capsys.readouterr().err.strip()
    assert says in error and len(error.splitlines()) == 1

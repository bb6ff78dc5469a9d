"""``stepwell bench fleet``: its files are deployments, and its figures are computed as they are explained."""

from __future__ import annotations

from pathlib import Path

import pytest

from stepwell.bench.fleet.fleet import ARMS, COLUMNS, KILLED, FleetArm, FleetBooks, verdicts
from stepwell.bench.fleet.load import AgentRun, LoadRun
from stepwell.bench.fleet.nodes import FleetFiles
from stepwell.console.output import sheet
from stepwell.fleet.routers import ROUTERS
from stepwell.gateway.deployment import load_deployment, node_environment, plans
from stepwell.settings.file import load


def run_of(text: str = "a", *, cached: int = 0) -> LoadRun:
    one = AgentRun(0, 0, [text, "b"], 1.0, 2, 0, [100, 130], [cached, 110], [10, 10], 30)
    other = AgentRun(0, 1, ["c", "d"], 2.0, 2, 0, [110, 140], [60, 120], [10, 10], 40)
    return LoadRun([one, other], 2.0)


@pytest.mark.parametrize("router", ROUTERS)
def test_its_files_are_deployments_whose_nodes_have_settings_that_load(tmp_path: Path, router: str) -> None:
    place = FleetFiles(tmp_path, "null", 3, 4_096, tuple(ARMS), port=19_769)
    found = load_deployment(place.file(router))
    assert found.front.router == router and len(plans(found)) == 3
    assert found.ledger_path == str(place.ledger)
    node = load(found.config, env=node_environment(found, plans(found)[0], {}))
    assert node.engine.device_kv_tokens == 4_096
    assert {entry.tenant for entry in node.keys} == {*ARMS, "ops"}


def test_the_tax_is_what_had_been_computed_before() -> None:
    """Of 480 prompt tokens 290 were found. New are the document, 60, its agents' beginnings, 40 and 50, and
    what each turn adds, 20 and 20: 190 were computed, and as many were new."""
    load_run = run_of()
    assert (load_run.computed, load_run.new_tokens(60)) == (190, 190)
    assert FleetArm("x", load_run, 60).tax == 0
    assert FleetArm("x", load_run, 80).tax == pytest.approx(1 - 170 / 190)


def test_the_table_shows_every_figure() -> None:
    made = sheet("x", COLUMNS, [FleetArm("kv-affine", run_of(), 80).as_json()])
    cells = [next(iter(column.cells)) for column in made.columns]
    assert cells == ["kv-affine", "2.0 s", "1.5 s", "2.0 s", "4", "4", "190", "11%"]


def test_one_wrong_answer_and_one_charge_too_many_are_seen() -> None:
    arms = [FleetArm(name, run_of(), 60) for name in ARMS]
    good = FleetBooks(0, {KILLED: 4}, {KILLED: 70})
    assert all(verdict.reached for verdict in verdicts(arms, good, 600))
    arms[1] = FleetArm(KILLED, run_of("other"), 60, "node-1")
    missed = [verdict.reached for verdict in verdicts(arms, FleetBooks(1, {KILLED: 5}, {KILLED: 71}), 100)]
    assert missed == [False, True, False, False, False, True, False]

"""Boards that cannot rot: every metric, label and query against a server that has just been used."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from stepwell.bench.servers import free_port
from stepwell.cli import run
from stepwell.dashboards.alerts import ALERTS, rules
from stepwell.dashboards.boards import BOARDS
from stepwell.dashboards.export import files, write
from stepwell.dashboards.grafana import COLUMNS, dashboard
from stepwell.dashboards.panels import QUICK, missing
from stepwell.engines.null import NullConfig
from stepwell.server.settings import ServerSettings
from tests.server.fakes import MODEL
from tests.server.ledgers import Kept, bearer, keeping
from tests.server.wire import CHAT, get, post

PROMETHEUS, PROMTOOL = shutil.which("prometheus"), shutil.which("promtool")
PATIENCE_S = 90.0


def use(kept: Kept) -> None:
    """Whatever a server can be asked, so that every series is there: turns, a full device, a refusal."""
    for number in range(12):
        headers = {**bearer("acme"), "x-session-id": "run", "x-agent-id": f"a{number}"}
        tier = ("default", "flex")[number % 2]
        body = CHAT | {"messages": [{"role": "user", "content": f"{number} " * 40}], "service_tier": tier}
        assert post(kept.server, "/v1/chat/completions", body, **headers).status_code == 200
    assert post(kept.server, "/v1/chat/completions", {}, **bearer("acme")).status_code == 400


@contextmanager
def used_server(root: Path) -> Iterator[Kept]:
    small = NullConfig(model=MODEL, block_tokens=16, device_blocks=64, answer=b"abc")
    settings = ServerSettings(port=0, drain_s=5.0, public_metrics=True)
    with keeping(root, config=small, host_bytes=1 << 10, server_settings=settings) as kept:
        use(kept)
        kept.at_rest()
        yield kept


def exposed(text: str) -> dict[str, set[str]]:
    """Labels by name of sample."""
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        if not family.samples:  # nothing was counted yet
            found[f"{family.name}_total"] = set()
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> str:
    with used_server(tmp_path_factory.mktemp("scraped")) as kept:
        return get(kept.server, "/metrics").text


def test_every_metric_and_label_of_every_query_is_exposed(scraped: str) -> None:
    there = exposed(scraped)
    wrong = {
        f"{board.uid}/{panel.title}": lost
        for board in BOARDS
        for panel in board.panels
        for query in panel.queries
        if (lost := missing(query.plain(), there))
    }
    wrong |= {alert.name: lost for alert in ALERTS if (lost := missing(alert.expr, there))}
    assert wrong == {}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("stepwell_kv_bytes", "stepwell_kv_held_bytes"),
        ('kv_tier="', 'tier="'),
        ("stepwell_ttft_seconds", "stepwell_first_token_seconds"),
        ("stepwell_preemptions_total", "stepwell_preempted_total"),
    ],
)
def test_a_metric_or_label_that_is_renamed_is_found(scraped: str, old: str, new: str) -> None:
    there = exposed(scraped.replace(old, new))
    lost = [
        name
        for board in BOARDS
        for panel in board.panels
        for query in panel.queries
        for name in missing(query.plain(), there)
    ]
    assert lost


def test_boards_are_well_formed() -> None:
    assert len({board.uid for board in BOARDS}) == len(BOARDS)
    for board in BOARDS:
        made = dashboard(board)
        assert len(board.uid) <= 40
        assert {one["name"] for one in made["templating"]["list"]} == {"datasource", "job", "instance"}
        ids = [panel["id"] for panel in made["panels"]]
        assert len(set(ids)) == len(ids)
        taken: set[tuple[int, int]] = set()
        for panel in made["panels"]:
            at = panel["gridPos"]
            assert 0 <= at["x"] <= at["x"] + at["w"] <= COLUMNS
            cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
            assert not cells & taken, panel["title"]
            taken |= cells
            assert panel["fieldConfig"]["defaults"]["unit"]
            assert panel["targets"]
            for target in panel["targets"]:
                assert '$job"' in target["expr"]
                for metric in re.findall(r"stepwell_[a-z0-9_]+", target["expr"]):
                    assert metric in panel["description"]


def test_every_alert_says_what_to_do() -> None:
    assert len({alert.name for alert in ALERTS}) == len(ALERTS)
    for alert in ALERTS:
        assert alert.runbook.endswith(".")
        assert alert.severity in ("page", "ticket")


def test_the_command_writes_what_prometheus_and_grafana_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["dashboards", "export", str(tmp_path / "deploy"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["boards"] == [board.uid for board in BOARDS]
    assert {Path(name).relative_to(tmp_path / "deploy").as_posix() for name in said["files"]} == set(files())
    (tmp_path / "file").write_text("")
    assert run(["dashboards", "export", str(tmp_path / "file")]) != 0
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.skipif(PROMTOOL is None, reason="no promtool here")
def test_promtool_takes_the_rules_and_they_fire(tmp_path: Path) -> None:
    write(tmp_path)
    assert PROMTOOL is not None
    checked = subprocess.run(
        [PROMTOOL, "check", "config", tmp_path / "prometheus.yml"], capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stderr
    case = {
        "rule_files": ["alerts.yml"],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    {"series": 'up{job="stepwell", instance="a"}', "values": "1 1 0 0 0 0"},
                    {"series": 'stepwell_ledger_failing{instance="a"}', "values": "0 1 1 1 1 1"},
                ],
                "alert_rule_test": [fires("StepwellDown", "5m"), fires("StepwellLedgerFailing", "5m")],
            }
        ],
    }
    (tmp_path / "case.yml").write_text(json.dumps(case))
    tested = subprocess.run(
        [PROMTOOL, "test", "rules", tmp_path / "case.yml"], capture_output=True, text=True
    )
    assert tested.returncode == 0, tested.stdout + tested.stderr


def fires(name: str, at: str) -> dict[str, Any]:
    rule = next(one for one in rules()["groups"][0]["rules"] if one["alert"] == name)
    said = {key: text.replace("{{ $labels.instance }}", "a") for key, text in rule["annotations"].items()}
    labels = {"severity": rule["labels"]["severity"], "instance": "a"}
    if name == "StepwellDown":
        labels["job"] = "stepwell"
    return {
        "eval_time": at,
        "alertname": name,
        "exp_alerts": [{"exp_labels": labels, "exp_annotations": said}],
    }


@contextmanager
def prometheus(root: Path, target: str) -> Iterator[httpx2.Client]:
    """A real one that scrapes the server every second."""
    config = {
        "global": {"scrape_interval": "1s"},
        "scrape_configs": [{"job_name": "stepwell", "static_configs": [{"targets": [target]}]}],
    }
    (root / "prometheus.yml").write_text(json.dumps(config))
    port = free_port()
    assert PROMETHEUS is not None
    command = [
        PROMETHEUS,
        f"--config.file={root / 'prometheus.yml'}",
        f"--storage.tsdb.path={root / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (root / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=120.0, trust_env=False) as client:
            yield client
    finally:
        process.terminate()
        process.wait(30)


def series(client: httpx2.Client, expr: str) -> int:
    try:
        answer = client.get("/api/v1/query", params={"query": expr})
    except httpx2.HTTPError:
        return 0
    if answer.status_code in (502, 503):
        return 0
    assert answer.status_code == 200, (expr, answer.text)
    return len(answer.json()["data"]["result"])


@pytest.mark.skipif(PROMETHEUS is None, reason="no prometheus here")
def test_every_query_of_every_board_has_data_in_a_real_prometheus(tmp_path: Path) -> None:
    values = {**QUICK, "$__rate_interval": "30s"}
    wanted = {
        query.plain(values)
        for board in BOARDS
        for panel in board.panels
        for query in panel.queries
        if not panel.may_be_empty
    }
    with (
        used_server(tmp_path) as kept,
        prometheus(tmp_path, kept.server.base_url.removeprefix("http://")) as client,
    ):
        give_up_s = time.monotonic() + PATIENCE_S
        while wanted and time.monotonic() < give_up_s:
            wanted = {expr for expr in wanted if not series(client, expr)}
            threading.Event().wait(0.5)
        assert wanted == set()
        assert series(client, 'up{job="stepwell"} == 1')


def test_the_document_has_every_alert() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "dashboards.md").read_text("utf-8")
    for alert in ALERTS:
        assert f"| `{alert.name}` | {alert.severity} | {alert.runbook} |" in text

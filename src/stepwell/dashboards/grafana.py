"""A board as Grafana's JSON. The data source, jobs and servers are chosen above the board."""

from __future__ import annotations

from typing import Any

from stepwell.dashboards.panels import Board, Panel

COLUMNS, HEIGHT, STAT_HEIGHT = 24, 8, 4
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
SCHEMA = 39


def dashboard(board: Board) -> dict[str, Any]:
    """To be imported, or put into a provisioned folder."""
    return {
        "uid": board.uid,
        "title": board.title,
        "description": board.about,
        "tags": ["stepwell"],
        "schemaVersion": SCHEMA,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": [_source(), _variable("job", ""), _variable("instance", 'job=~"$job"')]},
        "links": [
            {
                "type": "dashboards",
                "title": "Stepwell",
                "tags": ["stepwell"],
                "asDropdown": True,
                "keepTime": True,
            }
        ],
        "panels": _placed(board.panels),
    }


def _source() -> dict[str, Any]:
    return {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}


def _variable(name: str, only: str) -> dict[str, Any]:
    query = f"label_values(stepwell_steps_total{{{only}}}, {name})"
    return {
        "name": name,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,
        "includeAll": True,
        "allValue": ".*",
        "multi": True,
        "current": {"text": "All", "value": "$__all"},
    }


def _placed(panels: tuple[Panel, ...]) -> list[dict[str, Any]]:
    """Row by row, from left to right."""
    placed, x, y, tallest = [], 0, 0, 0
    for number, panel in enumerate(panels, 1):
        height = STAT_HEIGHT if panel.kind == "stat" else HEIGHT
        if x + panel.width > COLUMNS:
            x, y, tallest = 0, y + tallest, 0
        placed.append(_panel(number, panel) | {"gridPos": {"x": x, "y": y, "w": panel.width, "h": height}})
        x, tallest = x + panel.width, max(tallest, height)
    return placed


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    targets = [
        {
            "refId": chr(ord("A") + at),
            "datasource": SOURCE,
            "expr": query.expr,
            "legendFormat": query.legend or panel.title,
        }
        for at, query in enumerate(panel.queries)
    ]
    custom = {"stacking": {"mode": "normal"}, "fillOpacity": 30} if panel.stacked else {"fillOpacity": 5}
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0, "noValue": "no traffic"}
    if panel.unit == "currencyUSD":
        del defaults["min"]  # a margin may be below nothing
    if panel.kind == "timeseries":
        defaults["custom"] = custom
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": SOURCE,
        "targets": targets,
        "fieldConfig": {"defaults": defaults, "overrides": []},
    }

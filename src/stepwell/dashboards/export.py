"""Everything as files: boards, alerts, Prometheus' settings, and a compose file that starts the lot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from stepwell.dashboards.alerts import rules
from stepwell.dashboards.boards import BOARDS
from stepwell.dashboards.grafana import dashboard

PROMETHEUS: dict[str, Any] = {
    "global": {"scrape_interval": "15s", "evaluation_interval": "15s"},
    "rule_files": ["alerts.yml"],
    "scrape_configs": [
        {"job_name": "stepwell", "static_configs": [{"targets": ["host.docker.internal:8000"]}]},
    ],
}
SOURCES: dict[str, Any] = {
    "apiVersion": 1,
    "datasources": [
        {"name": "Prometheus", "type": "prometheus", "url": "http://prometheus:9090", "isDefault": True}
    ],
}
PROVIDERS: dict[str, Any] = {
    "apiVersion": 1,
    "providers": [{"name": "stepwell", "type": "file", "options": {"path": "/var/lib/grafana/dashboards"}}],
}
COMPOSE: dict[str, Any] = {
    "services": {
        "prometheus": {
            "image": "prom/prometheus:v2.55.1",
            "volumes": [
                "./prometheus.yml:/etc/prometheus/prometheus.yml:ro",
                "./alerts.yml:/etc/prometheus/alerts.yml:ro",
            ],
            "extra_hosts": ["host.docker.internal:host-gateway"],
            "ports": ["127.0.0.1:9090:9090"],
        },
        "grafana": {
            "image": "grafana/grafana:11.6.0",
            "volumes": [
                "./boards:/var/lib/grafana/dashboards:ro",
                "./grafana/datasources.yml:/etc/grafana/provisioning/datasources/stepwell.yml:ro",
                "./grafana/dashboards.yml:/etc/grafana/provisioning/dashboards/stepwell.yml:ro",
            ],
            "ports": ["127.0.0.1:3000:3000"],
            "depends_on": ["prometheus"],
        },
    }
}


def files() -> dict[str, str]:
    """By path below the folder."""
    made = {f"boards/{board.uid}.json": json.dumps(dashboard(board), indent=2) + "\n" for board in BOARDS}
    documents = {
        "alerts.yml": rules(),
        "prometheus.yml": PROMETHEUS,
        "grafana/datasources.yml": SOURCES,
        "grafana/dashboards.yml": PROVIDERS,
        "compose.yml": COMPOSE,
    }
    return made | {name: yaml.safe_dump(one, sort_keys=False, width=100) for name, one in documents.items()}


def write(folder: Path) -> list[Path]:
    """What was written. Raises ``OSError``."""
    written = []
    for name, text in files().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        written.append(path)
    return written

"""Grafana boards and Prometheus alerts, made in code from what ``/metrics`` really has."""

from __future__ import annotations

"""The sample week that ships: its replies are made up, and say so."""

from __future__ import annotations

from datetime import date
from importlib.resources import files

from stepwell.review.sources.base import Reply
from stepwell.review.week import Week

SAMPLE_WEEK = "2025-12-12"


def sample() -> tuple[Week, list[Reply]]:
    """The week and its replies."""
    week = Week(date.fromisoformat(SAMPLE_WEEK))
    folder = files("stepwell.review") / "sample_week"
    names = sorted(one.name for one in folder.iterdir() if not one.name.startswith("_"))
    return week, [
        Reply(name.partition("-")[0], name, (folder / name).read_bytes(), week.friday, made=True)
        for name in names
    ]

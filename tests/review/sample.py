"""The sample week, and what tests change in it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from importlib.resources import files

from stepwell.review.digest import digest
from stepwell.review.facts import Facts
from stepwell.review.page import ReviewPage
from stepwell.review.sources.base import Reply
from stepwell.review.week import Week
from stepwell.review.wording import Language
from stepwell.review.writer import from_templates

FRIDAY = date(2025, 12, 12)
WEEK = Week(FRIDAY)


def raw() -> dict[str, bytes]:
    folder = files("stepwell.review") / "sample_week"
    return {one.name: one.read_bytes() for one in folder.iterdir() if not one.name.startswith("_")}


def replies(changed: Mapping[str, bytes | None] | None = None, *, made: bool = True) -> list[Reply]:
    """The week's replies; those in ``changed`` with other bytes, or left out where they are ``None``."""
    found: dict[str, bytes | None] = {**raw(), **(changed or {})}
    return [
        Reply(name.partition("-")[0], name, data, FRIDAY, made)
        for name, data in sorted(found.items())
        if data is not None
    ]


def facts(changed: Mapping[str, bytes | None] | None = None, week: Week = WEEK) -> tuple[Facts, list[str]]:
    return digest(week, replies(changed))


def page(language: Language = "en", changed: Mapping[str, bytes | None] | None = None) -> bytes:
    found, _ = facts(changed)
    return ReviewPage(found, from_templates(found), language).html().encode()

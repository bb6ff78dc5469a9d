"""Fixtures that every room shares."""

from __future__ import annotations

from pathlib import Path

import pytest

from stepwell.errors import MissingExtra
from stepwell.models import resolve_model


def _model_path(name: str) -> Path:
    try:
        return resolve_model(name).path
    except MissingExtra as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """SmolLM2-135M-Instruct; skips only when its package is not installed."""
    return _model_path("smollm2")


@pytest.fixture(scope="session")
def gemma3_path() -> Path:
    """Gemma 3 270M, assembled once into the user's cache; skips only when its package is absent."""
    return _model_path("gemma3")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real traces and price lists that lie beside a checkout and not in it; skips where they do not."""
    data = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not data.is_dir():
        pytest.skip("no ../shared/data beside this checkout")
    return data

"""What every bench is held to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def person(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The usual place for data of whoever runs a bench; nothing may be there afterwards."""
    place = tmp_path_factory.mktemp("person")
    monkeypatch.setenv("XDG_DATA_HOME", str(place))
    yield place
    assert list(place.rglob("*")) == []

"""Fixtures that every room shares."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from stepwell.engines.models import cache_dir, resolve_model
from stepwell.errors import MissingExtra
from tests import hangs


def pytest_configure(config: pytest.Config) -> None:
    """Whatever a test starts, here or in a child, has usual places of its own for books, documents, sessions
    and KV, and none in the home of whoever runs the tests. Not a fixture: modules of tests read the
    environment when they are imported.
    """
    _answer_to_ctrl_c()
    hangs.keep_stderr(config)
    # A busy machine is no fault of an example: how long one takes says nothing here.
    settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("untimed")
    places = tempfile.TemporaryDirectory(prefix="stepwell-tests-", ignore_cleanup_errors=True)
    config.add_cleanup(places.cleanup)
    models = cache_dir() / "models"
    environment = pytest.MonkeyPatch()
    config.add_cleanup(environment.undo)
    environment.setenv("XDG_DATA_HOME", f"{places.name}/data")
    environment.setenv("XDG_CACHE_HOME", f"{places.name}/cache")
    lend(models, cache_dir() / "models")
    # The suite runs on busy cores too, where threads of llama.cpp that spin take other programs' turns: fewer
    # times than the engine's own (`stepwell bench waiting`). Here and in children, before OpenMP is loaded.
    if "GOMP_SPINCOUNT" not in os.environ:
        environment.setenv("GOMP_SPINCOUNT", "3000")


def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> Any:
    return hangs.watch(item, settings.timeout)


def _answer_to_ctrl_c() -> None:
    """A shell starts what runs in its background deaf to Ctrl-C, and children inherit that: those that tests
    interrupt would not notice."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        with contextlib.suppress(ValueError):  # not the main thread
            signal.signal(signal.SIGINT, signal.default_int_handler)


def lend(models: Path, to: Path) -> None:
    """A model that was put together once is read where it lies; what is missing is made anew."""
    to.mkdir(parents=True)
    for model in models.glob("*.gguf"):
        (to / model.name).symlink_to(model)


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
    """Gemma 3 270M, from the user's cache or assembled for the tests; skips where its package is absent."""
    return _model_path("gemma3")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real traces and price lists that lie beside a checkout and not in it; skips where they do not."""
    data = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not data.is_dir():
        pytest.skip("no ../shared/data beside this checkout")
    return data

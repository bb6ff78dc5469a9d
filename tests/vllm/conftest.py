"""Tests of the room ``stepwell.vllm`` with the real vLLM. ``make test-vllm`` makes its environment and runs
them; elsewhere vLLM is not installed, and only what stands below it is collected."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

WITH_VLLM = [
    "test_ahead.py",
    *("test_books_of_engine.py", "test_deployed.py", "test_dialects.py", "test_disk.py", "test_hooks.py"),
    "test_host.py",
    *("test_kv_events_served.py", "test_objects.py", "test_scheduler.py", "test_served.py"),
]
collect_ignore = [] if importlib.util.find_spec("vllm") else WITH_VLLM

QUIET = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
}
for name, value in QUIET.items():
    os.environ.setdefault(name, value)

FIRST_START_S = 1_200
"""vLLM's first import in a new environment compiles all of it, twice, and on a machine that is busy the usual
limit of a test is too short for that."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.name in WITH_VLLM:
            item.add_marker(pytest.mark.timeout(FIRST_START_S))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from stepwell.vllm.random_model import make_random

    folder = tmp_path_factory.mktemp("model") / "tiny"
    make_random(folder)
    return folder

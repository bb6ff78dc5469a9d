"""What a test that hangs leaves behind when several processes run the suite.

pytest-timeout ends the process of a test that takes too long and prints where every thread stood. A worker
of pytest-xdist has no terminal, so the print is lost and all that is said is "node down". Here it goes to
standard error, which workers share with the run that started them.
"""

from __future__ import annotations

import faulthandler
import os
import threading
from typing import Any

import pytest

_STDERR = pytest.StashKey[int]()


def keep_stderr(config: pytest.Config) -> None:
    """Remember standard error as it was before output is captured."""
    if hasattr(config, "workerinput"):
        config.stash[_STDERR] = os.dup(2)
        config.add_cleanup(lambda: os.close(config.stash[_STDERR]))


def watch(item: pytest.Item, limit_s: float) -> Any:
    """Start the clock of a worker's test; None where there is a terminal and pytest-timeout does it well."""
    stderr = item.config.stash.get(_STDERR, None)
    if stderr is None or limit_s <= 0:
        return None
    timer = threading.Timer(limit_s, _end, (item.nodeid, limit_s, stderr))
    timer.daemon = True
    item.cancel_timeout = timer.cancel  # type: ignore[attr-defined]  # what pytest-timeout calls afterwards
    timer.start()
    return True


def _end(test: str, limit_s: float, stderr: int) -> None:
    os.write(stderr, f"\n{test} took longer than {limit_s:g} s; where its threads stood:\n".encode())
    faulthandler.dump_traceback(stderr)
    os._exit(1)

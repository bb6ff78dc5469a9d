"""``stepwell serve`` on the null engine, whose time is skipped instead of slept: ``-m ... CONFIG``."""

from __future__ import annotations

import sys
from pathlib import Path

from stepwell.bench.engine.overhead import SkippingClock
from stepwell.launch.serve import run
from stepwell.settings.file import load


def main() -> None:
    run(load(Path(sys.argv[1])), clock=SkippingClock())


if __name__ == "__main__":
    main()

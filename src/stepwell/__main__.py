"""``python -m stepwell``."""

from __future__ import annotations

from stepwell.cli import main

main()

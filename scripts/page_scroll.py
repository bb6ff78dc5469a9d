"""Frames of the live page while it scrolls through 500 agents, by the browser's own clock.

.venv/bin/python scripts/page_scroll.py      # needs chromium and its driver, as the tests of the page do
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FRAMES, ROUNDS = 300, 3
SCROLL = """
const [frames, done] = arguments, rows = document.querySelector(".rows"), gaps = [];
const bottom = rows.scrollHeight - rows.clientHeight;
let seen = 0, last = 0;
const step = (at) => {
  if (last) gaps.push(at - last);
  last = at;
  const phase = (seen++ % 240) / 120;
  rows.scrollTop = bottom * (phase < 1 ? phase : 2 - phase);
  gaps.length < frames ? requestAnimationFrame(step) : done(gaps);
};
requestAnimationFrame(step);
"""
"""Down and up again in 240 frames, which is four seconds at 60 a second."""


def work_s(driver: Any) -> Mapping[str, float]:
    found = driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
    return {one["name"]: one["value"] for one in found}


def line(gaps_ms: Sequence[float], cpu_s: float) -> str:
    late = sum(gap > 20 for gap in gaps_ms)
    rate = 1_000 * len(gaps_ms) / sum(gaps_ms)
    return (
        f"{rate:.1f} frames a second, {median(gaps_ms):.1f} ms at the median, {late} of {len(gaps_ms)} late; "
        f"{1_000 * cpu_s / len(gaps_ms):.1f} ms of CPU a frame"
    )


def main() -> None:
    sys.path.insert(0, str(ROOT))
    page = import_module("tests.server.page.test_page_in_a_browser")
    with page.node() as server, page.browser() as driver:
        driver.set_script_timeout(120)
        page.populate(server, page.AGENTS)
        driver.get(f"{server.base_url}/page")
        page.until(lambda: f"Agents {page.AGENTS}" in page.texts(driver))
        driver.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
        for _ in range(ROUNDS):
            before = work_s(driver)
            gaps_ms = driver.execute_async_script(SCROLL, FRAMES)
            sys.stdout.write(line(gaps_ms, work_s(driver)["TaskDuration"] - before["TaskDuration"]) + "\n")


if __name__ == "__main__":
    main()

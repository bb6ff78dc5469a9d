"""``stepwell bench shared-disk``: real processes, really killed."""

from __future__ import annotations

import json
from pathlib import Path

from stepwell.bench.tiers.shared_disk import main


def test_two_kills_serve_no_wrong_byte(tmp_path: Path) -> None:
    assert main(kills=2, directory=tmp_path, json_file=tmp_path / "out.json") == 0
    results = json.loads((tmp_path / "out.json").read_text())["results"]
    assert results["kills"] == 2
    assert results["compared"] > 0
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]

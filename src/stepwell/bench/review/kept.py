"""What came of each week of ``stepwell bench review``, kept as it ends: a run that was stopped goes on."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from stepwell.bench.review.arms import Told
from stepwell.bench.review.judge import Judged
from stepwell.errors import BadInput

Key = tuple[str, str, str, str]
"""Model, arm, level and week."""


@dataclass(slots=True)
class KeptWeeks:
    """A file of JSON lines, one for each week of each arm; without a file nothing is kept."""

    path: Path | None
    known: dict[Key, Told] = field(default_factory=dict)

    @classmethod
    def of(cls, path: Path | None) -> KeptWeeks:
        """With what is in the file. Raises ``BadInput`` for a line that this bench did not write."""
        kept = cls(path)
        if path is None or not path.exists():
            return kept
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            try:
                row = json.loads(line)
                told = row["told"]
                key = (row["model"], row["arm"], row["level"], row["week"])
                kept.known[key] = Told(**(told | {"judged": Judged(**told["judged"])}))
            except (ValueError, KeyError, TypeError):
                raise BadInput(f"{path}, line {number}: no week of this bench; name another file") from None
        return kept

    async def told(self, key: Key, run: Callable[[], Awaitable[Told]]) -> Told:
        """What the file has under the key, or what the run gives, which is then in the file."""
        if (found := self.known.get(key)) is not None:
            return found
        self.known[key] = told = await run()
        if self.path is not None:
            row = dict(zip(("model", "arm", "level", "week"), key, strict=True)) | {"told": asdict(told)}
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        return told

"""Task sets by name or from a file."""

from __future__ import annotations

from pathlib import Path

from stepwell.errors import BadInput
from stepwell.fit import jsonl, sets
from stepwell.fit.tasks import TaskSet


def load_tasks(name_or_path: str) -> TaskSet:
    """A shipped set by its name, or a person's own from a JSONL file; ``BadInput`` says what is wrong."""
    if name_or_path in sets.SHIPPED:
        return sets.SHIPPED[name_or_path]()
    path = Path(name_or_path)
    if not path.is_file():
        shipped = ", ".join(sets.SHIPPED)
        raise BadInput(f"{name_or_path!r} is no task set: give one of {shipped}, or a JSONL file")
    return jsonl.read_tasks(path)

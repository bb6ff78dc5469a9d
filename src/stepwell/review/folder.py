"""The folder of a week: raw replies under their names, and an index that says what they are.

``index.jsonl`` has a line for each reply: its source, its name, its SHA-256, when it was fetched and from
where, without any key. A reply whose bytes have changed since is refused. Files of a person's own
(``prices-SPX.csv``, ``documents-events.md``) need no line.
"""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, date, datetime
from pathlib import Path

from stepwell.errors import BadInput
from stepwell.review.sources.base import MAX_REPLY_BYTES, Reply, SourceError

INDEX = "index.jsonl"
OWN = ("prices", "total", "parts", "documents")


def replies_of(folder: Path) -> list[Reply]:
    """Every reply in the folder, by name. Raises ``BadInput``."""
    if not folder.is_dir():
        raise BadInput(
            f"--from {folder}: there is no such folder; 'stepwell review fetch --into {folder}' makes one"
        )
    listed = _index(folder / INDEX)
    replies = [_listed(folder, name, row) for name, row in sorted(listed.items())]
    for path in sorted(folder.iterdir()):
        kind = path.name.partition("-")[0]
        if path.name not in listed and kind in OWN and path.is_file():
            replies.append(Reply(kind, path.name, _read(path), _day(path)))
    if not replies:
        raise BadInput(f"--from {folder}: nothing in it is a reply of a source")
    return replies


def keep(folder: Path, reply: Reply, url: str) -> None:
    """Write a reply and its line in the index."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / reply.name).write_bytes(reply.data)
    row = {
        "source": reply.source,
        "name": reply.name,
        "sha256": hashlib.sha256(reply.data).hexdigest(),
        "fetched": reply.fetched.isoformat(),
        "url": url,
    }
    with (folder / INDEX).open("a", encoding="utf-8") as index:
        index.write(json.dumps(row) + "\n")


def kept_since(folder: Path, name: str, url: str, day: date) -> bool:
    """Whether the folder has this reply, whole, from this address, fetched after a day."""
    row = _index(folder / INDEX).get(name)
    if row is None or row.get("url") != url or date.fromisoformat(row["fetched"]) <= day:
        return False
    path = folder / name
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == row.get("sha256")


def _index(path: Path) -> dict[str, dict[str, str]]:
    """The newest line for each name."""
    if not path.exists():
        return {}
    rows: dict[str, dict[str, str]] = {}
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            rows[row["name"]] = row
        except (ValueError, KeyError, TypeError) as error:
            raise BadInput(f"{path}, line {number}: no line of an index") from error
    return rows


def _listed(folder: Path, name: str, row: dict[str, str]) -> Reply:
    if "/" in name or name.startswith("."):
        raise BadInput(f"{folder / INDEX}: {name!r} is no name of a reply")
    data = _read(folder / name)
    if hashlib.sha256(data).hexdigest() != row.get("sha256"):
        raise SourceError(f"{folder / name} was changed after it was fetched: fetch it again")
    return Reply(row["source"], name, data, date.fromisoformat(row["fetched"]))


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_REPLY_BYTES:
            raise BadInput(f"{path} is larger than {MAX_REPLY_BYTES} bytes")
        return path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from error


def _day(path: Path) -> date:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).date()

"""Trace files of every format that is read, recognised by what is in them; and Mooncake's, which is written.

A malformed line is left out, counted and named. A file with more than a stated share of them is refused.
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from stepwell.errors import BadInput

BAD_SHARE = 0.05
_NAMED = 5
_MOST = 1 << 40
_MOST_TOKENS = 10_000_000
"""Of one prompt or answer: more than any model's context."""
_MOST_NAME = 1 << 24
"""Names of blocks are numbered; a table of them is kept, so one damaged line must not make it endless."""
_LOOK_AT = 20
_MALFORMED = (
    ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, RecursionError,
)  # fmt: skip
_HEADER_BYTES = 1 << 20
_KEYS = {
    "agentic": {"requests", "id"},
    "mooncake": {"timestamp", "input_length", "output_length"},
    "calls": {"session_id", "t_ms", "input_length"},
    "recording": {"format", "version", "config"},
    "servegen": {"category", "client", "window_s", "trace"},
}
"""What the first good line of each format has."""
_AZURE = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
Record = dict[str, Any]


@dataclass(slots=True)
class TraceFile:
    """What a file holds. ``kind``: ``agentic``, ``mooncake``, ``calls``, ``azure``, ``recording``, or
    ``servegen``, which holds clients and no requests."""

    path: Path
    kind: str
    records: list[Record] = field(default_factory=list)
    lines: int = 0
    bad: list[str] = field(default_factory=list)
    """Malformed lines, by number and reason."""

    def bad_note(self) -> str:
        """One sentence about what was left out; empty when nothing was."""
        if not self.bad:
            return ""
        named = "; ".join(self.bad[:_NAMED])
        more = f"; and {len(self.bad) - _NAMED} more" if len(self.bad) > _NAMED else ""
        return f"{len(self.bad)} of {self.lines} lines were malformed and left out: {named}{more}"


def read_trace(path: Path, *, bad_share: float = BAD_SHARE, most: int | None = None) -> TraceFile:
    """Read at most ``most`` records. ``BadInput``: no such file or format, or too much is malformed."""
    try:
        with _open(path) as file:
            found = _read(path, file, most)
    except FileNotFoundError:
        raise BadInput(f"{path}: there is no such file or workload") from None
    except (OSError, EOFError, zlib.error) as error:
        raise BadInput(f"{path} cannot be read: {error}") from error
    if found.bad and len(found.bad) > bad_share * found.lines:
        raise BadInput(f"{path}: refused, more than {bad_share:.0%} is malformed: {found.bad_note()}")
    if found.kind != "recording" and not found.records:
        raise BadInput(f"{path}: there is no request in it")
    return found


def is_recording(path: Path) -> bool:
    """Whether the file begins as 'stepwell serve --record' begins one. False for what cannot be read."""
    try:
        with _open(path) as file:
            first = json.loads(file.readline(_HEADER_BYTES))
    except (OSError, EOFError, zlib.error, ValueError, RecursionError):
        return False
    return isinstance(first, dict) and set(first) >= _KEYS["recording"]


def _open(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if zipped else path.open("rb")  # type: ignore[return-value]


def _read(path: Path, file: IO[bytes], most: int | None) -> TraceFile:
    lines = [(number, line) for number, line in enumerate(file, start=1) if line.strip()]
    if not lines:
        raise BadInput(f"{path}: the file is empty")
    found = TraceFile(path, _kind(path, [line for _, line in lines[:_LOOK_AT]]))
    if found.kind == "recording":
        return found
    read = _READERS[found.kind]
    for number, line in lines[1:] if found.kind == "azure" else lines:
        if most is not None and len(found.records) >= most:
            break
        found.lines += 1
        try:
            found.records.append(read(line.decode("utf-8-sig")))
        except _MALFORMED as error:
            found.bad.append(f"line {number}: {_reason(error)}")
    return found


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"{error.args[0]} is missing"
    if isinstance(error, json.JSONDecodeError | UnicodeDecodeError | RecursionError):
        return "it is no JSON"
    return str(error)[:120]


def _kind(path: Path, lines: Sequence[bytes]) -> str:
    """By the first line that says so."""
    if lines[0].decode("utf-8-sig", "replace").split(",")[:2] == list(_AZURE[:2]):
        return "azure"
    for line in lines:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        keys = set(record) if isinstance(record, dict) else set()
        for kind, needed in _KEYS.items():
            if needed <= keys:
                return kind
    raise BadInput(
        f"{path} is of no known format: Mooncake JSONL (timestamp, input_length, output_length, hash_ids),"
        " sessions of agents (id, requests), calls (session_id, t_ms, input_length, hash_rle), Azure CSV"
        " (TIMESTAMP,ContextTokens,GeneratedTokens), or a recording of 'stepwell serve --record'"
    )


# --- one line ---------------------------------------------------------------------------------


def _tokens(record: Mapping[str, Any], key: str, least: int = 0) -> int:
    return _whole(record, key, least, _MOST_TOKENS)


def _whole(record: Mapping[str, Any], key: str, least: int = 0, most: int = _MOST) -> int:
    value = record[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        raise ValueError(f"{key} is {value!r} and not a number")
    if not least <= value <= most:
        raise ValueError(f"{key} is {value}: it must be {least} to {most:,}")
    return int(value)


def _mooncake(line: str) -> Record:
    record = _object(line)
    names, tokens = record.get("hash_ids"), _tokens(record, "input_length", 1)
    if not isinstance(names, list) or not all(_is_name(name) for name in names):
        raise ValueError(f"hash_ids is no list of whole numbers from 0 to {_MOST_NAME:,}")
    if not 1 <= len(names) <= tokens:
        raise ValueError(f"hash_ids names {len(names)} blocks of a prompt of {tokens} tokens")
    return {
        "timestamp": _whole(record, "timestamp"),
        "input_length": tokens,
        "output_length": max(1, _tokens(record, "output_length")),
        "hash_ids": names,
    }


def _agentic(line: str) -> Record:
    record = _object(line)
    if not isinstance(record["requests"], list) or not record["requests"]:
        raise ValueError("requests is empty")
    own = 0
    for request in record["requests"]:
        if request["type"] == "subagent":
            for inner in request["requests"]:
                _check_request(inner)
        else:
            own += 1
            _check_request(request)
    if not own:
        raise ValueError("the main agent has no request")
    return record


def _check_request(request: Mapping[str, Any]) -> None:
    tokens = _tokens(request, "in")
    _tokens(request, "out")
    _whole(request, "t")
    _check_runs(request["hash_rle"], tokens)
    if not isinstance(request["stop"], str | None):
        raise ValueError(f"stop is {request['stop']!r} and no text")
    request["input_types"]


def _check_runs(runs: Any, tokens: int) -> None:
    """Runs of names, of a prompt of so many tokens."""
    if not isinstance(runs, list):
        raise ValueError("hash_rle is no list of runs")
    named = 0
    for run in runs:
        if not isinstance(run, list) or len(run) != 2 or not all(_is_name(one) for one in run) or run[1] < 1:
            raise ValueError(f"hash_rle holds {run!r}, which is no run [first, count] up to {_MOST_NAME:,}")
        named += run[1]
    if named > max(1, tokens):
        raise ValueError(f"hash_rle names {named} blocks of a prompt of {tokens} tokens")


def _is_name(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST_NAME


def _calls(line: str) -> Record:
    record = _object(line)
    _whole(record, "t_ms")
    _tokens(record, "output_length")
    _check_runs(record["hash_rle"], _tokens(record, "input_length"))
    if not isinstance(record["session_id"], str | int):
        raise ValueError(f"session_id is {record['session_id']!r} and no name")
    return record


def _servegen(line: str) -> Record:
    """A client; ``trace`` holds its windows with requests: start, rate, family and shape of the gaps."""
    record = _object(line)
    windows = [(float(w[0]), float(w[1]), str(w[3]), float(w[4])) for w in record["trace"] if w[1] > 0]
    if any(family not in ("G", "W") or not shape > 0 for _, _, family, shape in windows):
        raise ValueError("a window is neither G nor W with a shape above zero")
    name = f"{record['category']}-{record['model']}-{record['client']}"
    return {"name": name, "window_s": float(_whole(record, "window_s", 1)), "trace": windows}


def _azure(line: str) -> Record:
    at, context, generated = next(csv.reader([line]))[:3]
    row = {"ContextTokens": float(context), "GeneratedTokens": float(generated)}
    moment = datetime.fromisoformat(at.strip()[:26])
    return {
        "timestamp": round(moment.timestamp() * 1000),
        "input_length": _tokens(row, "ContextTokens", 1),
        "output_length": max(1, _tokens(row, "GeneratedTokens")),
        "hash_ids": [],
    }


def _object(line: str) -> Record:
    record = json.loads(line)
    if not isinstance(record, dict):
        raise ValueError("it is no JSON object")
    return record


_READERS: Mapping[str, Callable[[str], Record]] = {
    "mooncake": _mooncake,
    "agentic": _agentic,
    "calls": _calls,
    "azure": _azure,
    "servegen": _servegen,
}

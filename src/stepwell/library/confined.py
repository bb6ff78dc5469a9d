"""Reading a stranger's file in a process of its own, with limits on time, memory and output.

Parsers can be led into endless loops and into more memory than there is, and a thread that hangs cannot be
stopped and keeps all others waiting. So every document is read there, whatever its kind; the process gives
way to the engine.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import threading
from dataclasses import asdict

from stepwell.errors import BadInput, MissingExtra
from stepwell.library.documents import MIB, Document, Limits
from stepwell.library.extract import extract

TIMEOUT_S = 120
MEMORY_BYTES = 2 * 2**30
"""Of address space, most of which a parser never touches."""
AT_ONCE = 2
"""Documents that are read at the same time by one server."""
NICENESS = 10
_CHARS_AS_JSON = 12
"""Bytes that one character takes at most: two escapes."""
_places = threading.BoundedSemaphore(AT_ONCE)


def extract_confined(data: bytes, name: str, limits: Limits, timeout_s: int = TIMEOUT_S) -> Document:
    """As ``extract``. Raises ``BadInput`` also for a file that takes too long or too much memory."""
    if len(data) > limits.max_bytes:
        return extract(data, name, limits)  # which says so and reads nothing
    if not _places.acquire(timeout=timeout_s):
        raise BadInput(f"document {name} cannot be read now: too many others are being read; try again")
    try:
        return _in_child(data, name, limits, timeout_s)
    finally:
        _places.release()


def _in_child(data: bytes, name: str, limits: Limits, timeout_s: int) -> Document:
    order = json.dumps({"name": name, "limits": asdict(limits), "timeout_s": timeout_s}).encode() + b"\n"
    command = [sys.executable, "-P", "-m", "stepwell.library.confined"]
    try:
        done = subprocess.run(
            command, input=order + data, capture_output=True, timeout=timeout_s, check=False
        )
        answer = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError) as error:
        raise BadInput(
            f"document {name} cannot be read: it takes more time or memory than a document may "
            f"({timeout_s} s, {MEMORY_BYTES >> 30} GiB)"
        ) from error
    if "extra" in answer:
        raise MissingExtra(answer["what"], answer["extra"])
    if "wrong" in answer:
        raise BadInput(answer["wrong"])
    return Document(**answer)


def main() -> None:
    """The child: one line of JSON and the file on standard input, JSON on standard output."""
    order = json.loads(sys.stdin.buffer.readline())
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (order["timeout_s"], order["timeout_s"]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    limits = Limits(**order["limits"])
    most_bytes = max(limits.max_bytes, limits.max_chars * _CHARS_AS_JSON) + MIB
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    os.nice(NICENESS)
    try:
        answer = asdict(extract(sys.stdin.buffer.read(), order["name"], limits))
    except MissingExtra as error:
        answer = {"extra": error.extra, "what": str(error).partition(" needs the extra")[0]}
    except BadInput as error:
        answer = {"wrong": str(error)}
    # As ASCII with escapes: a text may hold lone surrogates, which UTF-8 does not.
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main()

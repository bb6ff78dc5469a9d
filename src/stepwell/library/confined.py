"""Reading a stranger's PDF or Parquet file in a process of its own, with a limit on time and memory.

Parsers of such formats can be led into endless loops and into more memory than there is, and a thread that
hangs cannot be stopped. Plain text, HTML and CSV need no such care: what they take grows with their size.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from dataclasses import asdict

from stepwell.errors import BadInput, MissingExtra
from stepwell.library.documents import Document, Limits
from stepwell.library.extract import extract

TIMEOUT_S = 120
MEMORY_BYTES = 4 * 2**30
"""Of address space, most of which a parser never touches."""
_CONFINED = (b"%PDF-", b"PAR1")


def extract_confined(data: bytes, name: str, limits: Limits, timeout_s: int = TIMEOUT_S) -> Document:
    """As ``extract``. Raises ``BadInput`` also for a file that takes too long or too much memory."""
    if len(data) > limits.max_bytes or not any(mark in data[:1024] for mark in _CONFINED):
        return extract(data, name, limits)
    order = json.dumps({"name": name, "limits": asdict(limits), "timeout_s": timeout_s}).encode() + b"\n"
    command = [sys.executable, "-m", "stepwell.library.confined"]
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
        raise MissingExtra(f"reading {name}", answer["extra"])
    if "wrong" in answer:
        raise BadInput(answer["wrong"])
    return Document(**answer)


def main() -> None:
    """The child: one line of JSON and the file on standard input, JSON on standard output."""
    order = json.loads(sys.stdin.buffer.readline())
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (order["timeout_s"], order["timeout_s"]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        answer = asdict(extract(sys.stdin.buffer.read(), order["name"], Limits(**order["limits"])))
    except MissingExtra as error:
        answer = {"extra": error.extra}
    except BadInput as error:
        answer = {"wrong": str(error)}
    # As ASCII with escapes: a text may hold lone surrogates, which UTF-8 does not.
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main()

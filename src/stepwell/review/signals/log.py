"""The log: JSON lines, each with the hash of the one before it and a signature over its own.

A line that is changed, left out or put in breaks the chain behind it; a reader who has seen a head (every
review prints the newest) can tell that the log before it is the same. The signature is Ed25519; the key lies
beside the log and never in it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stepwell.errors import BadInput, StepwellError
from stepwell.review.signals.rules import canonical

NOTHING = "0" * 64
"""What the first line has in place of the one before it."""
MAX_LINES = 1_000_000


class Broken(StepwellError):
    """A log that is not what it was when it was signed."""


Line = Mapping[str, Any]


def read(path: Path) -> list[Line]:
    """The lines, unchecked. Raises ``BadInput`` or ``Broken``."""
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise Broken(f"{path} is not UTF-8, so it is no log of signals") from error
    if text and not text.endswith("\n"):
        raise Broken(f"{path}: the last line is cut short; the lines before it are the log")
    lines: list[Line] = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise Broken(f"{path}, line {number}: no JSON") from error
        if not isinstance(found, dict) or number > MAX_LINES:
            raise Broken(f"{path}, line {number}: no line of a log")
        lines.append(found)
    return lines


def hash_of(line: Line) -> str:
    """Of a line without its own hash and signature."""
    bare = {name: value for name, value in line.items() if name not in ("hash", "signature")}
    return hashlib.sha256(canonical(bare)).hexdigest()


def faults(lines: list[Line], key: str = "") -> Iterator[str]:
    """What is wrong with the chain and the signatures. ``key``: the public key it has to be signed with."""
    if not lines or lines[0].get("kind") != "open" or not isinstance(lines[0].get("key"), str):
        yield "the first line does not open a log"
        return
    if key and lines[0]["key"] != key:
        yield "the log is signed with another key"
    before = NOTHING
    for number, line in enumerate(lines, 1):
        if line.get("n") != number:
            yield f"line {number} says that it is line {line.get('n')}"
        if line.get("previous") != before:
            yield f"line {number} does not follow the line before it"
        if line.get("hash") != hash_of(line):
            yield f"line {number} was changed after it was written"
        elif not _signed(lines[0]["key"], line):
            yield f"line {number} is not signed by the log's key"
        before = str(line.get("hash"))


def _signed(key: str, line: Line) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        public = Ed25519PublicKey.from_public_bytes(base64.b64decode(key, validate=True))
        public.verify(base64.b64decode(line["signature"], validate=True), bytes.fromhex(line["hash"]))
    except (InvalidSignature, ValueError, KeyError, TypeError):
        return False
    return True


class Writer:
    """A log that is open for the lines of a day."""

    def __init__(self, path: Path) -> None:
        """Opens the log, or begins it with a new key. Raises ``BadInput`` or ``Broken``."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        self.path = path
        self._key_path = path.with_suffix(".key")
        new = not path.exists()
        if new:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._write_key(Ed25519PrivateKey.generate().private_bytes_raw())
        self._key = Ed25519PrivateKey.from_private_bytes(self._read_key())
        self.lines = [] if new else read(path)
        if new or not self.lines:
            public = base64.b64encode(self._key.public_key().public_bytes_raw()).decode()
            self.append({"kind": "open", "key": public})
        elif fault := next(faults(self.lines), ""):
            raise Broken(f"{path}: {fault}; nothing is added to it")

    def append(self, entry: Mapping[str, object]) -> Line:
        """Write a line to the disk, behind the last one."""
        line: dict[str, Any] = dict(entry)
        line["n"] = len(self.lines) + 1
        line["previous"] = self.lines[-1]["hash"] if self.lines else NOTHING
        line["hash"] = hash_of(line)
        line["signature"] = base64.b64encode(self._key.sign(bytes.fromhex(line["hash"]))).decode()
        with self.path.open("ab") as file:
            file.write(json.dumps(line, sort_keys=True).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self.lines.append(line)
        return line

    def _write_key(self, secret: bytes) -> None:
        try:
            file = os.open(self._key_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return  # the key of a log that is to begin again
        with os.fdopen(file, "wb") as opened:
            opened.write(base64.b64encode(secret) + b"\n")

    def _read_key(self) -> bytes:
        try:
            secret = base64.b64decode(self._key_path.read_bytes(), validate=False)
        except (OSError, ValueError) as error:
            raise BadInput(
                f"{self._key_path}: the log's key cannot be read, so nothing can be signed"
            ) from error
        if len(secret) != 32:
            raise BadInput(f"{self._key_path} is no key of a log")
        return secret

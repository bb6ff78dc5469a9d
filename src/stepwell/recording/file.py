"""Recordings: what the policy was told, step by step, and the hash of what it decided.

One JSON object a line. The first line says under which configuration the policy ran; every other
line is one step: the time, the events, and the decision hash so far. A recording holds hashes and
counts, never text or tokens of a customer.

Where books are kept, every step is there and is written out before it is posted: after a crash the recording
says at least what the books say. Its last line may be cut off then.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO, Any, BinaryIO, cast, get_args

import msgspec

from stepwell.basics.private import private_file
from stepwell.errors import BadInput, StepwellError
from stepwell.policy.config import PolicyConfig
from stepwell.policy.decisions import DecisionLog
from stepwell.policy.types import Caller, Embedded, Event, Plan, RequestArrived

FORMAT = "stepwell-recording"
VERSION = 1
_FORMER_FIELDS = {"placement": "eviction"}
_CALLER = tuple(field.name for field in fields(Caller))
_NOT_OURS = (OSError, msgspec.DecodeError, msgspec.ValidationError, KeyError, TypeError, ValueError)
_EVENTS: dict[str, type[Any]] = {cls.__name__: cls for cls in get_args(Event)}


class RecordingError(StepwellError):
    """A recording that does not do for what was asked of it."""


class NotARecording(RecordingError, BadInput):
    """A file that is not a recording, or is damaged; says which line."""


@dataclass(frozen=True, slots=True)
class RecordedStep:
    line: int
    now_us: int
    events: tuple[Event, ...]
    digest: str


@dataclass(frozen=True, slots=True)
class Recording:
    """A recording that is being read; ends with its ``with``, or when the last step was read."""

    path: Path
    config: PolicyConfig
    ledger: Mapping[str, Any] | None
    """Which run of the books it belongs to, and what they were kept by; see ``Ledger.header``."""
    steps: Iterator[RecordedStep]
    """Read as they are asked for, once."""
    file: IO[bytes]

    def __enter__(self) -> Recording:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


def _open(path: Path) -> IO[bytes]:
    if path.suffix == ".gz":
        return cast("IO[bytes]", gzip.open(path, "rb"))
    return path.open("rb")


def _make(path: Path) -> IO[bytes]:
    """It names customers and tells what they call: for this user alone."""
    file = private_file(path, truncate=True)
    return cast("IO[bytes]", _Compressed(file)) if path.suffix == ".gz" else file


class _Compressed(gzip.GzipFile):
    """Closes the file below with itself."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(filename="", mode="wb", fileobj=file)
        self._below = file

    def close(self) -> None:
        try:
            super().close()
        finally:
            self._below.close()


class Recorder:
    """Writes a recording while a driver runs. ``.gz`` at the end of the name compresses it."""

    def __init__(self, path: Path, config: PolicyConfig, ledger: Mapping[str, object] | None = None) -> None:
        """``ledger``: which run of the books it belongs to, and what they were kept by."""
        self._has_books = ledger is not None
        self._encoder = msgspec.json.Encoder()
        self._log = DecisionLog()
        self._file = _make(path)
        self._line({"format": FORMAT, "version": VERSION, "config": asdict(config), "ledger": ledger})

    def decided(self, now_us: int, events: Sequence[Event], plan: Plan) -> None:
        """Add one step. One in which only time passed is left out, unless the books have posted that time."""
        if not (events or plan.actions or plan.batch or self._has_books):
            return
        self._log.add(now_us, plan)
        lines = [[type(event).__name__, _body(event)] for event in events]
        self._line({"t": now_us, "e": lines, "h": self._log.digest[:16]})

    def _line(self, value: object) -> None:
        self._file.write(self._encoder.encode(value) + b"\n")
        if self._has_books:
            self._file.flush()

    @property
    def digest(self) -> str:
        return self._log.digest

    def close(self, now_us: int = 0) -> None:
        self._file.close()


def read_recording(path: Path) -> tuple[PolicyConfig, Iterator[RecordedStep]]:
    """The configuration and the steps of a recording. Errors: ``RecordingError``."""
    recording = open_recording(path)
    return recording.config, recording.steps


def open_recording(path: Path, *, cut_off: bool = False) -> Recording:
    """Read the first line; the steps follow as they are asked for. ``cut_off``: its writer may have
    been killed or is still at it, so that a last line without an end is the end and no damage.

    Errors, here and from the steps: ``RecordingError``.
    """
    try:
        file = _open(path)
    except OSError as error:
        raise NotARecording(f"cannot read {path}: {error.strerror or error}") from error
    try:
        header = msgspec.json.decode(file.readline())
        if header["format"] != FORMAT or header["version"] != VERSION:
            raise ValueError("unknown format or version")
        config = msgspec.convert(_renamed(header["config"]), PolicyConfig)
        ledger = header.get("ledger")
    except (*_NOT_OURS, EOFError, zlib.error) as error:
        file.close()
        raise NotARecording(f"{path} is not a Stepwell recording (line 1: {error})") from error
    return Recording(path, config, ledger, _steps(path, file, cut_off), file)


def _body(event: Event) -> dict[str, Any]:
    """An event's fields; those of its caller stand among them, as they did before there were callers."""
    body: dict[str, Any] = asdict(event)
    caller: dict[str, Any] = body.pop("caller", {})
    return body | caller


def _event(name: str, body: dict[str, Any]) -> Event:
    """The other way round."""
    if name in (RequestArrived.__name__, Embedded.__name__):
        body["caller"] = {one: body.pop(one) for one in _CALLER if one in body}
    event: Event = msgspec.convert(body, _EVENTS[name])
    return event


def _renamed(config: dict[str, Any]) -> dict[str, Any]:
    """Fields as they are called now; recordings outlive names."""
    return {_FORMER_FIELDS.get(name, name): value for name, value in config.items()}


def _steps(path: Path, file: IO[bytes], cut_off: bool) -> Iterator[RecordedStep]:
    with file:
        for number, line in enumerate(_lines(path, file, cut_off), start=2):
            if cut_off and not line.endswith(b"\n"):
                return
            try:
                raw = msgspec.json.decode(line)
                events = tuple(_event(name, body) for name, body in raw["e"])
                step = RecordedStep(number, raw["t"], events, raw["h"])
            except _NOT_OURS as error:
                raise NotARecording(f"{path} line {number} is damaged: {error}") from error
            yield step


def _lines(path: Path, file: IO[bytes], cut_off: bool) -> Iterator[bytes]:
    """What was compressed ends in the middle of its stream when the writer was killed."""
    try:
        yield from file
    except EOFError as error:
        if not cut_off:
            raise NotARecording(f"{path} is cut off: {error}") from error
    except (OSError, zlib.error) as error:
        raise NotARecording(f"{path} is damaged: {error}") from error

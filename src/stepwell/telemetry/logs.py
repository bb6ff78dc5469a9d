"""Where log lines go and what they look like: text for people or one JSON object a line, on standard error.

Files, rotation and shipping are left to whatever runs the server (journald, Docker, a pipe). Lines are
written by a thread of their own: a pipe without a reader must stop neither the event loop nor the driver.
What does not fit into its queue is dropped and counted.

No line may quote a request. Secrets go through ``redacted``; the message of an exception is shown only for
kinds of errors whose messages are ours or the operating system's, because others quote their input.
"""

from __future__ import annotations

import json
import logging
import queue
import re
import sqlite3
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, TextIO

from stepwell.errors import StepwellError
from stepwell.telemetry.redaction import RedactingFormatter, redacted

ACCESS = "stepwell.access"
"""The logger of the access log: one line a request, at INFO."""
MOST_WAITING = 10_000
CLOSE_S = 2.0
LEFT_OUT = "(message left out: it may quote a request)"
_SAFE_ERRORS = (OSError, StepwellError, sqlite3.Error, AssertionError)
_PLAIN = re.compile(r'[^\s"=\x00-\x1f\x7f\\]+')

ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


@dataclass(frozen=True, slots=True)
class LogSettings:
    """The ``[log]`` table."""

    format: Literal["text", "json"] = "text"
    """How log lines look: ``text``, or ``json`` (one object a line)."""
    access: bool = True
    """One line for each request that has ended."""


class TextFormatter(RedactingFormatter):
    """``TIME LEVEL LOGGER MESSAGE key=value ...``; times in UTC."""

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        record.exc_text = None  # what another handler's formatter has left there says more than ours may
        return super().format(record)

    def formatMessage(self, record: logging.LogRecord) -> str:
        line = super().formatMessage(record)
        return " ".join([line, *(f"{name}={_value(one)}" for name, one in _fields(record).items())])

    def formatException(self, ei: ExcInfo) -> str:
        return chain_text(ei[1])


class JsonFormatter(TextFormatter):
    """The same as one JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": self.formatTime(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redacted(record.getMessage()),
        }
        for name, value in _fields(record).items():
            line[name] = redacted(value) if isinstance(value, str) else value
        if record.exc_info:
            line["exception"] = redacted(self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=False, default=str)


def _fields(record: logging.LogRecord) -> Mapping[str, Any]:
    fields = getattr(record, "fields", None)
    return {} if fields is None else {name: one for name, one in fields.items() if one is not None}


def _value(value: object) -> str:
    """As logfmt writes it: quoted where it must be, so that a client's id cannot forge a field or a line."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def chain_text(error: BaseException | None) -> str:
    """The traceback of an error and of what led to it, causes first. Only errors of safe kinds say more than
    their name; notes and the members of a group say nothing."""
    parts: list[str] = []
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        frames = "".join(traceback.format_tb(error.__traceback__))
        parts.append(f"Traceback (most recent call last):\n{frames}{_named(error)}")
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\n\nwhich led to:\n\n".join(reversed(parts))


def _named(error: BaseException) -> str:
    message = str(error) if isinstance(error, _SAFE_ERRORS) else LEFT_OUT
    return f"{type(error).__qualname__}: {message}"


class ThreadedHandler(logging.Handler):
    """Formats and writes in a thread. ``emit`` never waits; ``dropped`` counts what found no room."""

    def __init__(self, stream: TextIO | None = None, most_waiting: int = MOST_WAITING) -> None:
        super().__init__()
        self._stream = stream or sys.stderr
        self._queue: queue.Queue[logging.LogRecord | None] = queue.Queue(most_waiting)
        self.dropped = 0
        self._said = 0
        self._thread = threading.Thread(target=self._write_all, name="stepwell-log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._queue.put_nowait(record)
        except queue.Full:
            self.dropped += 1

    def close(self) -> None:
        """Write what waits, for ``CLOSE_S`` at most."""
        if self._thread.is_alive():
            try:
                self._queue.put(None, timeout=CLOSE_S)
                self._thread.join(CLOSE_S)
            except queue.Full:
                self.dropped += 1
        super().close()

    def _write_all(self) -> None:
        while (record := self._queue.get()) is not None:
            self._write(record)
            if self._queue.empty():
                self._say_lost()
        self._say_lost()

    def _say_lost(self) -> None:
        lost, self._said = self.dropped - self._said, self.dropped
        if lost:
            self._write(_lost(lost))

    def _write(self, record: logging.LogRecord) -> None:
        try:
            self._stream.write(self.format(record) + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            self.dropped += 1  # the stream is closed or its disk is full: there is no other place to say so


def _lost(count: int) -> logging.LogRecord:
    text = "%d log lines were dropped: nothing took them fast enough"
    return logging.LogRecord("stepwell.log", logging.WARNING, "", 0, text, (count,), None)


@contextmanager
def logging_to(
    settings: LogSettings, *, verbose: bool = False, stream: TextIO | None = None
) -> Iterator[None]:
    """All logging goes to ``stream`` (standard error) meanwhile; as it was before, afterwards."""
    handler = ThreadedHandler(stream)
    handler.setFormatter(JsonFormatter() if settings.format == "json" else TextFormatter())
    root, access = logging.getLogger(), logging.getLogger(ACCESS)
    before = root.level, access.level
    root.setLevel(logging.INFO if verbose else logging.WARNING)
    access.setLevel(logging.INFO if settings.access or verbose else logging.WARNING)
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(before[0])
        access.setLevel(before[1])
        handler.close()


_access = logging.getLogger(ACCESS)


def write_access(fields: Mapping[str, Any]) -> None:
    """One request has ended."""
    _access.info("request", extra={"fields": fields})


def writes_access() -> bool:
    """Whether the lines go anywhere at all."""
    return _access.isEnabledFor(logging.INFO)

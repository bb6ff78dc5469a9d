"""Log lines: what they look like, that they wait for nobody, and that they quote no exception's input."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.errors import StepwellError
from stepwell.telemetry.logs import (
    JsonFormatter,
    LogSettings,
    TextFormatter,
    ThreadedHandler,
    logging_to,
    write_access,
    writes_access,
)

TEXT = st.text(min_size=1, max_size=80)


def record(fields: dict[str, object]) -> logging.LogRecord:
    made = logging.LogRecord("stepwell.access", logging.INFO, "f", 1, "request", (), None)
    made.fields = fields
    return made


@given(TEXT, TEXT)
def test_a_value_forges_neither_a_field_nor_a_line(agent: str, session: str) -> None:
    line = TextFormatter().format(record({"agent": agent, "session": session, "status": 200}))
    assert "\n" not in line.replace("\u2028", "").replace("\u2029", "")
    assert len(re.findall(r"(?:^| )status=200$", line)) == 1
    parsed = json.loads(JsonFormatter().format(record({"agent": "a", "status": 200, "left_out": None})))
    assert parsed["status"] == 200 and "left_out" not in parsed


@given(TEXT)
def test_json_is_one_object_a_line(agent: str) -> None:
    line = JsonFormatter().format(record({"agent": agent, "status": 200}))
    assert "\n" not in line
    assert json.loads(line)["status"] == 200


def logged(formatter: logging.Formatter, error: Exception, prompt: str) -> str:
    """An error as a log line that was raised while another, which quotes a prompt, was handled."""
    made = logging.LogRecord("stepwell.server", logging.ERROR, "f", 1, "request failed", (), None)
    try:
        try:
            raise KeyError(prompt)
        except KeyError as cause:
            raise error from cause
    except (OSError, ValueError, StepwellError) as caught:
        made.exc_info = (type(caught), caught, caught.__traceback__)
    return formatter.format(made)


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_an_exception_that_may_quote_a_request_says_its_kind_only(formatter: logging.Formatter) -> None:
    prompt = "what a user said"
    line = logged(formatter, ValueError(f"invalid literal: {prompt!r}"), prompt)
    assert prompt not in line
    assert "ValueError" in line and "KeyError" in line
    assert "No space left" in logged(formatter, OSError(28, "No space left on device"), prompt)
    assert "one sentence" in logged(formatter, StepwellError("one sentence"), prompt)


def test_a_reader_that_stands_still_stops_nobody() -> None:
    read, write = os.pipe()
    with open(write, "w", encoding="utf-8") as stream:  # noqa: PTH123 - a descriptor, not a path
        handler = ThreadedHandler(stream, most_waiting=10)
        handler.setFormatter(TextFormatter())
        for _ in range(200):  # far more than a pipe holds
            handler.emit(record({"agent": "a" * 10_000}))
        assert handler.dropped > 0
        drained = threading.Thread(target=lambda: [None for _ in iter(lambda: os.read(read, 65_536), b"")])
        drained.start()
        handler.close()
    drained.join()
    os.close(read)


def test_what_was_dropped_is_said() -> None:
    stream = io.StringIO()
    handler = ThreadedHandler(stream)
    handler.setFormatter(TextFormatter())
    handler.dropped = 3
    handler.emit(record({"agent": "a"}))
    handler.close()
    assert "3 log lines were dropped" in stream.getvalue()


def test_a_stream_that_is_closed_is_survived() -> None:
    stream = io.StringIO()
    handler = ThreadedHandler(stream)
    handler.setFormatter(TextFormatter())
    stream.close()
    handler.emit(record({"agent": "a"}))
    handler.close()
    assert handler.dropped


def test_the_access_log_is_a_setting_and_verbose_has_it_in_any_case() -> None:
    assert not writes_access()
    for settings, verbose, wanted in (
        (LogSettings(), False, True),
        (LogSettings(access=False), False, False),
        (LogSettings(access=False), True, True),
    ):
        stream = io.StringIO()
        with logging_to(settings, verbose=verbose, stream=stream):
            assert writes_access() is wanted
            if wanted:
                write_access({"status": 200})
            logging.getLogger("stepwell.x").info("chatter")
        assert ("status=200" in stream.getvalue()) is wanted
        assert ("chatter" in stream.getvalue()) is verbose
    assert not writes_access()

"""OpenTelemetry for ``stepwell run``: where its spans go, by the standard's own environment variables."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console

from stepwell.agents.spans import Spans
from stepwell.errors import MissingExtra
from stepwell.telemetry.otel import PROPAGATED, complaints_to, context_of, shut_down, tracer_provider, wanted

if TYPE_CHECKING:
    from stepwell.agents.session import Session

MAX_SAID_CHARS = 240
Listening = Callable[["Session"], Spans]


@contextmanager
def spans_of(asked: bool, console: Console) -> Iterator[Listening | None]:
    """What makes a listener for a session, or None where spans are not asked for.

    Asked for by ``--otel``, or by a variable that names an exporter or where it sends to. Spans are sent
    while the session runs, and the rest when the block is left. Raises ``MissingExtra`` for ``--otel``
    without the package; a variable alone is then a line, because it may be meant for other programs.
    """
    if not wanted(asked):
        yield None
        return
    try:
        provider = tracer_provider(console.file)
    except MissingExtra as error:
        if asked:
            raise
        console.print(f"No spans: {error}", markup=False, soft_wrap=True)
        yield None
        return
    made: list[Spans] = []

    def listen(session: Session) -> Spans:
        # The span of the process that started us, where TRACEPARENT says one.
        above = {name: os.environ[name.upper()] for name in PROPAGATED if name.upper() in os.environ}
        made.append(Spans(provider.get_tracer("stepwell"), session, context_of(above)))
        return made[-1]

    with _failures(console):
        try:
            yield listen
        finally:
            for spans in made:
                spans.close()
            shut_down(provider)


@contextmanager
def _failures(console: Console) -> Iterator[None]:
    """What the package would write into the live view is one line at the end."""
    kept: list[str] = []
    try:
        with complaints_to(kept.append):
            yield
    finally:
        if kept:
            said = kept[0][:MAX_SAID_CHARS]
            console.print(
                f"OpenTelemetry: spans may be missing. It said: {said}", markup=False, soft_wrap=True
            )

"""How a run of ``stepwell run`` is looked at: its flags for traces, spans, a dry run and a watch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from stepwell import __version__
from stepwell.agents import events
from stepwell.agents.crews.tables import names_file
from stepwell.commands.run.view import trace_file
from stepwell.console.options import Flag, option
from stepwell.errors import BadInput


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class LookFlags:
    """What a developer of a crew wants to see of a run."""

    trace: Annotated[
        Path | None, option("Write every prompt, answer and call here, for 'stepwell trace FILE'.")
    ] = None
    trace_text: Annotated[bool, option("Whether it holds texts, or their lengths alone. [yes]")] = True
    dry_run: Annotated[Flag, option("Print the first prompt of each role, and ask nothing.")] = False
    watch: Annotated[
        Flag, option("Run again whenever the crew's file or one of FILES changes, until Ctrl-C.")
    ] = False
    otel: Annotated[Flag, option("Send OpenTelemetry spans, where the OTEL_... variables say.")] = False


NO_LOOK = LookFlags()


def traced(look: LookFlags, head: Mapping[str, object]) -> AbstractContextManager[list[events.Listener]]:
    """The listener that writes the trace, if one is wanted."""
    return trace_file(look.trace, {**head, "stepwell": __version__}, texts=look.trace_text)


def watched_files(crew: str, files: Sequence[Path]) -> list[Path]:
    """Those whose changes run it again. Raises ``BadInput`` for a crew without a file."""
    if not names_file(crew):
        raise BadInput(f"--watch waits for changes of a crew's file, and {crew} is one that ships")
    return [Path(crew), *files]

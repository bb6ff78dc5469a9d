"""A crew's runtime in a process of its own, for killing: ``python -m stepwell.bench.crews.crew_child JSON``.

It plans, its workers call a tool that leaves a line in a file, and what was asked of the server is no one's
but the server's. ``ready`` is printed when the first turn has ended, then the result as one line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from stepwell.agents import events
from stepwell.agents.client import Client
from stepwell.agents.planner import open_session
from stepwell.agents.result import Result
from stepwell.agents.tools.base import Tool
from stepwell.bench.crews.crew_shapes import ASK, NOTE, CrewSize, scripted_crew

SIZE = CrewSize(agents=30, concurrent=4)


def main(given: Mapping[str, str]) -> None:
    """Run or resume the session in ``given["session"]`` against ``given["server"]``."""
    result = asyncio.run(run(given["server"], Path(given["session"]), Path(given["notes"])))
    print(json.dumps(asdict(result)), flush=True)


async def run(server: str, path: Path, notes: Path) -> Result:
    """A new session if the file is not there, or was left before it knew its question."""
    async with Client(server) as client:
        session = open_session(scripted_crew(SIZE), client, path, toolbox(notes))
        session.tell.listeners.append(_say_ready)
        return await session.run("" if session.store.get("ask") else ASK)


def _say_ready(event: events.Event) -> None:
    if isinstance(event, events.TurnEnded):
        print("ready", flush=True)


def toolbox(notes: Path) -> Any:
    """``note`` leaves its mark where a crash does not reach, and must not be called twice."""

    async def note(arguments: Mapping[str, Any]) -> str:
        await asyncio.sleep(0.002)
        with notes.open("a", encoding="utf-8") as file:
            file.write(f"{arguments['text']}\n")
            file.flush()
            os.fsync(file.fileno())
        return "noted"

    made = replace(NOTE, call=note, idempotent=False)

    def tools(names: Sequence[str]) -> list[Tool]:
        return [made for name in names if name == made.name]

    return tools


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))

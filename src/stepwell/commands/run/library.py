"""Documents of a library in ``stepwell run``.

They begin the prompts of those that read where the server has them and the context has room, so that their KV
is computed once for all agents; else they are files like others.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from stepwell.agents.crews.definition import Crew
from stepwell.agents.planner import with_writer
from stepwell.agents.servers import ModelPlace, Servers
from stepwell.commands.library.places import NoLibrary, RemotePlace, Shown, fetched, local_place
from stepwell.errors import BadInput
from stepwell.launch.crew_servers import Given
from stepwell.library.documents import Document
from stepwell.library.store import Library

Attach = Literal["auto", "always", "never"]
PART_OF_CONTEXT = 2
"""Documents take at most one part in so many; the rest is for examples, the task, and what is answered."""
BYTES_PER_TOKEN = 3
"""Of a document that no server has counted: a little fewer than texts have, to be sure."""


@dataclass(frozen=True, slots=True)
class FetchedLibraries:
    """What a run has of libraries."""

    files: Mapping[Path, Shown] = field(default_factory=dict)
    """Per file that it was fetched into, the library's own object."""
    library: Library | None = None
    """The one here, where it is for servers of our own."""
    note: str = ""
    """One line for the person, where the server that was given keeps no documents."""


def from_library(given: Given, names: Sequence[str], folder: Path) -> FetchedLibraries:
    """Documents of the server's library, or of the one here. Raises ``BadInput`` or ``StepwellError``."""
    if not names:
        return FetchedLibraries()
    if given.first is None:
        place = local_place()
        return FetchedLibraries(fetched(place, names, folder), place.library)
    try:
        remote = RemotePlace(given.first, given.key or os.environ.get("OPENAI_API_KEY"))
        return FetchedLibraries(fetched(remote, names, folder))
    except NoLibrary:
        files = fetched(local_place(), names, folder)
        come = f"{', '.join(names)} {'comes' if len(files) == 1 else 'come'}"
        note = f"{given.first} keeps no documents: {come} from the library here, not attached."
        return FetchedLibraries(files, note=note)


@dataclass(frozen=True, slots=True)
class Kept:
    """A document of a library."""

    path: Path
    id: str
    document: Document
    counted: int | None
    """Its tokens, where a server has counted them."""

    @property
    def tokens(self) -> int:
        """Of a context."""
        return self.counted or -(-len(self.document.text.encode()) // BYTES_PER_TOKEN)

    @property
    def part(self) -> Mapping[str, Any]:
        """Of a message that attaches it."""
        return {"type": "file", "file": {"file_id": self.id}}


def kept(files: Mapping[Path, Shown], documents: Mapping[Path, Document]) -> list[Kept]:
    """Those of the library that are read as text."""
    return [
        Kept(path, str(file["id"]), documents[path], file.get("tokens"))
        for path, file in files.items()
        if path in documents
    ]


def places_of_readers(crew: Crew, servers: Servers, default: str) -> list[ModelPlace]:
    """Where the models of the roles that read are."""
    models = {
        role.model or default or servers.places[0].name for role in with_writer(crew).used_roles if role.reads
    }
    return [servers.place(model) for model in sorted(models)]


async def choose(
    documents: Sequence[Kept],
    places: Sequence[ModelPlace],
    say: Callable[[str], None],
    *,
    insist: bool = False,
) -> list[Kept]:
    """Those that every role that reads can have at the beginning of its prompt, as many as there is room for.

    ``say`` gets a line for each. ``insist``: ``BadInput`` for any that cannot, where else its passages do.
    """
    context = min([await _context_tokens(place) for place in places], default=0)
    room = context if insist else context // PART_OF_CONTEXT
    chosen: list[Kept] = []
    for one in documents if context else ():
        if why := await _why_not(one, places, room):
            _say_not(f"{one.document.name} {why}", say, insist)
            continue
        say(f"{one.document.name} is attached for roles that read: {one.tokens:,} tokens.")
        chosen.append(one)
        room -= one.tokens
    if not context:
        names = ", ".join(one.document.name for one in documents)
        _say_not(f"{_urls(places)} cannot attach documents, such as {names}", say, insist)
    return chosen


def _say_not(why: str, say: Callable[[str], None], insist: bool) -> None:
    if insist:
        raise BadInput(f"--attach always: {why}")
    say(f"{why}: passages are given to roles that read.")


async def _context_tokens(place: ModelPlace) -> int:
    """0: the server does not say, and is none of ours."""
    told = await place.client.told(f"/models/{quote(place.model, safe='')}")
    context = told.get("context_window")
    return context if told.get("owned_by") == "stepwell" and isinstance(context, int) else 0


async def _why_not(one: Kept, places: Iterable[ModelPlace], room: int) -> str:
    """Empty: it can be attached."""
    for place in places:
        if (await place.client.told(f"/files/{quote(one.id)}")).get("id") != one.id:
            return f"is not in the library of {place.client.server}"
    if one.tokens > room:
        about = "" if one.counted else "about "
        return f"has {about}{one.tokens:,} tokens, more than the {room:,} that are left for documents"
    return ""


def _urls(places: Iterable[ModelPlace]) -> str:
    return ", ".join(dict.fromkeys(place.client.server for place in places))

"""Where profiles are tried: a server that is given, or one of our own per model, with turns remembered."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from stepwell.agents.client import Client
from stepwell.commands.run import embedded
from stepwell.errors import BadInput
from stepwell.fit.evaluate import Place
from stepwell.fit.memo import Counts, Memo, Remembering
from stepwell.ledger.start import default_path

MAX_MODELS = 8
Addressed = tuple[str, str]
"""A model as profiles call it, and the URL of its server."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line says of servers and of memory."""

    server: str | None
    key: str | None
    models: tuple[str, ...]
    seed: int
    memo: Path | None
    no_memo: bool

    def __post_init__(self) -> None:
        if len(self.models) > MAX_MODELS:
            raise BadInput(
                f"--model is given {len(self.models)} times: at most {MAX_MODELS} models are tried"
            )

    def and_models(self, models: Sequence[str]) -> tuple[str, ...]:
        """Those of the command line first, then those that profiles name."""
        return tuple(dict.fromkeys([*(self.models or ("",)), *filter(None, models)]))


@dataclass(slots=True)
class Places:
    """Servers that answer, and what was asked of them."""

    places: list[Place] = field(default_factory=list)
    transports: list[Remembering] = field(default_factory=list)
    served: str = ""

    @property
    def counts(self) -> Counts:
        return sum((transport.counts for transport in self.transports), Counts())


@contextmanager
def addresses(
    wanted: Wanted, models: Sequence[str], scratch: Path, console: Console
) -> Iterator[list[Addressed]]:
    """The URL of every model; servers of our own run for the time of the block."""
    with ExitStack() as stack:
        made: list[Addressed] = []
        for number, model in enumerate(models):
            own = scratch / f"server-{number}"
            if wanted.server is None:
                own.mkdir()
            url = wanted.server or stack.enter_context(embedded(model or None, own, console))
            made.append((model, url))
        yield made


@asynccontextmanager
async def opened(wanted: Wanted, addressed: Sequence[Addressed]) -> AsyncIterator[Places]:
    """Clients of all of them, which share one memory. Raises ``StepwellError`` where nobody answers."""
    key = wanted.key or os.environ.get("OPENAI_API_KEY", "none") if wanted.server else "none"
    made = Places()
    with ExitStack() as files:
        memo = None if wanted.no_memo else Memo(_memo_path(wanted.memo))
        if memo is not None:
            files.callback(memo.close)
        async with AsyncExitStack() as stack:
            for name, url in addressed:
                transport = Remembering(memo)
                client = await stack.enter_async_context(Client(url, key, wanted.seed, transport=transport))
                model = name if name and wanted.server else await client.only_model()
                made.places.append(Place(name, client, model))
                made.transports.append(transport)
            where = f" at {wanted.server}" if wanted.server else " by Stepwell itself"
            made.served = ", ".join(place.model for place in made.places) + where
            yield made


def _memo_path(given: Path | None) -> Path:
    """Beside the books, where they usually are."""
    path = given or default_path().parent / "remembered-turns.db"
    try:
        path.absolute().parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"--memo {path} cannot be made: {error.strerror}") from error
    return path


def going_on(wanted: Wanted, say: Callable[[str], None]) -> None:
    """What to say where a person stops it."""
    if wanted.no_memo:
        say("Stopped. Nothing was remembered, as --no-memo asks.")
    else:
        say(f"Stopped. Turns so far are remembered in {_memo_path(wanted.memo)}: the same command goes on.")

"""Where profiles are tried: servers that are given, or one of our own per model, with turns remembered."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from stepwell.agents.client import Client
from stepwell.agents.crews.definition import Crew
from stepwell.agents.crews.profile import Profile, apply
from stepwell.agents.servers import ModelPlace
from stepwell.errors import BadInput
from stepwell.fit.memo import Memo, MemoCounts, Remembering
from stepwell.launch.crew_servers import MAX_MODELS, Addressed, Given, default_model, models_of, place_of
from stepwell.ledger.start import default_path


@dataclass(frozen=True, slots=True)
class PlacesWanted:
    """What the command line says of servers and of memory."""

    given: Given
    models: tuple[str, ...]
    seed: int
    memo: Path | None
    no_memo: bool

    def __post_init__(self) -> None:
        if len(self.models) > MAX_MODELS:
            raise BadInput(
                f"--model is given {len(self.models)} times: at most {MAX_MODELS} models are tried"
            )

    def and_models(self, crew: Crew, profiles: Sequence[Profile]) -> dict[str, str]:
        """Those of the command line first, then those that the crew or its profiles name; and which does."""
        own = self.models or self.given.models or (default_model(),)
        found = dict.fromkeys(own, "--model")
        for profile in profiles:
            default = profile.model or own[0]
            for model, role in models_of(apply(crew, profile), default).items():
                found.setdefault(model, f"{role} in the profile {profile.name}")
        return found


@dataclass(slots=True)
class ProfileServers:
    """Servers that answer, and what was asked of them."""

    places: list[ModelPlace] = field(default_factory=list)
    transports: list[Remembering] = field(default_factory=list)
    served: str = ""

    @property
    def counts(self) -> MemoCounts:
        return sum((transport.counts for transport in self.transports), MemoCounts())


@asynccontextmanager
async def opened(wanted: PlacesWanted, addressed: Sequence[Addressed]) -> AsyncIterator[ProfileServers]:
    """Clients of all of them, which share one memory. Raises ``StepwellError`` where no server answers."""
    key = wanted.given.api_key
    made = ProfileServers()
    with ExitStack() as files:
        memo = None if wanted.no_memo else Memo(_memo_path(wanted.memo))
        if memo is not None:
            files.callback(memo.close)
        async with AsyncExitStack() as stack:
            for one in addressed:
                transport = Remembering(memo)
                made.transports.append(transport)
                client = Client(one.url, key, wanted.seed, transport=transport)
                made.places.append(await place_of(one, await stack.enter_async_context(client)))
            urls = ", ".join(dict.fromkeys(one.url for one in addressed))
            where = f" at {urls}" if wanted.given else " by Stepwell itself"
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


def going_on(wanted: PlacesWanted, say: Callable[[str], None]) -> None:
    """What to say where a person stops it."""
    if wanted.no_memo:
        say("Stopped. Nothing was remembered, as --no-memo asks.")
    else:
        say(f"Stopped. Turns so far are remembered in {_memo_path(wanted.memo)}: the same command goes on.")

"""What ``stepwell profile fit`` and ``compare`` share: their options, and a crew on a task set on servers."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from rich.console import Console

from stepwell.agents.crews.definition import Crew
from stepwell.agents.crews.profile import Profile
from stepwell.commands.profile.places import PlacesWanted, ProfileServers, going_on, opened
from stepwell.commands.profile.view import watched
from stepwell.console.options import Flag, OptionalPositive, Positive, option
from stepwell.console.stopping import told_to_stop
from stepwell.errors import BadInput
from stepwell.fit.evaluate import SESSIONS, Evaluator, Heard, require_single
from stepwell.fit.tasks import Item, TaskSet
from stepwell.launch.crew_servers import Addressed, addresses

Half = Literal["held-out", "fit", "all"]
Made = TypeVar("Made")


CrewArgument = Annotated[str, option("A crew that ships, or a TOML or YAML file.")]
TasksOption = Annotated[
    str, option("A task set that ships (functions, facts, sums, tables), or a JSONL file.")
]
KeyOption = Annotated[str | None, option("Its API key. [$OPENAI_API_KEY]")]
ModelOption = Annotated[
    Sequence[str],
    option("A model to try (repeat for more). [the server's; smollm2 for one of its own]"),
]
SeedOption = Annotated[int, option("Seed of the models' choices. [0]")]
ItemsOption = Annotated[OptionalPositive, option("At most so many items of each half. [all]")]
AtOnceOption = Annotated[Positive, option(f"Sessions at once. [{SESSIONS}]")]
MemoOption = Annotated[Path | None, option("Where turns are remembered. [beside the ledger's books]")]
NoMemoOption = Annotated[Flag, option("Ask every turn anew, and remember none.")]


@dataclass(frozen=True, slots=True)
class ProfileTrial:
    """The command line, understood."""

    crew: Crew
    tasks: TaskSet
    wanted: PlacesWanted
    items: int | None
    at_once: int

    def __post_init__(self) -> None:
        require_single(self.crew, self.tasks)  # before any server is started

    def halves(self) -> tuple[Sequence[Item], Sequence[Item]]:
        fit_half, held_out = self.tasks.halves()
        return spread(fit_half, self.items), spread(held_out, self.items)

    def require(self, half: Half = "held-out") -> None:
        """Before anything is asked: there are items of this half. Raises ``BadInput`` with what to do."""
        if self.some(half):
            return
        name, count = self.tasks.name, len(self.tasks.items)
        why = f"its {count} items read the same passages, and such items stay together"
        if count < 2:
            why = "it has one item" if count else "it has no items"
        raise BadInput(
            f"the task set {name} cannot be split into a half to fit on and a half that is held out: {why}. "
            "Add items that read other passages, or measure all at once with profile compare --half all"
        )

    def some(self, half: Half) -> Sequence[Item]:
        fit_half, held_out = self.halves()
        return {"fit": fit_half, "held-out": held_out, "all": (*fit_half, *held_out)}[half]

    def run(
        self, profiles: Sequence[Profile], work: Callable[[ProfileServers, Evaluator], Awaitable[Made]]
    ) -> Made:
        """``work`` with servers and an evaluator; what is stopped by hand says how to go on."""
        console = Console(stderr=True, highlight=False)
        # What cannot be removed must not cost the figures of an hour.
        scratch_folder = tempfile.TemporaryDirectory(prefix="stepwell-profile-", ignore_cleanup_errors=True)
        with self._stopping(console), scratch_folder as scratch:
            models = self.wanted.and_models(self.crew, profiles)
            with (
                addresses(self.wanted.given, models, Path(scratch), console) as addressed,
                watched(console) as heard,
            ):
                return asyncio.run(self._run(addressed, Path(scratch), heard, work))

    async def _run(
        self,
        addressed: Sequence[Addressed],
        scratch: Path,
        heard: Heard,
        work: Callable[[ProfileServers, Evaluator], Awaitable[Made]],
    ) -> Made:
        async with opened(self.wanted, addressed) as places:
            evaluator = Evaluator(
                self.crew, self.tasks, places.places, scratch / "work", heard, sessions=self.at_once
            )
            return await work(places, evaluator)

    @contextmanager
    def _stopping(self, console: Console) -> Iterator[None]:
        with told_to_stop():
            try:
                yield
            except KeyboardInterrupt:
                going_on(self.wanted, partial(console.print, markup=False, soft_wrap=True))
                raise


def spread(items: Sequence[Item], count: int | None) -> Sequence[Item]:
    """At most so many, from all over: neighbours in a set are often of one kind."""
    if count is None or count >= len(items):
        return items
    return [items[at * len(items) // count] for at in range(count)]

"""What writes a review: templates alone, or a crew on a model, for ``stepwell review write``."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from cyclopts import Parameter
from rich.console import Console

from stepwell.agents.crews.definition import Crew
from stepwell.agents.crews.files import load_crew
from stepwell.agents.crews.profile import PRO, apply, find_profile
from stepwell.errors import BadInput
from stepwell.launch.crew_servers import Addressed, Given, addresses, default_model, opened
from stepwell.review.crew import ORDER, STYLE, Level, Newsroom, Spent, review_crew
from stepwell.review.facts import Facts
from stepwell.review.theme import QUOTES, Theme, add_theme
from stepwell.review.writer import Draft, from_templates


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Writers:
    """What writes."""

    level: Level = "templates"
    """What writes: templates alone; choose, a model orders each section's sentences and chooses a form for
    each, in both languages; write, it words them in English. It never writes a number; what does not pass
    falls back to the template."""
    server: tuple[str, ...] = ()
    """Address of the crew's model, as for 'stepwell run'; without it, one is started."""
    model: str = ""
    """The model of the crew."""
    key: str | None = None
    """The server's API key; else OPENAI_API_KEY."""
    seed: int = 0
    """Seed of the crew's sampling."""
    crew: Path | None = None
    """A crew of your own with the roles of examples/crews/review.toml, TOML or YAML. [the one that ships]"""
    profile: str = PRO
    """pro, the crew as it is written; flash, without planner and critic; or another of the crew's."""

    def staff(self) -> Crew:
        """The crew under its profile. Raises ``BadInput``."""
        staff = review_crew() if self.crew is None else load_crew(self.crew)
        if lacking := [name for name in (ORDER, STYLE) if name not in staff.roles]:
            raise BadInput(
                f"--crew {self.crew}: a review needs the roles analyst and stylist; {lacking[0]} is not there"
            )
        return apply(staff, find_profile(staff, self.profile))


TEMPLATES_ALONE = Writers()


def drafted(facts: Facts, writers: Writers, theme: Theme | None) -> tuple[Draft, list[Spent]]:
    """The review's sentences, and what its crew has spent on them. Raises ``BadInput``."""
    staff, given = writers.staff(), Given.of(writers.server, writers.key)
    if writers.level == "templates":
        if given or writers.model:
            raise BadInput("--level templates needs no model: say --level choose or write")
        if theme is not None:
            add_theme(facts, theme, theme.ranked[:QUOTES])
        return from_templates(facts), []
    wanted = writers.model or (given.default() if given else default_model())
    console = Console(stderr=True, highlight=False)
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stepwell-review-")))
        models = {role.model or wanted: f"the role {role.name}" for role in staff.used_roles}
        addressed = stack.enter_context(addresses(given, models, scratch, console))
        return asyncio.run(_newsroom(facts, writers, addressed, given.api_key, theme, staff))


async def _newsroom(
    facts: Facts, writers: Writers, addressed: Sequence[Addressed], key: str, theme: Theme | None, staff: Crew
) -> tuple[Draft, list[Spent]]:
    async with opened(addressed, key, writers.seed) as servers:
        room = Newsroom(facts, servers, words=writers.level == "write", crew=staff)
        draft = await room.draft()
        if theme is not None:
            add_theme(facts, theme, await room.quotes(theme))
        return draft, room.spent

"""Run a profile over the items of a task set: many sessions at once, each in memory and on its own.

A session that fails is a wrong answer with its reason. A server that goes away ends the whole, because every
answer after that would be wrong for no fault of the profile.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from stepwell.agents import events
from stepwell.agents.agent import VERBS
from stepwell.agents.crews.definition import Crew
from stepwell.agents.crews.profile import Profile, apply, dump
from stepwell.agents.planner import open_session
from stepwell.agents.result import Result
from stepwell.agents.servers import ModelPlace, Servers
from stepwell.agents.session import Reading
from stepwell.agents.tools.base import ToolError
from stepwell.agents.tools.registry import build_tools, require_tools, serving
from stepwell.agents.tools.workspace import Workspace
from stepwell.errors import BadInput, StepwellError
from stepwell.fit.grading import right
from stepwell.fit.outcomes import SINGLE, Evaluation, ItemOutcome, failed
from stepwell.fit.reading import reading_of, whole_of
from stepwell.fit.tasks import Item, TaskSet

SESSIONS = 8
"""At once."""
FIRST_ITEMS = 8
"""Where so many fail one after another and none has answered, it is not the profile that is wrong."""


@dataclass(frozen=True, slots=True)
class ItemsProgressed:
    """How far one evaluation is; told at its beginning, and after every turn and item."""

    label: str
    done: int
    count: int
    right: int
    turns: int


Heard = Callable[[ItemsProgressed], None]
ReadingOf = Callable[[Item, Workspace], Awaitable[Reading | None]]


@dataclass(slots=True)
class Evaluator:
    """One crew on one task set. What has been evaluated once is not evaluated again."""

    crew: Crew
    tasks: TaskSet
    places: Sequence[ModelPlace]
    """The first is where profiles run that name no model."""
    directory: Path
    """Scratch for tools; goes away with its maker."""
    heard: Heard = lambda progressed: None
    sessions: int = SESSIONS
    _known: dict[tuple[object, ...], Evaluation] = field(default_factory=dict)
    _graded: dict[tuple[str, str], bool] = field(default_factory=dict)
    """Candidates share most of their answers, and a program's tests take a while."""
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        require_single(self.crew, self.tasks)
        require_tools(tool_names(self.crew), self._workspace())

    async def single(self, items: Sequence[Item], model: str = "") -> Evaluation:
        """The role of the task set alone, one answer, with all passages in its question."""
        crew = alone(self.crew, self.tasks.single, model)
        label = f"{SINGLE} on {model}" if model else SINGLE
        return await self._once(label, None, crew, items, model, whole_of)

    async def profile(self, profile: Profile, items: Sequence[Item], label: str = "") -> Evaluation:
        """The crew under a profile. Raises ``BadInput`` where the two do not fit."""
        crew = apply(self.crew, profile)
        return await self._once(label or profile.name, profile, crew, items, profile.model, reading_of)

    async def _once(
        self,
        label: str,
        profile: Profile | None,
        crew: Crew,
        items: Sequence[Item],
        model: str,
        reading: ReadingOf,
    ) -> Evaluation:
        """An evaluation under another label is the same evaluation."""
        if not items:
            raise BadInput(f"there are no items of {self.tasks.name} to answer: ask for more of them")
        settings = dump(replace(profile, name="", crew="")) if profile else None
        key = settings, model, tuple(item.id for item in items)
        if key not in self._known:
            for name in {role.model or model for role in crew.used_roles}:
                self._require(name)
            run = ProfileRun(self, label, crew, model or self.places[0].name, reading)
            self._known[key] = Evaluation(label, profile, await run.all(items))
        return replace(self._known[key], label=label, profile=profile)

    async def is_right(self, item: Item, answer: str) -> bool:
        """Raises ``StepwellError`` or ``ToolError`` where it cannot be said."""
        key = item.id, answer
        if key not in self._graded:
            self._graded[key] = await right(self.tasks, item, answer)
        return self._graded[key]

    def _require(self, model: str) -> None:
        names = [place.name for place in self.places]
        if model and model not in names:
            raise BadInput(
                f"no server has the model {model!r} here: there is {', '.join(names)}; name it with --model"
            )

    def _workspace(self, item: Item | None = None) -> Workspace:
        directory = self.directory / str(next(self._numbers))
        tests, files = (item.tests, _written(item.tables, directory)) if item else ("", ())
        return Workspace(directory, files, tests, mcp_servers=self.crew.mcp_servers, folder=self.crew.folder)


@dataclass(slots=True)
class ProfileRun:
    """One evaluation under way."""

    evaluator: Evaluator
    label: str
    crew: Crew
    model: str
    """Of roles that name none."""
    reading: ReadingOf
    outcomes: dict[str, ItemOutcome] = field(default_factory=dict)
    shared: dict[str, object] = field(default_factory=dict)
    """MCP servers are started once for all items."""
    count: int = 0
    turns: int = 0

    async def all(self, items: Sequence[Item]) -> tuple[ItemOutcome, ...]:
        workspace = self.evaluator._workspace()
        async with serving(tool_names(self.crew), workspace):
            self.shared = workspace.shared
            self.count = len(items)
            self._tell()
            left = iter(items)
            await at_once([self._some(left) for _ in range(min(self.evaluator.sessions, self.count))])
        return tuple(self.outcomes[item.id] for item in items)

    async def _some(self, left: Iterator[Item]) -> None:
        """One after another, of those that are not begun."""
        for item in left:
            self.outcomes[item.id] = await self._item(item)
            done = list(self.outcomes.values())
            if len(done) == min(FIRST_ITEMS, self.count) and all(one.status == "error" for one in done):
                raise StepwellError(f"{self.label} answers nothing: {done[0].reason}")
            self._tell()

    def _tell(self) -> None:
        is_right = sum(one.right for one in self.outcomes.values())
        self.evaluator.heard(
            ItemsProgressed(self.label, len(self.outcomes), self.count, is_right, self.turns)
        )

    def _count_turn(self, event: events.Event) -> None:
        if isinstance(event, events.TurnEnded):
            self.turns += 1
            self._tell()

    async def _item(self, item: Item) -> ItemOutcome:
        lengths: dict[str, list[int]] = {}
        try:
            result = await self._session(item, lengths)
        except StepwellError as error:
            return failed(item.id, "error", str(error))
        if result.status == "server_unreachable":
            raise StepwellError(
                f"{result.sentence} ({self.label}, {len(self.outcomes)} items done; the same command goes on "
                "from there, because answers are remembered unless --no-memo is given)"
            )
        return await self._graded(item, result, {role: tuple(some) for role, some in lengths.items()})

    async def _session(self, item: Item, lengths: dict[str, list[int]]) -> Result:
        shared = dict(self.shared) if item.tables else self.shared  # an item's tables are its own
        workspace = replace(self.evaluator._workspace(item), shared=shared)
        toolbox = partial(build_tools, workspace=workspace)
        servers = Servers(self.evaluator.places)
        reading = await self.reading(item, workspace)
        session = open_session(self.crew, servers, ":memory:", toolbox, reading=reading)
        try:
            session.model = self.model
            session.tell.listeners += [lengths_into(lengths), self._count_turn]
            return await session.run(item.ask)
        finally:
            session.store.close()

    async def _graded(
        self, item: Item, result: Result, lengths: Mapping[str, tuple[int, ...]]
    ) -> ItemOutcome:
        try:
            is_right = bool(result.answer) and await self.evaluator.is_right(item, result.answer)
            reason = "" if result.answer else result.sentence or result.status
        except (StepwellError, ToolError) as error:
            is_right, reason = False, f"its answer cannot be graded: {error}"
        return ItemOutcome(
            item=item.id,
            right=is_right,
            status=result.status,
            reason=reason,
            answer=result.answer,
            prompt_tokens=result.prompt_tokens,
            intermediate_tokens=result.intermediate_tokens,
            visible_tokens=result.visible_tokens,
            cost_microusd=result.cost_microusd,
            turns=result.turns,
            by_role=result.by_role,
            lengths=lengths,
        )


def _written(tables: Sequence[tuple[str, str]], directory: Path) -> tuple[Path, ...]:
    """Each table as a CSV file."""
    folder = directory / "tables"
    if tables:
        folder.mkdir(parents=True)
    files = []
    for name, text in tables:
        files.append(folder / f"{name}.csv")
        files[-1].write_text(text, encoding="utf-8")
    return tuple(files)


def require_single(crew: Crew, tasks: TaskSet) -> None:
    """Raises ``BadInput`` where no role of the crew can answer the task set alone."""
    if tasks.single not in crew.roles:
        raise BadInput(
            f"the task set {tasks.name} is answered by the role {tasks.single}, which the crew {crew.name} "
            f"does not have: it is for the crew {tasks.crew}"
        )


def alone(crew: Crew, role: str, model: str = "") -> Crew:
    """The crew with one role that answers in one turn: what everything is measured against."""
    plain = replace(crew.roles[role], samples=1, check="", tools=(), may_spawn=(), calls="tools", plans=False)
    plain = replace(plain, model=model or plain.model)
    return replace(crew, entry=role, roles={role: plain}, dropped=(), wave=0, penalty=None)


def tool_names(crew: Crew) -> list[str]:
    """Of all roles, but for the verbs, which are the runtime's."""
    roles = crew.roles.values()
    names = {name for role in roles for name in (*role.tools, role.finish, role.narrow, role.check) if name}
    return sorted(names.difference(VERBS))


def lengths_into(lengths: dict[str, list[int]]) -> events.Listener:
    """Collects the answer tokens of every turn under its role."""
    roles: dict[str, str] = {}

    def listen(event: events.Event) -> None:
        if isinstance(event, events.Spawned):
            roles[event.agent] = event.role
        elif isinstance(event, events.TurnEnded):
            lengths.setdefault(roles[event.agent], []).append(event.usage.completion_tokens)

    return listen


async def at_once(work: Sequence[Coroutine[Any, Any, None]]) -> None:
    """All of it; the first that fails ends the others, and its error is raised."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

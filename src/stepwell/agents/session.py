"""A session: the agents of one run of a crew, the verbs between them, and the end.

Every task has a key that is the same in every run of the session: the place in the conversation that asked
for it. A verb that is called again with a key does nothing again, which is what makes resuming simple.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from stepwell.agents import events
from stepwell.agents.agent import VERBS, Agent
from stepwell.agents.briefing import briefing
from stepwell.agents.client import CallingAgent, Client
from stepwell.agents.crews.definition import Crew, Role
from stepwell.agents.limits import (
    Paused,
    Refused,
    SessionMeter,
    require_agents,
    require_depth,
    require_repeatable,
    until,
)
from stepwell.agents.penalty import Terms
from stepwell.agents.question import question_of
from stepwell.agents.request import Part, opening, pointed_at, step_key
from stepwell.agents.result import Ending, Result, result_of
from stepwell.agents.schemas import Invalid, schema_in
from stepwell.agents.servers import Servers
from stepwell.agents.state import REFUSED, TURN_LIMIT, AgentRow, Message, Outcome, SessionFile, Task
from stepwell.agents.tools.base import Tool, run_tool
from stepwell.agents.turns import hint_after_task, work
from stepwell.agents.verbs import verb_tools
from stepwell.errors import BadInput, StepwellError

Toolbox = Callable[[Sequence[str]], Sequence[Tool]]
"""Tools by the names that a crew uses; raises ``BadInput`` for an unknown one."""
Reading = Callable[[str, int], str]
"""The passages for a task of a role that reads, and how many had the very same task before; may be empty."""
Flow = Callable[["Session", Agent, str], Awaitable[Outcome]]
"""Leads the session to its answer, given the entry agent and the question."""
ROOT_KEY = "ask"
COMMAND = "only its own agents are its to command"
STOP_S = 5.0
LAST_TURNS_S = 120.0
"""How long turns under way may take to end when a limit is reached."""


@dataclass(slots=True)
class Session:
    """One run of a crew. ``async with`` its client; then ``run``."""

    crew: Crew
    client: Client | Servers
    store: SessionFile
    toolbox: Toolbox
    reading: Reading | None = None
    attached: Sequence[Part] = ()
    """Parts that the prompts of roles that read begin with, such as files of the server's library."""
    tell: events.Stream = field(default_factory=events.Stream)
    flow: Flow | None = None
    """What leads an entry role that plans; others lead themselves."""
    agents: dict[str, Agent] = field(default_factory=dict)
    calling: dict[str, str] = field(default_factory=dict)
    """Per agent, the key of the call that it is in."""
    model: str = ""
    end_tokens: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """Per model, what ends an answer, where its server says so and the crew has a token penalty."""
    id: str = ""
    meter: SessionMeter = field(init=False)
    answered_by: str = ""
    """The key of the task whose answer is the session's."""
    more: bool = False
    """Whether another question may follow: agents that have answered then wait for a person."""
    number: int = 1
    """Of the question, from 1."""
    _tasks: dict[str, Task] = field(default_factory=dict)
    _stopped: asyncio.Event = field(default_factory=asyncio.Event)
    _why: BaseException | None = None
    _in_turn: set[str] = field(default_factory=set)
    _turn_ended: asyncio.Event = field(default_factory=asyncio.Event)
    _task_ended: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.meter = SessionMeter(self.crew.limits)
        for role in self.crew.roles.values():
            self.toolbox([name for name in role.tools if name not in VERBS])
            for name in (role.finish, role.narrow, role.check):
                if name:
                    require_repeatable(role.name, self._tool(name))

    # --- running -----------------------------------------------------------------------------------

    async def run(self, ask: str = "", *, more: bool = False) -> Result:
        """Answer ``ask``; without one, go on where this session stopped. Raises ``StepwellError``.

        A session that has answered may be asked the next question: the same agents go on with their
        conversations. ``more``: that is to be expected, so they are kept waiting when this one is answered.
        """
        began_us = events.now_us()
        self.more = more
        question = self._begin(ask)
        if not self.agents:
            await self._prepare()
        self._go_on()
        root = self.agents.get(self.crew.entry) or self.make(self.crew.entry, None, self.crew.entry, 0)
        lead = asyncio.create_task(self._lead(root, question))
        try:
            outcome = await self._until_end(lead)
        finally:
            await self._stop_all(lead)
        result = result_of(self._ending(), outcome, began_us)
        self.store.put("status", result.status)
        self.tell(events.Finished(result.status, result.answer or result.sentence))
        return result

    def _ending(self) -> Ending:
        roles = {agent.id: agent.role.name for agent in self.agents.values()}
        draft = str(self.store.get("draft") or "")
        return Ending(self.id, roles, self.store.turns(), self.answered_by, draft, self.meter)

    def _begin(self, ask: str) -> str:
        """The question, kept for good; ids too."""
        asked = question_of(self.store, ask, self.id, more=self.more)
        if asked.is_next:
            self.answered_by = ""
        self.id, self.number = asked.session, asked.number
        self.tell(events.Began(self.id, asked.text, asked.resumed))
        return asked.text

    def key(self, name: str) -> str:
        """Of a task of this question: keys are unique in the session."""
        return name if self.number == 1 else f"q{self.number}-{name}"

    async def _prepare(self) -> None:
        if not self.model and any(not role.model for role in self.crew.roles.values()):
            try:
                self.model = await self.client.only_model()
            except Paused as error:
                raise StepwellError(str(error)) from error
        if self.crew.penalty is not None and self.crew.penalty.eos_bias:
            models = {role.model or self.model for role in self.crew.used_roles}
            self.end_tokens = {model: await self.client.end_tokens(model) for model in models}
        self._load()
        budget = self.crew.limits.budget_microusd
        if budget is not None:
            await self.client.set_budget(self.id, max(0, budget - (self.meter.cost_microusd or 0)))

    async def _lead(self, root: Agent, question: str) -> Outcome:
        if self.flow is not None and root.role.plans:
            return await self.flow(self, root, question)
        self.answered_by = self.key(ROOT_KEY)
        self.assign(root, question, self.answered_by)
        return (await self.wait([root.id]))[root.id]

    async def _until_end(self, lead: asyncio.Task[Outcome]) -> Outcome:
        stopped = asyncio.create_task(self._stopped.wait())
        seconds = self.crew.limits.seconds
        await asyncio.wait({lead, stopped}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if lead.done():
            return lead.result()
        why = self._why or Paused(
            "time_limit", f"the session has used its {seconds} seconds; resume it to go on"
        )
        if not isinstance(why, Paused):
            raise why
        if why.status in ("budget_reached", "token_limit"):
            await self._let_turns_end()
        return Outcome(why.status, str(why))

    async def _let_turns_end(self) -> None:
        """Turns under way are paid for: their answers are kept. None begins meanwhile."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_TURNS_S):
                await until(lambda: not self._in_turn, self._turn_ended)

    def require_open(self) -> None:
        """Before a turn. Raises ``Paused`` when the session has stopped, or has used what it may."""
        if isinstance(self._why, Paused):
            raise self._why
        self.meter.require_room()

    @contextmanager
    def turn_of(self, agent: str) -> Iterator[None]:
        """Around a turn and the commit of its answer."""
        self._in_turn.add(agent)
        try:
            yield
        finally:
            self._in_turn.discard(agent)
            self._turn_ended.set()

    async def _stop_all(self, lead: asyncio.Task[Outcome]) -> None:
        """Nothing goes on after the end. What was under way stays so on disk, unless the answer is there."""
        tasks = [agent.at_work for agent in self.agents.values() if agent.at_work is not None]
        finished = lead.done() and not lead.cancelled() and lead.exception() is None and self._why is None
        for task in (lead, *tasks):
            task.cancel()
        await asyncio.wait({lead, *tasks}, timeout=STOP_S)
        active = [agent for agent in self.agents.values() if agent.active]
        if finished:
            for agent in active:
                self._close(agent, Outcome("interrupted", "the crew's answer was given without it"))
            await self._hint_all(self.agents.values(), {"next": "person" if self.more else "done"})
        elif isinstance(self._why, Paused) and self._why.status != "server_unreachable":
            # A pause ends when the session is resumed.
            await self._hint_all(active, {"next": "person"})

    # --- the verbs ---------------------------------------------------------------------------------

    def spawn(
        self,
        role: str,
        task: str,
        *,
        parent: str,
        key: str,
        may_return: bool = True,
        terms: Terms | None = None,
    ) -> Agent:
        """A child at work on a task. Raises ``Refused`` where a limit or the crew forbids it."""
        if key in self._tasks:
            return self.agents[self._tasks[key].agent]
        above = self._find(parent)
        if role not in above.role.may_spawn and not above.role.plans:
            raise Refused(
                f"{parent} may not spawn {role!r}: it may spawn {', '.join(above.role.may_spawn) or 'none'}"
            )
        require_depth(self.crew.limits, above.row.depth + 1)
        require_agents(self.crew.limits, len(self.agents) - 1, self.active)
        prefix = "" if above.row.parent is None else f"{parent}."
        number = sum(1 for child in self.children(parent) if child.role.name == role) + 1
        with self.store.transaction():
            child = self.make(f"{prefix}{role}-{number}", parent, role, above.row.depth + 1)
            child.may_return = may_return
            self.assign(child, task, key, terms)
        return child

    def followup(self, agent: str, task: str, *, key: str, by: str, terms: Terms | None = None) -> Agent:
        """Another task for an agent that has answered. Raises ``Refused``."""
        found = self._find(agent)
        if key in self._tasks:
            return found
        self._require_below(found, by, COMMAND)
        if found.active:
            raise Refused(f"{agent} is still at work: wait for it, or send it a message")
        require_agents(self.crew.limits, 0, self.active)
        self.assign(found, task, key, terms)
        return found

    def send(self, recipient: str, text: str, *, author: str, key: str) -> None:
        """A message that ``recipient`` reads before its next turn. Raises ``Refused``."""
        self._find(recipient)
        if self.store.post(key, author, recipient, text):
            self.tell(events.Messaged(author, recipient, text))

    async def wait(self, agents: Sequence[str], *, waiting: str = "") -> dict[str, Outcome]:
        """The outcomes of agents' last tasks, once all have one. Raises ``Refused`` for an unknown one."""
        found = [self._find(name) for name in agents]
        for agent in found if waiting else ():
            # An agent that waits for one above it would wait for ever.
            self._require_below(agent, waiting, "it can wait for its own agents only")
        for agent in found:
            left = [one for one in found if one.active]
            if left and waiting:
                # An agent that waits for several does not come back after the first of them.
                last = {"after_agent": left[0].id} if len(left) == 1 else {}
                await self.hint(self.agents[waiting], {"next": "child", **last})
            await agent.closed.wait()
        return {agent.id: agent.outcome or Outcome("completed", "") for agent in found}

    async def interrupt(self, agent: str, *, by: str) -> None:
        """Stop an agent and whatever it has spawned. Raises ``Refused``."""
        found = self._find(agent)
        self._require_below(found, by, COMMAND)
        for one in [*self._below(found), found]:
            if not one.active:
                continue
            if one.at_work is not None:
                one.at_work.cancel()
                await asyncio.wait({one.at_work}, timeout=STOP_S)
            self._close(one, Outcome("interrupted", f"it was stopped by {by}"))
            await self.hint(one, {"next": "done"})

    def children(self, agent: str) -> list[Agent]:
        return [one for one in self.agents.values() if one.row.parent == agent]

    @property
    def active(self) -> int:
        """Sub-agents at work."""
        return sum(1 for agent in self.agents.values() if agent.active and agent.row.parent is not None)

    async def free_place(self) -> None:
        """Returns when one more sub-agent may be at work."""
        await until(lambda: self.active < self.crew.limits.concurrent, self._task_ended)

    def rested(self, role: str) -> str | None:
        """An agent of this role that has answered an earlier question and has no part in this one yet."""
        for agent in self.agents.values():
            if agent.role.name == role and agent.tasks and not agent.task.key.startswith(self.key("")):
                return agent.id
        return None

    def _find(self, agent: str) -> Agent:
        if agent not in self.agents:
            raise Refused(f"there is no agent {agent!r}: there are {', '.join(list(self.agents)[:20])}")
        return self.agents[agent]

    def _below(self, agent: Agent) -> list[Agent]:
        """All descendants, the deepest first."""
        return [one for child in self.children(agent.id) for one in [*self._below(child), child]]

    def _require_below(self, agent: Agent, above: str, rule: str) -> None:
        """By walking up: looking through all agents for each is quadratic."""
        self._find(above)
        parent = agent.row.parent
        while parent != above:
            if parent is None:
                raise Refused(f"{agent.id} was not spawned by {above}: {rule}")
            parent = self.agents[parent].row.parent

    # --- agents and their tasks --------------------------------------------------------------------

    def append(self, agent: Agent, *messages: Message) -> None:
        """Commit messages, then know them."""
        self.store.add_messages(agent.id, len(agent.messages), messages)
        agent.messages += messages
        self.tell(events.Appended(agent.id, messages))

    async def hint(self, agent: Agent, hint: Mapping[str, Any]) -> None:
        """Tell listeners and the server what the agent waits for from now on."""
        if agent.said == hint:
            return
        agent.said = dict(hint)
        after = hint.get("after_agent")
        self.tell(events.Waiting(agent.id, hint["next"], after, hint.get("expected_ms")))
        if agent.turns:
            await self.client.say(agent.caller, hint)

    async def _hint_all(self, agents: Iterable[Agent], hint: Mapping[str, Any]) -> None:
        await asyncio.gather(*(self.hint(agent, hint) for agent in agents))

    def assign(self, agent: Agent, task: str, key: str, terms: Terms | None = None) -> None:
        """Commit a task and begin it; one whose key is known is left as it is."""
        if key in self._tasks:
            return
        made = Task(key, agent.id, task, terms)
        messages = self.first_messages(agent, task, key)
        with self.store.transaction():
            self.store.add_task(made)
            self.append(agent, *messages)
        self._give(agent, made)
        self._start(agent)

    def first_messages(self, agent: Agent, task: str, key: str) -> list[Message]:
        """What a task adds to the agent's conversation; the first task brings the opening with it."""
        text = {"role": "user", "content": self._with_passages(agent.role, task, key)}
        if agent.messages:
            return [text]
        told = briefing(agent.role, list(agent.tools.values()), self.crew.roles)
        return [*opening(agent.role, key, told, self.attached if agent.role.reads else ()), text]

    def _give(self, agent: Agent, task: Task) -> None:
        agent.tasks.append(task)
        self._tasks[task.key] = task

    def count(self, task: Task, usage: events.TurnUsage) -> None:
        """What a turn took, once it is committed."""
        self.meter.add(usage)
        task.turns += 1
        task.completion_tokens += usage.completion_tokens

    # --- tools that no agent calls -------------------------------------------------------------------

    async def finish(self, role: Role, answer: str) -> str:
        """What the role's finishing tool makes of an answer. Raises ``Invalid`` where that is nothing."""
        result = await run_tool(self._tool(role.finish), answer)
        if not result.ok:
            raise Invalid(result.text)
        return result.text

    async def narrow(self, agent: Agent) -> None:
        """The schema of the agent's task, of its role's tool; the role's own where that says nothing."""
        tool = self._tool(agent.role.narrow)
        (argument,) = tool.parameters["properties"]
        result = await run_tool(tool, {argument: agent.task.text})
        agent.narrowed = (agent.task.key, schema_in(result.text) if result.ok else None)

    async def fault_of(self, check: str, answer: str) -> str | None:
        """What a check says against an answer; None: it is right."""
        tool = self._tool(check)
        (argument,) = tool.parameters["properties"]
        result = await run_tool(tool, {argument: answer})
        return None if result.ok else result.text

    def _tool(self, name: str) -> Tool:
        (tool,) = self.toolbox([name])
        return tool

    def _with_passages(self, role: Role, task: str, key: str) -> str:
        """Steps with the same task read on where others stopped; agents of one step read the same."""
        if not role.reads or self.reading is None:
            return task
        alike = (row for row in self._tasks.values() if row.text == task)
        before = {step_key(row.key) for row in alike if self.agents[row.agent].role.reads}
        passages = self.reading(task, len(before - {step_key(key)}))
        return f"Passages:\n{passages}\n\nTask: {task}" if passages else task

    def make(self, name: str, parent: str | None, role: str, depth: int) -> Agent:
        row = AgentRow(name, parent, role, depth)
        self.store.add_agent(row)
        return self._known(row)

    def _known(self, row: AgentRow) -> Agent:
        role = self.crew.roles[row.role]
        verbs = verb_tools(self, role, row.id)
        tools = [*self.toolbox([name for name in role.tools if name not in VERBS]), *verbs]
        caller = CallingAgent(self.id, row.id, role.name, row.parent, role.model or self.model)
        agent = Agent(row, role, {tool.name: tool for tool in tools}, caller)
        self.agents[row.id] = agent
        self.tell(events.Spawned(row.id, row.parent, row.role))
        return agent

    def _start(self, agent: Agent) -> None:
        agent.closed.clear()
        self.tell(events.Assigned(agent.id, agent.task.key, agent.task.text))
        agent.at_work = asyncio.create_task(self._work(agent), name=agent.id)
        agent.at_work.add_done_callback(self._ended)

    async def _work(self, agent: Agent) -> None:
        outcome = await work(agent, self)
        self._close(agent, outcome)
        if (hint := hint_after_task(agent)) is not None:
            await self.hint(agent, hint)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None and self._why is None:
            self._why = error
            self._stopped.set()

    def _close(self, agent: Agent, outcome: Outcome) -> None:
        self.store.end_task(agent.task.key, outcome)
        agent.task.outcome = outcome
        agent.closed.set()
        self._task_ended.set()
        self.tell(events.Ended(agent.id, outcome.kind, outcome.text))

    def task_of(self, key: str) -> Task | None:
        """The task with this key, if it has been given."""
        return self._tasks.get(key)

    def pointed(self, key: str) -> bool:
        """Whether the answer to this task is a sentence that its agent was offered."""
        task = self._tasks.get(key)
        return task is not None and bool(pointed_at(self.agents[task.agent]))

    def _load(self) -> None:
        """Agents as they were, their tasks, and what they took."""
        for row in self.store.agents():
            if row.role not in self.crew.roles:
                raise BadInput(
                    f"this session has agents of the role {row.role!r}, which the crew does not have"
                )
            known = self._known(row)
            known.messages = self.store.messages(row.id)
            self.tell(events.Appended(row.id, known.messages))
        for task in self.store.tasks():
            self._give(self.agents[task.agent], task)
        for _, key, usage in self.store.turns():
            self.count(self._tasks[key], usage)
        if self.store.get("status") not in (None, "completed"):
            self._reopen()

    def _reopen(self) -> None:
        """Tasks that a larger limit or another server lets go on, where their outcome was not acted on."""
        for agent in self.agents.values():
            above = agent.row.parent and self.agents[agent.row.parent]
            if agent.outcome is None or (above and not above.role.plans):
                continue
            has_turns = agent.task.turns < agent.most_turns(self.crew.limits)
            if agent.outcome.kind == REFUSED or (agent.outcome.kind == TURN_LIMIT and has_turns):
                self.store.reopen_task(agent.task.key)
                agent.task.outcome = None

    def _go_on(self) -> None:
        """Those with a task under way go on with it."""
        for agent in self.agents.values():
            if agent.active:
                self._start(agent)
            else:
                agent.closed.set()

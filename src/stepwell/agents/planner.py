"""Plans, carried out: ask for a few steps, run those that are ready at once, show the results, ask again.

Each task has a key of its round and step, and is asked for again after a crash with no effect, so this is
simply run from its beginning: what was done is answered from the state.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from stepwell.agents import events
from stepwell.agents.agent import Agent, Outcome
from stepwell.agents.definition import Crew, make_role
from stepwell.agents.limits import Refused
from stepwell.agents.roles import MAX_STEPS, plan_schema
from stepwell.agents.session import Session

WRITER, VERIFIER = "writer", "verifier"
PATIENCE_ROUNDS = 2
"""Rounds without a better score after which the work ends."""
MAX_RESULT_CHARS = 1_500


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a plan."""

    id: str
    role: str
    task: str
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """What a planner said; ``faults`` are sentences about what cannot be used of it."""

    done: bool
    steps: tuple[Step, ...]
    faults: tuple[str, ...] = ()


def with_writer(crew: Crew) -> Crew:
    """The crew as the runtime needs it: a planner has its schema, and somebody writes the answer."""
    entry = crew.roles[crew.entry]
    if not entry.plans:
        return crew
    roles = dict(crew.roles)
    roles.setdefault(WRITER, make_role(WRITER, {}))
    workers = entry.may_spawn or tuple(
        name for name, role in roles.items() if name not in (WRITER, VERIFIER, crew.entry) and not role.plans
    )
    workers = workers or (WRITER,)
    roles[crew.entry] = replace(
        entry,
        output="json",
        schema=plan_schema(workers),
        first_schema=plan_schema(workers, fewest=1),
        may_spawn=workers,
    )
    return replace(crew, roles=roles)


def read_plan(text: str, roles: Sequence[str]) -> Plan:
    """The usable part of a plan, in an order in which every step comes after what it needs."""
    try:
        data = json.loads(text)
        done, given = bool(data["done"]), list(data["steps"])
    except (ValueError, KeyError, TypeError):
        return Plan(False, (), ("it is not a plan",))
    faults: list[str] = []
    steps = _steps(given, roles, faults)
    return Plan(done, _ordered(steps, faults), tuple(faults))


def _steps(given: Sequence[Any], roles: Sequence[str], faults: list[str]) -> dict[str, Step]:
    steps: dict[str, Step] = {}
    for one in given[:MAX_STEPS]:
        step = Step(
            str(one["id"]), str(one["role"]), str(one["task"]).strip(), tuple(dict.fromkeys(one["needs"]))
        )
        if step.id in steps:
            faults.append(f"the id {step.id} stands there twice")
        elif step.role not in roles:
            faults.append(f"{step.id} is for {step.role!r}, which is not one of {', '.join(roles)}")
        elif not step.task:
            faults.append(f"{step.id} has no task")
        else:
            steps[step.id] = step
    for step in steps.values():
        if unknown := [need for need in step.needs if need not in steps]:
            faults.append(f"{step.id} needs {', '.join(unknown)}, which is no step")
            known = tuple(need for need in step.needs if need in steps)
            steps[step.id] = replace(step, needs=known)
    return steps


def _ordered(steps: Mapping[str, Step], faults: list[str]) -> tuple[Step, ...]:
    """Each after what it needs. A circle is opened at its first step, which then goes without the others."""
    ordered: dict[str, Step] = {}
    circles = 0
    while left := [step for step in steps.values() if step.id not in ordered]:
        ready = [step for step in left if all(need in ordered for need in step.needs)]
        if not ready:
            if not circles:
                faults.append(f"{', '.join(step.id for step in left)} need each other in a circle")
            circles += 1
            known = tuple(need for need in left[0].needs if need in ordered)
            ready = [replace(left[0], needs=known)]
        ordered |= {step.id: step for step in ready}
    return tuple(ordered.values())


@dataclass(slots=True)
class Planning:
    """One question on its way to an answer."""

    session: Session
    root: Agent
    question: str
    results: list[str] = field(default_factory=list)
    best: Outcome = field(default_factory=lambda: Outcome("refused", "no plan led to an answer"))
    best_score: int = -1
    idle_rounds: int = 0

    async def run(self) -> Outcome:
        for number in range(1, self.session.crew.limits.rounds + 1):
            plan = await self._plan(number)
            if plan.done and not plan.steps and self.best.ok:
                break
            made = await self._carry_out(number, plan)
            self.results += made
            if await self._judge(number, made):
                break
        return self.best

    async def _plan(self, number: int) -> Plan:
        """The planner's next steps; where it gives none at first, one step for each role."""
        workers = self.root.role.may_spawn
        said = await self._ask_planner(f"plan-{number}", self._request(number))
        plan = read_plan(said.text, workers)
        if plan.faults and said.ok:  # an answer without a valid form has been sent back already
            again = f"This plan cannot be used: {'; '.join(plan.faults)}. Give the whole plan again."
            plan = read_plan((await self._ask_planner(f"plan-{number}-again", again)).text, workers)
        if not plan.steps and not (plan.done and self.best.ok):
            everybody = zip(workers, range(1, MAX_STEPS + 1), strict=False)
            plan = replace(plan, steps=tuple(Step(f"s{at}", role, self.question) for role, at in everybody))
        steps = tuple(f"{step.id} {step.role}: {step.task}" for step in plan.steps)
        self.session.tell(events.Planned(self.root.id, number, steps, plan.faults))
        return plan

    def _request(self, number: int) -> str:
        if number == 1:
            return f"Question: {self.question}\nPlan the first steps."
        since = "\n".join(self.results[-MAX_STEPS - 1 :])
        return f"Results of the last steps:\n{since}\nPlan the next steps, or say done."

    async def _ask_planner(self, key: str, text: str) -> Outcome:
        self.session.assign(self.root, text, key)
        return await self._outcome(key)

    async def _outcome(self, key: str) -> Outcome:
        agent = self.session.agent_of(key)
        assert agent is not None
        while (outcome := self.session.outcome_of(key)) is None:
            await agent.closed.wait()
        return outcome

    async def _carry_out(self, number: int, plan: Plan) -> list[str]:
        """All steps, each as soon as what it needs is there; their results in the plan's order."""
        running: dict[str, asyncio.Task[str]] = {}
        try:
            for step in plan.steps:
                needed = {need: running[need] for need in step.needs}
                running[step.id] = asyncio.create_task(self._step(number, step, needed))
            return [f"- {step.task} ({step.role}): {await running[step.id]}" for step in plan.steps]
        finally:
            for task in running.values():
                task.cancel()

    async def _step(self, number: int, step: Step, needed: Mapping[str, asyncio.Task[str]]) -> str:
        before = [f"- {await task}" for task in needed.values()]
        own = "" if step.task == self.question else f"\nYour part of it: {step.task}"
        known = "\nWhat is known already:\n" + "\n".join(before) if before else ""
        task = f"Question: {self.question}{known}{own}"
        try:
            outcome = await self._ask(step.role, f"round-{number}-{step.id}", task)
        except Refused as error:
            return f"not done: {error}"
        text = outcome.text[:MAX_RESULT_CHARS]
        return text if outcome.ok else f"not done: {text}"

    async def _ask(self, role: str, key: str, task: str, agent: Agent | None = None) -> Outcome:
        """A task for a new agent, or for one that is there."""
        if self.session.agent_of(key) is None:
            await self.session.free_place()
            if agent is None:
                stays = role in (WRITER, VERIFIER)
                self.session.spawn(role, task, parent=self.root.id, key=key, may_return=stays)
            else:
                self.session.followup(agent.id, task, key=key, by=self.root.id)
        return await self._outcome(key)

    # --- drafts ------------------------------------------------------------------------------------

    async def _judge(self, number: int, made: Sequence[str]) -> bool:
        """Write a draft and have it verified; whether the work is over."""
        draft = await self._write(number, made)
        if not draft.ok:
            self.idle_rounds += 1
            return self.idle_rounds >= PATIENCE_ROUNDS
        satisfied, score, reason = await self._verify(number, draft.text)
        self.results.append(f"- The draft was judged ({score} of 10): {reason}")
        self.idle_rounds = 0 if score > self.best_score else self.idle_rounds + 1
        if score > self.best_score or satisfied:
            self._keep(number, draft, score)
        return satisfied or self.idle_rounds >= PATIENCE_ROUNDS

    def _keep(self, number: int, draft: Outcome, score: int) -> None:
        """The best so far, which is the answer where a limit ends the work."""
        self.best, self.best_score = draft, score
        self.session.answered_by = f"write-{number}"
        self.session.store.put("draft", draft.text)

    async def _write(self, number: int, made: Sequence[str]) -> Outcome:
        judged = self.results[-len(made) - 1 : -len(made) or None][:1] if number > 1 else []
        text = "\n".join([*judged, *made])
        task = f"Question: {self.question}\nResults:\n{text}\nWrite the answer to the question."
        return await self._again(WRITER, "write", number, task)

    async def _verify(self, number: int, draft: str) -> tuple[bool, int, str]:
        """Whether it will do, its score, and why. Without a verifier every new draft is a step forward."""
        if VERIFIER not in self.session.crew.roles:
            changed = draft != self.best.text
            return False, self.best_score + int(changed), "new" if changed else "unchanged"
        results = "\n".join(self.results)
        task = f"Question: {self.question}\nResults:\n{results}\nAnswer: {draft}\nIs the answer right?"
        outcome = await self._again(VERIFIER, "verify", number, task)
        if not outcome.ok:
            return False, 0, outcome.text
        return _verdict(outcome.text)

    async def _again(self, role: str, verb: str, number: int, task: str) -> Outcome:
        """The same agent in every round: it remembers, and the server has its KV."""
        try:
            return await self._ask(role, f"{verb}-{number}", task, self.session.agent_of(f"{verb}-1"))
        except Refused as error:
            return Outcome("refused", str(error))


def _verdict(text: str) -> tuple[bool, int, str]:
    """Read with care: a crew may give its verifier a schema of its own, or none."""
    try:
        data = json.loads(text)
        return bool(data["ok"]), int(data.get("score", 10 if data["ok"] else 0)), str(data.get("reason", ""))
    except (ValueError, KeyError, TypeError, AttributeError):
        satisfied = text.strip().lower().startswith(("ok", "yes"))
        return satisfied, 10 if satisfied else 0, text


async def plan_flow(session: Session, root: Agent, question: str) -> Outcome:
    """Lead a session whose entry role plans."""
    return await Planning(session, root, question).run()

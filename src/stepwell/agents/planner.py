"""Plans, carried out: ask for a few steps, run those that are ready at once, show the results, ask again.

Each task has a key of its round and step, and is asked for again after a crash with no effect, so this is
simply run from its beginning: what was done is answered from the state.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from stepwell.agents import events, penalty
from stepwell.agents.agent import Agent
from stepwell.agents.client import Client
from stepwell.agents.crews.definition import Crew
from stepwell.agents.crews.files import and_writer
from stepwell.agents.crews.roles import MAX_STEPS, STEP_IDS, WRITER, plan_schema
from stepwell.agents.limits import Refused
from stepwell.agents.penalty import Terms
from stepwell.agents.request import Part
from stepwell.agents.samples import JUDGE, Asking, StepAnswer, ballot
from stepwell.agents.servers import Servers
from stepwell.agents.session import Reading, Session, Toolbox
from stepwell.agents.state import Outcome, SessionFile
from stepwell.errors import BadInput

VERIFIER = "verifier"
MAX_SCORE = 10
"""Of a verdict."""
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
class PlannerAnswer:
    """What a planner said; ``faults`` are sentences about what cannot be used of it."""

    done: bool
    steps: tuple[Step, ...]
    faults: tuple[str, ...] = ()


def with_writer(crew: Crew) -> Crew:
    """The crew as the runtime needs it: a planner has its schema, and there is a writer of the answer."""
    entry = crew.roles[crew.entry]
    if not entry.plans:
        return crew
    roles = {
        name: role for name, role in crew.roles.items() if name == crew.entry or name not in crew.dropped
    }
    roles = and_writer(roles, crew.dropped)
    named = entry.may_spawn or tuple(name for name, role in roles.items() if not role.plans)
    apart = (WRITER, VERIFIER, JUDGE, crew.entry)
    workers = tuple(name for name in named if name in roles and (entry.may_spawn or name not in apart))
    workers = workers or tuple(name for name in (WRITER,) if name in roles)
    if not workers:
        raise BadInput(f"crew {crew.name}: no role is left to do what {crew.entry} plans: drop fewer roles")
    roles[crew.entry] = replace(
        entry,
        output="json",
        schema=plan_schema(workers, most=entry.max_steps, splits=entry.splits),
        first_schema=plan_schema(workers, fewest=1, most=entry.max_steps, splits=entry.splits),
        may_spawn=workers,
    )
    return replace(crew, roles=roles)


def read_plan(text: str, roles: Sequence[str], whole: str = "") -> PlannerAnswer:
    """The usable part of a plan, in an order in which every step comes after what it needs.

    ``whole`` is the task of steps in plans that word none.
    """
    try:
        data = json.loads(text)
        done, given = bool(data["done"]), list(data["steps"])
    except (ValueError, KeyError, TypeError):
        return PlannerAnswer(False, (), ("it is not a plan",))
    faults: list[str] = []
    steps = _steps([{"task": whole} | one for one in given[:MAX_STEPS]], roles, whole, faults)
    return PlannerAnswer(done, _ordered(steps, faults), tuple(faults))


def _steps(given: Sequence[Any], roles: Sequence[str], whole: str, faults: list[str]) -> dict[str, Step]:
    steps: dict[str, Step] = {}
    for one in given:
        if str(one["task"]).strip() in STEP_IDS:
            # Gemma 3 270M writes the step's id where its task belongs.
            one = one | {"task": whole}
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
            are = "is no step" if len(unknown) == 1 else "are no steps"
            faults.append(f"{step.id} needs {', '.join(unknown)}, which {are}")
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
    spent_tokens: int = 0
    """Intermediate tokens when the last of plan, steps, draft or verdict was begun."""

    async def run(self) -> Outcome:
        rounds = self.session.crew.limits.rounds if self._is_dynamic else 1
        for number in range(1, rounds + 1):
            spent = self._note_spending()
            if number > 1 and not self._pays(spent):
                break
            plan = await self._plan(number)
            if plan.done and not plan.steps and self.best.ok:
                break
            answers = await self._carry_out(number, plan)
            if self._take_verified(answers):
                break
            made = [f"- {step.task} ({step.role}): {answers[step.id].text}" for step in plan.steps]
            self.results += made
            if await self._judge(number, made, list(answers.values())):
                break
        return self.best

    def _key(self, name: str) -> str:
        return self.session.key(name)

    @property
    def _is_dynamic(self) -> bool:
        return self.root.role.name not in self.session.crew.dropped

    def _note_spending(self) -> int:
        """Takes stock where no agent is at work, so that it is the same in every run; what it rose by."""
        before, self.spent_tokens = self.spent_tokens, self.session.meter.completion_tokens
        return self.spent_tokens - before

    def _pays(self, tokens: int) -> bool:
        """Whether a round more is worth as many tokens as the last one, by how the draft was judged."""
        gain = (MAX_SCORE - max(self.best_score, 0)) / MAX_SCORE / 2
        return penalty.pays(self.session.crew.penalty, gain, tokens)

    def _terms(self, role: str) -> Terms | None:
        """Of a turn that is not one of several samples."""
        made = self.session.crew.roles[role]
        rule = self.session.crew.penalty
        return penalty.turn_terms(rule, made.max_tokens, made.pass_rate, self.spent_tokens)

    def _take_verified(self, answers: Mapping[str, StepAnswer]) -> bool:
        """An answer that passes its check is the answer: it needs no writer and no judge."""
        for answer in answers.values():
            if answer.verified:
                self._keep(answer.key, answer.outcome, MAX_SCORE)
                return True
        return False

    async def _plan(self, number: int) -> PlannerAnswer:
        """The planner's next steps; where it gives none at first, one step for each role. Without a planner
        every role has one step, one after another."""
        if not self._is_dynamic:
            plan = PlannerAnswer(False, self._step_for_each(in_turn=True))
        else:
            plan = await self._said_plan(number)
            if not plan.steps and not (plan.done and self.best.ok):
                plan = replace(plan, steps=self._step_for_each(in_turn=False))
        steps = tuple(f"{step.id} {step.role}: {step.task}" for step in plan.steps)
        self.session.tell(events.Planned(self.root.id, number, steps, plan.faults))
        return plan

    async def _said_plan(self, number: int) -> PlannerAnswer:
        """What the planner says; a plan of which nothing can be used is sent back once."""
        workers = self.root.role.may_spawn
        said = await self._ask_planner(self._key(f"plan-{number}"), self._request(number))
        plan = read_plan(said.text, workers, self.question)
        # An answer without a valid form has been sent back already, and half a plan is worth carrying out.
        if plan.faults and not plan.steps and said.ok:
            again = f"This plan cannot be used: {'; '.join(plan.faults)}. Give the whole plan again."
            said = await self._ask_planner(self._key(f"plan-{number}-again"), again)
            plan = read_plan(said.text, workers, self.question)
        return plan

    def _step_for_each(self, *, in_turn: bool) -> tuple[Step, ...]:
        named = list(zip(STEP_IDS, self.root.role.may_spawn, strict=False))
        return tuple(
            Step(name, role, self.question, STEP_IDS[:at] if in_turn else ())
            for at, (name, role) in enumerate(named)
        )

    def _request(self, number: int) -> str:
        if number == 1:
            return first_request(self.question)
        since = "\n".join(self.results[-MAX_STEPS - 1 :])
        return f"Results of the last steps:\n{since}\nPlan the next steps, or say done."

    async def _ask_planner(self, key: str, text: str) -> Outcome:
        self._note_spending()
        self.session.assign(self.root, text, key, self._terms(self.root.role.name))
        return await self._outcome(key)

    async def _outcome(self, key: str) -> Outcome:
        task = self.session.task_of(key)
        assert task is not None
        while task.outcome is None:
            await self.session.agents[task.agent].closed.wait()
        return task.outcome

    async def _carry_out(self, number: int, plan: PlannerAnswer) -> dict[str, StepAnswer]:
        """All steps, each as soon as what it needs is there; per step id, in the plan's order."""
        self._note_spending()
        running: dict[str, asyncio.Task[StepAnswer]] = {}
        try:
            for step in plan.steps:
                needed = {need: running[need] for need in step.needs}
                running[step.id] = asyncio.create_task(self._step(number, step, needed))
            return {step.id: await running[step.id] for step in plan.steps}
        finally:
            for task in running.values():
                task.cancel()

    async def _step(
        self, number: int, step: Step, needed: Mapping[str, asyncio.Task[StepAnswer]]
    ) -> StepAnswer:
        before = [f"- {(await task).text[:MAX_RESULT_CHARS]}" for task in needed.values()]
        own = "" if step.task == self.question else f"\nYour part of it: {step.task}"
        known = "\nWhat is known already:\n" + "\n".join(before) if before else ""
        # A worker alone with the question gets it bare: the smallest models are led astray by more.
        task = f"Question: {self.question}{known}{own}" if known or own else self.question
        role = self.session.crew.roles[step.role]
        key = self._key(f"round-{number}-{step.id}")
        return await Asking(self.session, self._ask, role, key, task, self.spent_tokens).answer()

    async def _ask(
        self, role: str, key: str, task: str, terms: Terms | None, agent: str | None = None
    ) -> Outcome:
        """A task for a new agent, or for one that is there; a limit that forbids it is an outcome too."""
        try:
            if self.session.task_of(key) is None:
                await self.session.free_place()
                agent = agent or self.session.rested(role)
                if agent is None:
                    stays = self.session.more or role in (WRITER, VERIFIER)
                    self.session.spawn(
                        role, task, parent=self.root.id, key=key, may_return=stays, terms=terms
                    )
                else:
                    self.session.followup(agent, task, key=key, by=self.root.id, terms=terms)
            return await self._outcome(key)
        except Refused as error:
            return Outcome("refused", str(error))

    # --- drafts ------------------------------------------------------------------------------------

    async def _judge(self, number: int, made: Sequence[str], answers: Sequence[StepAnswer]) -> bool:
        """Write a draft and have it verified; whether the work is over."""
        key, draft = await self._draft(number, made, answers)
        if not draft.ok:
            self.best = self.best if self.best.ok else draft  # better than nothing: it says what went wrong
            self.idle_rounds += 1
            return self.idle_rounds >= PATIENCE_ROUNDS
        satisfied, score, reason = await self._verify(number, draft.text)
        self.results.append(f"- The draft was judged ({score} of 10): {reason}")
        self.idle_rounds = 0 if score > self.best_score else self.idle_rounds + 1
        if score > self.best_score or satisfied:
            self._keep(key, draft, score)
        return satisfied or self.idle_rounds >= PATIENCE_ROUNDS

    def _keep(self, key: str, draft: Outcome, score: int) -> None:
        """The best so far, which is the answer where a limit ends the work."""
        self.best, self.best_score = draft, score
        self.session.answered_by = key
        self.session.store.put("draft", draft.text)

    async def _draft(
        self, number: int, made: Sequence[str], answers: Sequence[StepAnswer]
    ) -> tuple[str, Outcome]:
        """What the writer writes, and its key; without a writer what most steps say, or the last one.

        A quotation is the answer as it stands: a small model that words it again only spoils it.
        """
        good = [answer for answer in answers if answer.outcome.ok]
        quoted = bool(good) and all(answer.quoted for answer in good)
        if WRITER in self.session.crew.roles and not quoted:
            return self._key(f"write-{number}"), await self._write(number, made)
        votes = Counter(ballot(answer.outcome.text) for answer in good)
        most = max(votes.values(), default=0)
        chosen = [one for one in good if votes[ballot(one.outcome.text)] == most] or list(answers)
        return chosen[-1].key, chosen[-1].outcome

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
        self._note_spending()
        first = self.session.task_of(self._key(f"{verb}-1"))
        agent = None if first is None else first.agent
        return await self._ask(role, self._key(f"{verb}-{number}"), task, self._terms(role), agent)


def first_request(question: str) -> str:
    """The task of a planner before anything is known."""
    return f"Question: {question}\nPlan the first steps."


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


def open_session(
    crew: Crew,
    client: Client | Servers,
    path: Path | str,
    toolbox: Toolbox,
    *,
    reading: Reading | None = None,
    attached: Sequence[Part] = (),
) -> Session:
    """A session in a file, new or to be resumed, that plans where its entry role does."""
    return Session(with_writer(crew), client, SessionFile(path), toolbox, reading, attached, flow=plan_flow)

"""One step, several answers: which others are asked, when it is enough, and which answer is taken.

A checked answer ends the asking; equal answers are votes; where neither decides, the judge does. Under a
token penalty agents are asked one wave after another, and only as long as the next one pays.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from stepwell.agents import penalty
from stepwell.agents.penalty import Terms
from stepwell.agents.request import sample_key
from stepwell.agents.state import Outcome

if TYPE_CHECKING:
    from stepwell.agents.crews.definition import Role
    from stepwell.agents.session import Session

JUDGE = "judge"
MAX_JUDGED_CHARS = 1_000
Ask = Callable[[str, str, str, "Terms | None"], Awaitable[Outcome]]
"""A task for a new agent of a role, under a key and terms; its outcome, or an outcome that says why not."""


@dataclass(frozen=True, slots=True)
class StepAnswer:
    """What came of a step."""

    key: str
    """Of the task that gave it."""
    outcome: Outcome
    verified: bool = False
    """The role's check says that it is right."""
    fault: str = ""
    """What the check said against it; empty without a check."""

    quoted: bool = False
    """It is a sentence of the documents, word for word."""

    @property
    def text(self) -> str:
        """For the agent that goes on with it."""
        if not self.outcome.ok:
            return f"not done: {self.outcome.text}"
        return f"{self.outcome.text}\n(this does not pass: {self.fault})" if self.fault else self.outcome.text


@dataclass(slots=True)
class Asking:
    """One step of one role on its way to an answer."""

    session: Session
    ask: Ask
    role: Role
    key: str
    task: str
    spent_tokens: int
    """Intermediate tokens of the session before this step."""
    answers: list[StepAnswer] = field(default_factory=list)

    async def answer(self) -> StepAnswer:
        while count := self._next_wave():
            begun = len(self.answers)
            made = [self._sample(number) for number in range(begun, begun + count)]
            self.answers += await asyncio.gather(*made)
            for one in self.answers[begun:]:
                if one.verified:
                    return one
        return await self._choose()

    # --- which others are asked --------------------------------------------------------------------

    def _next_wave(self) -> int:
        """How many more to ask at once; 0: it is enough."""
        left = self.role.samples - len(self.answers)
        if left <= 0 or (not self.role.check and penalty.is_settled(self._votes(), left)):
            return 0
        rule = self.session.crew.penalty
        if self.answers and not penalty.pays(rule, self._gain(), self._usual_tokens()):
            return 0
        wave = self.session.crew.wave
        return min(left, wave) if wave else left

    def _gain(self) -> float:
        if self.role.check:
            return penalty.gain_of_attempt(self.role.pass_rate, len(self.answers))
        return penalty.gain_of_vote(self._votes()) if self.answers else self.role.pass_rate

    def _votes(self) -> list[int]:
        return list(Counter(ballot(one.outcome.text) for one in self.answers if one.outcome.ok).values())

    def _usual_tokens(self) -> int:
        """What the next sample will take: as those before, else what is usual for the role."""
        if self.answers:
            return self._own_tokens() // len(self.answers)
        return self.role.usual_tokens or self.role.max_tokens

    def _own_tokens(self) -> int:
        tasks = (self.session.task_of(one.key) for one in self.answers)
        return sum(task.completion_tokens for task in tasks if task is not None)

    # --- asking ------------------------------------------------------------------------------------

    async def _sample(self, number: int) -> StepAnswer:
        key = sample_key(self.key, number)
        outcome = await self.ask(self.role.name, key, self.task, self._terms())
        if not outcome.ok or not self.role.check:
            return StepAnswer(key, outcome, quoted=self.session.pointed(key))
        fault = await self.session.fault_of(self.role.check, outcome.text)
        return StepAnswer(key, outcome, verified=fault is None, fault=fault or "")

    def _terms(self) -> Terms | None:
        spent = self.spent_tokens + self._own_tokens()
        return penalty.turn_terms(self.session.crew.penalty, self.role.max_tokens, self._gain(), spent)

    # --- which one is taken ------------------------------------------------------------------------

    async def _choose(self) -> StepAnswer:
        """The answer with the most votes, the judge's where all differ; else the first of them."""
        good = [one for one in self.answers if one.outcome.ok]
        if len(good) < 2:
            return (good or self.answers)[0]
        votes = Counter(ballot(one.outcome.text) for one in good)
        (leader, most), *others = votes.most_common()
        if not others:
            return good[0]
        if most == others[0][1] and JUDGE in self.session.crew.roles:
            return await self._judged(good)
        return next(one for one in good if ballot(one.outcome.text) == leader)

    async def _judged(self, good: Sequence[StepAnswer]) -> StepAnswer:
        different = list({ballot(one.outcome.text): one for one in reversed(good)}.values())[::-1]
        listed = "\n".join(
            f"{number}. {one.outcome.text[:MAX_JUDGED_CHARS]}" for number, one in enumerate(different, 1)
        )
        task = f"{self.task}\nAnswers:\n{listed}\nWhich one is best?"
        terms = self._terms()
        if terms is not None:  # but the penalty does not shorten a verdict
            terms = replace(terms, max_tokens=self.session.crew.roles[JUDGE].max_tokens)
        said = await self.ask(JUDGE, f"{self.key}-judge", task, terms)
        return different[_choice(said, len(different)) - 1]


def ballot(text: str) -> str:
    """What makes two answers the same one: their words and figures, not how they are written."""
    return " ".join(_words(text.casefold()))


def _words(text: str) -> Iterator[str]:
    """Each with the signs within it and a percent sign behind it, and none of the others behind it."""
    for run in re.findall(r"[\w.%+-]+", text):
        word = run.rstrip(".%+-")
        if word:
            yield f"{word}%" if run.startswith("%", len(word)) else word


def _choice(said: Outcome, count: int) -> int:
    """The number of the best one; the first where the judge says nothing of use."""
    try:
        best = int(json.loads(said.text)["best"])
    except (ValueError, KeyError, TypeError):
        return 1
    return best if said.ok and 1 <= best <= count else 1

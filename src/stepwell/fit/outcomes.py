"""What came of a profile on the items of a task set: the figures that everything else is computed from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stepwell.agents.crews.profile import Profile
from stepwell.agents.result import RoleUse
from stepwell.fit.statistics import Estimate, wilson

SINGLE = "single"
MICROUSD_PER_USD = 1_000_000


@dataclass(frozen=True, slots=True)
class ItemOutcome:
    """One item, answered by one profile."""

    item: str
    right: bool
    status: str
    """``completed``, or how the session ended instead."""
    reason: str = ""
    """Why there is no answer."""
    answer: str = ""
    prompt_tokens: int = 0
    intermediate_tokens: int = 0
    visible_tokens: int = 0
    cost_microusd: int | None = None
    """None: the server does not say."""
    turns: int = 0
    by_role: Mapping[str, RoleUse] = field(default_factory=dict)
    lengths: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Per role, the answer tokens of each of its turns."""

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.intermediate_tokens + self.visible_tokens


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One profile on many items, always in the order of the items."""

    label: str
    profile: Profile | None
    """None: the single call."""
    outcomes: tuple[ItemOutcome, ...]

    @property
    def right(self) -> list[bool]:
        return [one.right for one in self.outcomes]

    @property
    def share(self) -> float:
        """Of items that are right."""
        return sum(self.right) / len(self.outcomes)

    @property
    def accuracy(self) -> Estimate:
        return wilson(sum(self.right), len(self.outcomes))

    @property
    def in_money(self) -> bool:
        """Whether the server said what every turn cost; else tokens stand for it, prompt and answer alike."""
        return all(one.cost_microusd is not None for one in self.outcomes if one.turns)

    def costs(self, in_money: bool) -> list[int]:
        """Per item: micro-dollars, or tokens."""
        return [(one.cost_microusd or 0) if in_money else one.tokens for one in self.outcomes]

    def mean_cost(self, in_money: bool) -> float:
        """Per item, in micro-dollars or tokens."""
        return sum(self.costs(in_money)) / len(self.outcomes)

    def mean(self, figure: Callable[[ItemOutcome], int]) -> float:
        """Of any figure, per item."""
        return sum(map(figure, self.outcomes)) / len(self.outcomes)

    def role_turns(self, role: str) -> int:
        return sum(one.by_role[role].turns for one in self.outcomes if role in one.by_role)

    def lengths(self, role: str, *, of_right: bool) -> list[int]:
        """Answer tokens of every turn of a role, or of those in items that are right."""
        chosen = [one for one in self.outcomes if one.right or not of_right]
        return [length for one in chosen for length in one.lengths.get(role, ())]

    def failures(self) -> Mapping[str, int]:
        """How often each reason for no answer was given."""
        reasons = [one.reason for one in self.outcomes if one.reason]
        return {reason: reasons.count(reason) for reason in dict.fromkeys(reasons)}

    def as_json(self, *, items: bool = False) -> dict[str, Any]:
        """The figures; with every item's where asked for."""
        accuracy = self.accuracy
        made: dict[str, Any] = {
            "label": self.label,
            "items": len(self.outcomes),
            "right": sum(self.right),
            "accuracy": accuracy.value,
            "accuracy_low": accuracy.low,
            "accuracy_high": accuracy.high,
            "prompt_tokens_per_item": self.mean(lambda one: one.prompt_tokens),
            "intermediate_tokens_per_item": self.mean(lambda one: one.intermediate_tokens),
            "visible_tokens_per_item": self.mean(lambda one: one.visible_tokens),
            "turns_per_item": self.mean(lambda one: one.turns),
            "cost_per_item_usd": self.mean_cost(True) / MICROUSD_PER_USD if self.in_money else None,
            "without_answer": self.failures(),
        }
        return made | {"outcomes": [_item(one) for one in self.outcomes]} if items else made


def _item(one: ItemOutcome) -> dict[str, Any]:
    plain = ("item", "right", "status", "reason", "answer", "turns", "cost_microusd")
    tokens = ("prompt_tokens", "intermediate_tokens", "visible_tokens")
    return {name: getattr(one, name) for name in (*plain, *tokens)}


def show_cost(cost: float, in_money: bool) -> str:
    """A mean per item for people."""
    return f"{cost / MICROUSD_PER_USD:.6f} USD" if in_money else f"{cost:,.0f} tokens"


def failed(item: str, status: str, reason: str) -> ItemOutcome:
    """No answer is a wrong answer."""
    return ItemOutcome(item, right=False, status=status, reason=reason)


def together(evaluations: Sequence[Evaluation]) -> bool:
    """Whether these can be compared in money."""
    return all(one.in_money for one in evaluations)

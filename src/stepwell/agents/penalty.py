"""What another token is worth: decisions that trade a price per intermediate token against expected gain.

Pure functions of what is known; docs/profiles.md derives them. Money is in whole micro-dollars. Without a
penalty nothing here says no: every sample is asked for, and every turn may be as long as its role says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

TOKENS_PER_PRICE = 1_000_000
PRIOR_SAMPLES = 2
"""How many samples the expected chance of passing weighs; more: failures say less about the question."""
SHORTEST_TURN_TOKENS = 16
BIAS_STEP = 0.25
"""Biases are rounded to this, so that few different requests are made."""


@dataclass(frozen=True, slots=True)
class Penalty:
    """What intermediate tokens cost the crew beyond their price, and what an answer is worth."""

    token_price_microusd: int
    """Of a million intermediate tokens, whatever the server charges for them."""
    answer_value_microusd: int
    """Of a right answer."""
    eos_bias: float = 0.0
    """Added to the logits of the tokens that end an answer, once ``eos_bias_tokens`` are spent."""
    eos_bias_tokens: int = 400
    """Intermediate tokens of the session at which the bias is whole; it grows with them from nothing."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What the turns of one task may be like, where that is not its role's alone to say."""

    max_tokens: int | None = None
    """None: as the role says."""
    eos_bias: float = 0.0
    """Added to the logits of the tokens that end an answer."""


def pays(penalty: Penalty | None, gain: float, tokens: int) -> bool:
    """Whether ``tokens`` more are worth a rise of ``gain`` in the chance of a right answer."""
    if penalty is None:
        return True
    return gain * penalty.answer_value_microusd * TOKENS_PER_PRICE > tokens * penalty.token_price_microusd


def gain_of_attempt(pass_rate: float, failures: int) -> float:
    """The chance that the next answer passes its check, after ``failures`` that did not.

    The mean of a beta distribution that begins at ``pass_rate`` with the weight of ``PRIOR_SAMPLES``: a
    question that has failed often is likely to be one that fails always.
    """
    return pass_rate * PRIOR_SAMPLES / (PRIOR_SAMPLES + failures)


def gain_of_vote(counts: Sequence[int]) -> float:
    """What another vote may change, given how often each answer was given.

    Half of the chance that it is not for the leading answer: where the votes are split, the leader is as
    likely wrong as right. With no votes yet the first one decides everything.
    """
    votes = sum(counts)
    if votes == 0:
        return 1.0
    return (1 - (max(counts) + 0.5) / (votes + 1)) / 2


def is_settled(counts: Sequence[int], left: int) -> bool:
    """Whether ``left`` more votes cannot change which answer leads. Ties go to the first, so they can."""
    ranked = sorted(counts, reverse=True)
    return bool(ranked) and ranked[0] > (ranked[1] if len(ranked) > 1 else 0) + left


def turn_tokens(penalty: Penalty | None, most: int, gain: float) -> int:
    """The length budget of a turn: no longer than ``most``, nor than its ``gain`` is worth."""
    if penalty is None or penalty.token_price_microusd == 0:
        return most
    worth = int(gain * penalty.answer_value_microusd * TOKENS_PER_PRICE) // penalty.token_price_microusd
    return min(most, max(worth, SHORTEST_TURN_TOKENS))


def turn_terms(penalty: Penalty | None, most: int, gain: float, spent_tokens: int) -> Terms | None:
    """Of a turn that may have ``most`` tokens; None: there is no penalty, so its role says it all."""
    if penalty is None:
        return None
    return Terms(turn_tokens(penalty, most, gain), eos_bias(penalty, spent_tokens))


def eos_bias(penalty: Penalty | None, spent_tokens: int) -> float:
    """What is added to the end's logits after so many intermediate tokens of the session."""
    if penalty is None or penalty.eos_bias == 0:
        return 0.0
    part = min(1.0, spent_tokens / max(penalty.eos_bias_tokens, 1))
    return round(penalty.eos_bias * part / BIAS_STEP) * BIAS_STEP

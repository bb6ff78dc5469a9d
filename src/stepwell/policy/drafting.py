"""How many drafted tokens a step checks: speculative decoding, decided from what was measured.

The executor of the plans offers a draft: the tokens that followed the last time the text ran like this
(prompt lookup). Checking one takes time whether it is right or not. A token is checked while what it is
likely to bring, for the time it takes, is no worse than the step itself: ``chance / time of a drafted token``
against ``streams / time of the step``. So one stream alone takes long drafts, many take short ones, and an
agent whose drafts are wrong takes none but now and then one, to see whether its text has begun to repeat.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from stepwell.policy.costs import Costs

_ONE: Final = 1 << 10
"""The weight of one token in the counts: whole numbers that fade do not fade to nothing."""
_PRIOR_RIGHT: Final = 3 * _ONE
_PRIOR: Final = 4 * _ONE
"""An agent is taken to be right in three of four until it has shown otherwise."""
_FADE_NUMERATOR: Final = 7
_FADE_DENOMINATOR: Final = 8
_TRY_AGAIN: Final = 32
"""Offers passed over before one token is checked in any case."""


@dataclass(slots=True)
class DraftRecord:
    """How an agent's drafts have fared. A token counts as tried if all before it were right."""

    tried: int = _PRIOR
    right: int = _PRIOR_RIGHT
    passed_over: int = 0

    def saw(self, drafted: int, accepted: int) -> None:
        tried = min(drafted, accepted + 1)
        self.tried = self.tried * _FADE_NUMERATOR // _FADE_DENOMINATOR + tried * _ONE
        self.right = self.right * _FADE_NUMERATOR // _FADE_DENOMINATOR + accepted * _ONE
        self.passed_over = 0


def worth_checking(record: DraftRecord, offered: int, streams: int, costs: Costs) -> int:
    """How many of the ``offered`` tokens to check in a step in which ``streams`` sequences decode.

    0 while nothing is known of how long such a step takes.
    """
    first_us, further_us = costs.decode_us()
    step_us = first_us + (streams - 1) * further_us
    token_us = costs.draft_us()
    if offered <= 0 or step_us <= 0:
        return 0
    chance, count = _ONE, 0
    while count < offered:
        chance = chance * record.right // record.tried
        if chance * step_us < _ONE * token_us * streams:
            break
        count += 1
    if count == 0:
        record.passed_over += 1
        return int(record.passed_over % _TRY_AGAIN == 0)
    return count

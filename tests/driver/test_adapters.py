"""Turns under adapters: no KV in common, and the books say under which a turn ran."""

from __future__ import annotations

from dataclasses import replace

from stepwell.loop.requests import Admitted
from stepwell.policy.types import KvTier
from tests.driver.harness import GREEDY, Answer, expected_tokens, make_rig

PROMPT = list(range(60, 108))
RED = replace(GREEDY, adapter="red")


def cached(answer: Answer) -> int:
    return next(o for o in answer.outputs if isinstance(o, Admitted)).cached_tokens


def test_one_prompt_under_two_adapters_shares_nothing_in_any_tier() -> None:
    rig = make_rig()
    for tier in (KvTier.DEVICE, KvTier.HOST, KvTier.DISK):
        found = []
        for sampling in (GREEDY, RED):
            answer = rig.ask(PROMPT, 6, sampling=sampling)
            rig.settle()
            assert answer.tokens == expected_tokens(PROMPT, 6, sampling)
            found.append(cached(answer))
        assert found == ([0, 0] if tier is KvTier.DEVICE else [44, 44])
        if tier is not KvTier.DISK:
            rig.driver.demote_idle(KvTier.HOST if tier is KvTier.DEVICE else KvTier.DISK)


def test_the_books_name_the_adapter() -> None:
    rig = make_rig()
    for sampling in (GREEDY, RED):
        rig.ask(PROMPT, 6, sampling=sampling)
    rig.settle()
    names = sorted(usage.model for batch in rig.books.batches for usage in batch.usage)
    assert len(names) == 2 and names[1] == f"{names[0]}:red"

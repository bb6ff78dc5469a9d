"""Guessed tokens: answers stay what they are, nobody pays for a wrong guess, and the policy decides."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.engines.base import BatchItem, Sampled
from stepwell.engines.null import NullEngine
from stepwell.loop.drafts import Drafts
from stepwell.loop.requests import Finished
from stepwell.policy.types import KvTier
from tests.driver.harness import Answer, Rig, make_rig

TEXT = b"def area(width, height): return width * height # of a field "
COSTS = {"decode_us_per_step": 10_000, "decode_us_per_sequence": 10}


def drafting(answer: bytes, **config: object) -> Rig:
    return make_rig(answer=answer, draft_tokens=12, step_draft_tokens=64, **COSTS, **config)


def ended(answer: Answer) -> Finished:
    assert isinstance(answer.end, Finished)
    return answer.end


def watched(engine: NullEngine) -> list[BatchItem]:
    """Every item that runs with a draft from here on."""
    seen, run = [], engine.run

    def watch(batch: list[BatchItem]) -> list[Sampled]:
        seen.extend(item for item in batch if item.draft)
        return run(batch)

    engine.run = watch  # type: ignore[method-assign,assignment]
    return seen


def test_a_copied_text_takes_fewer_steps_and_is_charged_like_any_other() -> None:
    plain, drafted = make_rig(answer=TEXT, **COSTS), drafting(TEXT)
    answers = [rig.ask(TEXT, 200) for rig in (plain, drafted)]
    for rig in (plain, drafted):
        rig.settle()
    assert answers[0].tokens == answers[1].tokens == list(TEXT)
    end = ended(answers[1])
    assert end.generated_tokens == ended(answers[0]).generated_tokens == len(TEXT) + 1
    assert end.accepted_tokens > 30 and end.drafted_tokens >= end.accepted_tokens
    counters = drafted.driver.snapshot().counters
    assert counters["generation_tokens"] == plain.driver.snapshot().counters["generation_tokens"]
    assert counters["accepted_tokens"] == end.accepted_tokens
    assert counters["engine_us"] < plain.driver.snapshot().counters["engine_us"] / 1.5
    charged = [rig.books.batches for rig in (plain, drafted)]
    usages = [[u for batch in batches for u in batch.usage] for batches in charged]
    assert usages[0][0].charge_microusd == usages[1][0].charge_microusd > 0


def test_an_answer_that_ends_among_right_guesses_goes_on_well_in_the_next_turn() -> None:
    rig = drafting(TEXT)
    answer = rig.ask(TEXT, 200, stop=("height)",), agent="a")
    rig.settle()
    assert answer.text == "def area(width, " and ended(answer).reason == "stop"
    rig.driver.demote_idle(KvTier.HOST)
    again = rig.ask([*TEXT, *b"def area(width, "], 200, agent="a")
    rig.settle()
    assert again.tokens == list(TEXT)


def test_max_tokens_is_kept_to_the_token() -> None:
    for most in range(1, 40):
        rig = drafting(TEXT)
        answer = rig.ask(TEXT, most)
        rig.settle()
        assert answer.tokens == list(TEXT[:most]) and ended(answer).generated_tokens == most


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), agents=st.integers(1, 5), device=st.integers(12, 40))
def test_answers_are_the_same_with_and_without_under_pressure(seed: int, agents: int, device: int) -> None:
    """Some of an answer is copied, some is not; turns are preempted, moved down and come back."""
    draw = random.Random(seed)
    answer = bytes(draw.choice(TEXT) for _ in range(9)) + TEXT[: draw.randrange(8, 50)] + b"zz" + TEXT[:20]
    texts = []
    for most in (0, draw.randrange(1, 13)):
        rig = make_rig(device, answer=answer, draft_tokens=most, step_draft_tokens=24, **COSTS)
        mine = [rig.ask([*TEXT, 97 + i], 100, agent=str(i)) for i in range(agents)]
        rig.settle()
        mine += [rig.ask([*TEXT, 97 + i, *answer, 100], 100, agent=str(i)) for i in range(agents)]
        rig.settle()
        texts.append([one.tokens for one in mine])
    assert texts[0] == texts[1]


def test_no_draft_where_the_setting_is_off_or_a_frame_would_be_filled() -> None:
    off = make_rig(answer=TEXT)
    items = watched(off.engine)
    off.ask(TEXT, 100)
    off.settle()
    assert not items
    on = drafting(TEXT)
    items = watched(on.engine)
    on.ask(TEXT, 100)
    on.settle()
    assert items and all((i.start % 16) + len(i.tokens) < 16 and i.draft <= 12 for i in items)


@pytest.mark.parametrize(
    ("tokens", "guess"),
    [
        ([1, 2, 3, 4, 5, 9, 1, 2, 3], [4, 5, 9, 1, 2]),
        ([1, 2, 3, 7, 7, 8, 1, 2, 3, 4, 8, 1, 2, 3], [4, 8, 1, 2, 3]),
        ([1, 2, 1, 2], []),
        ([1, 1, 1, 1], [1]),
        ([5, 6, 7, 256, 5, 6, 7], []),
        ([], []),
    ],
)
def test_a_guess_is_what_followed_last_time(tokens: list[int], guess: list[int]) -> None:
    assert Drafts(5, lambda token: token == 256).next(tokens) == guess


@given(tokens=st.lists(st.sampled_from([0, 1, 256, 65_536, 1 << 24]), max_size=80))
def test_a_guess_always_stood_behind_the_same_tokens(tokens: list[int]) -> None:
    guess = Drafts(6, lambda token: False).next(tokens)
    found = [
        tokens[at + n : at + n + 6]
        for n in range(6, 2, -1)
        for at in range(len(tokens) - n - 1, -1, -1)
        if n < len(tokens) and tokens[at : at + n] == tokens[-n:]
    ]
    assert guess == (found[0] if found else [])

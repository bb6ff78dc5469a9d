"""What every engine promises, whatever computes behind it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from tests.engines.prefixes import (
    GREEDY,
    blocks_of,
    bring_back,
    generate,
    ids,
    prompt,
    put_away,
    seal_all,
    start,
    step,
)

from stepwell.engines.base import BatchItem, Engine, EngineError, NoRoom, SamplingParams
from stepwell.engines.null import NullConfig, NullEngine
from stepwell.policy.types import BlockMeta

DEVICE_BLOCKS, SEQUENCES = 8, 4


@pytest.fixture(params=["null", "smollm2", "gemma3"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """Eight frames and four sequences; whatever a test leaves behind is checked and removed."""
    if request.param == "null":
        made: Engine = NullEngine(NullConfig(device_blocks=DEVICE_BLOCKS, max_sequences=SEQUENCES))
    else:
        made, _ = request.getfixturevalue(f"{request.param}_engine")
    assert (made.info.device_blocks, made.info.max_sequences) == (DEVICE_BLOCKS, SEQUENCES)
    kept = Kept(made)
    yield kept
    made.check()
    kept.clean()
    made.check()


class Kept:
    """Passes everything on, and remembers what must be taken away after the test."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.info = engine.info
        self._requests: set[int] = set()
        self._blocks: dict[bytes, None] = {}
        for name in ("forget", "close", "store", "run", "take_back", "validate", "check", "close_engine"):
            setattr(self, name, getattr(engine, name))

    def open(self, request: int, *args: object) -> None:
        self._requests.add(request)
        self._engine.open(request, *args)  # type: ignore[arg-type]

    def seal(self, request: int, block: object) -> None:
        self._engine.seal(request, block)  # type: ignore[arg-type]
        self._blocks[block.id] = None  # type: ignore[attr-defined]

    def load(self, block: object, data: object) -> None:
        self._engine.load(block, data)  # type: ignore[arg-type]
        self._blocks[block.id] = None  # type: ignore[attr-defined]

    def drop(self, block: bytes) -> None:
        self._engine.drop(block)
        del self._blocks[block]

    def clean(self) -> None:
        for request in self._requests:
            self._engine.close(request)
            self._engine.forget(request)
        for block in reversed(self._blocks):
            self._engine.drop(block)


def fill(engine: Engine, most: int = DEVICE_BLOCKS) -> list[BlockMeta]:
    """Load blocks of one token, each in a frame of its own, until there is no room or enough."""
    start(engine, 9_000, [50])
    (meta,) = blocks_of(engine, [50])
    engine.seal(9_000, meta)
    engine.close(9_000)
    engine.forget(9_000)
    (data,) = put_away(engine, [meta])
    loaded: list[BlockMeta] = []
    while len(loaded) < most:
        copy = replace(meta, id=bytes([len(loaded)]))
        try:
            engine.load(copy, data)
        except NoRoom:
            break
        loaded.append(copy)
    return loaded


def frames_free(engine: Engine) -> int:
    filling = fill(engine)
    put_away(engine, filling)
    return len(filling)


def test_the_same_prompt_gives_the_same_tokens(engine: Engine) -> None:
    tokens = prompt(100)
    answers = []
    for request in (1, 2):
        first = start(engine, request, tokens)
        answers.append([first, *generate(engine, request, 100, first, 6)])
        engine.close(request)
    assert answers[0] == answers[1]
    assert all(0 <= token < engine.info.vocab_size for token in answers[0])


def test_only_items_that_ask_are_sampled_and_in_order(engine: Engine) -> None:
    for request in (1, 2, 3):
        engine.open(request, [], 0, GREEDY)
    batch = [BatchItem(r, 0, prompt(10, seed=r), sample=r != 2) for r in (3, 2, 1)]
    assert [s.request for s in engine.run(batch)] == [3, 1]


def test_sealed_blocks_outlive_their_sequence(engine: Engine) -> None:
    tokens = prompt(128)
    first = start(engine, 1, tokens)
    expected = generate(engine, 1, 128, first, 4)
    metas = blocks_of(engine, tokens)
    seal_all(engine, 1, metas)
    engine.close(1)
    engine.check()
    engine.open(2, ids(metas), 128, GREEDY)
    assert generate(engine, 2, 128, first, 4) == expected


def test_blocks_that_left_and_came_back_give_the_same_tokens(engine: Engine) -> None:
    tokens = prompt(200)
    first = start(engine, 1, tokens)
    metas = blocks_of(engine, tokens)
    seal_all(engine, 1, metas)
    engine.close(1)
    engine.open(2, ids(metas), 200, GREEDY)
    expected = generate(engine, 2, 200, first, 6)
    engine.close(2)
    stored = put_away(engine, metas)
    assert [len(data) for data in stored] == [meta.size_bytes for meta in metas]
    assert frames_free(engine) == DEVICE_BLOCKS
    bring_back(engine, metas, stored)
    assert [engine.store(meta.id) for meta in metas] == stored
    engine.open(3, ids(metas), 200, GREEDY)
    assert generate(engine, 3, 200, first, 6) == expected


def test_full_blocks_are_shared_and_cost_no_frames(engine: Engine) -> None:
    tokens = prompt(128)
    start(engine, 1, tokens)
    metas = blocks_of(engine, tokens)
    seal_all(engine, 1, metas)
    engine.close(1)
    for request in (2, 3, 4):
        engine.open(request, ids(metas), 128, GREEDY)
    answers = engine.run([BatchItem(r, 128, [77], True) for r in (2, 3, 4)])
    assert len({answer.token for answer in answers}) == 1
    engine.close(4)
    assert frames_free(engine) == DEVICE_BLOCKS - 2 - 2


def test_a_block_opened_in_part_is_copied_and_stays_as_it_is(engine: Engine) -> None:
    tokens = prompt(128)
    start(engine, 1, tokens)
    metas = blocks_of(engine, tokens)
    seal_all(engine, 1, metas)
    engine.close(1)
    before = engine.store(metas[1].id)
    other = tokens[:90] + prompt(38, seed=5)
    engine.open(2, ids(metas), 90, GREEDY)
    assert frames_free(engine) == DEVICE_BLOCKS - 3
    found = step(engine, 2, 90, other[90:])
    assert engine.store(metas[1].id) == before
    engine.open(3, ids(metas)[:1], 64, GREEDY)
    assert step(engine, 3, 64, other[64:]) == found
    engine.drop(metas[1].id)  # nobody uses the block itself


def test_a_preempted_request_goes_on_where_it_was(engine: Engine) -> None:
    """With its blocks put away meanwhile, and with a seeded sampler whose state is kept."""
    sampling = SamplingParams(temperature=0.9, seed=11, presence_penalty=0.5, ignore_eos=True)
    tokens = prompt(70)
    answers = []
    for request, preempted in ((1, False), (2, True)):
        made = [start(engine, request, tokens, sampling)]
        made += generate(engine, request, 70, made[0], 9)
        if preempted:
            known = tokens + made[:-1]
            metas = blocks_of(engine, known)
            seal_all(engine, request, metas)
            engine.close(request)
            stored = put_away(engine, metas)
            bring_back(engine, metas, stored)
            engine.open(request, ids(metas), len(known), sampling)
        made += generate(engine, request, 79, made[-1], 8)
        answers.append(made)
        engine.close(request)
    assert answers[0] == answers[1]


def test_running_out_of_frames_loses_only_who_asked(engine: Engine) -> None:
    first = start(engine, 1, prompt(60))
    engine.open(2, [], 0, GREEDY)
    filling = fill(engine, DEVICE_BLOCKS - 2)
    engine.run([BatchItem(2, 0, prompt(64), False)])
    with pytest.raises(NoRoom) as error:
        engine.run([BatchItem(1, 60, [first], True), BatchItem(2, 64, prompt(1), False)])
    assert error.value.requests == (2,)
    engine.check()
    engine.close(2)
    assert len(generate(engine, 1, 60, first, 5)) == 5  # grows into the frame that became free
    put_away(engine, filling)
    assert frames_free(engine) == DEVICE_BLOCKS - 2


def test_loading_and_opening_on_a_full_device_is_refused(engine: Engine) -> None:
    tokens = prompt(70)
    start(engine, 1, tokens)
    metas = blocks_of(engine, tokens)
    seal_all(engine, 1, metas)
    engine.close(1)
    filling = fill(engine, DEVICE_BLOCKS - 2)
    with pytest.raises(NoRoom):
        engine.open(2, ids(metas), 70, GREEDY)
    (tail,) = put_away(engine, metas[1:])
    engine.load(replace(filling[0], id=b"one more"), engine.store(filling[0].id))
    with pytest.raises(NoRoom):
        engine.load(metas[1], tail)
    engine.check()
    put_away(engine, filling)
    engine.load(metas[1], tail)
    engine.open(2, ids(metas), 70, GREEDY)


def test_no_more_sequences_than_promised(engine: Engine) -> None:
    for request in range(SEQUENCES):
        engine.open(request, [], 0, GREEDY)
    with pytest.raises(NoRoom):
        engine.open(100, [], 0, GREEDY)
    engine.close(0)
    engine.open(100, [], 0, GREEDY)


@pytest.mark.parametrize(
    "item",
    [
        BatchItem(2, 9, [40], True),
        BatchItem(2, 11, [40], True),
        BatchItem(2, 10, [], True),
        BatchItem(2, 10, [-1], True),
        BatchItem(2, 10, [1 << 30], True),
        BatchItem(5, 0, [40], True),
    ],
    ids=["behind", "ahead", "nothing", "negative", "no such token", "not open"],
)
def test_a_bad_item_fails_alone(engine: Engine, item: BatchItem) -> None:
    first = start(engine, 1, prompt(10))
    start(engine, 2, prompt(10, seed=2))
    with pytest.raises(EngineError) as error:
        engine.run([BatchItem(1, 10, [first], True), item])
    assert error.value.requests == (item.request,)
    engine.check()
    engine.close(2)
    assert len(generate(engine, 1, 10, first, 2)) == 2


def test_what_cannot_be_is_refused_and_changes_nothing(engine: Engine) -> None:
    tokens = prompt(150)
    start(engine, 1, tokens)
    metas = blocks_of(engine, tokens)
    with pytest.raises(EngineError):
        engine.open(1, [], 0, GREEDY)
    seal_all(engine, 1, metas)
    with pytest.raises(EngineError):
        engine.seal(1, metas[0])
    with pytest.raises(EngineError):
        engine.drop(metas[2].id)  # request 1 uses it
    engine.close(1)
    for blocks, n_tokens in (
        ([b"unknown block id"], 64),
        (ids(metas)[1:], 86),
        (ids(metas), 151),
        (ids(metas), 128),
        (ids(metas)[:1], 65),
        ([], 1),
    ):
        with pytest.raises(EngineError):
            engine.open(2, blocks, n_tokens, GREEDY)
    for call in (engine.store, engine.drop):
        with pytest.raises(EngineError):
            call(b"unknown block id")
    assert frames_free(engine) == DEVICE_BLOCKS - 3


def test_a_block_that_does_not_fit_is_not_loaded(engine: Engine) -> None:
    tokens = prompt(150)
    start(engine, 1, tokens)
    metas = blocks_of(engine, tokens)
    seal_all(engine, 1, metas)
    engine.close(1)
    with pytest.raises(EngineError):
        engine.load(metas[0], engine.store(metas[0].id))  # it is there
    stored = put_away(engine, metas)
    with pytest.raises(EngineError):
        engine.load(metas[1], stored[1])  # its parent is not there
    engine.load(metas[0], stored[0])
    for wrong in (b"", stored[1][:-1], bytes(stored[1]) + b"x", stored[2]):
        with pytest.raises(EngineError):
            engine.load(metas[1], wrong)
    assert frames_free(engine) == DEVICE_BLOCKS - 1
    bring_back(engine, metas[1:], stored[1:])


def test_unknown_requests_may_be_closed_and_forgotten(engine: Engine) -> None:
    free = frames_free(engine)
    engine.close(12345)
    engine.forget(12345)
    engine.check()
    assert frames_free(engine) == free


def test_parameters_are_validated(engine: Engine) -> None:
    engine.validate(SamplingParams())
    engine.validate(SamplingParams(grammar='root ::= "yes" | "no"'))
    with pytest.raises(ValueError, match="grammar"):
        engine.validate(SamplingParams(grammar="this is not a grammar"))


def test_logprobs_are_reported_as_asked(engine: Engine) -> None:
    for request, n_top in ((1, None), (2, 0), (3, 4)):
        engine.open(request, [], 0, SamplingParams(temperature=0.0, logprobs=n_top))
        (sampled,) = engine.run([BatchItem(request, 0, prompt(20), True)])
        if n_top is None:
            assert sampled.logprob is None
        else:
            assert sampled.logprob is not None
            assert sampled.logprob.token == sampled.token
            assert sampled.logprob.logprob <= 0
        assert len(sampled.top_logprobs) == (n_top or 0)


def test_drafted_tokens_stay_as_far_as_they_are_right(engine: Engine) -> None:
    tokens = prompt(80)
    first = start(engine, 1, tokens)
    plain = [first, *generate(engine, 1, 80, first, 20)]
    wrong = (plain[4] + 1) % 250
    assert start(engine, 2, tokens) == first
    sampled = engine.run([BatchItem(2, 80, [first, *plain[1:4], wrong, plain[5]], True, draft=5)])
    assert [one.token for one in sampled] == plain[1:5]
    engine.check()
    assert generate(engine, 2, 84, plain[4], 16) == plain[5:]
    engine.check()


def test_a_draft_that_is_right_gives_a_token_more(engine: Engine) -> None:
    """Of three rows: from four on Gemma's 4-bit weights are multiplied by another kernel, which rounds
    otherwise, and here two tokens lie close together."""
    tokens = prompt(70, 3)
    first = start(engine, 1, tokens)
    plain = [first, *generate(engine, 1, 70, first, 8)]
    assert start(engine, 2, tokens) == first
    sampled = engine.run([BatchItem(2, 70, plain[:3], True, draft=2)])
    assert [one.token for one in sampled] == plain[1:4]
    assert generate(engine, 2, 73, plain[3], 5) == plain[4:]


def test_drafts_of_several_do_not_disturb_each_other(engine: Engine) -> None:
    prompts = {1: prompt(66, 1), 2: prompt(70, 2), 3: prompt(90, 3)}
    plain = {}
    for request, tokens in prompts.items():
        first = start(engine, request, tokens)
        plain[request] = [first, *generate(engine, request, len(tokens), first, 6)]
        engine.close(request)
        engine.forget(request)
    for request, tokens in prompts.items():
        assert start(engine, 10 + request, tokens) == plain[request][0]
    items = []
    for request, tokens in prompts.items():
        guesses = [*plain[request][1:3], 0] if request != 2 else [0, 1, 2]
        items.append(BatchItem(10 + request, len(tokens), [plain[request][0], *guesses], True, draft=3))
    sampled = engine.run(items)
    for request, right in ((1, 2), (2, 0), (3, 2)):
        mine = [one.token for one in sampled if one.request == 10 + request]
        assert mine == plain[request][1 : right + 2]
        at = len(prompts[request]) + right + 1
        rest = generate(engine, 10 + request, at, mine[-1], 4 - right)
        assert rest == plain[request][right + 2 : 6]
    engine.check()


def test_what_was_drafted_can_be_taken_back_and_the_rest_sealed(engine: Engine) -> None:
    tokens = prompt(70)
    first = start(engine, 1, tokens)
    plain = [first, *generate(engine, 1, 70, first, 6)]
    engine.close(1)
    start(engine, 2, tokens)
    assert len(engine.run([BatchItem(2, 70, plain[:5], True, draft=4)])) == 5
    engine.take_back(2, 72)
    metas = blocks_of(engine, [*tokens, *plain[:2]])
    seal_all(engine, 2, metas)
    engine.close(2)
    stored = put_away(engine, metas)
    bring_back(engine, metas, stored)
    engine.open(3, ids(metas), 72, GREEDY)
    assert step(engine, 3, 72, [plain[2]]) == plain[3]


def test_a_draft_past_its_frame_is_refused(engine: Engine) -> None:
    first = start(engine, 1, prompt(120))
    with pytest.raises(EngineError, match="frame"):
        engine.run([BatchItem(1, 120, [first, *range(40, 47)], True, draft=7)])

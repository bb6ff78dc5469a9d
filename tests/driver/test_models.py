"""Several models in one server: they take turns, share host and disk, leave memory and come back."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from stepwell.basics.clock import ManualClock
from stepwell.engines.base import EngineError
from stepwell.engines.null import NullEngine
from stepwell.launch.several import ModelsNode, build_several
from stepwell.loop.requests import Admitted, Finished, Generation, Rejected
from stepwell.policy.types import KvTier
from stepwell.settings.service_tiers import ServiceTierEntry, SharesEntry
from tests.driver.harness import GREEDY
from tests.driver.several import BLOCK_BYTES, Answer, ask, passes, settings_of, several


def admitted(answer: Answer) -> Admitted:
    return next(output for output in answer.outputs if isinstance(output, Admitted))


def states(node: ModelsNode) -> list[str]:
    return [model.state for model in node.loop.models]


def test_the_same_prompt_is_another_context_at_another_model(tmp_path: Path) -> None:
    with several(tmp_path) as node:
        first, second = ask(node, "one", "x" * 200), ask(node, "two", "x" * 200)
        node.loop.run_until_idle()
        assert isinstance(first.end, Finished) and isinstance(second.end, Finished)
        again = ask(node, "two", "x" * 200)
        node.loop.run_until_idle()
        assert admitted(first).cached_tokens == admitted(second).cached_tokens == 0
        assert admitted(again).cached_tokens > 100
        assert {view.model for view in node.loop.snapshot().agents} == {"one", "two"}


def test_both_models_go_on_while_both_have_work_and_the_heavier_service_tier_has_more(tmp_path: Path) -> None:
    with several(tmp_path, device_kv_tokens=4096) as node:
        paid = ask(node, "one", "p" * 1_000, 200, service_tier="priority")
        free = ask(node, "two", "f" * 1_000, 200, service_tier="flex")
        while not paid.ended:
            node.loop.turn()
        spent = [model.driver.loop.step_us for model in node.loop.models]
        assert not free.ended and spent[1] > 0
        longest = 256 * 2_000
        owed = (spent[0] + spent[1]) * 70 // 1_000  # its guarantee, and a seventeenth of what is nobody's
        assert abs(spent[1] - owed) <= longest
        node.loop.run_until_idle()
        assert isinstance(free.end, Finished)


def test_a_model_that_is_idle_gives_its_memory_back_and_finds_its_kv_again(tmp_path: Path) -> None:
    with several(tmp_path, unload_after_s=10, always_load=True) as node:
        before = ask(node, "two", "x" * 300)
        node.loop.run_until_idle()
        assert states(node) == ["loaded", "loaded"]
        passes(node, 11_000_000)
        assert states(node) == ["unloaded", "unloaded"]
        assert node.loop.snapshot().usage[KvTier.DEVICE].used_bytes == 0
        after = ask(node, "two", "x" * 300)
        node.loop.run_until_idle()
        assert states(node) == ["unloaded", "loaded"]
        assert after.text == before.text
        assert admitted(after).cached.host >= 256


@pytest.mark.parametrize("host", [0, 2 * BLOCK_BYTES])
def test_what_the_host_has_no_room_for_goes_to_disk_or_is_computed_again(tmp_path: Path, host: int) -> None:
    with several(tmp_path, unload_after_s=10, always_load=True, host_kv=host) as node:
        before = ask(node, "one", "x" * 600)
        node.loop.run_until_idle()
        passes(node, 11_000_000)
        assert states(node)[0] == "unloaded"
        after = ask(node, "one", "x" * 600)
        node.loop.run_until_idle()
        assert after.text == before.text


def test_where_memory_holds_one_model_they_take_turns(tmp_path: Path) -> None:
    one_model = 16 * BLOCK_BYTES
    with several(tmp_path, names="one two three", memory=one_model, turn_s=5) as node:
        assert states(node) == ["loaded", "unloaded", "unloaded"]
        answers = [ask(node, name, "x" * 300) for name in ("one", "two", "three", "one")]
        node.loop.run_until_idle()
        assert all(isinstance(answer.end, Finished) for answer in answers)
        assert states(node).count("loaded") == 1


def test_a_model_that_is_never_idle_gives_way_after_its_turn(tmp_path: Path) -> None:
    with several(tmp_path, memory=16 * BLOCK_BYTES, turn_s=5) as node:
        busy = [ask(node, "one", f"{n}" * 300, 20) for n in range(3)]
        other = ask(node, "two", "x" * 300)
        for _ in range(5_000):
            if other.ended:
                break
            if all(answer.ended for answer in busy[-2:]):  # there is always more for the first
                busy += [ask(node, "one", f"{len(busy)}" * 200, 20) for _ in range(2)]
            if not node.loop.turn():
                node.loop._wait()
        assert isinstance(other.end, Finished)
        node.loop.run_until_idle()
        assert all(isinstance(answer.end, Finished) for answer in busy), "nobody was forgotten"


def test_a_cancelled_request_of_a_model_on_its_way_in_is_forgotten(tmp_path: Path) -> None:
    with several(tmp_path, unload_after_s=1) as node:
        passes(node, 2_000_000)
        answer = Answer()
        wanted = Generation(prompt=(1, 2, 3), max_new_tokens=2, sampling=GREEDY, model="two")
        request = node.loop.submit(wanted, answer.outputs.append)
        node.loop.cancel(request)
        node.loop.run_until_idle()
        assert isinstance(answer.end, Finished) and answer.end.reason == "cancelled"
        assert states(node)[1] == "unloaded" and node.models[1].engine.loads == 1, "for nobody"


def test_nobody_makes_room_for_a_model_that_could_not_be_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> None:
        raise EngineError("the file is gone")

    with several(tmp_path, memory=16 * BLOCK_BYTES) as node:
        monkeypatch.setattr(node.models[1].engine, "bring_back", fails)
        for _ in range(2):
            lost = ask(node, "two", "x" * 10)
            node.loop.run_until_idle()
            assert isinstance(lost.end, Rejected) and "the file is gone" in lost.end.message
            other = ask(node, "one", "x" * 10)
            node.loop.run_until_idle()
            assert isinstance(other.end, Finished)
        assert node.models[0].engine.loads == 2, "it left once, when nobody knew"


def test_a_model_that_has_broken_keeps_neither_the_loop_busy_nor_the_others_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with several(tmp_path) as node:
        node.loop.run_until_idle()
        broken, other = node.loop.models
        broken.driver.give_up()
        broken.driver.inbox.ring()
        waits: list[float | None] = []
        monkeypatch.setattr(node.loop._bell, "wait", waits.append)
        node.loop._wait()
        assert waits, "what it was rung for it will never look at"
        answer = ask(node, "two", "x" * 10)
        while node.loop.turn():
            pass
        assert isinstance(answer.end, Finished)
        refused = ask(node, "one", "x" * 10)
        assert isinstance(refused.end, Rejected)
        assert other.driver.serves and not node.loop.serves


@pytest.mark.parametrize("state", ["loaded", "leaving", "unloaded"])
def test_a_model_that_breaks_gives_its_memory_to_the_others_whatever_it_was_about(
    tmp_path: Path, state: str
) -> None:
    with several(tmp_path, memory=16 * BLOCK_BYTES) as node:
        first, second = node.loop.models
        ask(node, "one", "x" * 300)
        node.loop.run_until_idle()
        if state == "leaving":
            first.leave()
        elif state == "unloaded":
            ask(node, "two", "x" * 10)
            node.loop.run_until_idle()
            ask(node, "one", "x" * 10)  # is held, and wants it back
        assert first.state == state
        first.driver.give_up()
        answers = [ask(node, "two", "x" * 200), ask(node, "one", "x" * 200)]
        node.loop.run_until_idle()
        assert first.state == "broken" and not first.engine.loaded
        assert isinstance(answers[0].end, Finished) and second.state == "loaded"
        assert isinstance(answers[1].end, Rejected)


def test_memory_is_never_exceeded_while_a_server_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, most = [], []
    make, close = NullEngine.__init__, NullEngine.close_engine

    def made(engine: NullEngine, *args: object) -> None:
        make(engine, *args)  # type: ignore[arg-type]
        there.append(engine)
        most.append(len(there))

    def closed(engine: NullEngine) -> None:
        close(engine)
        if engine in there:
            there.remove(engine)

    monkeypatch.setattr(NullEngine, "__init__", made)
    monkeypatch.setattr(NullEngine, "close_engine", closed)
    with several(tmp_path, names="one two three", memory=2 * 16 * BLOCK_BYTES) as node:
        assert max(most) == 2
        assert states(node) == ["loaded", "loaded", "unloaded"]
        assert [model.engine.loads for model in node.loop.models] == [1, 1, 1]


def test_room_of_the_host_goes_by_what_service_tiers_are_guaranteed(tmp_path: Path) -> None:
    """Of two models that both are full the one with the agents of the guaranteed tier has more."""
    host = 48 * BLOCK_BYTES
    tiers = {"priority": ServiceTierEntry(weight=16, guaranteed=SharesEntry(host=0.5))}
    settings = replace(settings_of(tmp_path, host_kv=host, disk_kv=0), service_tiers=tiers)
    node = build_several(settings, clock=ManualClock(), strict=True)
    try:
        for number in range(60):
            for model, tier in (("one", "priority"), ("two", "flex")):
                ask(node, model, bytes([32 + number]) * 250, 2, agent=f"{number}", service_tier=tier)
            node.loop.run_until_idle()
            passes(node, 1_100_000)
            node.loop.check()
        first, second = node.loop.models
        assert first.host_bytes > host * 7 // 10 and second.host_bytes > host // 5
        assert second.driver.scheduler.block_manager.host_used <= second.host_bytes
    finally:
        node.stop(0)


def test_what_fails_between_the_models_again_and_again_is_told_to_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(now_us: int) -> None:
        raise RuntimeError("can't start new thread")

    with several(tmp_path) as node:
        monkeypatch.setattr(node.loop, "_tend", fails)
        waiting = [ask(node, name, "x" * 10) for name in ("one", "two")]
        node.loop._run()
        assert all(isinstance(answer.end, Rejected) for answer in waiting)
        late = ask(node, "two", "x" * 10)
        assert isinstance(late.end, Rejected)


def test_a_model_that_cannot_be_loaded_again_is_refused_and_tried_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with several(tmp_path, unload_after_s=1) as node:
        passes(node, 2_000_000)
        engine, tries = node.models[1].engine, []

        def fails() -> None:
            tries.append(1)
            raise EngineError("the file is gone")

        monkeypatch.setattr(engine, "bring_back", fails)
        lost = [ask(node, "two", "x" * 10) for _ in range(2)]
        node.loop.run_until_idle()
        again = ask(node, "two", "x" * 10)
        node.loop.run_until_idle()
        for answer in (*lost, again):
            assert isinstance(answer.end, Rejected) and "the file is gone" in answer.end.message
        assert len(tries) == 1, "a load that failed is not tried again at once"
        other = ask(node, "one", "x" * 10)
        node.loop.run_until_idle()
        assert isinstance(other.end, Finished)
        monkeypatch.undo()
        passes(node, 6_000_000)
        works = ask(node, "two", "x" * 10)
        node.loop.run_until_idle()
        assert isinstance(works.end, Finished)


def test_room_is_lent_to_the_model_that_needs_it_and_both_stay_within_the_pool(tmp_path: Path) -> None:
    host = 32 * BLOCK_BYTES
    with several(tmp_path, host_kv=host, disk_kv=0, always_load=True) as node:
        for n in range(12):
            ask(node, "one", bytes([65 + n]) * 300)
            node.loop.run_until_idle()
            passes(node, 1_100_000)
            node.loop.check()
        first, second = (model.driver.scheduler.block_manager for model in node.loop.models)
        assert first.host_used > host // 2, "more than an even part, as the other has nothing"
        for n in range(12):
            ask(node, "two", bytes([65 + n]) * 300)
            node.loop.run_until_idle()
            passes(node, 1_100_000)
            node.loop.check()
        assert second.host_used > host // 3 and first.host_used > host // 3


@pytest.mark.parametrize("seed", range(3))
def test_any_life_of_two_models_keeps_the_bounds_and_the_books(tmp_path: Path, seed: int) -> None:
    """Turns of both at random, pauses in which models leave, all invariants at every step; then the books."""
    chance = random.Random(seed)
    given = {"host_kv": 24 * BLOCK_BYTES, "disk_kv": 1 << 20, "unload_after_s": 8, "books": True}
    answers: list[Answer] = []
    with several(tmp_path, memory=(None, 24 * BLOCK_BYTES)[seed % 2], **given) as node:
        for _ in range(12):
            for _ in range(chance.randrange(4)):
                agent, model = chance.randrange(6), chance.choice(("one", "two"))
                prompt = bytes([65 + agent]) * chance.randrange(20, 500)
                tier = chance.choice(("priority", "default", "flex"))
                answers.append(ask(node, model, prompt, 5, agent=str(agent), service_tier=tier))
            for _ in range(chance.randrange(30)):
                node.loop.turn()
            if chance.random() < 0.3:
                passes(node, chance.randrange(12_000_000))
            node.loop.check()
        node.loop.run_until_idle()
        node.loop.check()
        passed_us = node.loop.clock.now_us()
        totals = [ledger.keeper.meter.totals["compute_us"] for ledger in node.ledgers]
        ended = max(model.ended_us for model in node.loop.models)
        assert 0 <= ended - sum(totals) <= passed_us - ended + 1_000_000
        for ledger in node.ledgers:
            assert ledger.flush()
    assert all(isinstance(answer.end, Finished) for answer in answers)


def test_kv_of_both_models_is_there_after_a_restart(tmp_path: Path) -> None:
    with several(tmp_path, always_load=True) as node:
        before = [ask(node, name, "x" * 300) for name in ("one", "two")]
        node.loop.run_until_idle()
    with several(tmp_path, always_load=True) as node:
        after = [ask(node, name, "x" * 300) for name in ("one", "two")]
        node.loop.run_until_idle()
        assert [answer.text for answer in after] == [answer.text for answer in before]
        assert all(admitted(answer).cached.disk >= 256 for answer in after)
    with several(tmp_path, names="two", unload_after_s=99, always_load=True) as node:
        alone = ask(node, "two", "x" * 300)
        node.loop.run_until_idle()
        assert admitted(alone).cached.disk >= 256, "the store is the same for one model"

"""What the loop promises, one promise a test. The random lives cover the rest."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pytest

from stepwell.engines.base import BatchItem, EngineError, Sampled
from stepwell.loop.requests import Admitted, Delta, Finished, Generation, Preempted, Rejected
from stepwell.policy.types import KvTier
from tests.driver.harness import GREEDY, FlakyTiers, Rig, expected_tokens, make_rig
from tests.server.fakes import until

DOCUMENT = list(range(60, 60 + 48))  # three blocks of 16


def admitted(outputs: Sequence[object]) -> Admitted:
    return next(o for o in outputs if isinstance(o, Admitted))


def counters(rig: Rig) -> dict[str, int]:
    return rig.driver.snapshot().counters


def test_an_answer_is_what_the_engine_says_and_ends_once() -> None:
    rig = make_rig()
    answer = rig.ask(DOCUMENT, 12)
    rig.settle()
    assert answer.tokens == expected_tokens(DOCUMENT, 12)
    assert isinstance(answer.outputs[0], Admitted)
    end = answer.end
    assert isinstance(end, Finished)
    assert (end.reason, end.prompt_tokens, end.generated_tokens) == ("length", 48, 12)
    assert [type(o) for o in answer.outputs].count(Finished) == 1


def test_the_next_turn_finds_the_last_one_on_the_device() -> None:
    rig = make_rig()
    first = rig.ask(DOCUMENT, 6, agent="a")
    rig.settle()
    context = DOCUMENT + first.tokens
    second = rig.ask([*context, 97, 98], 4, agent="a")
    rig.settle()
    assert admitted(second.outputs).cached.device == (len(context) - 1) // 4 * 4


@pytest.mark.parametrize("tier", [KvTier.HOST, KvTier.DISK])
def test_a_demoted_agent_comes_back_with_nothing_recomputed(tier: KvTier) -> None:
    rig = make_rig()
    first = rig.ask(DOCUMENT, 6, agent="a")
    rig.settle()
    rig.driver.demote_idle(tier)
    (view,) = rig.driver.snapshot().agents
    assert view.kv_tokens[tier] == view.tokens - 1
    context = [*DOCUMENT, *first.tokens, 97]
    second = rig.ask(context, 4, agent="a")
    rig.settle()
    seen = admitted(second.outputs)
    assert (seen.cached.host if tier is KvTier.HOST else seen.cached.disk) == 52
    assert second.tokens == expected_tokens(context, 4)
    assert counters(rig)["recomputed_tokens"] == 0


def test_agents_that_arrive_together_compute_what_they_share_once() -> None:
    rig = make_rig(device=64)
    prompts = [[*DOCUMENT, 97 + i, 98, 99] for i in range(5)]
    answers = [rig.ask(prompt, 3, agent=f"a{i}") for i, prompt in enumerate(prompts)]
    rig.settle()
    assert counters(rig)["prompt_tokens_computed"] == 48 + 5 * 3
    for prompt, answer in zip(prompts, answers, strict=True):
        assert answer.tokens == expected_tokens(prompt, 3)


def test_a_tenant_never_finds_another_tenants_blocks() -> None:
    rig = make_rig(device=64)
    for tenant in ("red", "blue"):
        rig.ask(DOCUMENT, 2, tenant=tenant)
        rig.settle()
    assert counters(rig)["prompt_tokens_device"] == 0


def test_the_youngest_is_preempted_and_loses_nothing() -> None:
    rig = make_rig(device=8, reserve_tokens=1)
    prompts = [[100 + i, *DOCUMENT[:40]] for i in range(2)]
    answers = [rig.ask(prompt, 40) for prompt in prompts]
    rig.settle()
    assert counters(rig)["preemptions"] > 0
    assert not any(isinstance(o, Preempted) for o in answers[0].outputs)
    for prompt, answer in zip(prompts, answers, strict=True):
        assert answer.tokens == expected_tokens(prompt, 40)
    assert counters(rig)["recomputed_tokens"] == 0


def test_first_come_first_served() -> None:
    rig = make_rig(device=8, max_running=1)
    order: list[int] = []

    def note(name: int, output: object) -> None:
        if isinstance(output, Finished):
            order.append(name)

    for i in range(4):
        turn = Generation(prompt=(97 + i,) * 20, max_new_tokens=3, sampling=GREEDY)
        rig.driver.submit(turn, partial(note, i))
    rig.settle()
    assert order == [0, 1, 2, 3]


def test_a_stop_string_ends_the_answer_before_it() -> None:
    rig = make_rig(answer=b"one two three")
    answer = rig.ask(DOCUMENT, 50, stop=("thr", "o t"))
    rig.settle()
    end = answer.end
    assert isinstance(end, Finished)
    assert (answer.text, end.reason, end.stop_string) == ("one tw", "stop", "o t")


def test_the_end_token_ends_the_answer_and_is_not_part_of_it() -> None:
    rig = make_rig(answer=b"done.")
    answer = rig.ask(DOCUMENT, 50)
    rig.settle()
    assert (answer.text, getattr(answer.end, "reason", None)) == ("done.", "stop")
    assert len(answer.tokens) == 5


def test_cancel_stops_within_a_step_and_keeps_what_was_computed() -> None:
    rig = make_rig()
    answer = rig.ask(DOCUMENT, 200)
    for _ in range(4):
        rig.driver.step()
    rig.driver.cancel(1)
    done = len(answer.tokens)
    rig.driver.step()
    assert isinstance(answer.end, Finished)
    assert answer.end.reason == "cancelled"
    assert len(answer.tokens) <= done + 1
    rig.settle()
    again = rig.ask(DOCUMENT, 2)
    rig.settle()
    assert admitted(again.outputs).cached.device == 44


def test_a_full_queue_refuses_with_a_time_to_come_back() -> None:
    rig = make_rig(device=8, max_running=1, max_waiting=2)
    answers = [rig.ask([97 + i] * 20, 3) for i in range(4)]
    rig.settle()
    ends = [answer.end for answer in answers]
    refused = [end for end in ends if isinstance(end, Rejected)]
    assert [end.code for end in refused] == ["rate_limit_exceeded"] * 2
    assert all(end.retry_after_ms for end in refused)


def test_a_prompt_that_cannot_fit_is_refused_not_queued() -> None:
    rig = make_rig(device=4)
    answer = rig.ask([97] * 64, 1)
    rig.settle()
    assert isinstance(answer.end, Rejected)
    assert answer.end.code == "context_length_exceeded"


def test_an_answer_that_fills_the_context_ends_with_length() -> None:
    rig = make_rig(device=4)
    answer = rig.ask([97] * 60, 100)
    rig.settle()
    assert getattr(answer.end, "reason", None) == "length"
    assert len(answer.tokens) == 4


def test_a_failed_step_fails_one_request_and_the_others_go_on() -> None:
    rig = make_rig()
    run = rig.engine.run

    def breaks_on_request_2(batch: Sequence[BatchItem]) -> list[Sampled]:
        if any(item.request == 2 for item in batch):
            rig.engine.close(2)
            raise EngineError("made to fail", [2])
        return run(batch)

    rig.engine.run = breaks_on_request_2  # type: ignore[method-assign]
    answers = [rig.ask([97 + i] * 20, 5) for i in range(3)]
    rig.settle()
    assert [type(a.end) for a in answers] == [Finished, Rejected, Finished]
    assert answers[2].tokens == expected_tokens([99] * 20, 5)


def test_a_damaged_block_is_computed_again_and_never_used() -> None:
    rig = make_rig()
    rig.ask(DOCUMENT, 2)
    rig.settle()
    rig.driver.demote_idle(KvTier.HOST)
    kept = rig.tiers.kept[KvTier.HOST]
    for block, (meta, data) in list(kept.items()):
        kept[block] = (meta, data[:-8])  # a length the engine refuses
    answer = rig.ask([*DOCUMENT, 97], 4)
    rig.settle()
    assert answer.tokens == expected_tokens([*DOCUMENT, 97], 4)
    assert counters(rig)["failed_loads"] > 0


def test_a_disk_that_cannot_be_written_costs_time_but_nothing_else() -> None:
    rig = make_rig(device=8, host=4)
    rig.tiers.fail_writes = 1_000_000
    contexts = [[100 + i, *DOCUMENT[:30]] for i in range(5)]
    for _ in range(2):
        answers = [rig.ask(context, 4) for context in contexts]
        rig.settle()
        for context, answer in zip(contexts, answers, strict=True):
            assert answer.tokens == expected_tokens(context, 4)


def test_a_small_disk_is_not_written_over_and_over() -> None:
    """The cold half of the host, larger than the disk, once made the two copy for ever."""
    rig = make_rig(device=32, host=12, disk=3)
    for i in range(8):
        rig.ask([100 + i, *DOCUMENT[:30]], 2)
    rig.settle()
    written = counters(rig)["moved_bytes_host_disk"]
    for _ in range(50):
        rig.driver.step()
    assert counters(rig)["moved_bytes_host_disk"] == written


def test_draining_finishes_who_runs_tells_who_waits_and_keeps_blocks_on_disk() -> None:
    rig = make_rig(device=8, max_running=1)
    running = rig.ask([97] * 40, 5, agent="a")
    rig.driver.step()
    waiting = rig.ask([98] * 40, 5, agent="b")
    rig.driver.stop()
    late = rig.ask([99] * 10, 5)
    assert isinstance(running.end, Finished)
    assert isinstance(waiting.end, Rejected)
    assert waiting.end.code == "server_overloaded"
    assert isinstance(late.end, Rejected)
    assert rig.tiers.usage(KvTier.DISK).blocks == 3
    rig.engine.check()


def test_a_new_server_on_the_same_disk_starts_warm() -> None:
    tiers = FlakyTiers(64 * 128, 256 * 128)
    first = make_rig(tiers=tiers)
    answer = first.ask(DOCUMENT, 6, agent="a")
    first.settle()
    first.driver.stop()
    tiers.kept[KvTier.HOST].clear()
    second = make_rig(tiers=tiers)
    context = [*DOCUMENT, *answer.tokens, 97]
    again = second.ask(context, 4, agent="a")
    second.settle()
    assert admitted(again.outputs).cached.disk == 52
    assert again.tokens == expected_tokens(context, 4)


def test_a_stream_is_whole_characters() -> None:
    rig = make_rig(answer="naïve 😀 end".encode())
    answer = rig.ask(DOCUMENT, 100)
    rig.settle()
    pieces = [o.text for o in answer.outputs if isinstance(o, Delta)]
    assert "".join(pieces) == "naïve 😀 end"
    assert "�" not in "".join(pieces)


def test_the_snapshot_counts_each_token_once() -> None:
    rig = make_rig(device=8)
    for i in range(4):
        rig.ask([100 + i, *DOCUMENT[:40]], 4, agent=f"a{i}", session="s", service_tier="flex")
    rig.settle()
    snapshot = rig.driver.snapshot()
    assert [view.agent for view in snapshot.agents] == ["a0", "a1", "a2", "a3"]
    for view in snapshot.agents:
        assert (view.state, view.service_tier, view.turns) == ("idle", "flex", 1)
        assert sum(view.kv_tokens.values()) == view.tokens - 1
    assert snapshot.usage[KvTier.DEVICE].used_bytes <= snapshot.usage[KvTier.DEVICE].limit_bytes


def test_a_loop_that_fails_step_after_step_tells_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = make_rig()
    rig.driver._strict = False

    def lost(*_: object) -> None:
        raise RuntimeError("the book is wrong")

    monkeypatch.setattr(rig.driver.scheduler, "step", lost)
    waiting = rig.ask(range(65, 95))
    rig.driver.start()
    until(lambda: not rig.driver.serves)
    later = rig.ask(range(65, 95))
    for answer in (waiting, later):
        assert isinstance(answer.end, Rejected)
        assert answer.end.code == "server_error"
    assert not rig.driver.serves
    rig.driver.stop(0)

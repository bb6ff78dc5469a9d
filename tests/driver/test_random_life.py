"""Random lives of a server: whatever moves, fails or is cancelled, every answer is the right one."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from stepwell.engines.base import SamplingParams
from stepwell.loop.requests import Finished
from stepwell.policy.eviction import EVICTION_POLICIES
from stepwell.policy.types import Hint, KvTier, Wait
from tests.driver.harness import GREEDY, Answer, Rig, expected_tokens, make_rig
from tests.ledger.books import check_books

LIVE = sorted(EVICTION_POLICIES.keys() - {"oracle"})
HINTS = st.builds(
    Hint,
    wait=st.sampled_from(Wait),
    expected_us=st.none() | st.integers(-5, 10**12),
    after_agent=st.sampled_from([None, "a0", "a3", "nobody"]),
    retain_us=st.none() | st.integers(-5, 10**14),
)


def sampling_of(prompt: tuple[int, ...]) -> SamplingParams:
    """Some prompts are computed under an adapter: contexts go on under it and without it, and share no KV."""
    return replace(GREEDY, adapter="red" if sum(prompt) % 3 == 0 else "")


@cache
def _expected(prompt: tuple[int, ...], new_tokens: int) -> tuple[int, ...]:
    return tuple(expected_tokens(prompt, new_tokens, sampling_of(prompt)))


class Life(RuleBasedStateMachine):
    """Agents with shared beginnings take turns on a server that is too small for them."""

    rig: Rig

    def __init__(self) -> None:
        super().__init__()
        self.contexts: list[tuple[int, ...]] = [tuple(range(65, 85)), tuple(range(65, 105))]
        self.asked: list[tuple[tuple[int, ...], int, int, Answer]] = []
        self.cancelled: set[int] = set()

    @initialize(
        device=st.integers(6, 24),
        host=st.sampled_from([0, 3, 10, 40]),
        disk=st.sampled_from([0, 4, 30, 400]),
        always_load=st.booleans(),
        max_running=st.integers(1, 6),
        eviction=st.sampled_from(LIVE),
    )
    def build(
        self, device: int, host: int, disk: int, always_load: bool, max_running: int, eviction: str
    ) -> None:
        self.rig = make_rig(
            device, host, disk, always_load=always_load, max_running=max_running, eviction=eviction
        )
        self.is_built()

    def is_built(self) -> None:
        """For lives that are looked at in another way as well."""

    @rule(
        which=st.integers(0, 50),
        cut=st.integers(0, 30),
        more=st.lists(st.integers(97, 99), min_size=1, max_size=30),
        new_tokens=st.integers(1, 20),
        service_tier=st.sampled_from(["priority", "default", "flex", "unheard-of"]),
        hint=HINTS,
    )
    def ask(
        self, which: int, cut: int, more: list[int], new_tokens: int, service_tier: str, hint: Hint
    ) -> None:
        base = self.contexts[which % len(self.contexts)]
        prompt = (base[: len(base) - cut] if cut < len(base) else base) + tuple(more)
        prompt = prompt[-(6 * 16 - 24) :] if len(prompt) > 6 * 16 - 24 else prompt
        agent = f"a{which % 7}" if which % 5 else ""  # one in five does not say who it is
        who: dict[str, Any] = {"agent": agent, "service_tier": service_tier, "hint": hint}
        answer = self.rig.ask(prompt, new_tokens, sampling=sampling_of(prompt), **who)
        self.asked.append((prompt, new_tokens, self.rig.driver._next_request, answer))

    @rule(steps=st.integers(1, 8))
    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.rig.driver.step()

    @rule(
        which=st.integers(0, 30),
        wait=st.sampled_from([Wait.TOOL, Wait.PERSON, Wait.CHILD, Wait.DONE]),
    )
    def say_what_an_answer_was_for(self, which: int, wait: Wait) -> None:
        if self.asked:
            request = self.asked[which % len(self.asked)][2]
            self.rig.driver.hint(request, "local", "", Hint(wait))

    @rule(us=st.sampled_from([1_000, 10**6, 10**8, 10**10]))
    def time_passes(self, us: int) -> None:
        self.rig.clock.sleep_us(us)

    @rule()
    def come_to_rest(self) -> None:
        self.rig.settle()
        self._keep_contexts()

    @rule(which=st.integers(0, 30))
    def cancel(self, which: int) -> None:
        open_requests = [request for _, _, request, answer in self.asked if not answer.ended]
        if open_requests:
            request = open_requests[which % len(open_requests)]
            self.cancelled.add(request)
            self.rig.driver.cancel(request)

    @rule(
        what=st.sampled_from(["fail_puts", "fail_writes", "fail_reads", "lose_reads"]),
        times=st.integers(1, 3),
    )
    def break_something(self, what: str, times: int) -> None:
        setattr(self.rig.tiers, what, times)

    @rule(stalled=st.booleans())
    def stall_transfers(self, stalled: bool) -> None:
        self.rig.tiers.stalled = stalled

    @rule(which=st.integers(0, 30))
    def lose_host_bytes(self, which: int) -> None:
        """Bytes vanish behind everybody's back: the load fails and the tokens are computed again."""
        kept = self.rig.tiers.kept[KvTier.HOST]
        moving = [block.id for block, *_ in self.rig.tiers.queue]
        victims = sorted(block for block in kept if block not in moving)
        if victims:
            del kept[victims[which % len(victims)]]

    @rule(tier=st.sampled_from([KvTier.HOST, KvTier.DISK]))
    def demote(self, tier: KvTier) -> None:
        self.rig.tiers.stalled = False
        self.rig.driver.demote_idle(tier)

    def _keep_contexts(self) -> None:
        for prompt, _, _, answer in self.asked[-3:]:
            if answer.ended:
                self.contexts.append(prompt + tuple(answer.tokens))

    @invariant()
    def every_finished_answer_is_right(self) -> None:
        for prompt, new_tokens, request, answer in self.asked:
            if not answer.ended:
                continue
            assert isinstance(answer.end, Finished), answer.end
            wanted = _expected(prompt, new_tokens)
            if request in self.cancelled and answer.end.reason == "cancelled":
                assert tuple(answer.tokens) == wanted[: len(answer.tokens)]
            else:
                assert tuple(answer.tokens) == wanted

    @invariant()
    def losses_are_counted(self) -> None:
        """Those that could have been spared are among all. Zero is the aim and not yet held."""
        if hasattr(self, "rig"):
            descent = self.rig.driver.scheduler.block_manager.descent
            assert descent.needless_losses <= descent.wanted_losses

    def teardown(self) -> None:
        if hasattr(self, "rig"):
            self.rig.settle()
            assert all(answer.ended for *_, answer in self.asked)
            self.every_finished_answer_is_right()
            self.rig.driver.stop()
            check_books(self.rig.books, self.rig.keeper)


TestLife = Life.TestCase
TestLife.settings = settings(
    max_examples=120, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)

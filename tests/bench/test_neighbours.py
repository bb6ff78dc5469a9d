"""Neighbours: the flood is what it says and ends by itself; figures and verdicts follow from the samples."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stepwell import cli
from stepwell.bench.client import TurnSample
from stepwell.bench.server import flood
from stepwell.bench.server.flood import Flood, FloodTarget, Neighbours, Paying
from stepwell.bench.server.neighbours import (
    FLOOD_KEY,
    PAID_KEY,
    NeighboursPlan,
    measure,
    settings_file,
)
from stepwell.bench.server.neighbours_report import NeighboursOutcome, cut_short, tables, verdicts
from stepwell.bench.server.neighbours_sessions import Siblings
from stepwell.console.progress import ticker
from stepwell.policy.contracts import DEFAULT_CONTRACTS
from stepwell.settings.file import load
from tests.server.fakes import until

TINY = Neighbours(
    agents=2, turns=2, opening_words=5, turn_words=3, output_tokens=2, think_s=(0.0, 0.01), flood_agents=2,
    flood_outstanding=4, flood_words=4, flood_turn_words=2, flood_turns=3, flood_output_tokens=2,
    settle_s=0.05, flood_s=5.0, drain_s=20.0, long_words=40,
)  # fmt: skip
TARGET = FloodTarget("http://127.0.0.1:1", "model")


def sample(
    ttft_s: float, e2e_s: float = 0.0, *, start_s: float = 10.0, computed: int = 10, error: str | None = None
) -> TurnSample:
    """A turn of ten output tokens."""
    return TurnSample(0, 1, start_s, ttft_s, e2e_s or ttft_s + 0.9, computed + 50, 60, 10, "", error)


def outcome(**changes: Any) -> NeighboursOutcome:
    given: dict[str, Any] = {
        "alone": [sample(1.0)] * 4,
        "flooded": [sample(1.1, 2.36)] * 4,
        "flood": [sample(1.0), sample(30.0, start_s=0.0)],
        "siblings": Siblings([sample(0.1)], [sample(0.4)], [sample(8.0)], [sample(9.0)]),
    }
    return NeighboursOutcome("stepwell", **(given | changes))


# --- figures ----------------------------------------------------------------------------------


def test_ratios_compare_the_flood_with_alone() -> None:
    found = outcome()
    assert found.ratio("ttft", 99) == pytest.approx(1.1)
    assert found.ratio("tpot", 99) == pytest.approx(1.4)
    assert found.as_json()["tpot_p50_under_flood_s"] == pytest.approx(0.14)


def test_a_short_turn_that_waits_for_a_long_prompt_is_a_miss() -> None:
    head_of_line = Siblings([sample(0.1)], [sample(7.9)], [sample(8.0)], [sample(8.1)])
    assert head_of_line.ratio == pytest.approx(79.0)
    assert not verdicts([outcome(siblings=head_of_line)], DEFAULT_CONTRACTS)[-1].reached
    failed = replace(head_of_line, long_beside=[sample(1.0, error="HTTP 429")])
    assert list(cut_short([outcome(siblings=failed)], replace(TINY, agents=2, turns=2))) == [
        "stepwell: 1 turns of one tenant's sessions failed, first: HTTP 429"
    ]
    assert failed.ratio == math.inf
    assert failed.as_json() == {"ttft_ratio": None}


def test_a_part_that_is_left_out_is_neither_reached_nor_missed() -> None:
    siblings = Siblings([sample(0.1)], [sample(0.3)], [sample(8.0)], [sample(8.1)])
    only = verdicts([outcome(part="sessions", siblings=siblings)], DEFAULT_CONTRACTS)
    assert [verdict.reached for verdict in only] == [None] * 5 + [True]
    assert list(cut_short([outcome(part="sessions", flooded=[])], TINY)) == []
    titles = [str(made.title) for made in tables([outcome(part="sessions")], DEFAULT_CONTRACTS)]
    assert len(titles) == 2 and "two sessions" in titles[1]
    flood_only = verdicts([outcome(part="flood")], DEFAULT_CONTRACTS)
    assert [verdict.measured is None for verdict in flood_only] == [False] * 5 + [True]


def test_the_flood_gets_credit_for_what_was_computed_while_paid_turns_ran() -> None:
    inside, later = sample(1.0, start_s=10.5, computed=20), sample(1.0, start_s=99.0, computed=20)
    found = outcome(flooded=[sample(1.0, start_s=10.0, computed=40)], flood=[inside, later])
    assert found.flood_share == pytest.approx(20 / 60)


def test_a_wait_is_held_against_what_the_contract_promises_it_and_no_more() -> None:
    """Of three that came together each may wait a turn longer than the one before it, at a sixth of the pace
    alone; one that came to its bound before it and was answered by then gives it nothing."""
    together = [sample(69.0 + 6 * n, start_s=10.0 + n / 10) for n in range(3)]
    kept = outcome(alone=[sample(1.0, 3.0)], flood=[sample(5.0, start_s=9.0), *together], flood_turn_s=1.0)
    assert kept.wait_of_bound(60.0) == 1.0, "60, 3 for what ran, and 6 for itself"
    passed_over = replace(kept, flood=[*kept.flood, sample(88.0, start_s=10.3)])
    assert passed_over.wait_of_bound(60.0) == pytest.approx(88 / 87)
    assert replace(kept, flood=[]).wait_of_bound(60.0) == math.inf


def test_a_refusal_is_neither_a_failure_nor_a_wait() -> None:
    refused = sample(0.1, error="HTTP 429: full")
    found = outcome(flood=[sample(3.0), refused, sample(50.0, error="the stream ended without [DONE]")])
    assert (found.refused, found.failed, found.longest_wait_s) == (1, 1, 3.0)


def test_every_target_is_judged_for_our_own_policy_and_no_other() -> None:
    judged = verdicts([outcome(), replace(outcome(), name="lru")], DEFAULT_CONTRACTS)
    assert [verdict.reached for verdict in judged] == [True] * 6
    bad = {"flooded": [sample(1.3, 3.0)], "lost": 1, "flood": [sample(124.0)], "siblings": Siblings()}
    worse = verdicts([outcome(**bad)], DEFAULT_CONTRACTS)
    assert [verdict.reached for verdict in worse] == [False] * 6


@pytest.mark.parametrize(
    "broken",
    [
        outcome(error="it ended before it was ready"),
        outcome(flooded=[sample(1.0), sample(1.0, error="broken")]),
        outcome(alone=[]),
    ],
)
def test_a_server_that_failed_reaches_nothing_about_the_paying_tenant(broken: NeighboursOutcome) -> None:
    assert [verdict.measured for verdict in verdicts([broken], DEFAULT_CONTRACTS)[:2]] == [math.inf, math.inf]
    assert tables([broken], DEFAULT_CONTRACTS)


def test_turns_that_could_not_be_begun_in_time_are_said() -> None:
    notes = list(cut_short([outcome(flooded=[sample(1.0)])], replace(TINY, agents=3, turns=2)))
    assert notes == ["stepwell: 1 of 6 turns could be begun within 5 s of flood"]


def test_the_settings_file_says_the_contracts_and_one_key_for_each_side(tmp_path: Path) -> None:
    file = tmp_path / "neighbours.toml"
    file.write_text(settings_file(DEFAULT_CONTRACTS))
    settings = load(file, env={})
    assert settings.contracts() == DEFAULT_CONTRACTS
    assert [(entry.tenant, entry.service_tiers) for entry in settings.keys] == [
        ("bench-priority", ("priority",)),
        ("bench-flex", ("flex",)),
    ]


@pytest.mark.parametrize("wrong", ["oracle", ""])
def test_the_oracle_is_not_among_the_policies(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["bench", "neighbours", f"--policies={wrong}"]) == 2
    assert f"--policies {wrong!r}: there is" in capsys.readouterr().err


# --- clients ----------------------------------------------------------------------------------


class Calls:
    """Stands for ``complete``: counts who is outstanding."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        """Until it is set no call is answered."""
        self.let_go.set()
        self.prompts: dict[str, list[str]] = {}
        self.most = 0
        self.outstanding = 0
        self._lock = threading.Lock()

    def __call__(
        self, http: Any, model: str, prompt: str, tokens: int, agent: str, *, turn: int, began_s: float
    ) -> TurnSample:
        with self._lock:
            self.outstanding += 1
            self.most = max(self.most, self.outstanding)
            self.prompts.setdefault(agent, []).append(prompt)
        assert self.let_go.wait(60.0)
        with self._lock:
            self.outstanding -= 1
        return replace(sample(0.01), turn=turn, text=" answer")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    counted = Calls()
    monkeypatch.setattr(flood, "complete", counted)
    return counted


def test_a_flood_is_bounded_holds_strangers_back_and_loses_nobody(calls: Calls) -> None:
    rising = Flood(TARGET, TINY, arrivals_per_s=50.0, began_s=0.0)
    calls.let_go.clear()
    rising.start()
    until(lambda: calls.outstanding == TINY.flood_outstanding and rising.kept.held_back > 2)
    calls.let_go.set()
    assert rising.stop() == 0
    assert calls.most == TINY.flood_outstanding
    assert rising.kept.sent == len(rising.kept.samples)
    strangers = [agent for agent in calls.prompts if agent.startswith("stranger")]
    assert strangers
    assert all(len(calls.prompts[agent]) == 1 for agent in strangers)


def test_what_does_not_end_in_time_counts_as_lost(calls: Calls) -> None:
    calls.let_go.clear()
    rising = Flood(TARGET, replace(TINY, drain_s=0.05), arrivals_per_s=50.0, began_s=0.0)
    rising.start()
    until(lambda: calls.outstanding >= TINY.flood_agents)
    lost = rising.stop()
    calls.let_go.set()
    assert lost >= TINY.flood_agents


def test_an_agent_of_the_flood_goes_on_from_its_answers_and_begins_anew_after_a_while(calls: Calls) -> None:
    rising = Flood(TARGET, TINY, arrivals_per_s=1.0, began_s=0.0)
    rising.start()
    until(lambda: len(calls.prompts.get("flood-0", ())) >= 4)
    rising.stop()
    first, second, _, fourth = calls.prompts["flood-0"][:4]
    assert second.startswith(first + " answer")
    assert len(fourth) < len(second)


def test_paid_agents_are_measured_after_their_openings_and_ask_the_same_sizes_in_both_phases(
    calls: Calls,
) -> None:
    lengths = []
    for phase in ("alone", "flooded"):
        paying = Paying(TARGET, TINY, phase)
        paying.open(time.perf_counter())
        assert (len(paying.openings.samples), len(paying.kept.samples)) == (2, 0)
        paying.run(60.0)
        assert sorted(s.turn for s in paying.kept.samples) == [1, 1, 2, 2]
        lengths.append(len(calls.prompts[f"{phase}-0"][-1].split()))
    assert lengths[0] == lengths[1]
    assert calls.prompts["alone-0"][0] != calls.prompts["flooded-0"][0], "the cache must not know it already"


def test_after_the_limit_no_further_turn_is_begun(calls: Calls) -> None:
    paying = Paying(TARGET, replace(TINY, turns=1_000, think_s=(0.001, 0.001)), "alone")
    paying.open(time.perf_counter())
    begun: list[int] = []

    def late() -> None:
        begun.append(1)
        if len(begun) == 3:
            paying._late.set()

    paying.run(60.0, late)
    assert 3 <= len(paying.kept.samples) <= 3 + TINY.agents


def test_the_limit_comes_by_itself(calls: Calls) -> None:
    paying = Paying(TARGET, replace(TINY, turns=1_000, think_s=(60.0, 60.0)), "alone")
    paying.open(time.perf_counter())
    paying.run(0.0)
    assert not paying.kept.samples


# --- live -------------------------------------------------------------------------------------


def test_both_phases_run_against_our_server_with_its_contracts() -> None:
    plan = NeighboursPlan("null", ("stepwell",), False, 4_096, "64MiB", 1)
    with ticker() as progress:
        (found,) = measure(plan, TINY, DEFAULT_CONTRACTS, progress)
    assert found.error is None
    assert found.usable
    assert len(found.alone) == len(found.flooded) == 4
    assert found.flood
    assert (found.failed, found.lost) == (0, 0)


def test_the_flood_may_not_ask_for_what_it_has_not_paid_for() -> None:
    assert PAID_KEY != FLOOD_KEY
    assert cli.run(["bench", "neighbours", "--policies", "oracle"]) == 2

"""The contract of every rule, and what the KV-affine one owes beyond it."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.basics.per_tier import NOTHING
from stepwell.fleet.rendezvous import first
from stepwell.fleet.routers import ROUTERS, KvAffine, Router
from stepwell.fleet.state import Fleet
from stepwell.fleet.types import NodeState, RoutedTurn

NODES = ("a", "b", "c", "d")
every_router = pytest.mark.parametrize("router", ROUTERS.values(), ids=ROUTERS)


def turn(agent: str = "s/1", session: str = "s", tenant: str = "acme", **more: object) -> RoutedTurn:
    return RoutedTurn(tenant, session=session, agent=agent, prompt_tokens=1_000, **more)  # type: ignore[arg-type]


def serve(fleet: Fleet, router: Router, one: RoutedTurn, now_us: int, took_us: int = 100_000) -> str:
    """A turn from its choice to its end."""
    choice = router.choose(fleet, one, now_us)
    assert choice is not None
    ticket = fleet.sent(one, choice, now_us)
    fleet.ended(ticket, now_us + took_us, context_tokens=1_050, generated_tokens=50, cached_tokens=0)
    return choice.node


states = st.lists(st.sampled_from(NodeState), min_size=4, max_size=4)
places = st.lists(
    st.tuples(st.sampled_from(["s/1", "s/2", "t/1"]), st.sampled_from(NODES), st.integers(0, 2_000)),
    max_size=8,
)


@every_router
@settings(max_examples=40, deadline=None)
@given(states, places, st.sets(st.sampled_from(NODES)), st.sampled_from([None, *NODES, "gone"]))
def test_a_choice_takes_turns_was_not_tried_and_changes_nothing(
    router: Router,
    states: list[NodeState],
    places: list[tuple[str, str, int]],
    avoid: set[str],
    pinned: str | None,
) -> None:
    fleet = Fleet(NODES)
    for name, state in zip(NODES, states, strict=True):
        fleet.state(name, state)
    for agent, node, tokens in places:
        fleet.places.put(("acme", agent), agent[0], tokens, node, NOTHING._replace(host=tokens))
    asked = turn(pinned=pinned)
    choice = router.choose(fleet, asked, 5, avoid)
    may = {n for n, s in zip(NODES, states, strict=True) if s is NodeState.READY} - avoid
    may &= {pinned} if pinned is not None else may
    assert (choice is None) == (not may)
    if choice is not None:
        assert choice.node in may
        assert 0 <= choice.held_tokens <= choice.best_held_tokens <= asked.prompt_tokens
    assert router.choose(fleet, asked, 5, avoid) == choice


@every_router
def test_all_nodes_are_used_and_a_closed_one_is_not(router: Router) -> None:
    fleet = Fleet(NODES)
    choice = router.choose(fleet, turn(), 0)
    assert choice is not None
    for _ in range(8):
        fleet.failed(fleet.sent(turn(), choice, 0), 0)
    used = Counter(serve(fleet, router, turn(f"{n}/1", f"{n}"), n * 100_000) for n in range(100))
    assert set(used) == {*NODES} - {choice.node}
    assert min(used.values()) >= 10


def test_an_agent_goes_where_its_kv_lies_and_another_tenant_of_its_name_does_not() -> None:
    fleet, router = Fleet(NODES), KvAffine()
    for node in NODES:
        fleet.places.put(
            ("acme", "s/1"), "s", 1_000, node, NOTHING._replace(device=900 if node == "c" else 10)
        )
    choice = router.choose(fleet, turn(), 0)
    assert choice is not None and (choice.node, choice.reason, choice.held_tokens) == ("c", "kv", 900)
    other = router.choose(fleet, turn(tenant="else"), 0)
    assert other is not None and (other.held_tokens, other.best_held_tokens) == (0, 0)


def test_disk_counts_for_less_than_memory_and_for_more_than_nothing() -> None:
    fleet, router = Fleet(("a", "b")), KvAffine(slack=0.0)
    fleet.places.put(("acme", "s/1"), "s", 1_000, "a", NOTHING._replace(disk=1_000))
    fleet.places.put(("acme", "s/1"), "s", 1_000, "b", NOTHING._replace(device=1_000))
    first_choice = router.choose(fleet, turn(), 0)
    second = router.choose(fleet, turn(), 0, ["b"])
    assert first_choice is not None and first_choice.node == "b"
    assert second is not None and second.held_tokens == 1_000


def test_a_queue_that_costs_more_than_the_kv_is_left() -> None:
    fleet, router = Fleet(("a", "b")), KvAffine()
    fleet.places.put(("acme", "s/1"), "s", 1_000, "a", NOTHING._replace(device=1_000))
    chosen = []
    for _ in range(12):
        choice = router.choose(fleet, turn(), 0)
        assert choice is not None
        fleet.sent(turn(), choice, 0)
        chosen.append(choice.node)
    assert chosen[0] == "a" and "b" in chosen


def test_heavier_service_tiers_do_not_wait_for_lighter_ones() -> None:
    fleet, router = Fleet(("a", "b")), KvAffine()
    fleet.places.put(("acme", "s/1"), "s", 1_000, "a", NOTHING._replace(device=1_000))
    for n in range(6):
        flood = turn(f"f/{n}", "f", service_tier="flex", pinned="a")
        choice = router.choose(fleet, flood, 0)
        assert choice is not None
        fleet.sent(flood, choice, 0)
    paid = router.choose(fleet, turn(service_tier="priority"), 0)
    unpaid = router.choose(fleet, turn(service_tier="flex"), 0)
    assert paid is not None and paid.node == "a"
    assert unpaid is not None and unpaid.node == "b"


def test_a_slow_node_gets_few_turns_and_a_new_chance_later() -> None:
    fleet, router = Fleet(NODES), KvAffine()
    now_us, used = 0, Counter[str]()
    for n in range(200):
        one = turn(f"{n}/1", f"{n}")
        choice = router.choose(fleet, one, now_us)
        assert choice is not None
        used[choice.node] += 1
        ticket = fleet.sent(one, choice, now_us)
        now_us += 3_000_000 if choice.node == "b" else 300_000
        fleet.ended(ticket, now_us, context_tokens=1_050, generated_tokens=50, cached_tokens=0)
    assert used["b"] <= 10 < used["a"]
    later_us = now_us + 600_000_000
    again = {router.choose(fleet, turn(f"{n}/1", f"{n}"), later_us) for n in range(100)}
    assert any(choice is not None and choice.node == "b" for choice in again)


def test_front_ends_that_know_nothing_agree_and_keep_a_session_together() -> None:
    one, other = Fleet(NODES), Fleet(reversed(NODES))
    for n in range(50):
        choices = {
            choice.node
            for fleet in (one, other)
            for agent in range(3)
            if (choice := KvAffine().choose(fleet, turn(f"{n}/{agent}", f"{n}"), 0)) is not None
        }
        assert len(choices) == 1


@settings(max_examples=30, deadline=None)
@given(st.sets(st.text(max_size=8), min_size=2, max_size=9), st.data())
def test_a_node_that_leaves_moves_only_its_own(nodes: set[str], data: st.DataObject) -> None:
    leaves = data.draw(st.sampled_from(sorted(nodes)))
    for n in range(40):
        before, after = first(f"s{n}", nodes), first(f"s{n}", nodes - {leaves})
        assert after == before or before == leaves


def test_rendezvous_shares_evenly() -> None:
    shares = Counter(first(f"session-{n}", NODES) for n in range(4_000))
    assert all(800 <= shares[node] <= 1_200 for node in NODES)

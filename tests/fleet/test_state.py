"""What the fleet knows is what was told, in whatever order."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.basics.per_tier import NOTHING
from stepwell.fleet.nodes import LONGEST_PAUSE_US, FleetNode
from stepwell.fleet.places import Places
from stepwell.fleet.routers import KvAffine
from stepwell.fleet.state import Fleet
from stepwell.fleet.types import HeldTokens, NodeState, RoutedTurn

agents = st.sampled_from([("x", "s/1"), ("x", "s/2"), ("x", "t/1"), ("y", "s/1")])
nodes = st.sampled_from(["a", "b", "c"])
tokens = st.integers(0, 3)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), agents, nodes, tokens),
        st.tuples(st.just("gone"), agents, nodes),
        st.tuples(st.just("lost"), nodes, st.booleans()),
        st.tuples(st.just("replace"), nodes, st.dictionaries(agents, tokens, max_size=3)),
    ),
    max_size=30,
)


@settings(max_examples=80, deadline=None)
@given(steps, st.integers(1, 5))
def test_sessions_are_counted_as_the_agents_lie(steps: list[tuple[object, ...]], most: int) -> None:
    places = Places(most)
    for step in steps:
        match step:
            case "put", (str(tenant), str(agent)), str(node), int(n):
                places.put((tenant, agent), agent[0], n, node, NOTHING._replace(disk=n))
            case "gone", (str(tenant), str(agent)), str(node):
                places.gone((tenant, agent), node)
            case "lost", str(node), bool(keep):
                places.lost(node, keep_disk=keep)
            case "replace", str(node), dict(rows):
                told = [((t, a), a[0], n, NOTHING._replace(host=n)) for (t, a), n in rows.items()]
                places.replace(node, told)
        assert len(places) <= most
        counted: dict[tuple[str, str], Counter[str]] = {}
        for name in [("x", "s/1"), ("x", "s/2"), ("x", "t/1"), ("y", "s/1")]:
            place = places.find(name)
            for node in place.held if place else ():
                counted.setdefault((name[0], name[1][0]), Counter())[node] += 1
        for tenant in "xy":
            for session in "st":
                assert places.of_session(tenant, session) == counted.get((tenant, session), {})


def test_what_a_lost_node_was_doing_is_forgotten_and_late_answers_change_nothing() -> None:
    fleet, turn = Fleet(("a",)), RoutedTurn("acme", agent="s/1", session="s", prompt_tokens=100)
    choice = KvAffine().choose(fleet, turn, 0)
    assert choice is not None
    ticket = fleet.sent(turn, choice, 0)
    fleet.lost("a")
    fleet.state("a", NodeState.READY)
    fleet.ended(ticket, 5, context_tokens=110, generated_tokens=10, cached_tokens=0)
    fleet.failed(ticket, 6)
    node = fleet.nodes["a"]
    assert (node.in_flight, node.outstanding, node.failures) == (0, {}, 0)
    assert fleet.places.find(("acme", "s/1")) is None


def test_only_the_disk_of_a_node_outlives_its_process() -> None:
    fleet = Fleet(("a", "b"))
    fleet.places.put(("x", "1"), "", 9, "a", HeldTokens(1, 2, 6))
    fleet.lost("a", keep_disk=True)
    place = fleet.places.find(("x", "1"))
    assert place is not None and place.held == {"a": NOTHING._replace(disk=6)}


@given(st.lists(st.booleans(), max_size=80))
def test_pauses_after_failures_are_bounded_and_end_with_an_answer(failed: list[bool]) -> None:
    node = FleetNode("a")
    for now_us, bad in enumerate(failed):
        if bad:
            node.failed(now_us)
            assert now_us < node.closed_until_us <= now_us + LONGEST_PAUSE_US
        else:
            node.answered()
            assert node.takes(now_us)


def test_turns_of_other_front_ends_count_as_load() -> None:
    fleet = Fleet(("a", "b"))
    fleet.nodes["a"].reported(5, 3)
    choice = KvAffine().choose(fleet, RoutedTurn("x", session="s", prompt_tokens=100), 0)
    assert choice is not None and choice.node == "b"

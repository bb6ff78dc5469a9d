"""Where prompts go that begin alike, of callers who name nobody."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.basics.per_tier import NOTHING
from stepwell.fleet.prefixes import CUTS, MAX_PREFIXES, WAITING_TOO, PromptPrefix, SentPrefixes
from stepwell.fleet.routers import KvAffine
from stepwell.fleet.state import Fleet
from stepwell.fleet.types import NodeState, RoutedTurn

NODES = ("a", "b", "c", "d")
prompts = st.text("xy", min_size=1, max_size=6)
sends = st.lists(st.tuples(st.sampled_from(["acme", "else"]), prompts), max_size=30)


def chain(prompt: str, step: int = 100) -> tuple[PromptPrefix, ...]:
    """A prefix after each letter."""
    return tuple(PromptPrefix(prompt[:n], n * step) for n in range(1, len(prompt) + 1))


def turn(prompt: str, tenant: str = "acme", **more: object) -> RoutedTurn:
    return RoutedTurn(tenant, prefixes=chain(prompt), prompt_tokens=100 * len(prompt), **more)  # type: ignore[arg-type]


def send(fleet: Fleet, one: RoutedTurn, now_us: int = 0) -> str:
    choice = KvAffine().choose(fleet, one, now_us)
    assert choice is not None
    fleet.sent(one, choice, now_us)
    return choice.node


@settings(max_examples=80, deadline=None)
@given(sends, prompts, st.integers(1, 12), st.none() | st.integers(1, 10))
def test_it_is_bounded_and_knows_the_first_part_of_what_it_was_sent(
    sends: list[tuple[str, str]], asked: str, most: int, kv_tokens: int | None
) -> None:
    index = SentPrefixes(most)
    for tenant, prompt in sends:
        index.sent(tenant, chain(prompt, 1), kv_tokens)
        assert len(index) <= most and (kv_tokens is None or index.tokens <= WAITING_TOO * kv_tokens)
        room = min(most, len(prompt) if kv_tokens is None else WAITING_TOO * kv_tokens)
        assert index.matched(tenant, chain(prompt, 1)) == min(len(prompt), room)
    own = [p for tenant, p in sends if tenant == "acme"]
    begun = max((n for p in own for n in range(7) if p[:n] == asked[:n] and n <= len(asked)), default=0)
    assert index.matched("acme", chain(asked, 1)) <= begun
    if most == 12 and kv_tokens is None and len({(t, p[:n]) for t, p in sends for n in range(1, 7)}) <= 12:
        assert index.matched("acme", chain(asked, 1)) == begun
    index.clear()
    assert (len(index), index.tokens, index.matched("acme", chain(asked, 1))) == (0, 0, 0)


def test_prompts_are_cut_at_growing_distances_and_not_too_often() -> None:
    assert len(CUTS) < MAX_PREFIXES
    assert all(before < after <= before * 4 / 3 for before, after in pairwise(CUTS))


def test_what_goes_on_from_a_prompt_goes_to_its_node_and_another_tenants_does_not_know() -> None:
    fleet = Fleet(NODES)
    for n, first in enumerate("stuvw"):
        node = send(fleet, turn(first * 4), n)
        choice = KvAffine().choose(fleet, turn(first * 4 + "x"), n)
        assert choice is not None and (choice.node, choice.reason, choice.held_tokens) == (
            node,
            "prefix",
            400,
        )
        other = KvAffine().choose(fleet, turn(first * 4 + "x", "else"), n)
        assert other is not None and other.best_held_tokens == 0


def test_load_wins_over_a_small_match_sooner_than_over_a_large_one() -> None:
    def stays(shared: int) -> int:
        """How many turns go where the beginning lies, of which nothing ends."""
        fleet = Fleet(("a", "b"))
        fleet.nodes["a"].prefixes.sent("acme", chain("s" * shared))
        nodes = [send(fleet, turn("s" * shared + chr(0x100 + n) * (9 - shared))) for n in range(40)]
        assert set(nodes) == {"a", "b"}
        return nodes.index("b")

    assert stays(1) < stays(8)


def test_a_lost_node_and_one_that_left_are_known_for_nothing() -> None:
    fleet = Fleet(NODES)
    node = send(fleet, turn("stuv"))
    assert fleet.holders(turn("stuv"))[node][0] == (400, 0, 0)
    fleet.lost(node, keep_disk=True)
    fleet.state(node, NodeState.READY)
    assert not fleet.holders(turn("stuv"))
    node = send(fleet, turn("stuv"))
    fleet.remove(node)
    fleet.add(node)
    assert not fleet.holders(turn("stuv"))


def test_an_agents_known_place_goes_before_prefixes_and_they_are_not_added_up() -> None:
    fleet = Fleet(("a", "b"))
    named = turn("stuv", agent="s/1", session="s")
    for node in fleet.nodes.values():
        node.prefixes.sent("acme", named.prefixes)
    fleet.places.put(("acme", "s/1"), "s", 400, "a", NOTHING._replace(host=50))
    assert fleet.holders(named) == {
        "a": (NOTHING._replace(host=50), "kv"),
        "b": (NOTHING._replace(device=400), "prefix"),
    }
    sibling = turn("stuv", agent="s/2", session="s")
    assert fleet.holders(sibling)["a"] == (NOTHING._replace(device=400), "prefix")
    short = turn("s" + "z" * 3, agent="s/2", session="s")
    assert fleet.holders(short)["a"] == (NOTHING._replace(device=200), "session")

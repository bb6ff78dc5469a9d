"""Where KV lies by events: against a plain model, with messages that are lost, and in bounded memory."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.policy.types import Caller, KvTier
from stepwell.vllm.kv_events import (
    BlockHash,
    Cleared,
    InOrder,
    KvEvent,
    Numbered,
    Removed,
    Stored,
    agent_of,
    session_of,
)
from stepwell.vllm.kv_places import KvPlaces

BLOCK = 32
MEDIA = ("GPU", "CPU", "STORAGE")
A = ("acme", "a")


def named(agent: tuple[str, str]) -> str:
    return session_of(Caller(tenant=agent[0], agent=agent[1]))


def came(
    hashes: Iterable[BlockHash],
    medium: str = "GPU",
    parent: BlockHash | None = None,
    agent: tuple[str, str] | None = A,
    group: int = 0,
) -> Stored:
    size = BLOCK if medium == "GPU" else 0
    return Stored(list(hashes), parent, size, medium, group, None if agent is None else named(agent))


def gone(hashes: Iterable[BlockHash], medium: str = "GPU", group: int = 0) -> Removed:
    return Removed(list(hashes), medium, group)


def tokens(places: KvPlaces, agent: tuple[str, str] = A) -> tuple[int, ...]:
    return tuple(places.held(agent).get(tier, 0) for tier in (KvTier.DEVICE, KvTier.HOST, KvTier.DISK))


def test_a_token_is_counted_in_the_fastest_tier_and_only_up_to_the_first_hole() -> None:
    places = KvPlaces()
    places.apply([came([1, 2, 3]), came([4], parent=3)])
    assert tokens(places) == (4 * BLOCK, 0, 0)
    places.apply([came([1, 2, 3, 4], "CPU", agent=None), gone([3, 4])])
    assert tokens(places) == (2 * BLOCK, 2 * BLOCK, 0)
    places.apply([came([4], "STORAGE", agent=None), gone([3], "CPU")])
    assert tokens(places) == (2 * BLOCK, 0, 0)
    places.apply([came([3], "STORAGE", agent=None), gone([4], "CPU"), Cleared()])
    assert tokens(places) == (0, 2 * BLOCK, 2 * BLOCK)
    assert places.blocks() == {KvTier.DEVICE: 0, KvTier.HOST: 2, KvTier.DISK: 2}


def test_a_shared_prefix_is_everybodys_and_a_new_context_replaces_the_old_one() -> None:
    places = KvPlaces()
    places.apply(
        [came([1, 2, 3]), came([1, 2], agent=("acme", "b")), came([9], parent=2, agent=("acme", "b"))]
    )
    places.apply([gone([2])])
    assert tokens(places) == (BLOCK, 0, 0)
    assert tokens(places, ("acme", "b")) == (BLOCK, 0, 0)
    places.apply([came([7, 8])])
    assert tokens(places) == (2 * BLOCK, 0, 0)
    assert places.held(("other", "a")) == {}, "a tenant's agent is not another tenant's of the same name"


def test_a_block_whose_beginning_nobody_told_says_nothing_of_the_agent() -> None:
    places = KvPlaces()
    places.apply([came([5], parent=4)])
    assert tokens(places) == (0, 0, 0)


def test_of_groups_with_sliding_windows_the_one_with_most_counts() -> None:
    places = KvPlaces()
    places.apply([came([1, 2, 3]), came([1, 2, 3], group=1), gone([1], group=1)])
    assert tokens(places) == (3 * BLOCK, 0, 0)


HASHES = st.sets(st.integers(0, 40), max_size=8)
EVENT = st.one_of(
    st.builds(
        lambda a, n, keep, more: ("turn", a, n, keep, more), *(st.integers(0, 2) for _ in range(2)),
        st.integers(0, 4), st.integers(1, 3)
    ),
    st.builds(lambda m, hs: ("come", m, hs), st.sampled_from(MEDIA[1:]), HASHES),
    st.builds(lambda m, hs: ("go", m, hs), st.sampled_from(MEDIA), HASHES),
    st.just(("clear",)),
)  # fmt: skip


@given(st.lists(EVENT, max_size=30))
def test_counts_are_those_of_a_plain_model(story: list[tuple[Any, ...]]) -> None:
    places, where = KvPlaces(), {medium: set[int]() for medium in MEDIA}
    contexts: dict[tuple[str, str], list[int]] = {}
    fresh = 0
    for what in story:
        events: list[KvEvent] = []
        if what[0] == "turn":
            agent = ("acme", str(what[1]))
            kept = contexts.get(agent, [])[: what[3]]
            kept = kept if all(one in where["GPU"] for one in kept) else []
            new = [fresh + n for n in range(what[4])]
            fresh = (fresh + what[4]) % 40
            contexts[agent] = kept + new
            where["GPU"] |= set(new)
            events = [came(kept, agent=agent)] if kept else []
            events.append(came(new, parent=kept[-1] if kept else None, agent=agent))
        elif what[0] == "come":
            where[what[1]] |= what[2]
            events = [came(sorted(what[2]), what[1], agent=None)]
        elif what[0] == "go":
            where[what[1]] -= what[2]
            events = [gone(sorted(what[2]), what[1])]
        else:
            where["GPU"].clear()
            events = [Cleared()]
        places.apply(events)
        for agent, context in contexts.items():
            wanted = [0, 0, 0]
            for one in context:
                tier = next((n for n, medium in enumerate(MEDIA) if one in where[medium]), None)
                if tier is None:
                    break
                wanted[tier] += BLOCK
            assert tokens(places, agent) == tuple(wanted)
    assert tuple(places.blocks().values()) == tuple(len(where[medium]) for medium in MEDIA)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 6)), max_size=60))
def test_memory_is_bounded_and_what_was_heard_of_last_is_kept(turns: list[tuple[int, int]]) -> None:
    places = KvPlaces(most_hashes=12)
    for number, (agent, length) in enumerate(turns):
        hashes = range(100 * number, 100 * number + length)
        places.apply([came(hashes, agent=("acme", str(agent)))])
        assert tokens(places, ("acme", str(agent))) == (length * BLOCK, 0, 0)
        assert sum(places.blocks().values()) <= 12
        assert places._in_chains <= 12
        assert len(places._users) <= 12


# --- the order of messages -----------------------------------------------------------------------


def message(number: int, events: list[KvEvent] | None = None, life: float = 0.0) -> bytes:
    found = [came([number], parent=number - 1 if number else None)] if events is None else events
    return msgspec.msgpack.encode([life + number, found, 0])


def order(places: KvPlaces, kept: list[Numbered]) -> InOrder:
    return InOrder(places, lambda first: [one for one in kept if one[0] >= first])


@given(st.sets(st.integers(0, 29)), st.integers(0, 30))
def test_what_was_lost_is_asked_for_again(lost: set[int], kept_from: int) -> None:
    """The engine keeps its last messages: a gap that can be closed is closed, and else all is forgotten."""
    places = KvPlaces()
    sent: list[Numbered] = [(n, message(n)) for n in range(30)]
    known: list[Numbered] = []
    follower = InOrder(places, lambda first: [m for m in known if m[0] >= max(first, kept_from)])
    for number, data in sent:
        known.append((number, data))
        if number not in lost or number == 29:
            follower.take(number, data)
    whole = all(n >= kept_from for n in lost - {29})
    if whole:
        assert tokens(places) == (30 * BLOCK, 0, 0)
        assert follower.forgotten == 0
    else:
        assert follower.forgotten
        assert tokens(places)[0] <= 30 * BLOCK


def test_an_engine_that_does_not_answer_is_asked_once_for_a_gap_and_everything_is_forgotten() -> None:
    places, asked = KvPlaces(), list[int]()

    def silent(first: int) -> list[Numbered]:
        asked.append(first)
        return []

    follower = InOrder(places, silent)
    follower.take(0, message(0))
    follower.take(2, message(2))
    follower.take(3, message(3, [came([1, 2])]))
    assert asked == [1]
    assert tokens(places) == (2 * BLOCK, 0, 0)


def test_a_message_that_is_none_is_passed_over_once() -> None:
    places, kept = KvPlaces(), [(1, b"\xc1"), (2, message(2, [came([7])]))]
    follower = order(places, kept)
    follower.take(0, message(0))
    with pytest.raises(msgspec.DecodeError):
        follower.take(1, b"\xc1")
    assert tokens(places) == (0, 0, 0), "what it said may have been that all is gone"
    follower.take(2, message(2, [came([7])]))
    assert tokens(places) == (BLOCK, 0, 0)
    assert follower.gaps == 0
    again = order(KvPlaces(), kept)
    again.take(3, message(3, []))
    again.take(4, message(4, []))
    assert again.gaps == 1


def test_an_engine_that_starts_again_counts_from_the_beginning() -> None:
    places = KvPlaces()
    follower = order(places, [])
    for number in range(3):
        follower.take(number, message(number))
    follower.take(1, message(1))  # comes once more, after a replay
    assert tokens(places) == (3 * BLOCK, 0, 0)
    follower.take(0, message(0, life=1_000.0))
    assert tokens(places) == (BLOCK, 0, 0)


@pytest.mark.parametrize("said", [None, "", "x", "[1,2]", '["a"]', '{"a":1}', "[" * 50])
def test_a_session_that_is_not_ours_names_nobody(said: str | None) -> None:
    assert agent_of(said) is None


@given(st.text(), st.text())
def test_a_name_comes_back(tenant: str, agent: str) -> None:
    assert agent_of(session_of(Caller(tenant=tenant, agent=agent))) == (tenant, agent)


def test_vllms_own_form_is_read() -> None:
    """As msgspec writes the classes of vLLM 0.32: more fields than we need, defaults left out."""
    stored = {
        "type": "BlockStored", "block_hashes": [1, b"h"], "parent_block_hash": None, "token_ids": [5] * 64,
        "block_size": 32, "lora_id": None, "medium": "GPU", "lora_name": None, "extra_keys": [["salt"], None],
        "group_idx": 0, "session_id": named(A),
    }  # fmt: skip
    events = [stored, {"type": "BlockRemoved", "block_hashes": [b"h"], "medium": "GPU"}]
    places = KvPlaces()
    order(places, []).take(0, msgspec.msgpack.encode([1.5, events, 0]))
    assert tokens(places) == (BLOCK, 0, 0)
    order(places, []).take(0, msgspec.msgpack.encode([1.5, [{"type": "AllBlocksCleared"}]]))
    assert tokens(places) == (0, 0, 0)


RECORDED = Path(__file__).parent / "kv-events-0.32.0.jsonl"
"""Of a vLLM with 19 free blocks: an agent's turn, eight others', and the first one's again. Tokens are left
out and hashes renumbered."""
FIRST = ("acme", "crew/first")


def recorded() -> list[Numbered]:
    rows = [json.loads(line) for line in RECORDED.read_text().splitlines()]
    return [(number, msgspec.msgpack.encode(batch)) for number, *batch in rows]


def test_a_recorded_stream_shows_an_agent_go_down_and_come_back() -> None:
    places, told = KvPlaces(), list[tuple[int, ...]]()
    follower = order(places, [])
    for number, data in recorded():
        follower.take(number, data)
        if not told or told[-1] != tokens(places, FIRST):
            told.append(tokens(places, FIRST))
    assert told[0] == (320, 0, 0)
    assert (0, 320, 0) in told
    assert told[-1] == (320, 0, 0)
    assert all(sum(now) == 320 for now in told), "there was always room for it below"
    assert places.blocks()[KvTier.DEVICE] <= 19


@given(st.sets(st.integers(0, 28)))
def test_a_recorded_stream_comes_to_the_same_whatever_is_lost_on_the_way(lost: set[int]) -> None:
    whole, partly, messages = KvPlaces(), KvPlaces(), recorded()
    follower, other = order(whole, []), order(partly, messages)
    for number, data in messages:
        follower.take(number, data)
        if number not in lost:
            other.take(number, data)
    assert partly.blocks() == whole.blocks()
    assert partly.held(FIRST) == whole.held(FIRST)

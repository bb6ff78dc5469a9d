"""The store of conversations: its size is that of its items, and its bounds hold whatever is done."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.server.errors import ApiError
from stepwell.server.responses.items import input_items
from stepwell.server.settings import ServerSettings
from stepwell.server.stores.conversations import ConversationStore, StoredConversation
from stepwell.server.stores.items import size_bytes

MAX_BYTES, MAX_COUNT, MAX_ITEMS = 4_000, 3, 6


def small() -> ConversationStore:
    return ConversationStore(
        ServerSettings(
            max_conversations=MAX_COUNT,
            max_conversations_bytes=MAX_BYTES,
            max_conversation_items=MAX_ITEMS,
        )
    )


def items(size: int) -> list[dict[str, Any]]:
    return input_items("x" * size)


ACTS = st.lists(
    st.tuples(
        st.sampled_from(("create", "add", "remove", "turn", "lost turn", "delete")),
        st.sampled_from("ab"),
        st.integers(0, 3),
        st.integers(0, 900),
    ),
    max_size=40,
)


def act(store: ConversationStore, made: list[StoredConversation], what: str, tenant: str, size: int) -> None:
    """One act on the newest conversation of ``made``. Raises ``ApiError``."""
    if what == "create" or not made:
        made.append(store.create(tenant, items(size), {}, 0))
        return
    one = store.get(tenant, made[-1].id)
    match what:
        case "add":
            store.add(one, items(size))
        case "remove":
            store.remove(one, next(iter(one.items), "none"))
        case "delete":
            store.delete(one)
        case _:
            with store.turn(one, items(size)) as turn:
                if what == "turn":
                    turn.completed([])


@settings(max_examples=60, deadline=None)
@given(ACTS)
def test_its_bounds_hold_whatever_is_done(acts: list[tuple[str, str, int, int]]) -> None:
    store = small()
    made: dict[tuple[str, int], list[StoredConversation]] = {}
    for what, tenant, number, size in acts:
        with suppress(ApiError):
            act(store, made.setdefault((tenant, number), []), what, tenant, size)
        there = [one for kept in store._tenants.values() for one in kept.values()]
        assert all(one.size_bytes == sum(map(size_bytes, one.items.values())) for one in there)
        assert all(len(one.items) <= MAX_ITEMS and not one.running for one in there)
        assert store.used_bytes <= MAX_BYTES
        for kept in store._tenants.values():
            assert 0 < len(kept) <= MAX_COUNT
            assert sum(one.size_bytes for one in kept.values()) <= MAX_BYTES // 2


def test_one_with_a_turn_on_it_is_not_forgotten_and_a_second_end_adds_nothing() -> None:
    store = small()
    busy = store.create("a", items(1), {}, 0)
    with ExitStack() as stack:
        turn = stack.enter_context(store.turn(busy, items(1)))
        for _ in range(MAX_COUNT * 2):
            store.create("a", items(1), {}, 0)
        assert store.get("a", busy.id) is busy
        with pytest.raises(ApiError) as locked, store.turn(busy, items(1)):
            pass
        assert locked.value.status == 409 and busy.turn is turn
        turn.completed(items(2))
        turn.completed(items(2))
    assert [len(item["content"][0]["text"]) for item in busy.items.values()] == [1, 1, 2]
    assert not busy.running

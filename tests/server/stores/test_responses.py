"""Stored responses: bounds that hold whatever happens, and tenants that do not see each other."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from stepwell.server.callers.identity import Identity
from stepwell.server.errors import ApiError
from stepwell.server.settings import ServerSettings
from stepwell.server.stores.responses import ResponseStore, StoredResponse

MAX_BYTES, MAX_COUNT = 4_000, 5


def record(name: str, tenant: str = "a", size: int = 10, previous: str | None = None) -> StoredResponse:
    response: dict[str, Any] = {
        "id": name,
        "status": "completed",
        "previous_response_id": previous,
        "output": ["x" * size],
    }
    return StoredResponse(Identity(tenant), response, [])


def small(**limits: int) -> ResponseStore:
    return ResponseStore(
        ServerSettings(**{"max_stored_bytes": MAX_BYTES, "max_stored_responses": MAX_COUNT, **limits})
    )


def found(store: ResponseStore, tenant: str, response_id: str) -> bool:
    try:
        return store.get(tenant, response_id).id == response_id
    except ApiError as error:
        return error.status != 404


class Running:
    """A background run that has not ended."""

    over = False
    events = ()


class Bounds(RuleBasedStateMachine):
    names = Bundle("names")

    def __init__(self) -> None:
        super().__init__()
        self.store = small()
        self.count = 0
        self.running: dict[tuple[str, str], StoredResponse] = {}

    @rule(target=names, tenant=st.sampled_from("abc"), size=st.integers(0, 1500), running=st.booleans())
    def put(self, tenant: str, size: int, running: bool) -> Any:
        self.count += 1
        kept = record(f"r{self.count}", tenant, size)
        if running and len(self.running) < 3:
            kept.run = Running()  # type: ignore[assignment]
            self.running[tenant, kept.id] = kept
        self.store.put(kept)
        return tenant, kept.id

    @rule(name=names)
    def get(self, name: tuple[str, str]) -> None:
        tenant, response_id = name
        seen = {other for other in "abc" if found(self.store, other, response_id)}
        assert seen <= {tenant}
        assert seen or name not in self.running

    @rule(name=consumes(names))
    def delete(self, name: tuple[str, str]) -> None:
        if found(self.store, *name):
            assert self.store.delete(*name).id == name[1]
        assert not found(self.store, *name)
        self.running.pop(name, None)

    @invariant()
    def stays_within_its_bounds(self) -> None:
        running_bytes = sum(kept.size_bytes for kept in self.running.values())
        assert self.store.used_bytes <= MAX_BYTES + running_bytes
        for kept in self.store._tenants.values():
            assert 0 < len(kept) <= MAX_COUNT + len(self.running)
            assert sum(one.size_bytes for one in kept.values()) <= MAX_BYTES // 2 + running_bytes


TestBounds = Bounds.TestCase


def test_the_longest_unused_goes_first() -> None:
    store = small()
    for number in range(MAX_COUNT):
        store.put(record(f"r{number}"))
    store.get("a", "r0")
    store.put(record("new"))
    assert store.get("a", "r0").id == "r0"
    with pytest.raises(ApiError):
        store.get("a", "r1")


def test_a_conversation_is_used_as_a_whole() -> None:
    store = small()
    for number in range(3):
        store.put(record(f"turn{number}", previous=f"turn{number - 1}" if number else None))
    store.put(record("other1"))
    store.put(record("other2"))
    assert [one.id for one in store.conversation("a", "turn2")] == ["turn0", "turn1", "turn2"]
    store.put(record("other3"))
    assert store.get("a", "turn0").id == "turn0"


def test_a_conversation_has_an_end() -> None:
    store = small(max_response_chain=2, max_stored_responses=9)
    for number in range(3):
        store.put(record(f"turn{number}", previous=f"turn{number - 1}" if number else None))
    with pytest.raises(ApiError, match="more than 2 turns"):
        store.conversation("a", "turn2")


@pytest.mark.parametrize("status", ["queued", "in_progress", "failed", "cancelled"])
def test_only_a_finished_response_can_be_followed(status: str) -> None:
    store = small()
    kept = record("r")
    kept.response["status"] = status
    store.put(kept)
    with pytest.raises(ApiError, match=status):
        store.conversation("a", "r")


def test_one_tenant_cannot_push_another_out() -> None:
    store = small()
    store.put(record("mine", "b", size=100))
    for number in range(50):
        store.put(record(f"r{number}", "a", size=900))
    assert store.get("b", "mine").id == "mine"

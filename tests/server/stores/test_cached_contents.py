"""Contents cached by name: bounded per tenant, so that none takes the room of another."""

from __future__ import annotations

import pytest

from stepwell.server.errors import ApiError
from stepwell.server.stores.cached_contents import MOST_CHARS, MOST_OF_A_TENANT, Cached, CachedContents

HALF = MOST_CHARS // 2


def cached(tenant: str, number: int, chars: int = 1, expires_s: float = 100.0) -> Cached:
    messages = [{"role": "user", "content": "x" * chars}]
    return Cached(tenant, f"{tenant}-{number}", "m", messages, "", 0.0, 0.0, expires_s)


def refusal(store: CachedContents, tenant: str, chars: int, now_s: float = 0.0) -> str:
    with pytest.raises(ApiError) as caught:
        store.require_room(tenant, chars, now_s)
    assert caught.value.status == 429
    return str(caught.value)


def test_a_tenant_fills_its_own_half_and_leaves_the_other_to_others() -> None:
    store = CachedContents()
    store.require_room("acme", HALF, 0.0)
    store.put(cached("acme", 1, HALF))
    assert "delete one" in refusal(store, "acme", 1)
    store.require_room("blue", HALF, 0.0)
    store.put(cached("blue", 1, HALF))
    assert "delete one" not in refusal(store, "third", 1), "a tenant that holds nothing has nothing to delete"
    store.require_room("third", HALF, 200.0)  # what has expired is gone


def test_a_tenant_has_so_many_and_no_more() -> None:
    store = CachedContents()
    for number in range(MOST_OF_A_TENANT):
        store.require_room("acme", 1, 0.0)
        store.put(cached("acme", number))
    assert f"At most {MOST_OF_A_TENANT}" in refusal(store, "acme", 1)
    store.require_room("blue", 1, 0.0)


def test_nobody_gets_anothers() -> None:
    store = CachedContents()
    store.put(cached("acme", 1))
    assert store.get("acme", "cachedContents/acme-1", 0.0).tenant == "acme"
    for tenant, now_s in (("blue", 0.0), ("acme", 100.0)):
        with pytest.raises(ApiError) as caught:
            store.get(tenant, "acme-1", now_s)
        assert caught.value.status == 404

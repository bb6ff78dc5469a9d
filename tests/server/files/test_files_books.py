"""A document that is kept is paid for by its tenant: for the time asked for, and room while nobody asks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stepwell.engines.null import NullConfig
from stepwell.ledger.settings import LedgerSettings
from stepwell.library.store import Library
from stepwell.server.backends.library import ServedLibrary
from tests.server.fakes import MODEL, until
from tests.server.ledgers import Kept, bearer, keeping
from tests.server.wire import TEXT, http, post

DOCUMENT = "The well has many steps and cold water. " * 6
HOST_BYTES = 32 * 16 * NullConfig(model=MODEL).token_bytes
PRICE_PER_HOUR_MICROUSD = 4.5


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    """A device of 1,024 tokens, host memory for 512, and nothing below it."""
    config = NullConfig(model=MODEL, block_tokens=16, device_blocks=64)
    served = ServedLibrary(Library(tmp_path / "library"))
    settings = LedgerSettings(storage_every_s=1)
    places = {"library": served, "settings": settings, "host_bytes": HOST_BYTES, "always_load": True}
    with keeping(tmp_path, config=config, **places) as running:
        yield running


def uploaded(kept: Kept, **fields: str) -> dict[str, Any]:
    with http(kept.server, **bearer("acme")) as client:
        form = {"purpose": "user_data", **fields}
        answer = client.post("/v1/files", files={"file": ("well.txt", DOCUMENT.encode())}, data=form)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def room(kept: Kept, agent: str) -> int:
    """Bytes times microseconds that were posted to an agent without a request of its own."""
    return int(
        kept.rows(
            "SELECT coalesce(sum(p.amount), 0) FROM postings p JOIN accounts a ON a.id = p.credit "
            "WHERE p.request = 0 AND p.resource IN ('device_byte_us', 'host_byte_us', 'disk_byte_us') "
            f"AND a.tenant = 'acme' AND a.agent = '{agent}'"
        )[0][0]
    )


def position(kept: Kept, agent: str) -> int:
    """Bytes that lie there for an agent, as last entered."""
    return int(
        kept.rows(
            "SELECT coalesce(sum(device_bytes + host_bytes + disk_bytes), 0) FROM positions p "
            f"JOIN accounts a ON a.id = p.account WHERE a.tenant = 'acme' AND a.agent = '{agent}'"
        )[0][0]
    )


def crowd(kept: Kept, signs: str) -> None:
    """Another tenant's prompts, three of which fill the device."""
    for sign in signs:
        answer = post(kept.server, "/v1/completions", TEXT | {"prompt": sign * 330}, **bearer("rival"))
        assert answer.status_code == 200, answer.text


def test_the_time_it_is_kept_is_on_the_tenants_bill_and_nobody_elses(kept: Kept) -> None:
    file = uploaded(kept, prewarm="true", ttl="2h")
    usage = file["prewarm"]["usage"]
    storage_usd = usage["cost_details"]["storage"]
    tokens = usage["prompt_tokens"]
    assert storage_usd == pytest.approx(tokens * 2 * PRICE_PER_HOUR_MICROUSD / 1e6, rel=0.02)
    ((charged,),) = kept.rows(
        "SELECT sum(charge_microusd) FROM usage u JOIN accounts a ON a.id = u.account WHERE a.tenant = 'acme'"
    )
    assert charged / 1e6 == pytest.approx(usage["cost"])
    assert usage["cost"] > storage_usd > 0
    assert kept.rows("SELECT count(*) FROM usage") == [(1,)]
    short = uploaded(kept, prewarm="true", ttl="60")["prewarm"]["usage"]["cost_details"]
    assert short["storage"] < storage_usd / 100


def test_its_room_is_the_tenants_while_nobody_asks_and_ends_when_it_is_deleted(kept: Kept) -> None:
    file = uploaded(kept, prewarm="true", ttl="2h")
    agent = file["prewarm"]["agent_id"]
    first = room(kept, agent)
    until(lambda: room(kept, agent) > first)
    assert position(kept, agent) > 0
    crowd(kept, "0123456")
    assert position(kept, agent) > 0, "what is kept for its time stays when others need room"
    second = room(kept, agent)
    until(lambda: room(kept, agent) > second)
    with http(kept.server, **bearer("acme")) as client:
        assert client.delete(f"/v1/files/{file['id']}").json()["deleted"]
    crowd(kept, "789")
    until(lambda: position(kept, agent) == 0)
    ended = room(kept, agent)
    rival = "SELECT count(*) FROM postings p JOIN accounts a ON a.id = p.credit WHERE a.tenant = 'rival'"
    ((before,),) = kept.rows(rival)
    until(lambda: kept.rows(rival)[0][0] > before + 1)
    assert room(kept, agent) == ended, "others are posted for their room, and it no more"

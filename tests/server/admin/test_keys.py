"""API keys with names and last days, shown to operators and read again while the server runs."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from stepwell.errors import BadInput
from stepwell.ledger.types import Budget
from stepwell.server.callers.key_reload import KeyReload
from stepwell.server.callers.keys import KeyEntry, KeyRing
from stepwell.server.errors import ApiError
from stepwell.server.run import BackgroundServer
from stepwell.server.settings import ServerSettings
from tests.server.fakes import INFO, FakeDriver, FakeText, says
from tests.server.wire import CHAT, error_of, get, post

BOSS = KeyEntry("house", key="boss", operator=True)
ACME = KeyEntry("acme", key="sk-acme", name="website", expires="2027-01-31", requests_per_minute=60)


@pytest.mark.parametrize(
    ("expires", "last_s"),
    [
        ("2027-01-31", 1_801_440_000),
        ("2027-01-31T18:00:00+01:00", 1_801_414_800),
        ("2027-01-31 17:00:00", 1_801_414_800),
    ],
)
def test_a_key_expires(expires: str, last_s: int) -> None:
    now = [last_s - 1.0]
    ring = KeyRing([KeyEntry("acme", key="sk", expires=expires)], now_s=lambda: now[0])
    assert ring.find("Bearer sk").tenant == "acme"
    now[0] = float(last_s)
    with pytest.raises(ApiError, match="has expired") as refused:
        ring.find("Bearer sk")
    assert refused.value.status == 401


@pytest.mark.parametrize("expires", ["soon", "2027-13-01", "99999-01-01T00:00"])
def test_what_is_no_date_is_one_sentence(expires: str) -> None:
    with pytest.raises(BadInput, match="which is no date"):
        KeyRing([KeyEntry("acme", key="sk", expires=expires)])


def test_a_file_may_have_toml_dates(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    file.write_text('[[keys]]\nkey = "sk"\ntenant = "acme"\nname = "web"\nexpires = 2999-01-31\n')
    (key,) = KeyRing.load(file).all()
    assert key.name == "web" and key.expires_s is not None


def test_operators_see_them_and_have_them_read_again() -> None:
    entries = [BOSS, ACME]
    set_budgets: list[Budget] = []
    ring = KeyRing(entries)
    reload = KeyReload(ring, lambda: KeyRing(entries), set_budgets.append)
    boss = {"authorization": "Bearer boss"}
    settings = ServerSettings(port=0)
    driver = FakeDriver(says("a"))
    with BackgroundServer(driver, FakeText(INFO), settings, ring, reload_keys=reload) as server:
        assert get(server, "/admin/keys", authorization="Bearer sk-acme").status_code == 403
        assert post(server, "/admin/keys/reload", {}, authorization="Bearer sk-acme").status_code == 403
        shown = get(server, "/admin/keys", **boss)
        assert "sk-acme" not in shown.text
        acme = shown.json()["data"][1]
        assert (acme["name"], acme["tenant"], acme["requests_per_minute"]) == ("website", "acme", 60)
        assert (acme["expires"], acme["expired"]) == ("2027-02-01T00:00:00+00:00", False)
        assert acme["left_this_minute"] == {"requests": 60}
        entries[1:] = [KeyEntry("new", key="sk-new", hard_usd=Decimal(5))]
        answer = post(server, "/admin/keys/reload", {}, **boss).json()
        assert answer["message"] == "2 API keys: 1 new, 1 gone"
        assert [one.hard_microusd for one in set_budgets] == [5_000_000]
        for key, status in (("sk-acme", 401), ("sk-new", 200)):
            answer = post(server, "/v1/chat/completions", CHAT, authorization=f"Bearer {key}")
            assert answer.status_code == status
        entries.clear()
        refused = post(server, "/admin/keys/reload", {}, **boss)
        assert error_of(refused)["code"] == "bad_keys"
        assert get(server, "/admin/keys", **boss).status_code == 200


def test_without_settings_there_is_nothing_to_read_again() -> None:
    with BackgroundServer(FakeDriver(says("a")), FakeText(INFO), ServerSettings(port=0)) as server:
        assert error_of(post(server, "/admin/keys/reload", {}))["code"] == "no_keys"
        assert get(server, "/admin/keys").json()["data"] == []

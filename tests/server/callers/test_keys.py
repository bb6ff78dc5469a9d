"""API keys: who may do what, and who may not even connect."""

from __future__ import annotations

import hashlib
from decimal import Decimal
from pathlib import Path

import pytest

from stepwell.errors import BadInput
from stepwell.ledger.types import Budget, Scope
from stepwell.server.callers.keys import ApiKey, KeyEntry, KeyRing
from stepwell.server.errors import ApiError
from stepwell.server.run import require_keys_beyond_loopback
from stepwell.server.settings import ServerSettings
from tests.server.fakes import HOLD, FakeDriver, says, serving
from tests.server.wire import CHAT, RESPONSE, error_of, get, post

ACME = KeyEntry(tenant="acme", key="sk-acme", service_tiers=("default", "flex"), max_concurrent_requests=1)
RICH = KeyEntry(tenant="rich", key="sk-rich", service_tiers=("priority",), operator=True)
RING = KeyRing([ACME, RICH])


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.mark.parametrize(
    ("asked", "used"), [(None, "default"), ("auto", "default"), ("default", "default"), ("flex", "flex")]
)
def test_service_tiers_that_are_paid_for(asked: str | None, used: str) -> None:
    assert RING.find("Bearer sk-acme").service_tier(asked) == used


@pytest.mark.parametrize("asked", ["priority", "fast", "scale", "ultrafast"])
def test_service_tiers_that_are_not(asked: str) -> None:
    with pytest.raises(ApiError) as refused:
        RING.find("Bearer sk-acme").service_tier(asked)
    assert (refused.value.status, refused.value.code) == (403, "service_tier_not_allowed")


def test_fast_is_priority_and_auto_is_the_keys_own() -> None:
    key = RING.find("bearer sk-rich")
    assert key.service_tier("fast") == key.service_tier("auto") == "priority"


def test_a_deployment_may_name_its_own_service_tiers() -> None:
    ring = KeyRing([KeyEntry(tenant="t", key="k", service_tiers=("free",))])
    assert ring.find("Bearer k").service_tier("free") == "free"
    assert ring.service_tiers == ["free"]


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Basic sk-acme", "sk-acme", "Bearer sk-acmE"]
)
def test_wrong_keys(header: str | None) -> None:
    with pytest.raises(ApiError) as refused:
        RING.find(header)
    assert (refused.value.status, refused.value.code) == (401, "invalid_api_key")
    assert "acm" not in refused.value.message


def test_without_keys_there_is_one_tenant() -> None:
    assert KeyRing().find("Bearer whatever").tenant == KeyRing().find(None).tenant == "local"


FILE = """
[[keys]]
key = "sk-one"
tenant = "acme"
service_tiers = ["flex", "default"]
default_service_tier = "default"
operator = true
max_concurrent_requests = 3
projects = ["a"]

[[keys]]
key_sha256 = "{digest}"
tenant = "other"
"""


def test_a_keys_file(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(FILE.format(digest=hashlib.sha256(b"sk-two").hexdigest()))
    ring = KeyRing.load(path)
    one, two = (f"key_{hashlib.sha256(key).hexdigest()[:12]}" for key in (b"sk-one", b"sk-two"))
    assert ring.find("Bearer sk-one") == ApiKey("acme", ("flex", "default"), "default", True, 3, ("a",), one)
    assert ring.find("Bearer sk-two") == ApiKey("other", ("default",), "default", id=two)
    assert ring.budgets() == []


def test_a_key_with_a_budget() -> None:
    entry = KeyEntry(tenant="acme", key="sk-one", soft_usd=Decimal("0.5"), hard_usd=Decimal(1))
    (budget,) = KeyRing([entry, KeyEntry(tenant="acme", key="sk-two")]).budgets(at_us=7)
    name = "key_" + hashlib.sha256(b"sk-one").hexdigest()[:12]
    assert budget == Budget(Scope.KEY, "acme", name, 500_000, 1_000_000, 7, "settings")
    with pytest.raises(BadInput, match="soft limit is above"):
        KeyRing([KeyEntry(tenant="acme", key="sk-one", soft_usd=Decimal(2), hard_usd=Decimal(1))])
    with pytest.raises(BadInput, match="projects"):
        KeyRing([KeyEntry(tenant="acme", key="sk-one", hard_usd=Decimal(1), projects=("a",))])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "has no"),
        ("x = 1", "unknown key 'x'"),
        ("keys = 3", "keys"),
        ("[[keys]", "not valid TOML"),
        ('[[keys]]\ntenant = "t"', "either key or key_sha256"),
        ('[[keys]]\ntenant = "t"\nkey = "sk-secret"\nkey_sha256 = "' + "0" * 64 + '"', "either key"),
        ('[[keys]]\ntenant = "t"\nkey = "sk-secret"\ntennant = "u"', "tennant"),
        ('[[keys]]\ntenant = "t"\nkey = "sk-secret"\noperator = "yes"', "operator"),
        ('[[keys]]\ntenant = "t"\nkey_sha256 = "sk-secret"', "key_sha256"),
        ('[[keys]]\ntenant = "t"\nkey = "sk-secret"\nservice_tiers = []', "service_tiers"),
        ('[[keys]]\ntenant = "t"\nkey = "sk-secret"\ndefault_service_tier = "flex"', "default_service_tier"),
        ('[[keys]]\ntenant = "t"\nkey = "sk-secret"\n' * 2, "twice"),
    ],
)
def test_a_wrong_keys_file_is_one_sentence_without_secrets(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(text)
    with pytest.raises(BadInput, match=says) as wrong:
        KeyRing.load(path)
    assert "sk-secret" not in str(wrong.value)
    assert "\n" not in str(wrong.value)


def test_a_keys_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be read"):
        KeyRing.load(tmp_path / "no.toml")


# --- over HTTP ---------------------------------------------------------------------------------


def test_keys_over_http() -> None:
    with serving(FakeDriver(says("x")), keys=RING) as server:
        for path in ("/v1/chat/completions", "/v1/responses"):
            refused = post(server, path, CHAT, **bearer("sk-wrong"))
            assert (refused.status_code, error_of(refused)["code"]) == (401, "invalid_api_key")
        assert get(server, "/v1/models").status_code == 401
        assert get(server, "/health").status_code == 200
        paid = post(server, "/v1/chat/completions", CHAT | {"service_tier": "flex"}, **bearer("sk-acme"))
        unpaid = post(server, "/v1/chat/completions", CHAT | {"service_tier": "fast"}, **bearer("sk-acme"))
    driver = server.service.driver
    assert isinstance(driver, FakeDriver)
    assert paid.json()["service_tier"] == "flex"
    assert [(g.caller.tenant, g.caller.service_tier) for g in driver.submitted] == [("acme", "flex")]
    assert (unpaid.status_code, error_of(unpaid)["param"]) == (403, "service_tier")


def test_a_response_of_another_tenant_does_not_exist() -> None:
    with serving(FakeDriver(says("x")), keys=RING) as server:
        made = post(server, "/v1/responses", RESPONSE, **bearer("sk-acme")).json()["id"]
        path = f"/v1/responses/{made}"
        assert get(server, path, **bearer("sk-acme")).status_code == 200
        for attempt in (
            get(server, path, **bearer("sk-rich")),
            get(server, path + "/input_items", **bearer("sk-rich")),
            post(server, path + "/cancel", {}, **bearer("sk-rich")),
        ):
            assert attempt.status_code == 404
        stolen = post(server, "/v1/responses", RESPONSE | {"previous_response_id": made}, **bearer("sk-rich"))
    assert error_of(stolen)["code"] == "previous_response_not_found"


def test_a_key_has_as_many_requests_as_it_may() -> None:
    driver = FakeDriver(says(HOLD, "x"))
    with serving(driver, keys=RING) as server:
        first = post(server, "/v1/responses", RESPONSE | {"background": True}, **bearer("sk-acme"))
        refused = post(server, "/v1/chat/completions", CHAT, **bearer("sk-acme"))
        driver.release.set()
        driver.wait_until_idle()
        other = post(server, "/v1/chat/completions", CHAT, **bearer("sk-rich"))
    assert (first.status_code, other.status_code) == (200, 200)
    assert (refused.status_code, error_of(refused)["code"]) == (429, "rate_limit_exceeded")
    assert int(refused.headers["retry-after-ms"]) > 0


def test_the_server_has_as_many_requests_as_it_may() -> None:
    driver = FakeDriver(says(HOLD, "x"))
    settings = ServerSettings(port=0, max_concurrent_requests=1)
    with serving(driver, settings=settings) as server:
        post(server, "/v1/responses", RESPONSE | {"background": True})
        assert post(server, "/v1/completions", {"model": "tiny", "prompt": "x"}).status_code == 429
        driver.release.set()


STRANGERS = [
    {"host": "evil.example"},
    {"host": "evil.example:8000"},
    {"origin": "https://evil.example"},
    {"origin": "null"},
    {"x-forwarded-for": "203.0.113.9"},
    {"x-forwarded-host": "evil.example"},
    {"forwarded": "for=203.0.113.9"},
    {"host": "127.0.0.1.evil.example"},
    {"host": "127.evil.example:8000", "origin": "http://127.evil.example:8000"},
    {"origin": "http://127.evil.example"},
    {"origin": "file://localhost"},
    {"host": "[::1].evil.example"},
]


@pytest.mark.parametrize("headers", STRANGERS)
def test_without_keys_only_programs_of_this_machine_are_served(headers: dict[str, str]) -> None:
    with serving(FakeDriver(says("x"))) as server:
        for path in ("/v1/models", "/admin/agents", "/metrics"):
            refused = get(server, path, **headers)
            assert (refused.status_code, error_of(refused)["code"]) == (403, "loopback_only")
        assert post(server, "/v1/chat/completions", CHAT, **headers).status_code == 403


@pytest.mark.parametrize(
    "headers", [{"origin": "http://localhost:3000"}, {"host": "localhost:1"}, {"host": "[::1]:1"}]
)
def test_pages_and_names_of_this_machine_are_fine(headers: dict[str, str]) -> None:
    with serving(FakeDriver(says("x"))) as server:
        assert get(server, "/v1/models", **headers).status_code == 200


@pytest.mark.parametrize("path", ["/admin/agents", "/admin/snapshot", "/metrics"])
@pytest.mark.parametrize("where", [{}, {"x-forwarded-for": "203.0.113.9"}])
def test_once_there_are_keys_operators_alone_may_look(path: str, where: dict[str, str]) -> None:
    """Whoever comes through a tunnel or a TLS terminator on this machine comes from this machine."""
    with serving(FakeDriver(says("x")), keys=RING) as server:
        assert get(server, path, **where).status_code == 401
        assert get(server, path, **where, **bearer("sk-acme")).status_code == 403
        assert get(server, path, **where, **bearer("sk-rich")).status_code == 200


def test_metrics_may_be_public() -> None:
    settings = ServerSettings(port=0, public_metrics=True)
    with serving(FakeDriver(says("x")), keys=RING, settings=settings) as server:
        assert get(server, "/metrics", **{"x-forwarded-for": "203.0.113.9"}).status_code == 200


def test_without_keys_the_network_is_not_listened_to() -> None:
    with pytest.raises(BadInput, match="without API keys only loopback is served"):
        require_keys_beyond_loopback("0.0.0.0", KeyRing())
    require_keys_beyond_loopback("0.0.0.0", RING)
    require_keys_beyond_loopback("127.0.0.1", KeyRing())

"""``/s/SESSION/a/AGENT/v1``: who calls, said by nothing but the base URL."""

from __future__ import annotations

import pytest

from stepwell.server.callers.keys import KeyEntry, KeyRing
from tests.server.fakes import FakeDriver, says, serving
from tests.server.wire import CHAT, ROUTES, error_of, get, post


@pytest.mark.parametrize("path", ROUTES)
def test_the_base_url_names_session_and_agent(path: str) -> None:
    with serving(driver := FakeDriver(says("x"))) as server:
        assert post(server, "/s/run%2042/a/planner" + path, ROUTES[path]).status_code == 200
        assert get(server, "/s/run%2042/a/planner/v1/models").status_code == 200
    (asked,) = driver.submitted
    assert (asked.caller.session, asked.caller.agent) == ("run 42", "run 42/planner")


@pytest.mark.parametrize("headers", [{"X-Session-ID": "own"}, {"X-Agent": "own"}, {"X-Agent-ID": "own"}])
def test_what_a_request_says_itself_counts(headers: dict[str, str]) -> None:
    with serving(driver := FakeDriver(says("x"))) as server:
        post(server, "/s/run/a/planner/v1/chat/completions", CHAT, **headers)
    assert (driver.submitted[0].caller.session, driver.submitted[0].caller.agent) == ("own", "own")


@pytest.mark.parametrize(
    "path",
    [
        "/s/run/a/planner/admin/agents",
        "/s/run/a/planner/metrics",
        "/s/run/a/planner/v10/models",
        "/s/run/v1/models",
        "/s//a/planner/v1/models",
        "/s/run/a/b/c/v1/models",
        "/s/run/a/planner%0d%0aX-Evil:1/v1/models",
        "/s/br%C3%BCcke/a/planner/v1/models",
        f"/s/{'x' * 256}/a/planner/v1/models",
        "/s/run/a/planner/s/run/a/planner/v1/models",
    ],
)
def test_nothing_else_is_there(path: str) -> None:
    with serving(FakeDriver(says("x"))) as server:
        answer = get(server, path)
    assert answer.status_code == 404
    assert error_of(answer)["code"] == "unknown_url"


def test_a_path_names_agents_of_the_keys_own_tenant_only() -> None:
    keys = KeyRing([KeyEntry(tenant="acme", key="sk-a"), KeyEntry(tenant="bolt", key="sk-b")])
    with serving(driver := FakeDriver(says("x")), keys=keys) as server:
        for key in ("sk-a", "sk-b"):
            post(server, "/s/run/a/planner/v1/chat/completions", CHAT, Authorization=f"Bearer {key}")
        assert post(server, "/s/run/a/planner/v1/chat/completions", CHAT).status_code == 401
    assert [(asked.caller.tenant, asked.caller.agent) for asked in driver.submitted] == [
        ("acme", "run/planner"),
        ("bolt", "run/planner"),
    ]

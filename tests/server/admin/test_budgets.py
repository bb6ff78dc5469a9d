"""Budgets over HTTP: what a spent one refuses, what it keeps, and how it goes on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from stepwell.engines.null import NullConfig
from stepwell.launch.assemble import build
from stepwell.ledger.budgets.book import BudgetName
from stepwell.ledger.settings import LedgerSettings
from stepwell.ledger.types import Budget, Scope
from stepwell.policy.types import Hint, Wait
from stepwell.server.callers.keys import KeyEntry, KeyRing
from stepwell.settings.file import load
from tests.ledger.flaky import FlakyStore
from tests.server.fakes import MODEL, until
from tests.server.ledgers import Kept, bearer, keeping
from tests.server.wire import ROUTES, TEXT, error_of, events, http, post

SLOW = NullConfig(model=MODEL, block_tokens=16, device_blocks=256, decode_us_per_step=5_000)
TURN = TEXT | {"prompt": "p" * 99, "max_tokens": 10}
TURN_MICROUSD = 100 * 100 + 10 * 400
"""What the first of them costs, and what every one of them holds."""
RUN = {"x-session-id": "run", "x-agent-id": "planner"}
FINAL = ("insufficient_quota", "session_budget_exceeded", "agent_budget_exceeded")


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    with keeping(tmp_path) as running:
        yield running


def ask(kept: Kept, key: str = "acme", agent: str = "run/planner", **more: Any) -> Any:
    run, _, name = agent.partition("/")
    headers = {"x-session-id": run} | ({"x-agent-id": name} if name else {})
    return post(kept.server, "/v1/completions", TURN | more, **bearer(key), **headers)


def session(kept: Kept, key: str = "acme", name: str = "run") -> Any:
    kept.at_rest()
    return kept.get(f"/v1/sessions/{name}", key).json()


def limit(kept: Kept, cents: float | None, key: str = "acme", name: str = "run") -> Any:
    body = {"spend_control": {"limit": cents}}
    return post(kept.server, f"/v1/sessions/{name}", body, **bearer(key))


def set_budget(kept: Kept, **budget: Any) -> Any:
    return post(kept.server, "/admin/budgets", budget, **bearer("operator"))


def agent_status(kept: Kept, agent: str = "run/planner") -> str:
    return str(kept.get(f"/v1/agents/{agent}", "acme").json()["status"])


# --- sessions ----------------------------------------------------------------------------------


def test_a_session_shows_what_it_has_spent(kept: Kept) -> None:
    assert kept.get("/v1/sessions/run", "acme").status_code == 404
    assert ask(kept).status_code == 200
    assert session(kept) == {
        "id": "run",
        "object": "session",
        "status": "idle",
        "spend_control": {"limit": None, "consumed": TURN_MICROUSD / 10_000},
        "consumed_usd": TURN_MICROUSD / 1e6,
        "held_usd": None,
        "agents": ["run/planner"],
    }
    assert limit(kept, 12.5).json() == session(kept) | {
        "spend_control": {"limit": 12.5, "consumed": TURN_MICROUSD / 10_000},
        "held_usd": 0,
    }
    assert limit(kept, 100).json()["spend_control"]["limit"] == 100
    assert limit(kept, None).json()["spend_control"] == {"limit": None, "consumed": TURN_MICROUSD / 10_000}
    actors = kept.rows("SELECT DISTINCT actor FROM budgets")
    assert actors == [(kept.server.service.keys.find("Bearer sk-acme").id,)]


def test_a_spent_session_pauses_and_goes_on_with_its_cache(kept: Kept) -> None:
    assert limit(kept, 2).json()["status"] == "idle"
    assert ask(kept).status_code == 200
    kept.at_rest()
    for _ in range(3):
        refused = ask(kept)
        assert (refused.status_code, error_of(refused)["code"]) == (429, "session_budget_exceeded")
        assert refused.headers["x-should-retry"] == "false"
        assert "retry-after" not in refused.headers
    found = session(kept)
    assert (found["status"], found["held_usd"]) == ("budget_reached", 0)
    assert found["spend_control"] == {"limit": 2, "consumed": TURN_MICROUSD / 10_000}
    assert agent_status(kept) == "budget_reached"
    assert kept.charged_microusd() == TURN_MICROUSD

    assert limit(kept, 5).json()["status"] == "idle"
    assert agent_status(kept) == "idle"
    usage = ask(kept).json()["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] > 90
    assert session(kept)["status"] == "idle"


def test_a_session_whose_whole_budget_is_spent_is_paused_before_it_asks(kept: Kept) -> None:
    ask(kept)
    kept.at_rest()
    limit(kept, 1)
    assert session(kept)["status"] == agent_status(kept) == "budget_reached"


def test_what_is_under_way_ends(tmp_path: Path) -> None:
    with keeping(tmp_path, config=SLOW) as kept:
        body = TURN | {"stream": True, "stream_options": {"include_usage": True}, "max_tokens": 60}
        with http(kept.server) as client:
            headers = bearer("acme") | RUN
            with client.stream("POST", "/v1/completions", json=body, headers=headers) as answer:
                assert limit(kept, 0).json()["status"] == "in_progress"
                assert ask(kept, agent="run/other").status_code == 429
                answer.read()
                found = events(answer)
        assert found[-2]["usage"]["completion_tokens"] == 60
        assert session(kept)["status"] == "budget_reached"


def test_the_policy_is_told_once_that_nobody_comes(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    said: dict[str, Any] = {"planner": {}, "quiet": {}, "busy": {"metadata": {"next": "tool"}}}
    for agent, body in said.items():
        ask(kept, agent=f"run/{agent}", **body)
    ask(kept, agent="elsewhere")
    kept.at_rest()
    told: list[Any] = []
    hint = kept.driver.hint

    def tell(*said: Any) -> None:
        told.append(said)
        hint(*said)

    monkeypatch.setattr(kept.driver, "hint", tell)
    limit(kept, 1)
    for _ in range(2):
        ask(kept)
    waits = Hint(Wait.PERSON)
    assert sorted(told) == [(0, "acme", f"run/{agent}", waits) for agent in ("planner", "quiet")]
    # Who comes back does not wait for its tool any more.
    for _ in range(2):
        ask(kept, agent="run/busy")
    assert told[2:] == [(0, "acme", "run/busy", waits)]
    until(lambda: (view := kept.driver.agent("acme", "run/busy")) and view.hint == waits)
    assert len(kept.driver.snapshot().agents) == 4


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("extra", [{}, {"stream": True}, {"background": True}, {"n": 3}])
def test_every_route_refuses_before_it_begins(kept: Kept, path: str, extra: dict[str, Any]) -> None:
    limit(kept, 0)
    answer = post(kept.server, path, dict(ROUTES[path]) | extra, **bearer("acme"), **RUN)
    assert (answer.status_code, error_of(answer)["code"]) == (429, "session_budget_exceeded")
    assert error_of(answer)["type"] == "insufficient_quota"
    assert kept.rows("SELECT * FROM usage") == []
    assert kept.server.service.gate.inside == 0


def test_several_choices_are_taken_together_or_not_at_all(kept: Kept) -> None:
    limit(kept, 2 * TURN_MICROUSD / 10_000)
    for _ in range(5):
        assert error_of(ask(kept, n=3))["code"] == "session_budget_exceeded"
    assert kept.rows("SELECT * FROM usage") == []
    assert session(kept)["status"] == "budget_reached"
    assert ask(kept, n=2).status_code == 200
    assert session(kept)["status"] == "idle"


def test_sessions_page_by_page(kept: Kept) -> None:
    for number in range(5):
        limit(kept, 10, name=f"s{number}")
    ask(kept)
    kept.at_rest()
    page = kept.get("/v1/sessions?limit=4", "acme").json()
    assert [one["id"] for one in page["data"]] == ["run", "s0", "s1", "s2"]
    assert page["has_more"]
    rest = kept.get(f"/v1/sessions?limit=4&after={page['last_id']}", "acme").json()
    assert [one["id"] for one in rest["data"]] == ["s3", "s4"]
    assert not rest["has_more"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"spend_control": {"limit": -1}}, "spend_control.limit"),
        ({"spend_control": {"limit": "5"}}, "spend_control.limit"),
        ({"spend_control": {}}, "spend_control.limit"),
        ({"spend_control": 5}, "spend_control"),
        ({"spend_control": {"limit": 1e300}}, "spend_control.limit"),
    ],
)
def test_a_limit_that_makes_no_sense(kept: Kept, body: Any, param: str) -> None:
    answer = post(kept.server, "/v1/sessions/run", body, **bearer("acme"))
    assert (answer.status_code, error_of(answer)["param"]) == (400, param)
    assert kept.rows("SELECT * FROM budgets") == []


def test_names_and_numbers_have_bounds(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    assert limit(kept, 1, name="x" * 256).status_code == 400
    monkeypatch.setattr("stepwell.server.agents.sessions.MAX_SESSION_BUDGETS", 2)
    assert [limit(kept, 1, name=name).status_code for name in "aabbc"] == [200, 200, 200, 200, 400]
    assert limit(kept, 1, key="rival", name="c").status_code == 200
    # What says nothing of the limit leaves it.
    assert post(kept.server, "/v1/sessions/a", {}, **bearer("acme")).json()["spend_control"]["limit"] == 1
    removed = post(kept.server, "/v1/sessions/a", {"spend_control": None}, **bearer("acme"))
    assert removed.json()["spend_control"]["limit"] is None


# --- tenants, keys, agents ---------------------------------------------------------------------


def test_an_operator_sets_every_budget(kept: Kept) -> None:
    key = kept.server.service.keys.find("Bearer sk-acme").id
    names = {"tenant": "", "key": key, "session": "run", "agent": "run/planner"}
    codes = dict(zip(names, ("insufficient_quota", *FINAL), strict=True))
    for scope, name in names.items():
        made = set_budget(kept, scope=scope, tenant="acme", name=name, hard_usd=0.01).json()
        assert (made["scope"], made["name"], made["status"]) == (scope, name, "ok")
        refused = ask(kept)
        assert (refused.status_code, error_of(refused)["code"]) == (429, codes[scope])
        assert refused.headers["x-should-retry"] == "false"
        assert ask(kept, "rival").status_code == 200
        assert set_budget(kept, scope=scope, tenant="acme", name=name).json()["deleted"]
    assert ask(kept).status_code == 200
    assert kept.get("/admin/budgets").json() == {"object": "list", "data": [], "has_more": False}


def test_an_agents_own_budget(kept: Kept) -> None:
    set_budget(kept, scope="agent", tenant="acme", name="run/planner", hard_usd=TURN_MICROUSD / 1e6)
    assert ask(kept).status_code == 200
    kept.at_rest()
    assert error_of(ask(kept))["code"] == "agent_budget_exceeded"
    assert agent_status(kept) == "budget_reached"
    assert session(kept)["status"] == "idle"
    assert ask(kept, agent="run/other").status_code == 200


def test_budgets_page_by_page(kept: Kept) -> None:
    for tenant in ("a", "b", "c"):
        set_budget(kept, scope="tenant", tenant=tenant, soft_usd=0.5, hard_usd=1)
    first = kept.get("/admin/budgets?limit=2").json()
    assert [one["tenant"] for one in first["data"]] == ["a", "b"]
    assert first["data"][0] == {
        "id": first["data"][0]["id"],
        "object": "budget",
        "scope": "tenant",
        "tenant": "a",
        "name": "",
        "soft_usd": 0.5,
        "hard_usd": 1,
        "spent_usd": 0,
        "held_usd": 0,
        "status": "ok",
    }
    rest = kept.get(f"/admin/budgets?limit=2&after={first['data'][1]['id']}").json()
    assert ([one["tenant"] for one in rest["data"]], rest["has_more"]) == (["c"], False)
    assert [one["tenant"] for one in kept.get("/admin/budgets?tenant=b").json()["data"]] == ["b"]
    for query in ("after=nothing", "limit=0", "limit=x"):
        assert kept.get(f"/admin/budgets?{query}").status_code == 400


@pytest.mark.parametrize(
    "budget",
    [
        {"scope": "tenant", "tenant": "acme", "name": "x", "hard_usd": 1},
        {"scope": "session", "tenant": "acme", "hard_usd": 1},
        {"scope": "tenant", "tenant": "acme", "soft_usd": 2, "hard_usd": 1},
        {"scope": "everything", "tenant": "acme", "hard_usd": 1},
        {"scope": "tenant", "hard_usd": 1},
        {"scope": "tenant", "tenant": "acme", "hard_usd": -1},
    ],
)
def test_a_budget_that_makes_no_sense(kept: Kept, budget: dict[str, Any]) -> None:
    answer = set_budget(kept, **budget)
    assert answer.status_code == 400
    assert error_of(answer)["message"].count(". ") == 0
    assert kept.rows("SELECT * FROM budgets") == []


def test_a_soft_limit_is_said_in_the_answer(tmp_path: Path) -> None:
    budget = Budget(Scope.TENANT, "acme", "", TURN_MICROUSD + 1, 10 * TURN_MICROUSD)
    with keeping(tmp_path, budgets=[budget]) as kept:
        assert "budget_warning" not in ask(kept).json()["usage"]["cost_details"]
        kept.at_rest()
        usage = ask(kept).json()["usage"]
        spent = f"${(TURN_MICROUSD + round(usage['cost'] * 1e6)) / 1e6:.5f}"
        assert usage["cost_details"]["budget_warning"] == (
            f"The budget of this customer has reached its soft limit of $0.014001: {spent} of $0.14 is spent."
        )
        assert "budget_warning" not in ask(kept, "rival").json()["usage"]["cost_details"]


def test_a_keys_own_budget(tmp_path: Path) -> None:
    ring = KeyRing(
        [
            KeyEntry(tenant="acme", key="sk-acme", hard_usd=Decimal(TURN_MICROUSD) / 1_000_000),
            KeyEntry(tenant="acme", key="sk-other"),
        ]
    )
    with keeping(tmp_path, keys=ring, budgets=ring.budgets(at_us=1)) as kept:
        assert ask(kept).status_code == 200
        kept.at_rest()
        assert error_of(ask(kept))["code"] == "insufficient_quota"
        assert ask(kept, "other").status_code == 200


@pytest.mark.parametrize("in_a_file", [False, True])
def test_the_budgets_of_keys_are_in_force_from_the_start(tmp_path: Path, in_a_file: bool) -> None:
    keys = '[[keys]]\nkey = "sk-acme"\ntenant = "acme"\nsoft_usd = 0.1\nhard_usd = 0.25\n'
    text = f'[engine]\nkind = "null"\n[kv]\ndisk_kv = 0\n[ledger]\npath = "{tmp_path}/books.db"\n'
    (tmp_path / "keys.toml").write_text(keys)
    text = f'keys_file = "{tmp_path}/keys.toml"\n{text}' if in_a_file else text + keys
    (tmp_path / "settings.toml").write_text(text)
    node = build(load(tmp_path / "settings.toml", env={}))
    try:
        assert node.ledger is not None
        (state,) = node.ledger.keeper.budgets.states()
        name = "key_" + hashlib.sha256(b"sk-acme").hexdigest()[:12]
        assert state.name == BudgetName(Scope.KEY, "acme", name)
        assert (state.soft_microusd, state.hard_microusd) == (100_000, 250_000)
    finally:
        node.stop(0)


# --- whose is what -----------------------------------------------------------------------------


def test_nobody_sees_or_sets_what_belongs_to_others(kept: Kept) -> None:
    ask(kept)
    limit(kept, 50)
    ask(kept, "rival", agent="theirs")
    kept.at_rest()
    for query in ("", "?tenant=acme", "?limit=100&tenant=acme"):
        assert [s["id"] for s in kept.get(f"/v1/sessions{query}", "rival").json()["data"]] == ["theirs"]
    for query in ("", "?tenant=acme"):
        assert kept.get(f"/v1/sessions/run{query}", "rival").status_code == 404
        assert "tenant" not in kept.get(f"/v1/sessions/theirs{query}", "rival").json()
    assert limit(kept, 0, key="rival").status_code == 200  # a session of its own of that name
    nothing = {"spend_control": {"limit": 0}}
    post(kept.server, "/v1/sessions/run?tenant=acme", nothing, **bearer("rival"))
    assert session(kept)["spend_control"]["limit"] == 50
    assert ask(kept).status_code == 200

    found = kept.get("/v1/sessions").json()["data"]
    assert {(s["tenant"], s["id"]) for s in found} == {("acme", "run"), ("rival", "run"), ("rival", "theirs")}
    assert kept.get("/v1/sessions?tenant=acme").json()["data"][0]["consumed_usd"] > 0
    assert kept.get("/v1/sessions/run?tenant=acme").json()["tenant"] == "acme"
    assert kept.get("/v1/sessions/run").status_code == 404  # the operator's own tenant has none


def test_only_operators_see_and_set_the_budgets_of_tenants(kept: Kept) -> None:
    remote = {"origin": "https://elsewhere.example"}  # a program on this machine may do what operators may
    for headers in (bearer("acme") | remote, remote):
        with http(kept.server, **headers) as client:
            assert client.get("/admin/budgets").status_code in (401, 403)
            body = {"scope": "tenant", "tenant": "acme", "hard_usd": 1e6}
            assert client.post("/admin/budgets", json=body).status_code in (401, 403)
    for path in ("/v1/sessions", "/v1/sessions/run"):
        with http(kept.server) as client:
            assert client.get(path).status_code == 401
    assert kept.rows("SELECT * FROM budgets") == []


# --- a ledger that cannot be written -----------------------------------------------------------


class Flaky:
    """Makes the store flaky, and keeps hold of it."""

    def __init__(self) -> None:
        self.store: FlakyStore | None = None

    def __call__(self, store: Any) -> FlakyStore:
        self.store = FlakyStore(store)
        return self.store

    def fill(self, kept: Kept) -> None:
        assert self.store is not None
        self.store.fill()
        until(lambda: kept.ledger.writer.failing)

    def empty(self, kept: Kept) -> None:
        assert self.store is not None
        self.store.fault = None
        assert kept.ledger.writer.flush()


STREAM = TURN | {"stream": True, "stream_options": {"include_usage": True}, "max_tokens": 100}


@pytest.mark.parametrize("on_failure", ["refuse", "serve"])
def test_a_full_disk_under_the_ledger(tmp_path: Path, on_failure: Any) -> None:
    flaky = Flaky()
    settings = LedgerSettings(on_failure=on_failure)
    with keeping(tmp_path, config=SLOW, wrap=flaky, settings=settings) as kept:
        with http(kept.server) as client:
            headers = bearer("acme") | RUN
            with client.stream("POST", "/v1/completions", json=STREAM, headers=headers) as answer:
                flaky.fill(kept)
                meanwhile = ask(kept, "rival")
                health = kept.get("/health")
                answer.read()
            usage = events(answer)[-2]["usage"]
        assert usage["completion_tokens"] == 100
        costs = [usage["cost"]]
        assert health.json()["ledger"] == "failing"
        if on_failure == "refuse":
            assert (meanwhile.status_code, error_of(meanwhile)["code"]) == (503, "ledger_unavailable")
            assert int(meanwhile.headers["retry-after"]) >= 1
            assert (health.status_code, health.json()["status"]) == (503, "ledger")
        else:
            assert meanwhile.status_code == health.status_code == 200
            costs.append(meanwhile.json()["usage"]["cost"])
        assert "stepwell_ledger_failing 1.0" in kept.get("/metrics").text
        assert kept.ledger.store.rows("SELECT * FROM usage") == []

        flaky.empty(kept)
        assert kept.get("/health").json() == {"status": "ok", "ledger": "ok"}
        assert kept.charged_microusd() == round(sum(costs) * 1e6)
        assert ask(kept, "rival").status_code == 200
        assert kept.rows("SELECT COUNT(*), COUNT(DISTINCT request) FROM usage") == [(len(costs) + 1,) * 2]


def test_a_budget_that_cannot_be_entered_is_not_in_force(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    from stepwell.ledger.base import LedgerFull

    def fail(*_: Any) -> None:
        raise LedgerFull("no room under /srv")

    monkeypatch.setattr(type(kept.ledger.store), "set_budget", fail)
    for answer in (limit(kept, 0), set_budget(kept, scope="tenant", tenant="acme", hard_usd=0)):
        assert (answer.status_code, error_of(answer)["code"]) == (503, "ledger_unavailable")
    assert ask(kept).status_code == 200


def test_what_the_operator_has_bounded_the_customer_does_not_raise(kept: Kept) -> None:
    assert set_budget(kept, scope="session", tenant="acme", name="run", hard_usd=0.5).status_code == 200
    refused = limit(kept, 5_000)
    assert refused.status_code == 403
    assert error_of(refused)["code"] == "operator_budget"
    assert limit(kept, 5_000, name="other").status_code == 200
    assert limit(kept, 6_000, name="other").status_code == 200, "his own he may change"
    assert set_budget(kept, scope="session", tenant="acme", name="run").status_code == 200
    assert limit(kept, 5_000).status_code == 200, "a bound that was lifted binds nobody"

"""The page in a real browser, where chromium, its driver and selenium are there."""

from __future__ import annotations

import importlib.util
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from stepwell.engines.base import SamplingParams
from stepwell.engines.null import NullConfig
from stepwell.ledger.types import Budget, Scope
from stepwell.library.store import Library
from stepwell.loop.requests import Finished, Generation
from stepwell.policy.types import Caller
from stepwell.server.backends.library import ServedLibrary
from stepwell.server.callers.keys import KeyEntry, KeyRing
from stepwell.server.run import BackgroundServer
from stepwell.server.settings import ServerSettings
from tests.server.fakes import MODEL, null_driver, serving
from tests.server.ledgers import keeping
from tests.server.libraries import LIMITS, uploaded
from tests.server.wire import CHAT, post

selenium = pytest.importorskip("selenium")
BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (BROWSER and DRIVER), reason="no chromium with its driver here")

PATIENCE_S = 60.0
AGENTS = 500
DOWN, ENTER = "\ue015", "\ue007"
ROOM = 50
"""Turns at once; the queue is bounded."""


def keys() -> KeyRing:
    entries = [KeyEntry(tenant="acme", key="sk-acme"), KeyEntry(tenant="rival", key="sk-rival")]
    return KeyRing([*entries, KeyEntry(tenant="house", key="sk-operator", operator=True)])


@contextmanager
def node(ring: KeyRing | None = None) -> Iterator[BackgroundServer]:
    driver = null_driver(NullConfig(model=MODEL, block_tokens=16, device_blocks=1_024, answer=b"abc"))
    driver.start()
    settings = ServerSettings(port=0, drain_s=5.0, watch_interval_s=0.2)
    try:
        with serving(driver, driver.text, settings, ring) as server:
            yield server
    finally:
        driver.stop(5.0)


@contextmanager
def browser(width: int = 1_200, height: int = 900) -> Iterator[Any]:
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = BROWSER or ""
    for flag in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu", "no-proxy-server"):
        options.add_argument(f"--{flag}")
    options.add_argument(f"--window-size={width},{height}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


def until(happened: Callable[[], object]) -> Any:
    give_up = time.monotonic() + PATIENCE_S
    while not (found := happened()):
        assert time.monotonic() < give_up, "it did not happen"
        threading.Event().wait(0.05)
    return found


def texts(driver: Any) -> str:
    return str(driver.execute_script("return document.body.innerText"))


def count(driver: Any, selector: str) -> int:
    return int(driver.execute_script("return document.querySelectorAll(arguments[0]).length", selector))


def complaints(driver: Any) -> list[str]:
    """What the console has, but for the 401 that shows the form."""
    return [one["message"] for one in driver.get_log("browser") if "401" not in one["message"]]


def populate(server: BackgroundServer, agents: int) -> None:
    """By way of the driver, because many requests over HTTP take many seconds."""
    driver = server.service.driver
    for first in range(0, agents, ROOM):
        ended: list[Finished] = []
        for number in range(first, min(agents, first + ROOM)):
            session = f"run-{number % 25:02d}"
            caller = Caller("local", session=session, agent=f"{session}/{number:03d}")
            one = Generation((1, 2, 3), 1, SamplingParams(), caller=caller)
            driver.submit(one, lambda out, ended=ended: isinstance(out, Finished) and ended.append(out))  # type: ignore[misc]
        until(lambda ended=ended, first=first: len(ended) == min(agents, first + ROOM) - first)


FRAMES = 120
SCROLL = """const [frames, done] = arguments, box = document.querySelector('.rows'); let seen = 0;
const bottom = box.scrollHeight - box.clientHeight;
const step = () => {
  const phase = (seen % 120) / 60;
  box.scrollTop = bottom * (phase < 1 ? phase : 2 - phase);
  seen += 1;
  seen < frames ? requestAnimationFrame(step) : done(seen);
};
requestAnimationFrame(step);"""
"""From the top to the bottom and back in two seconds of a screen's time."""


def counted(driver: Any) -> dict[str, float]:
    """The browser's own counters. Times are no part of a test: machines differ."""
    driver.execute_cdp_cmd("Performance.enable", {})
    found = driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
    return {one["name"]: one["value"] for one in found}


def test_many_agents_scroll_with_few_rows_in_the_document() -> None:
    with node() as server, browser() as driver:
        populate(server, AGENTS)
        driver.get(f"{server.base_url}/page")
        until(lambda: f"Agents {AGENTS}" in texts(driver))
        assert count(driver, ".rows .line") < 80
        driver.execute_script("document.querySelector('.rows').scrollTop = 1e9")
        until(lambda: "499" in texts(driver))
        assert count(driver, ".rows .line") < 80
        before = counted(driver)
        assert driver.execute_async_script(SCROLL, FRAMES) == FRAMES
        drawn = {name: value - before[name] for name, value in counted(driver).items()}
        assert drawn["LayoutCount"] <= 2 * FRAMES, "a frame is laid out once"
        assert drawn["Nodes"] < 10_000, "rows that are out of sight are taken out of the document"
        driver.execute_script("document.querySelector('.rows').scrollTop = 0")
        driver.execute_script("document.querySelector('.rows').focus()")
        driver.switch_to.active_element.send_keys(DOWN + DOWN + ENTER)
        until(lambda: "Session run-00" in texts(driver))
        assert complaints(driver) == []


def enter(driver: Any, server: BackgroundServer, key: str) -> None:
    driver.get(f"{server.base_url}/page")
    field = until(lambda: driver.find_elements("css selector", "#key"))[0]
    field.send_keys(key + "\n")
    until(lambda: "live" in texts(driver))


def test_two_tenants_never_see_each_other_and_a_key_taken_away_ends_it() -> None:
    ring = keys()
    with node(ring) as server, browser() as driver:
        for tenant in ("acme", "rival"):
            headers = {
                "authorization": f"Bearer sk-{tenant}",
                "x-session-id": f"of-{tenant}",
                "x-agent-id": "a",
            }
            assert post(server, "/v1/chat/completions", CHAT, **headers).status_code == 200
        enter(driver, server, "sk-acme")
        until(lambda: "of-acme" in texts(driver))
        assert "of-rival" not in driver.page_source
        assert "Money" not in texts(driver)
        assert driver.execute_script("return document.cookie") == ""
        (cookie,) = driver.get_cookies()
        assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
        ring.replace(KeyRing([KeyEntry(tenant="rival", key="sk-rival")]))
        until(lambda: driver.find_elements("css selector", "#key"))
        assert "of-acme" not in texts(driver)


def test_sessions_of_one_name_are_kept_apart_for_an_operator() -> None:
    with node(keys()) as server, browser() as driver:
        for tenant in ("acme", "rival"):
            headers = {"authorization": f"Bearer sk-{tenant}", "x-session-id": "same", "x-agent-id": tenant}
            assert post(server, "/v1/chat/completions", CHAT, **headers).status_code == 200
        enter(driver, server, "sk-operator")
        driver.execute_script("location.hash = '#/session/same'")
        until(lambda: "Several customers" in texts(driver))
        until(lambda: driver.find_elements("link text", "rival"))[0].click()
        until(lambda: count(driver, ".tree") and "of rival" in texts(driver))
        assert "acme" not in texts(driver)
        assert complaints(driver) == []


def test_the_playground_talks_as_an_agent_that_appears_on_the_page() -> None:
    with node() as server, browser(390, 844) as driver:
        driver.get(f"{server.base_url}/page#/playground")
        field = until(lambda: driver.find_elements("css selector", "#words"))[0]
        field.send_keys("hello\n")
        until(lambda: "abc" in texts(driver))
        until(lambda: count(driver, ".mine .kv i"))
        wide = driver.execute_script("return document.documentElement.scrollWidth - innerWidth")
        assert wide <= 0, "a phone scrolls in one direction"
        assert complaints(driver) == []


def test_the_api_is_shown_to_people() -> None:
    with node() as server, browser() as driver:
        driver.get(f"{server.base_url}/docs")
        until(lambda: "POST /v1/chat/completions" in texts(driver) and "ChatRequest" in texts(driver))
        driver.find_element("css selector", "input[type=search]").send_keys("rerank")
        until(lambda: "POST /v1/rerank" in texts(driver) and "/v1/files" not in texts(driver))
        assert complaints(driver) == []


AXE = importlib.util.find_spec("axe_playwright_python")
"""The package is installed for the axe.min.js in it; its own code would need Playwright."""
RULES = {
    "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
    "resultTypes": ["violations"],
}
VIOLATIONS = """const [rules, done] = arguments;
const said = (node) => node.any.concat(node.all, node.none).map((check) => check.message).join("; ");
const lines = (rule) => rule.nodes.map((node) => `${rule.id}: ${node.target.join(" ")}: ${said(node)}`);
axe.run(document, rules)
  .then((found) => found.violations.flatMap(lines), (error) => [String(error)]).then(done);"""
EVERY_STATE = """const done = arguments[0];
import(`${location.origin}/page/watch.mjs`).then(({ agents, ticker }) => {
  const [row] = agents.value, at = Date.now() / 1000, session_id = row.session_id;
  const states = ["running", "loading", "waiting", "preempted", "idle", "budget_reached"];
  const kv_tokens = { device: 2, host: 2, disk: 2, gone: 2 };
  agents.value = states.map((status, i) => ({ ...row, id: `${session_id}/${i}`, role: "worker", status,
    parent_agent_id: i ? `${session_id}/0` : null, kv_tokens, context_tokens: 8, expected_at: at + 60,
    why: "a tool" }));
  ticker.value = ["preempted", "evicted", "came_back", "refused"].map((kind) => (
    { kind, at, tenant: row.tenant, session_id, agent_id: row.id, detail: "8 tokens" }));
  requestAnimationFrame(() => done(session_id));
});"""
"""States that no test can hold a server in at once, told to the page's own signals."""


def violations(driver: Any, where: str) -> list[str]:
    """What axe-core finds against WCAG 2.2 A and AA and good practice, in both themes."""
    assert AXE is not None and AXE.origin is not None
    if not driver.execute_script("return 'axe' in window"):
        driver.execute_script((Path(AXE.origin).parent / "axe.min.js").read_text("utf-8"))
    found = []
    for theme in ("light", "dark"):
        scheme = [{"name": "prefers-color-scheme", "value": theme}]
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
        until(
            lambda theme=theme: (
                driver.execute_script("return document.documentElement.dataset.theme") == theme
            )
        )
        found += [f"{where}, {theme}: {one}" for one in driver.execute_async_script(VIOLATIONS, RULES)]
    return found


@contextmanager
def whole_node(directory: Path) -> Iterator[BackgroundServer]:
    """With a ledger, a budget, a document and an agent: every view has something to show."""
    library = ServedLibrary(Library(directory / "library", LIMITS), 2**20)
    budgets = [Budget(Scope.TENANT, "acme", "", 1_000_000, 2_000_000)]
    with keeping(directory, budgets=budgets, library=library) as kept:
        headers = {"authorization": "Bearer sk-operator", "x-session-id": "run", "x-agent-id": "run/0"}
        assert post(kept.server, "/v1/chat/completions", CHAT, **headers).status_code == 200
        uploaded(kept.server, "notes.txt", "The pump rests at night.", key="sk-operator")
        yield kept.server


def every_view(driver: Any, session: str, where: str) -> list[str]:
    driver.find_element("css selector", ".rows").send_keys(DOWN + DOWN)
    until(lambda: count(driver, ".line.active") and count(driver, "[aria-activedescendant]"))
    found = violations(driver, f"{where}, agents")
    driver.find_element("css selector", "input[type=search]").send_keys("nobody")
    until(lambda: "No agents of that name" in texts(driver))
    found += violations(driver, f"{where}, no agents")
    for view, sign in (
        (f"session/{session}", ".tree"),
        ("documents", "td.acts"),
        ("playground", "#words"),
        ("money", "table"),
        ("", ".rows"),
    ):
        driver.execute_script("location.hash = `#/${arguments[0]}`", view)
        until(lambda sign=sign: count(driver, sign))
        found += violations(driver, f"{where}, {view}") if view else []
        if driver.execute_script(
            "return document.documentElement.scrollWidth > document.documentElement.clientWidth"
        ):
            found.append(f"{where}, {view}: scrolls in two directions")
    return found


@pytest.mark.skipif(AXE is None, reason="no axe_playwright_python here, which carries axe-core")
def test_axe_finds_nothing_against_wcag_aa_in_either_theme(tmp_path: Path) -> None:
    with whole_node(tmp_path) as server, browser() as driver:
        driver.set_script_timeout(PATIENCE_S)
        driver.get(f"{server.base_url}/page")
        until(lambda: count(driver, "#key"))
        found = violations(driver, "the form for the key")
        enter(driver, server, "sk-operator")
        until(lambda: count(driver, ".rows .line:not(.titles)"))
        session = driver.execute_async_script(EVERY_STATE)
        found += every_view(driver, session, "wide")
        phone = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
        found += every_view(driver, session, "a phone")
        driver.get(f"{server.base_url}/docs")
        until(lambda: "ChatRequest" in texts(driver))
        driver.find_element("css selector", "input[type=search]").send_keys("rerank")
        until(lambda: "/v1/files" not in texts(driver))  # the whole of it takes axe half a minute
        found += violations(driver, "the API")
        assert found == []

"""The page in a real browser, where chromium, its driver and selenium are there."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from stepwell.engines.base import SamplingParams
from stepwell.engines.null import NullConfig
from stepwell.loop.requests import Finished, Generation
from stepwell.policy.types import Caller
from stepwell.server.keys import KeyEntry, KeyRing
from stepwell.server.run import BackgroundServer
from stepwell.server.settings import ServerSettings
from tests.server.fakes import MODEL, null_driver, serving
from tests.server.wire import CHAT, post

selenium = pytest.importorskip("selenium")
BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (BROWSER and DRIVER), reason="no chromium with its driver here")

PATIENCE_S = 60.0
AGENTS = 500
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


def test_many_agents_scroll_with_few_rows_in_the_document() -> None:
    with node() as server, browser() as driver:
        populate(server, AGENTS)
        driver.get(f"{server.base_url}/page")
        until(lambda: f"Agents {AGENTS}" in texts(driver))
        assert count(driver, ".rows .line") < 80
        driver.execute_script("document.querySelector('.rows').scrollTop = 1e9")
        until(lambda: "499" in texts(driver))
        assert count(driver, ".rows .line") < 80
        frames = driver.execute_async_script(
            """const done = arguments[0], box = document.querySelector('.rows'); let seen = 0;
            const step = () => {
              box.scrollTop = 40 * seen; seen += 1;
              seen < 60 ? requestAnimationFrame(step) : done(seen);
            };
            requestAnimationFrame(step);"""
        )
        assert frames == 60
        driver.execute_script("document.querySelector('.rows').scrollTop = 0")
        driver.execute_script("document.querySelector('.rows').focus()")
        driver.switch_to.active_element.send_keys("\ue015\ue015\ue007")  # down, down, enter
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

"""The live page: its files, the cookie that stands for a key, and what other sites cannot do with it."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from stepwell.server.callers.keys import KeyEntry, KeyRing
from stepwell.server.page.files import page_files
from stepwell.server.run import BackgroundServer
from stepwell.server.stores.page_keys import COOKIE
from tests.server.fakes import FakeDriver, says, serving
from tests.server.ledgers import RING, bearer, keeping
from tests.server.wire import CHAT, error_of, get, http, post

ROOT = Path(__file__).resolve().parents[3]
MOST_COMPRESSED_BYTES = 150_000
OWN = {"x-stepwell-page": "1"}


@contextmanager
def opened(server: BackgroundServer, key: str = "sk-acme") -> Iterator[httpx2.Client]:
    """A browser that has sent the form."""
    with http(server) as client:
        answer = client.post("/page/key", json={"key": key}, headers=OWN)
        assert answer.status_code == 200, answer.text
        yield client


@contextmanager
def node(keys: KeyRing | None = None) -> Iterator[BackgroundServer]:
    with serving(FakeDriver(says("x")), keys=keys) as server:
        yield server


def test_the_page_is_small_and_needs_nothing_from_elsewhere() -> None:
    shown = {name: one for name, one in page_files().items() if not name.endswith((".json", ".txt"))}
    assert sum(len(one.compressed) for one in shown.values()) < MOST_COMPRESSED_BYTES
    for name, one in shown.items():
        text = one.content.decode()
        if name.startswith("vendor/"):
            continue
        assert "//cdn" not in text
        assert not re.search(r"""(?:src|href|from|import)\s*=?\s*["'(]https?:""", text), name


def themes() -> dict[str, dict[str, str]]:
    """The colours of page.css by theme and name."""
    css = page_files()["page.css"].content.decode()
    blocks = re.findall(r'^:root(\[data-theme="dark"\])? \{(.*?)\}', css, re.S | re.M)
    return {"dark" if dark else "light": dict(re.findall(r"--([\w-]+): (#\w+)", own)) for dark, own in blocks}


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2.2 defines it, from ``#rgb`` or ``#rrggbb``."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_colours_differ_from_what_is_behind_them_as_much_as_wcag_aa_asks(theme: str) -> None:
    colours = themes()[theme]
    words = ("text", "dim", "accent", "bad", "warn", "running", "device")
    shapes = ("edge", "host", "disk", "gone", "waiting", "computed", "generation")  # bars, lines and borders
    pairs = [(one, behind, 4.5) for one in words for behind in ("card", "back")]
    pairs += [(one, behind, 3.0) for one in shapes for behind in ("card", "back")]
    for front, behind, least in [*pairs, ("on", "accent", 4.5)]:
        dark, bright = sorted((luminance(colours[front]), luminance(colours[behind])))
        assert (bright + 0.05) / (dark + 0.05) >= least, f"{front} on {behind}"


def test_every_module_imports_what_is_there_and_no_script_is_inline() -> None:
    files = page_files()
    for name, one in files.items():
        if name.endswith(".mjs"):
            folder = name.rpartition("/")[0]
            for target in re.findall(r'\bfrom ?"([^"\n]+\.mjs)"', one.content.decode()):
                assert target.startswith("./"), (name, target)
                assert f"{folder}/{target[2:]}".lstrip("/") in files, (name, target)
    page = files["index.html"].content.decode()
    assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", page))
    assert not re.search(r"<style|style=|\son\w+=", page)


def test_what_was_vendored_is_as_its_manifest_says() -> None:
    check = subprocess.run(
        [sys.executable, ROOT / "scripts" / "vendor_page.py", "--check"], capture_output=True, text=True
    )
    assert check.returncode == 0, check.stdout
    manifest = json.loads(page_files()["vendor/manifest.json"].content)
    brought = {name for name in page_files() if name.startswith("vendor/")}
    assert brought - {"vendor/manifest.json", "vendor/licences.txt"} == {
        f"vendor/{one['file']}" for one in manifest
    }
    assert {one["licence"] for one in manifest} <= {"MIT", "Apache-2.0"}


def test_files_have_a_policy_and_are_not_sent_twice() -> None:
    with node() as server:
        page = get(server, "/page")
        assert page.headers["content-security-policy"].startswith("default-src 'self'")
        assert "unsafe" not in page.headers["content-security-policy"]
        assert page.headers["x-content-type-options"] == "nosniff"
        again = get(server, "/page", **{"if-none-match": page.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        module = get(server, "/page/app.mjs", **{"accept-encoding": "gzip"})
        assert module.headers["content-type"].startswith("text/javascript")
        assert module.headers["content-encoding"] == "gzip"
        assert module.content == page_files()["app.mjs"].content
        assert gzip.decompress(page_files()["app.mjs"].compressed) == module.content
        for path in ("/page/nothing.mjs", "/page/../app.py", "/page/vendor/%2e%2e/%2e%2e/routes.py"):
            assert get(server, path).status_code == 404, path


def test_a_key_becomes_a_cookie_that_scripts_cannot_read() -> None:
    with node(RING) as server:
        assert get(server, "/v1/agents").status_code == 401
        with opened(server) as browser:
            (cookie,) = [one for one in browser.cookies.jar if one.name == COOKIE]
            assert "sk-acme" not in (cookie.value or "")
            answer = browser.post("/page/key", json={"key": "sk-acme"}, headers=OWN)
            flags = answer.headers["set-cookie"].lower()
            assert "httponly" in flags
            assert "samesite=strict" in flags
            assert "path=/" in flags
            assert browser.get("/v1/agents").status_code == 200
            assert browser.get("/metrics").status_code == 403
        with opened(server, "sk-operator") as browser:
            assert browser.get("/metrics").status_code == 200


def test_a_wrong_key_is_no_cookie() -> None:
    with node(RING) as server, http(server) as client:
        answer = client.post("/page/key", json={"key": "sk-nobody"}, headers=OWN)
        assert answer.status_code == 401
        assert "set-cookie" not in answer.headers
        assert client.get("/v1/agents", headers={"cookie": f"{COOKIE}=guess"}).status_code == 401


@pytest.mark.parametrize(
    "headers", [{}, {**OWN, "origin": "https://evil.example"}, {"origin": "https://evil.example"}]
)
def test_another_site_can_do_nothing_with_the_cookie(headers: dict[str, str]) -> None:
    with node(RING) as server, opened(server) as browser:
        refused = browser.post("/v1/chat/completions", json=CHAT, headers=headers)
        assert refused.status_code == 403
        assert error_of(refused)["code"] == "cross_site"
        assert browser.post("/page/leave", headers=headers).status_code == 403
        assert browser.post("/v1/chat/completions", json=CHAT, headers=OWN).status_code == 200


def test_who_leaves_is_out_and_so_is_a_key_that_was_taken_away() -> None:
    keys = KeyRing([KeyEntry(tenant="acme", key="sk-acme")])
    with node(keys) as server:
        with opened(server) as browser:
            old = dict(browser.cookies)
            assert browser.post("/page/leave", headers=OWN).status_code == 200
            assert browser.get("/v1/agents").status_code == 401
            assert get(server, "/v1/agents", cookie=f"{COOKIE}={old[COOKIE]}").status_code == 401
        with opened(server) as browser:
            keys.replace(KeyRing([KeyEntry(tenant="rival", key="sk-rival")]))
            assert browser.get("/v1/agents").status_code == 401


def test_a_cookie_ends_after_its_time() -> None:
    with node(RING) as server, opened(server) as browser:
        assert browser.get("/v1/agents").status_code == 200
        server.service.now_s = lambda: 4e9
        assert browser.get("/v1/agents").status_code == 401


def test_margin_by_tenant_is_the_operators(tmp_path: Path) -> None:
    with keeping(tmp_path) as kept:
        answer = post(kept.server, "/v1/chat/completions", CHAT, **bearer("acme"))
        assert answer.status_code == 200
        kept.at_rest()
        (at_us,) = kept.rows("SELECT MAX(at_us) FROM usage")[0]
        kept.server.service.now_s = lambda: at_us / 1e6 + 1
        assert get(kept.server, "/admin/margin", **bearer("acme")).status_code == 403
        found = kept.get("/admin/margin").json()
        (line,) = found["data"]
        assert line["tenant"] == "acme"
        assert line["revenue_microusd"] == kept.charged_microusd()
        assert line["margin_microusd"] == line["revenue_microusd"] - line["cost_microusd"]
        assert set(found["machine_microusd"]) == {"idle", "overhead", "unattributed"}
        wrong = get(kept.server, "/admin/margin?period_s=x", **bearer("operator"))
        assert error_of(wrong)["param"] == "period_s"

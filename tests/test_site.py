"""The documents as a site, built strictly: every link, and every heading that is linked to, is there."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mkdocs")

ROOT = Path(__file__).resolve().parents[1]
POINTERS = r"rel=\"?(?:canonical|prev|next|alternate)"
"""Links that load nothing."""


def build(root: Path, site: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    return subprocess.run(
        [*command, "--config-file", str(root / "mkdocs.yml")], capture_output=True, text=True, cwd=root
    )


def test_every_link_leads_somewhere_and_nothing_comes_from_another_host(tmp_path: Path) -> None:
    built = build(ROOT, tmp_path)
    assert built.returncode == 0, built.stdout + built.stderr
    first = (tmp_path / "index.html").read_text("utf-8")
    assert "LLM inference server" in first and 'href="operate.html"' in first
    assert (tmp_path / "files" / "examples" / "operate" / "stepwell.toml").exists()
    for page in tmp_path.rglob("*.html"):
        html = page.read_text("utf-8")
        loaded = re.findall(r"<(?:script|img|iframe)[^>]*\ssrc=\"?([^\s\">]+)", html)
        links = [one for one in re.findall(r"<link\b[^>]*>", html) if not re.search(POINTERS, one)]
        loaded += [at for one in links for at in re.findall(r"href=\"?([^\s\">]+)", one)]
        assert not [one for one in loaded if "//" in one], page.name


def test_a_link_to_nothing_is_an_error(tmp_path: Path) -> None:
    """The settings and the hook are the real ones; the documents are a few lines."""
    (tmp_path / "docs").mkdir()
    settings = (ROOT / "mkdocs.yml").read_text("utf-8").partition("\nnav:")[0]
    (tmp_path / "mkdocs.yml").write_text(settings.replace("name: material", "name: mkdocs"), "utf-8")
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "site_pages.py", tmp_path / "scripts")
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"):
        (tmp_path / name).write_text("# One\n", "utf-8")
    (tmp_path / "docs" / "other.md").write_text(
        "# Other\n[good](#other), [whole](../README.md#one)\n", "utf-8"
    )
    wrong = ("nowhere.md", "../src/nowhere.py", "other.md#no-such-heading")
    links = "".join(f"[x]({link})\n" for link in wrong)
    (tmp_path / "docs" / "page.md").write_text(f"# Page\n{links}", "utf-8")
    built = build(tmp_path, tmp_path / "site")
    assert built.returncode != 0
    found = [line for line in built.stderr.splitlines() if line.startswith("WARNING") and "Doc file" in line]
    assert len(found) == len(wrong), found
    assert all(
        any(link in line for line in found) for link in ("nowhere.md", "nowhere.py", "no-such-heading")
    )

"""What the site of documents has beside ``docs/``: the README as its first page, and files that pages link to
outside of it. MkDocs calls this (``hooks`` of mkdocs.yml); a link to what is not there is its error.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mkdocs.structure.files import File, Files

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
PAGES = {"index.md": "README.md", "CONTRIBUTING.md": "", "CHANGELOG.md": "", "SECURITY.md": ""}
"""Pages from the root of the repository, and their files there (empty: of the same name)."""
BESIDE = "files"
"""Where files of the repository lie in the site."""
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#|/)([^)\s#]*)(#[^)\s]*)?(?=\))")
GLOB = re.compile(r"(.*)/\*")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """A name with a star in ``nav`` is every page of that folder."""
    config.nav = [_whole(entry) for entry in config.nav or ()]
    return config


def _whole(entry: Any) -> Any:
    if isinstance(entry, dict):
        return {title: _all(inner) for title, inner in entry.items()}
    return entry


def _all(entries: Any) -> Any:
    found: list[Any] = []
    for entry in entries if isinstance(entries, list) else [entries]:
        folder = GLOB.fullmatch(entry) if isinstance(entry, str) else None
        pages = sorted((ROOT / "docs" / folder[1]).glob("*.md")) if folder else []
        found += [f"{folder[1]}/{page.name}" for page in pages] if folder else [_whole(entry)]
    return found


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The pages of the root, and what documents link to."""
    for name, source in PAGES.items():
        text = (ROOT / (source or name)).read_text(encoding="utf-8")
        files.append(File.generated(config, name, content=text))
    for page in list(files.documentation_pages()):
        for target in LINK.findall(page.content_string):
            _bring(files, config, _repository_path(page.src_uri, target[0]))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links as they are in the repository become links within the site."""
    if page.file.src_uri.startswith(BESIDE):
        return markdown
    here = posixpath.dirname(page.file.src_uri)

    def within(link: re.Match[str]) -> str:
        path, heading = link[1], link[2] or ""
        target = _site_path(_repository_path(page.file.src_uri, path)) if path else ""
        return (posixpath.relpath(target, here or ".") if target else path) + heading

    return LINK.sub(within, markdown)


def _repository_path(page: str, link: str) -> str:
    """From the root of the repository; pages of the root lie there."""
    folder = "" if page in PAGES else posixpath.join("docs", posixpath.dirname(page))
    return posixpath.normpath(posixpath.join(folder, link))


def _site_path(path: str) -> str:
    """Where a file of the repository is in the site."""
    for name, source in PAGES.items():
        if path == (source or name):
            return name
    if path == "docs" or path.startswith("docs/"):
        inner = path.removeprefix("docs").lstrip("/")
        return inner if (ROOT / path).is_file() else f"{BESIDE}/{path}/index.md"
    return f"{BESIDE}/{path}" if not (ROOT / path).is_dir() else f"{BESIDE}/{path}/index.md"


def _bring(files: Files, config: MkDocsConfig, path: str) -> None:
    """A file of the repository, or a page that lists a folder of it. What is not there is not brought, and
    the link to it is reported."""
    source, target = ROOT / path, _site_path(path)
    if target in files.src_uris or path.startswith(".."):
        return
    if source.is_dir():
        names = (one.name for one in source.iterdir() if one.is_file())
        inner = sorted(
            f"{path}/{name}" for name in names if path.startswith("docs") or not name.endswith(".md")
        )
        for one in inner:
            _bring(files, config, one)
        links = (posixpath.relpath(_site_path(one), posixpath.dirname(target)) for one in inner)
        listed = "\n".join(f"- [{posixpath.basename(link)}]({link})" for link in links)
        files.append(File.generated(config, target, content=f"# {path}\n\n{listed}\n"))
    elif source.is_file() and target.startswith(BESIDE):
        files.append(File.generated(config, target, abs_src_path=str(source)))

"""A library on this machine or behind a server, through one door. Everything is in the API's shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import httpx2
from rich.console import Console
from rich.progress import Progress

from stepwell.errors import BadInput, StepwellError
from stepwell.library.choose import choose_embedder
from stepwell.library.documents import clean_name
from stepwell.library.embedding import embed_document, made_by
from stepwell.library.embeddings import Embedder, EmbeddingsAway
from stepwell.library.errors import DamagedFile, NoSuchFile, QuotaFull
from stepwell.library.retrieve import find_passages
from stepwell.library.search import CountedTexts
from stepwell.library.store import Library
from stepwell.server.files.routes import shown
from stepwell.server.files.search import shown_passage
from stepwell.settings.file import load

TIMEOUT_S = 600.0
PAGE = 1_000
FILES_PATH = "/v1/files"
NO_SUCH_PATH = (404, 405, 501)
Shown = dict[str, Any]


class NoLibrary(StepwellError):
    """The server keeps no documents: it is none of ours, or they are switched off."""


class LibraryPlace(Protocol):
    """Every method raises ``StepwellError`` with one sentence."""

    def add(self, path: Path) -> Shown:
        """One file object."""

    def files(self) -> list[Shown]:
        """All, newest first."""

    def remove(self, file_id: str) -> None: ...

    def content(self, file_id: str) -> bytes:
        """The file as it came."""

    def search(self, question: str, results: int, file_ids: Sequence[str] | None) -> list[Shown]: ...


def local_place(
    directory: Path | None = None, config: Path | None = None, tenant: str = "local"
) -> LocalPlace:
    """The library in ``directory``, or where the settings say."""
    settings = load(config, {"library.dir": None if directory is None else str(directory)}).library
    try:
        library = Library(settings.dir, settings.limits())
        embedder = choose_embedder(settings.embeddings, settings.embeddings_model, settings.embeddings_key)
    except OSError as error:
        raise BadInput(f"the library {settings.dir} cannot be opened: {error.strerror}") from error
    return LocalPlace(library, settings.quota, tenant, embedder)


class LocalPlace:
    """The directory itself: works with and without a server beside it."""

    def __init__(
        self, library: Library, quota_bytes: int, tenant: str, embedder: Embedder | None = None
    ) -> None:
        self.library, self._quota_bytes, self._tenant = library, quota_bytes, tenant
        self._embedder = embedder

    def add(self, path: Path) -> Shown:
        data = read_file(path, self.library.limits.max_bytes)
        try:
            return shown(self.library.add(self._tenant, path.name, data, quota_bytes=self._quota_bytes))
        except QuotaFull as error:
            raise QuotaFull(f"{error}, or raise the quota in [library] of the settings") from error

    def files(self) -> list[Shown]:
        def page(after: str | None) -> tuple[list[Shown], bool]:
            found = self.library.files(self._tenant, limit=PAGE, after=after)
            return [shown(record) for record in found.files], found.has_more

        return _all(page)

    def remove(self, file_id: str) -> None:
        self.library.delete(self._tenant, file_id)

    def content(self, file_id: str) -> bytes:
        return self.library.content(self.library.get(self._tenant, file_id))

    def search(self, question: str, results: int, file_ids: Sequence[str] | None) -> list[Shown]:
        self._embed_missing()
        found = find_passages(
            self.library, CountedTexts(), self._tenant, question, results, file_ids, self._embedder
        )
        return [shown_passage(passage) for passage in found.passages]

    def _embed_missing(self) -> None:
        """Without a server nothing does it in the background."""
        if self._embedder is None:
            return
        missing = self.library.vectors.missing(made_by(self._embedder), self._tenant)
        console = Console(stderr=True)
        with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
            for record in progress.track(missing, description="embedding"):
                try:
                    embed_document(self.library, self._embedder, record, self._quota_bytes)
                except EmbeddingsAway as error:
                    console.print(f"Searching by words alone: {error}.", markup=False, highlight=False)
                    return
                except (QuotaFull, NoSuchFile, DamagedFile):
                    continue  # then words must do


class RemotePlace:
    """A server's own tenant, as its key says."""

    def __init__(self, url: str, key: str | None) -> None:
        base = url.rstrip("/").removesuffix("/v1")
        if not base.startswith(("http://", "https://")):
            raise BadInput(f"--server {url} is no URL: write it like http://127.0.0.1:8000")
        self._base = base
        self._headers = {"authorization": f"Bearer {key}"} if key else {}

    def add(self, path: Path) -> Shown:
        try:
            with path.open("rb") as file:
                form = {"files": {"file": (path.name, file)}, "data": {"purpose": "user_data"}}
                return self._ask("POST", FILES_PATH, **form)
        except OSError as error:
            raise BadInput(f"{path} cannot be read: {error.strerror}") from error

    def files(self) -> list[Shown]:
        def page(after: str | None) -> tuple[list[Shown], bool]:
            query = {"limit": str(PAGE), **({"after": after} if after else {})}
            answer = self._ask("GET", FILES_PATH, params=query)
            if "data" not in answer:
                raise NoLibrary(f"{self._base} keeps no documents")
            return answer["data"], answer.get("has_more", False)

        return _all(page)

    def remove(self, file_id: str) -> None:
        self._ask("DELETE", f"/v1/files/{file_id}")

    def content(self, file_id: str) -> bytes:
        answer = self._request("GET", f"/v1/files/{file_id}/content")
        if answer.is_success:
            return answer.content
        raise StepwellError(f"the server says: {_message(_json(answer), answer.status_code)}")

    def search(self, question: str, results: int, file_ids: Sequence[str] | None) -> list[Shown]:
        body: Shown = {"query": question, "max_num_results": results}
        if file_ids is not None:
            body["file_ids"] = list(file_ids)
        found: list[Shown] = self._ask("POST", "/v1/files/search", json=body)["data"]
        return found

    def _ask(self, method: str, path: str, **content: Any) -> Shown:
        answer = self._request(method, path, **content)
        body = _json(answer)
        if answer.is_success and isinstance(body, dict):
            return body
        kind = NoLibrary if path == FILES_PATH and answer.status_code in NO_SUCH_PATH else StepwellError
        if answer.is_success or body is None:
            raise kind(f"{self._base} does not answer as a Stepwell server does")
        raise kind(f"the server says: {_message(body, answer.status_code)}")

    def _request(self, method: str, path: str, **content: Any) -> httpx2.Response:
        try:
            with httpx2.Client(base_url=self._base, headers=self._headers, timeout=TIMEOUT_S) as client:
                return client.request(method, path, **content)
        except httpx2.HTTPError as error:
            raise StepwellError(f"the server {self._base} cannot be asked: {error}") from error


def fetched(place: LibraryPlace, names: Sequence[str], folder: Path) -> dict[Path, Shown]:
    """Documents of a library as files in ``folder``, by id or by name (of two of one name the newest), each
    with its object in the library.

    Raises ``BadInput`` for a name that is not there, ``StepwellError`` for what cannot be fetched.
    """
    files = place.files() if names else []
    found: dict[Path, Shown] = {}
    for name in dict.fromkeys(names):
        file = next((one for one in files if name in (one["id"], one["filename"])), None)
        if file is None:
            raise BadInput(f"there is no document {name} in the library: 'stepwell library list' shows them")
        path = folder / clean_name(file["id"]) / clean_name(file["filename"])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(place.content(file["id"]))
        found[path] = file
    return found


def read_file(path: Path, max_bytes: int) -> bytes:
    """Never more than one byte beyond what may be added. Raises ``BadInput``."""
    if path.is_dir():
        raise BadInput(f"{path} is a directory: name the files in it")
    try:
        with path.open("rb") as file:
            return file.read(max_bytes + 1)
    except FileNotFoundError as error:
        raise BadInput(f"{path} does not exist") from error
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from error


def _all(page: Callable[[str | None], tuple[list[Shown], bool]]) -> list[Shown]:
    """Every page in turn."""
    files, more = page(None)
    while more and files:
        following, more = page(files[-1]["id"])
        files += following
        if not following:
            break
    return files


def _json(answer: httpx2.Response) -> Any:
    """None: it is no JSON."""
    try:
        return answer.json()
    except ValueError:
        return None


def _message(body: object, status: int) -> str:
    error = body.get("error") if isinstance(body, Mapping) else None
    message = error.get("message") if isinstance(error, Mapping) else None
    return str(message).rstrip(".") if message else f"status {status}"

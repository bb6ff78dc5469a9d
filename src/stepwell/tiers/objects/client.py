"""The few calls that are made to an object store, through obstore: S3 and what speaks like it, Google's and
Azure's, or a folder that several machines mount.

Each call has a deadline and is tried twice at most. What fails is an ``OSError``: ``FileNotFoundError`` for
an object that is not there, ``ObjectsAway`` with one short reason for everything else, so that a store that
is away gives the same words each time.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from stepwell.errors import BadInput
from stepwell.tiers.objects.names import FOLDER, ObjectEntry, first_name_of, parse_object_name
from stepwell.tiers.record import Damaged

if TYPE_CHECKING:
    from obstore.store import ObjectStore

log = logging.getLogger(__name__)

SCHEMES = ("s3", "s3a", "gs", "az", "azure", "abfs", "abfss", "file")
_CONNECT_S = 2.0
_TRIES_MORE = 1
_LISTED_AT_ONCE = 1000
_LONGEST_DETAIL = 300
Got = TypeVar("Got")


class ObjectsAway(OSError):
    """The object store does not do what was asked. The words are few and always the same."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason)
        self.detail = detail


class ObjectClient:
    """An object store as ``ColdStore`` uses it. Calls may come from any thread, and wait for the store."""

    def __init__(self, store: ObjectStore) -> None:
        import obstore

        self._store, self._obstore = store, obstore

    def put(self, name: str, buffers: Sequence[memoryview]) -> None:
        """Lay an object down whole: it is there with all its bytes, or not there."""
        self._call(lambda: self._obstore.put(self._store, name, b"".join(buffers), use_multipart=False))

    def get(self, name: str, size_bytes: int) -> memoryview:
        """An object's bytes. ``Damaged`` unless it has just this size, which is looked at before all else."""

        def fetch() -> memoryview:
            found = self._obstore.get(self._store, name)
            if found.meta["size"] != size_bytes:
                raise Damaged("the object has another size than its record")
            return memoryview(found.bytes())

        return self._call(fetch)

    def delete(self, names: Sequence[str]) -> None:
        """Remove objects. One that is not there is no fault."""
        try:
            self._call(lambda: self._obstore.delete(self._store, names))
        except FileNotFoundError:  # a folder stops at the first that is missing
            for name in names if len(names) > 1 else ():
                self.delete([name])

    def copy(self, name: str, to: str) -> None:
        """The same bytes under another name; they do not leave the store."""
        self._call(lambda: self._obstore.copy(self._store, name, to))

    def list(self, since_us: int = 0) -> list[ObjectEntry]:
        """Our objects written at that time or later, in any order."""
        return self._call(lambda: [*self._listed(since_us)])

    def _listed(self, since_us: int) -> Iterator[ObjectEntry]:
        after = first_name_of(since_us) if since_us > 0 else None
        for chunk in self._obstore.list(self._store, FOLDER, offset=after, chunk_size=_LISTED_AT_ONCE):
            for meta in chunk:
                entry = parse_object_name(meta["path"], meta["size"])
                if entry is not None:
                    yield entry

    def _call(self, act: Callable[[], Got]) -> Got:
        try:
            return act()
        except FileNotFoundError:
            raise
        except OSError as error:  # a folder
            raise ObjectsAway(error.strerror or "it fails", str(error)) from error
        except self._obstore.exceptions.BaseError as error:
            reason = _reason(type(error).__name__, str(error))
            detail = " ".join(str(error).partition("Debug source")[0].split())[:_LONGEST_DETAIL]
            log.debug("object store: %s", detail)
            raise ObjectsAway(reason, detail) from error


def _reason(kind: str, text: str) -> str:
    if kind in ("UnauthenticatedError", "PermissionDeniedError"):
        return "it refuses these credentials"
    if "timed out" in text or "TimedOut" in text:
        return "it does not answer in time"
    if os.strerror(errno.ENOSPC) in text:
        return "it is full"
    return "it cannot be reached or fails"


def open_objects(url: str, deadline_s: float) -> ObjectClient:
    """The store at ``s3://bucket/folder`` (also gs://, az://), or in a folder. Credentials and endpoints come
    from the environment, under the names of each cloud (``AWS_ACCESS_KEY_ID``, ``AWS_ENDPOINT_URL``).

    Nothing is asked of it yet. ``BadInput``: not an address of this kind, or obstore is not installed.
    """
    scheme, colon, _ = url.partition("://")
    if not colon:
        return _folder(Path(url))
    if scheme not in SCHEMES:
        raise BadInput(f"objects: {url!r} is no object store: write s3://bucket/folder, or a folder's path")
    if scheme == "file":
        return _folder(Path(url.removeprefix("file://")))
    from_url = _obstore_from_url()
    deadline = timedelta(seconds=deadline_s)
    client = {
        "timeout": deadline,
        "connect_timeout": timedelta(seconds=min(_CONNECT_S, deadline_s)),
        "allow_http": os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("true", "1"),
    }
    options: dict[str, Any] = {
        "client_options": client,
        "retry_config": {"max_retries": _TRIES_MORE, "retry_timeout": deadline},
    }
    try:
        return ObjectClient(from_url(url, **options))
    except Exception as error:  # obstore has a class for each cloud's wrong setting
        detail = str(error).partition("\n")[0][:_LONGEST_DETAIL]
        raise BadInput(f"objects: {url!r} cannot be used: {detail}") from error


def _folder(path: Path) -> ObjectClient:
    _obstore_from_url()
    from obstore.store import LocalStore

    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        return ObjectClient(LocalStore(path.resolve()))
    except (OSError, ValueError) as error:
        raise BadInput(f"objects: the folder {path} cannot be used: {error}") from error


def _obstore_from_url() -> Callable[..., ObjectStore]:
    try:
        from obstore.store import from_url
    except ImportError as error:
        raise BadInput("objects: needs obstore: pip install 'stepwell[objects]'") from error
    return from_url

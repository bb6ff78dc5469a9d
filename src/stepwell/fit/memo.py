"""Replies remembered: a turn that has been asked before, word for word, is answered from a file.

Ablations and searches share most of their turns, so a fit costs a small part of what its candidates would
cost one by one, and one that was interrupted goes on where it stopped. What a remembered turn took is what it
took when it was first asked, so a profile's figures are those of a fresh run.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from stepwell.basics.private import begun_privately
from stepwell.errors import BadInput

VERSION = 1
MAX_TURNS = 1_000_000
"""Remembered in one file; the oldest go first."""
MAX_CONNECTIONS = 256
NOT_ASKED_FOR = frozenset({"agent_hint", "metadata", "user", "prompt_cache_key", "store"})
"""Fields of a request that change nothing in its answer: the caller, and what comes next."""
_TABLE = "CREATE TABLE turns(key TEXT PRIMARY KEY, reply TEXT NOT NULL) STRICT;"


class Memo:
    """The file of remembered replies. Several processes may use it at once."""

    def __init__(self, path: Path | str = ":memory:", max_turns: int = MAX_TURNS) -> None:
        """Opens or makes the file. Raises ``BadInput`` when it is none of ours."""
        try:
            begun_privately(path)
            self._db = sqlite3.connect(path, isolation_level=None, timeout=10.0)
            self._prepare(path)  # first of all, so that a file of another kind stays as it is
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._forget(max_turns)
        except (sqlite3.Error, OSError) as error:
            raise BadInput(f"remembered turns {path} cannot be opened: {error}") from error

    def _prepare(self, path: Path | str) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        tables = self._db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
        if version == 0 and tables == 0:
            self._db.execute(_TABLE)
            self._db.execute(f"PRAGMA user_version={VERSION}")
        self._db.execute("COMMIT")
        if version not in (0, VERSION) or (version == 0 and tables):
            raise BadInput(f"{path} holds no remembered turns of this version of stepwell: name another file")

    def _forget(self, max_turns: int) -> None:
        last = self._db.execute("SELECT rowid FROM turns ORDER BY rowid DESC LIMIT 1 OFFSET ?", (max_turns,))
        if (row := last.fetchone()) is not None:
            self._db.execute("DELETE FROM turns WHERE rowid <= ?", row)

    def get(self, key: str) -> bytes | None:
        row = self._db.execute("SELECT reply FROM turns WHERE key=?", (key,)).fetchone()
        return None if row is None else str(row[0]).encode()

    def put(self, key: str, reply: bytes) -> None:
        self._db.execute("INSERT OR IGNORE INTO turns VALUES(?,?)", (key, reply.decode()))

    def close(self) -> None:
        self._db.close()


@dataclass(slots=True)
class MemoCounts:
    """Turns that went to the server, and turns that were remembered."""

    asked: int = 0
    remembered: int = 0

    def __add__(self, other: MemoCounts) -> MemoCounts:
        return MemoCounts(self.asked + other.asked, self.remembered + other.remembered)


def turn_key(fingerprint: str, body: Mapping[str, Any]) -> str:
    """What names a turn: the model, and all of the request that its answer depends on.

    Ids of calls are the server's own and differ from run to run, so they are left out; so is the seed where
    nothing is left to chance.
    """
    kept = {name: value for name, value in body.items() if name not in NOT_ASKED_FOR}
    if kept.get("temperature") == 0:
        kept.pop("seed", None)
    kept["messages"] = [_without_ids(message) for message in body.get("messages", ())]
    text = json.dumps([fingerprint, kept], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _without_ids(message: Mapping[str, Any]) -> dict[str, Any]:
    plain = {name: value for name, value in message.items() if name != "tool_call_id"}
    if calls := plain.get("tool_calls"):
        plain["tool_calls"] = [{name: part for name, part in call.items() if name != "id"} for call in calls]
    return plain


def fingerprint(model: str, listed: Mapping[str, Any]) -> str:
    """What ``GET /v1/models`` says of this model, but for when it was started."""
    entries = [entry for entry in listed.get("data") or () if isinstance(entry, dict)]
    own = [entry for entry in entries if entry.get("id") == model] or entries
    said = [{name: value for name, value in entry.items() if name != "created"} for entry in own]
    return json.dumps(said, sort_keys=True)


def _plain_transport() -> httpx2.AsyncHTTPTransport:
    limits = httpx2.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=MAX_CONNECTIONS)
    return httpx2.AsyncHTTPTransport(limits=limits)


@dataclass(slots=True)
class Remembering(httpx2.AsyncBaseTransport):
    """Between a ``Client`` and its server: chat turns are looked up first.

    Hints of agents whose turns were all remembered stay here, because the server does not know those agents;
    all else passes through.
    """

    memo: Memo | None
    """None: nothing is remembered, turns are only counted."""
    inner: httpx2.AsyncBaseTransport = field(default_factory=_plain_transport)
    counts: MemoCounts = field(default_factory=MemoCounts)
    _listed: dict[str, Any] | None = None
    _under_way: dict[str, asyncio.Lock] = field(default_factory=dict)
    _met: set[tuple[str, str]] = field(default_factory=set)
    """Sessions and agents that the server knows."""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if request.url.path.endswith("/hint") and _caller(request) not in self._met:
            return httpx2.Response(200, json={})
        if request.method != "POST" or not request.url.path.endswith("/chat/completions"):
            return await self.inner.handle_async_request(request)
        body = json.loads(request.content)
        if self.memo is None or body.get("stream"):
            return await self._ask(request)
        key = turn_key(await self._fingerprint(request, str(body.get("model"))), body)
        async with self._under_way.setdefault(key, asyncio.Lock()):
            try:
                return await self._answer(self.memo, key, request)
            finally:
                self._under_way.pop(key, None)

    async def _answer(self, memo: Memo, key: str, request: httpx2.Request) -> httpx2.Response:
        if (known := memo.get(key)) is not None:
            self.counts.remembered += 1
            return httpx2.Response(200, content=known, headers={"content-type": "application/json"})
        response = await self._ask(request)
        content = await response.aread()
        if response.status_code == 200 and _is_whole(content):
            memo.put(key, content)
        return response

    async def _ask(self, request: httpx2.Request) -> httpx2.Response:
        self._met.add(_caller(request))
        response = await self.inner.handle_async_request(request)
        self.counts.asked += response.status_code == 200
        return response

    async def _fingerprint(self, request: httpx2.Request, model: str) -> str:
        """Asked for once; a server that lists no models is known by what requests name."""
        if self._listed is None:
            path = request.url.path.removesuffix("/chat/completions") + "/models"
            headers = {name: request.headers[name] for name in ("authorization",) if name in request.headers}
            asked = httpx2.Request("GET", request.url.copy_with(path=path), headers=headers)
            response = await self.inner.handle_async_request(asked)
            self._listed = _object(await response.aread()) if response.status_code == 200 else {}
        return fingerprint(model, self._listed)

    async def aclose(self) -> None:
        await self.inner.aclose()


def _caller(request: httpx2.Request) -> tuple[str, str]:
    return request.headers.get("x-session-id", ""), request.headers.get("x-agent-id", "")


def _is_whole(content: bytes) -> bool:
    return bool(_object(content).get("choices"))


def _object(content: bytes) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}

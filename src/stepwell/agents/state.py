"""A session on disk: what was said, asked, called and answered, each committed before the next step.

SQLite, one file per session, write-ahead log: a process that is killed loses what it had not committed, which
is at most one step of each agent. One process at a time.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stepwell.agents.events import TurnUsage
from stepwell.agents.penalty import Terms
from stepwell.basics.private import begun_privately
from stepwell.errors import BadInput

Message = dict[str, Any]
VERSION = 1
_TABLES = """
CREATE TABLE facts(key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE agents(id TEXT PRIMARY KEY, parent TEXT, role TEXT NOT NULL, depth INTEGER NOT NULL) STRICT;
CREATE TABLE tasks(key TEXT PRIMARY KEY, agent TEXT NOT NULL, task TEXT NOT NULL, outcome TEXT,
  answer TEXT) STRICT;
CREATE TABLE messages(agent TEXT, number INTEGER, message TEXT NOT NULL, PRIMARY KEY(agent, number)) STRICT;
CREATE TABLE turns(agent TEXT, number INTEGER, task TEXT, usage TEXT NOT NULL,
  PRIMARY KEY(agent, number)) STRICT;
CREATE TABLE calls(agent TEXT, at INTEGER, place INTEGER, tool TEXT, PRIMARY KEY(agent, at, place)) STRICT;
CREATE TABLE letters(key TEXT PRIMARY KEY, author TEXT, recipient TEXT, text TEXT, delivered INTEGER) STRICT;
"""


TURN_LIMIT, REFUSED = "turn_limit", "refused"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a task ended.

    ``kind``: completed, turn_limit, invalid_output, repeated_call, refused or interrupted.
    """

    kind: str
    text: str

    @property
    def ok(self) -> bool:
        return self.kind == "completed"


@dataclass(slots=True)
class Task:
    """One task of an agent; without an outcome it is under way."""

    key: str
    agent: str
    text: str
    terms: Terms | None = None
    outcome: Outcome | None = None
    turns: int = 0
    completion_tokens: int = 0
    """Of its turns."""


@dataclass(frozen=True, slots=True)
class AgentRow:
    id: str
    parent: str | None
    role: str
    depth: int


class SessionFile:
    """The file of one session. Every method that writes is one transaction, or part of an outer one."""

    def __init__(self, path: Path | str) -> None:
        """Opens or makes the file. Raises ``BadInput`` when it is none of ours or in use."""
        try:
            begun_privately(path)
            self._db = sqlite3.connect(path, isolation_level=None, timeout=1.0)
            self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._prepare(path)
        except (sqlite3.Error, OSError) as error:
            raise BadInput(f"session {path} cannot be opened: {error}") from error
        self._open = False

    def _prepare(self, path: Path | str) -> None:
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        tables = self._db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
        if version == 0 and tables == 0:
            self._db.executescript(f"BEGIN;{_TABLES}PRAGMA user_version={VERSION};COMMIT;")
        elif version != VERSION:
            raise BadInput(f"session {path} is no session of this version of stepwell")
        else:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute("COMMIT")

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing; inside another one, a part of that."""
        if self._open:
            yield
            return
        self._db.execute("BEGIN IMMEDIATE")
        self._open = True
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:  # SQLite takes it back by itself where the disk is full
                self._db.execute("ROLLBACK")
            raise
        finally:
            self._open = False
        self.committed()

    def committed(self) -> None:
        """Called after every commit; tests end the world here."""

    def _write(self, statement: str, *values: object) -> bool:
        """Whether it changed anything."""
        with self.transaction():
            return self._db.execute(statement, values).rowcount > 0

    # --- facts ---------------------------------------------------------------------------------

    def get(self, key: str) -> Any:
        row = self._db.execute("SELECT value FROM facts WHERE key=?", (key,)).fetchone()
        return None if row is None else json.loads(row[0])

    def put(self, key: str, value: Any) -> None:
        self._write("INSERT OR REPLACE INTO facts VALUES(?,?)", key, json.dumps(value))

    # --- agents and their tasks ------------------------------------------------------------------

    def add_agent(self, row: AgentRow) -> None:
        self._write("INSERT INTO agents VALUES(?,?,?,?)", row.id, row.parent, row.role, row.depth)

    def agents(self) -> list[AgentRow]:
        rows = self._db.execute("SELECT id, parent, role, depth FROM agents ORDER BY rowid")
        return [AgentRow(*row) for row in rows]

    def add_task(self, task: Task) -> None:
        with self.transaction():
            self._write("INSERT INTO tasks VALUES(?,?,?,NULL,NULL)", task.key, task.agent, task.text)
            if task.terms is not None:
                self.put(f"terms/{task.key}", asdict(task.terms))

    def end_task(self, key: str, outcome: Outcome) -> None:
        self._write("UPDATE tasks SET outcome=?, answer=? WHERE key=?", outcome.kind, outcome.text, key)

    def reopen_task(self, key: str) -> None:
        self._write("UPDATE tasks SET outcome=NULL, answer=NULL WHERE key=?", key)

    def tasks(self) -> list[Task]:
        """In the order they were given, without their turns."""
        rows = self._db.execute("SELECT key, agent, task, outcome, answer FROM tasks ORDER BY rowid")
        return [self._task(*row) for row in rows]

    def _task(self, key: str, agent: str, text: str, kind: str | None, answer: str | None) -> Task:
        terms = self.get(f"terms/{key}")
        outcome = None if kind is None else Outcome(kind, answer or "")
        return Task(key, agent, text, None if terms is None else Terms(**terms), outcome)

    # --- what was said ---------------------------------------------------------------------------

    def add_messages(self, agent: str, first: int, messages: Sequence[Message]) -> None:
        with self.transaction():
            for number, message in enumerate(messages, first):
                text = json.dumps(message, ensure_ascii=False)
                self._write("INSERT INTO messages VALUES(?,?,?)", agent, number, text)

    def messages(self, agent: str) -> list[Message]:
        rows = self._db.execute("SELECT message FROM messages WHERE agent=? ORDER BY number", (agent,))
        return [json.loads(row[0]) for row in rows]

    def add_turn(self, agent: str, number: int, task: str, usage: TurnUsage) -> None:
        self._write("INSERT INTO turns VALUES(?,?,?,?)", agent, number, task, json.dumps(asdict(usage)))

    def turns(self) -> list[tuple[str, str, TurnUsage]]:
        """Agent, task and usage of every turn, in the order they ended."""
        rows = self._db.execute("SELECT agent, task, usage FROM turns ORDER BY rowid")
        return [(agent, task, TurnUsage(**json.loads(usage))) for agent, task, usage in rows]

    # --- calls of tools --------------------------------------------------------------------------

    def begin_call(self, agent: str, at: int, place: int, tool: str) -> bool:
        """Mark that the call begins. False: it had begun already, before a crash."""
        return self._write("INSERT OR IGNORE INTO calls VALUES(?,?,?,?)", agent, at, place, tool)

    # --- messages between agents -----------------------------------------------------------------

    def post(self, key: str, author: str, recipient: str, text: str) -> bool:
        """False: this letter has been posted already."""
        return self._write("INSERT OR IGNORE INTO letters VALUES(?,?,?,?,0)", key, author, recipient, text)

    def undelivered(self, recipient: str) -> list[Mapping[str, str]]:
        rows = self._db.execute(
            "SELECT author, text FROM letters WHERE recipient=? AND delivered=0 ORDER BY rowid", (recipient,)
        )
        return [{"author": author, "text": text} for author, text in rows]

    def deliver(self, recipient: str) -> None:
        self._write("UPDATE letters SET delivered=1 WHERE recipient=?", recipient)

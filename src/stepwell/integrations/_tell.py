"""What every integration shares: the caller, what tools took before, and telling the server.

Hints go out from one background thread, the newest of each agent only, so that the program that gives
them waits for nothing: they are dropped where the server is away or knows none, and a turn that begins
takes back what was said before it and is not sent yet.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import httpx2

from stepwell.errors import BadInput, StepwellError

TIMEOUT_S = 2.0
PAUSE_S = 15.0
"""How long a server that is away is left alone."""
MAX_PENDING = 1_024
MAX_KNOWN = 4_096
IDLE_S = 10.0
"""The thread ends when there was nothing to say for so long."""
PARTING_S = 1.0
"""What the end of a program waits for its last hints at most."""
MAX_TAIL_CHARS = 12
ENDS = ("done", "person")

PERSON_TOOLS, FINAL_TOOLS = frozenset({"user_input"}), frozenset({"final_answer"})
"""Of smolagents: the first asks a person, after the second nothing follows."""

Hint = dict[str, Any]


@dataclass(frozen=True, slots=True)
class SessionAgent:
    """One agent of one session."""

    session: str
    agent: str
    name: str
    parent: str | None = None

    def headers(self) -> dict[str, str]:
        """Quoted, because names may hold what a header may not."""
        said = {"X-Session-ID": self.session, "X-Agent-ID": self.agent, "X-Agent-Name": self.name}
        said |= {} if self.parent is None else {"X-Parent-Agent-ID": self.parent}
        return {key: _one_line(value) for key, value in said.items()}

    @property
    def path(self) -> str:
        """Where its hints go."""
        session, agent = _one_line(self.session), _one_line(self.agent)
        own = "" if agent == session else f"/{quote(agent, safe='')}"
        return f"/agents/{quote(session, safe='')}{own}/hint"


WITHIN: ContextVar[SessionAgent | None] = ContextVar("stepwell_caller", default=None)
"""Whose tool or block of code runs: what starts meanwhile is its child."""


@contextmanager
def session(name: str) -> Iterator[None]:
    """Runs that begin in this block belong to one session. Blocks of other tasks and threads do not mix."""
    token = WITHIN.set(SessionAgent(name, "", ""))
    try:
        yield
    finally:
        WITHIN.reset(token)


def caller(
    name: str,
    own: str,
    above: SessionAgent | None = None,
    by: SessionAgent | None = None,
    taken: Iterable[SessionAgent] = (),
    nth: object = "",
) -> SessionAgent:
    """The agent ``name`` whose context is called ``own``: the root of a session of that name, or a child.

    ``above``: in whose tool it runs, ``by``: the agent that handed over to it. A child's id carries the end
    of ``own``, because an agent that is called again as a tool begins anew; one whose id is ``taken`` now
    gets another. ``nth``: which of several of that name.
    """
    above = above or WITHIN.get()
    giver = by or above
    agent = name if above is None else f"{name}-{own[-MAX_TAIL_CHARS:]}"
    agent = agent if nth == "" else f"{agent}-{nth}"
    who = SessionAgent(above.session if above else own, agent, name, (giver.agent or None) if giver else None)
    return replace(who, agent=f"{name}-{uuid4().hex[-MAX_TAIL_CHARS:]}") if who in taken else who


def with_headers(arguments: Mapping[str, Any] | None, headers: dict[str, str]) -> dict[str, Any]:
    """Arguments of the OpenAI client's calls, and headers added to those that are there."""
    given = dict(arguments or {})
    return {**given, "extra_headers": {**(given.get("extra_headers") or {}), **headers}}


def override(variables: Iterable[ContextVar[Any]], headers: dict[str, str]) -> Callable[[], None]:
    """Add to headers that a package keeps in context variables; returns what takes that back."""
    tokens = [(variable, variable.set({**(variable.get() or {}), **headers})) for variable in variables]

    def undo() -> None:
        for variable, token in tokens:
            with suppress(ValueError):  # a stream may be closed in another context than it began in
                variable.reset(token)

    return undo


class Teller:
    """One server that is told. Safe to use from many threads; never raises and never waits."""

    def __init__(self, base_url: str | None = None, api_key: str | None = None, end: str = "done") -> None:
        """``base_url`` and ``api_key`` as the program gives them to its model; default: the environment's.

        ``end``: what the end of a run means for its first agent: ``done``, or ``person`` where a person
        goes on talking with it. Raises ``BadInput`` where nothing says a server.
        """
        if end not in ENDS:
            raise BadInput(f"the end of a run can mean {' or '.join(ENDS)}, not {end!r}")
        base = (base_url or os.environ.get("OPENAI_BASE_URL") or "").strip().rstrip("/")
        if not base.startswith(("http://", "https://")):
            raise BadInput(
                "Stepwell's address is not known: pass base_url or set OPENAI_BASE_URL (http://HOST:8000/v1)"
            )
        self._end = end
        self._url = base if base.endswith("/v1") else base + "/v1"
        self._key = api_key or os.environ.get("OPENAI_API_KEY") or "none"
        self._took_ms: dict[str, int] = {}
        self._pending: dict[str, Hint] = {}
        self._this_wait: dict[str, Hint] = {}
        self._until: dict[Hashable, dict[SessionAgent, None]] = {}
        self._began: dict[Hashable, tuple[str, float]] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._busy = False
        self._quiet_until_s = 0.0

    # --- what agents do -------------------------------------------------------------------------

    def turn(
        self, who: SessionAgent, above: SessionAgent | None = None, until: Hashable = None
    ) -> dict[str, str]:
        """It calls its model now: the headers to send; what it waited for is over.

        ``above`` waits for it, if that is not said otherwise; ``until``: when that is ``over``, so is it.
        """
        if above is not None:
            self.waits(above, "child", after=who)
        self.ended(who, who)
        with self._changed:
            self._pending.pop(who.path, None)
            self._this_wait.pop(who.path, None)
            if until is not None and (until in self._until or len(self._until) < MAX_KNOWN):
                self._until.setdefault(until, {})[who] = None
        return who.headers()

    def over(self, *until: Hashable, wait: str | None = None) -> None:
        """What some agents live ``until`` is over; with ``wait``: it stops for that, and goes on later."""
        with self._changed:
            ending = [who for one in until for who in self._until.pop(one, {})]
        for who in ending:
            if wait is None:
                self.ends(who)
            else:
                self.waits(who, wait)

    def waits(
        self, who: SessionAgent, wait: str, tools: Iterable[str] = (), after: SessionAgent | None = None
    ) -> None:
        """For a ``tool``, ``child`` or ``person``; ``done``: for nothing more.

        Of several tools at once the longest counts, as far as it is known how long they take.
        """
        hint: Hint = {"next": wait}
        if after is not None:
            hint["after_agent"] = after.agent
        with self._changed:
            if wait in ("tool", "child"):
                before = self._this_wait.get(who.path, {}).get("expected_ms", 0)
                if longest := max([before, *(self._took_ms.get(tool, 0) for tool in tools)]):
                    hint["expected_ms"] = longest
            self._this_wait.pop(who.path, None)
            if len(self._this_wait) < MAX_KNOWN and wait != "done":
                self._this_wait[who.path] = hint
            self._send(who.path, hint)

    def ends(self, who: SessionAgent) -> None:
        """Its run is over, unless a person has to say something first."""
        self._began.pop(who, None)
        if self._this_wait.get(who.path, {}).get("next") != "person":
            self.waits(who, self._end if who.parent is None else "done")

    def asked(self, who: SessionAgent, tools: Iterable[str]) -> None:
        """Its turn asks for these tools: one wait, until its next turn."""
        names = sorted(set(tools))
        if PERSON_TOOLS & set(names):
            self.waits(who, "person")
        elif names and not FINAL_TOOLS & set(names):
            self.began(who, " ".join(names), who)

    def expect(self, tool: str, milliseconds: int) -> None:
        """How long a tool takes, until it has been seen."""
        with self._changed:
            self._took_ms.setdefault(tool, milliseconds)

    def began(self, who: SessionAgent, tool: str, call: Hashable) -> None:
        """``call``: any key of its own, until ``ended``."""
        with self._changed:
            if len(self._began) < MAX_KNOWN:
                self._began[call] = (tool, time.monotonic())
        self.waits(who, "tool", [tool])

    def ended(self, who: SessionAgent, call: Hashable, *, asks: bool = False) -> None:
        """Half of what is expected next time comes from this call, half from all before.

        ``asks``: it did not run, a person is asked first.
        """
        with self._changed:
            tool, since_s = self._began.pop(call, ("", 0.0))
            if tool and not asks and (tool in self._took_ms or len(self._took_ms) < MAX_KNOWN):
                took_ms = max(1, round((time.monotonic() - since_s) * 1_000))
                self._took_ms[tool] = (self._took_ms.get(tool, took_ms) + took_ms + 1) // 2
        if asks:
            self.waits(who, "person")

    def flush(self, patience_s: float = PARTING_S) -> bool:
        """Wait until all is told, at most so long; whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._pending and not self._busy, patience_s)

    # --- the thread -----------------------------------------------------------------------------

    def _send(self, path: str, hint: Hint) -> None:
        if time.monotonic() < self._quiet_until_s or len(self._pending) >= MAX_PENDING:
            return
        self._pending.pop(path, None)
        self._pending[path] = hint
        if self._thread is None or not self._thread.is_alive():  # also in a child after a fork
            self._thread = threading.Thread(target=self._work, name="stepwell-hints", daemon=True)
            self._thread.start()
            atexit.register(self.flush)
        self._changed.notify_all()

    def _work(self) -> None:
        # A proxy from the environment must not come between us and our own loopback.
        direct = "//127.0.0.1" in self._url or "//localhost" in self._url
        headers = {"Authorization": f"Bearer {self._key}"}
        with httpx2.Client(headers=headers, timeout=TIMEOUT_S, trust_env=not direct) as http:
            while (said := self._next()) is not None:
                quiet_s = self._tell(http, *said)
                if quiet_s:
                    with self._changed:
                        self._quiet_until_s = time.monotonic() + quiet_s
                        self._pending.clear()

    def _next(self) -> tuple[str, Hint] | None:
        """What to send; None: nothing was said for a while."""
        with self._changed:
            self._busy = False
            self._changed.notify_all()
            if not self._changed.wait_for(lambda: self._pending, IDLE_S):
                self._thread = None
                atexit.unregister(self.flush)
                return None
            self._busy = True
            path = next(iter(self._pending))
            return path, self._pending.pop(path)

    def _tell(self, http: httpx2.Client, path: str, hint: Hint) -> float:
        """Send one; for how long the server is to be left alone then."""
        try:
            response = http.post(self._url + path, json=hint)
        except (httpx2.HTTPError, httpx2.InvalidURL, UnicodeError):
            return PAUSE_S
        unknown = response.status_code in (404, 405) and "agent_not_found" not in response.text
        if unknown or response.status_code in (401, 403):
            return float("inf")  # it knows no hints, or not from us
        return PAUSE_S if response.status_code >= 500 or response.status_code == 429 else 0.0


class MissingPackage(StepwellError, ImportError):
    """The package that an integration is for is not installed."""


@contextmanager
def needs(package: str) -> Iterator[None]:
    """Around the imports of a package: raises ``MissingPackage`` with the line to type."""
    try:
        yield
    except ModuleNotFoundError as error:
        sentence = f"Stepwell's integration with {package} needs it: pip install {package}"
        raise MissingPackage(sentence) from error


def _one_line(text: str) -> str:
    """As a header may carry it and the server keeps it."""
    return "".join(c if c.isascii() and c.isprintable() else "_" for c in text.strip())[:255]

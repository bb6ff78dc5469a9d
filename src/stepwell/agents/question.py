"""The question of a session: kept in its file, and followed by the next one once it is answered."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from stepwell.agents.limits import PAUSES
from stepwell.agents.state import SessionFile
from stepwell.errors import BadInput

MAX_ASK_CHARS = 100_000
MORE = "more"
"""Of the facts: whether another question may follow."""


@dataclass(frozen=True, slots=True)
class AskedQuestion:
    """What a run of a session is to answer."""

    session: str
    """The session's id."""
    text: str
    number: int
    """From 1; the keys of tasks have it from the second question on."""
    is_next: bool
    """The session has ended with another one before."""
    resumed: bool
    """It was asked before, and the session goes on with it."""


def question_of(store: SessionFile, ask: str, session: str = "", *, more: bool = False) -> AskedQuestion:
    """The question to answer: ``ask``, or the one that the file holds; written down before anything is done.

    ``session``: the id of a session that has none yet. ``more``: another question may follow once this one
    has ended; a session that was asked without it takes no other. Raises ``BadInput``.
    """
    asked = _asked(store, ask, session)
    store.put(MORE, more)
    return asked


def _asked(store: SessionFile, ask: str, session: str) -> AskedQuestion:
    if len(ask) > MAX_ASK_CHARS:
        raise BadInput(f"the question is {len(ask):,} characters long: give documents as files")
    kept, number = store.get("ask"), store.get("number") or 1
    if kept is None:
        if not ask.strip():
            raise BadInput("there is nothing to resume in this session: ask a question")
        return _written(
            store, AskedQuestion(session or f"crew-{uuid.uuid4().hex[:12]}", ask, 1, False, False)
        )
    session, is_other = str(store.get("id")), bool(ask.strip()) and ask != kept
    status = store.get("status")
    if is_other and store.get(MORE) and status is not None and status not in PAUSES:
        return _written(store, AskedQuestion(session, ask, number + 1, True, False))
    if is_other:
        raise BadInput("this session has another question: resume it without one, or begin a new session")
    return AskedQuestion(session, str(kept), number, False, True)


def _written(store: SessionFile, made: AskedQuestion) -> AskedQuestion:
    facts = {"ask": made.text, "id": made.session, "number": made.number, "status": None, "draft": ""}
    with store.transaction():
        for key, value in facts.items():
            store.put(key, value)
    return made

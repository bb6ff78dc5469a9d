"""Where a run can be watched in a browser."""

from __future__ import annotations

import uuid
from urllib.parse import quote, urlsplit

import httpx2

from stepwell.agents.session import Session

PATIENCE_S = 2.0
MARK = "<title>Stepwell</title>"


def page_of(session: Session, server: str) -> str | None:
    """The link to a session on its server's page; None where the server has none. The session has an id
    from here on, which it keeps."""
    parts = urlsplit(server)
    root = f"{parts.scheme}://{parts.netloc}"
    try:
        answer = httpx2.get(f"{root}/page", timeout=PATIENCE_S, trust_env=False)
    except httpx2.HTTPError:
        return None
    if answer.status_code != 200 or MARK not in answer.text:
        return None
    session.id = session.store.get("id") or session.id or f"crew-{uuid.uuid4().hex[:12]}"
    return f"{root}/page#/session/{quote(session.id, safe='')}"

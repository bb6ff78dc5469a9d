"""Asking the sources, politely: one request at a time, a pause between two, few tries, and never for ever.

A reply is kept only when it keeps its source's contract, so that an error page of a site that is ill never
looks like data later. What was kept after the week had ended is not asked for again. A key goes into the
request and into nothing that is written.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import httpx2 as httpx

from stepwell import __version__
from stepwell.review.facts import Facts
from stepwell.review.folder import keep, kept_since
from stepwell.review.sources.base import MAX_REPLY_BYTES, Reply, Request, Source, SourceError, read
from stepwell.review.week import Week

TRIES = 3
BACKOFF_S = 2.0
LONGEST_WAIT_S = 60.0
TIMEOUT_S = 30.0
AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Fetched:
    """What became of one request. ``error`` is one sentence, empty where the reply was kept."""

    request: Request
    error: str = ""
    asked: bool = True
    """False: the reply of an earlier run was there already."""


@dataclass(slots=True)
class Fetcher:
    """Asks sources for a week and keeps what they answer."""

    folder: Path
    today: date
    base_urls: Mapping[str, str] = field(default_factory=dict)
    """In place of a source's own, by its name: a mirror, or a test's server."""
    again: bool = False
    """Ask also for what an earlier run has kept."""
    sleep: Callable[[float], None] = time.sleep
    client: httpx.Client = field(
        default_factory=lambda: httpx.Client(timeout=TIMEOUT_S, follow_redirects=True)
    )

    def fetch(self, week: Week, source: Source) -> Iterator[Fetched]:
        """One after another; a request that fails is told, and the next one is made. A site that is not
        reached at all is left alone."""
        secret = os.environ.get(source.secret, "") if source.secret else ""
        asked = 0
        for request in source.requests(week):
            if not self.again and kept_since(
                self.folder, request.name, self._shown(source, request), week.friday
            ):
                yield Fetched(request, asked=False)
                continue
            if source.secret and not secret:
                yield Fetched(request, f"{source.name}: set {source.secret} to ask this source")
                return
            asked += 1
            if asked > 1:
                self.sleep(source.pause_s)
            try:
                reply, url = self._ask(source, request, secret)
                read(source, Facts(), reply)
                keep(self.folder, reply, url)
            except httpx.TransportError as error:
                left = f"; it is asked for nothing else (waited for {TRIES} tries)"
                yield Fetched(request, self._hide(f"{source.name} was not reached ({error}){left}", secret))
                return
            except (SourceError, httpx.HTTPError) as error:
                yield Fetched(request, self._hide(f"{request.name}: {error}", secret))
            else:
                yield Fetched(request)

    def _ask(self, source: Source, request: Request, secret: str) -> tuple[Reply, str]:
        """The reply and the address without its key. Raises ``SourceError`` or ``httpx.HTTPError``."""
        base = self.base_urls.get(source.name, source.base_url).rstrip("/")
        query, headers = dict(request.query), {"User-Agent": f"stepwell/{__version__}"}
        if source.name == "fred":
            query["api_key"] = secret
        elif source.name == "edgar":
            headers["User-Agent"] = secret
        for attempt in range(1, TRIES + 1):
            try:
                answer = self._once(request, base + request.path, query, headers)
            except httpx.TransportError:
                if attempt == TRIES:
                    raise
                self.sleep(BACKOFF_S * 2**attempt)
                continue
            if answer.status_code not in AGAIN or attempt == TRIES:
                break
            self.sleep(_wait(answer, attempt))
        if answer.status_code != 200:
            raise SourceError(f"{source.name} answered {answer.status_code} {attempt} times, or for good")
        return Reply(source.name, request.name, answer.content, self.today), self._shown(source, request)

    def _shown(self, source: Source, request: Request) -> str:
        """The address without its key."""
        base = self.base_urls.get(source.name, source.base_url).rstrip("/")
        return str(httpx.URL(base + request.path).copy_merge_params(dict(request.query)))

    def _once(
        self, request: Request, url: str, query: Mapping[str, str], headers: Mapping[str, str]
    ) -> httpx.Response:
        """One answer, read no further than the limit."""
        method, body = ("GET", None) if request.body is None else ("POST", request.body)
        with self.client.stream(method, url, params=query or None, json=body, headers=headers) as answer:
            data = bytearray()
            for part in answer.iter_bytes():
                data += part
                if len(data) > MAX_REPLY_BYTES:
                    raise SourceError(f"{request.name}: the reply is larger than {MAX_REPLY_BYTES} bytes")
        plain = {
            k: v for k, v in answer.headers.items() if k.lower() not in ("content-encoding", "content-length")
        }
        return httpx.Response(answer.status_code, content=bytes(data), headers=plain, request=answer.request)

    def _hide(self, text: str, secret: str) -> str:
        return text.replace(secret, "...") if secret else text


def _wait(answer: httpx.Response, attempt: int) -> float:
    """What the site asks for, within reason; else longer each time."""
    asked = answer.headers.get("retry-after", "")
    return min(float(asked) if asked.isdigit() else BACKOFF_S * 2**attempt, LONGEST_WAIT_S)

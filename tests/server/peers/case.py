"""A case: a test of another server's suite, written anew, and the list of all cases."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx2

from tests.server.fakes import MODEL, FakeDriver
from tests.server.wire import error_of, events

SAYS = "Hello there, world."
CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
BOOK = [{"role": "system", "content": "Book"}, {"role": "user", "content": "What is the best book"}]
LLAMA, VLLM = "llama.cpp", "vLLM"


@dataclass(frozen=True, slots=True)
class Asked:
    """A server whose model says ``SAYS``, and what it was given to compute."""

    http: httpx2.Client
    driver: FakeDriver

    def post(self, path: str, body: Any) -> httpx2.Response:
        return self.http.post(path, json={"model": MODEL, **body} if isinstance(body, dict) else body)

    def good(self, path: str, **body: Any) -> dict[str, Any]:
        answer = self.post(path, body)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def bad(self, path: str, status: int = 400, **body: Any) -> dict[str, Any]:
        answer = self.post(path, body)
        assert answer.status_code == status, answer.text
        return error_of(answer)

    def stream(self, path: str, **body: Any) -> list[dict[str, Any]]:
        answer = self.post(path, {**body, "stream": True})
        assert answer.status_code == 200, answer.text
        return [event for event in events(answer) if isinstance(event, dict)]

    def chat(self, **body: Any) -> dict[str, Any]:
        return self.good(CHAT, **{"messages": BOOK, **body})

    def chat_stream(self, **body: Any) -> list[dict[str, Any]]:
        return self.stream(CHAT, **{"messages": BOOK, **body})


@dataclass(frozen=True, slots=True)
class PeerCase:
    """One test of theirs."""

    peer: str
    file: str
    name: str
    ask: Callable[[Asked], None]
    differs: str = ""
    """What a client sees otherwise, and why; empty: nothing."""


CASES: list[PeerCase] = []


def case(
    peer: str, file: str, *names: str, differs: str = ""
) -> Callable[[Callable[[Asked], None]], Callable[[Asked], None]]:
    """The tests of theirs that a function stands for."""

    def add(ask: Callable[[Asked], None]) -> Callable[[Asked], None]:
        CASES.extend(PeerCase(peer, file, name, ask, differs) for name in names)
        return ask

    return add


def contents(chunks: list[dict[str, Any]]) -> str:
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


def texts(chunks: list[dict[str, Any]], index: int = 0) -> str:
    return "".join(c["text"] for chunk in chunks for c in chunk["choices"] if c["index"] == index)


def reasons(chunks: list[dict[str, Any]]) -> list[str]:
    found = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]]
    return [reason for reason in found if reason is not None]


def by_file() -> Iterator[tuple[str, str, list[PeerCase]]]:
    """Their files in order, with the cases of each."""
    files: dict[tuple[str, str], list[PeerCase]] = {}
    for one in CASES:
        files.setdefault((one.peer, one.file), []).append(one)
    for (peer, file), cases in sorted(files.items(), key=lambda item: (item[0][0].lower(), item[0][1])):
        yield peer, file, cases


def counts(cases: list[PeerCase]) -> Mapping[str, int]:
    differing = sum(bool(one.differs) for one in cases)
    return {"same": len(cases) - differing, "differs": differing}

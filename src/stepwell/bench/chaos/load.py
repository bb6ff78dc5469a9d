"""Clients of a chaos run: conversations, hints, documents and crews. They know what each answer must be."""

from __future__ import annotations

import asyncio
import hashlib
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from stepwell.agents.client import Client
from stepwell.agents.session import Session
from stepwell.agents.state import SessionFile
from stepwell.bench.chaos.tally import Agent, ChaosTally
from stepwell.bench.chaos.target import one_by_one
from stepwell.bench.client import StreamedAnswer
from stepwell.bench.crews.crew_shapes import ASK, SHAPES, CrewSize, toolbox
from stepwell.errors import StepwellError

TIMEOUT_S = 90.0
TRIES = 4
PAUSE_S, GIVEN_UP_S = 0.15, 1.0
SCRIPTS, TURNS, ANSWER_TOKENS = 8, 3, 12
CREW = CrewSize(agents=4, concurrent=2)
CREW_S = 150.0
WORDS = ("stone", "step", "water", "level", "flight", "landing", "well", "court", "pillar", "shade", "spring")

Messages = tuple[tuple[str, str], ...]


@dataclass(slots=True)
class Expected:
    """What the undisturbed server answered, by the messages it was asked with."""

    answers: dict[Messages, str] = field(default_factory=dict)
    crew: str = ""


@dataclass(frozen=True, slots=True)
class TriedTurn:
    """One try: the text, or why there is none."""

    text: str | None = None
    refusal: tuple[int, str] | None = None


def script(number: int) -> list[str]:
    """What the user says in each turn of a conversation; the first words are shared by several."""
    dice = random.Random(number)
    opening = " ".join(random.Random(number % 3).choices(WORDS, k=22))
    return [f"{opening}. {' '.join(dice.choices(WORDS, k=8))}?" for _ in range(TURNS)]


def document(number: int) -> bytes:
    dice = random.Random(number)
    lines = [" ".join(dice.choices(WORDS, k=9)) for _ in range(dice.randint(3, 60))]
    return f"Document {number}.\n".encode() + "\n".join(lines).encode()


# --- one request ---------------------------------------------------------------------------------


def ask(http: httpx2.Client, messages: Sequence[tuple[str, str]], agent: Agent, *, stream: bool) -> TriedTurn:
    """One chat completion. ``httpx2.HTTPError`` when the connection ends before the answer does."""
    body: dict[str, Any] = {
        "model": _model(http),
        "messages": [{"role": role, "content": content} for role, content in messages],
        "max_tokens": ANSWER_TOKENS,
        "temperature": 0,
        "ignore_eos": True,
        "stream": stream,
    }
    headers = {"X-Session-ID": agent[0], "X-Agent-ID": agent[1]}
    if not stream:
        answer = http.post("/v1/chat/completions", json=body, headers=headers)
        if answer.status_code != 200:
            return TriedTurn(refusal=_refusal(answer))
        return TriedTurn(answer.json()["choices"][0]["message"]["content"])
    with http.stream("POST", "/v1/chat/completions", json=body, headers=headers) as response:
        if response.status_code != 200:
            response.read()
            return TriedTurn(refusal=_refusal(response))
        return _streamed(response)


def _streamed(response: httpx2.Response) -> TriedTurn:
    answer = StreamedAnswer()
    any(map(answer.add, response.iter_lines()))
    if answer.error is not None:
        status = 503 if answer.error.get("type") == "server_error" else 429
        return TriedTurn(refusal=(status, str(answer.error.get("code"))))
    if not answer.ended:
        raise httpx2.RemoteProtocolError("the stream ended without [DONE]")
    return TriedTurn(answer.text)


def _refusal(answer: httpx2.Response) -> tuple[int, str]:
    try:
        return answer.status_code, str(answer.json()["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return answer.status_code, f"no error object: {answer.text[:80]!r}"


def _model(http: httpx2.Client) -> str:
    return "null" if http.headers.get("x-engine") == "null" else "smollm2-135m-instruct"


def client(base_url: str, engine: str) -> httpx2.Client:
    """What asks ``engine``'s model."""
    return one_by_one(TIMEOUT_S, base_url=base_url, headers={"x-engine": engine})


# --- the undisturbed run -------------------------------------------------------------------------


def undisturbed(base_url: str, engine: str, directory: Path, scripts: int = SCRIPTS) -> Expected:
    """Ask everything once; a real model one turn after the other."""
    expected = Expected()
    with client(base_url, engine) as http, ThreadPoolExecutor(4 if engine == "null" else 1) as pool:
        for answers in pool.map(lambda number: _undisturbed(http, number), range(scripts)):
            expected.answers |= answers
    status, expected.crew = run_crew(base_url, directory / "crew-undisturbed.db")
    if status != "completed":
        raise StepwellError(f"the undisturbed crew {status}: {expected.crew}")
    return expected


def _undisturbed(http: httpx2.Client, number: int) -> dict[Messages, str]:
    messages: Messages = ()
    answers = {}
    for words in script(number):
        messages = (*messages, ("user", words))
        try:
            said = ask(http, messages, ("undisturbed", f"script-{number}"), stream=False)
        except httpx2.HTTPError as error:
            raise StepwellError(f"the undisturbed server did not answer: {error}") from error
        if said.text is None:
            raise StepwellError(f"the undisturbed server refused a turn: {said.refusal}")
        answers[messages] = said.text
        messages = (*messages, ("assistant", said.text))
    return answers


def run_crew(base_url: str, path: Path) -> tuple[str, str]:
    """A small crew from its question to its answer: status, and the answer or the reason."""

    async def session() -> tuple[str, str]:
        store = SessionFile(path)
        shape = SHAPES[0]
        try:
            async with Client(base_url) as http:
                assert shape.flow is not None
                crew = Session(shape.crew(CREW), http, store, toolbox, flow=shape.flow(CREW))
                result = await asyncio.wait_for(crew.run(ASK), CREW_S)
                return result.status, result.answer or result.sentence
        finally:
            store.close()

    return asyncio.run(session())


# --- the load ------------------------------------------------------------------------------------


@dataclass(slots=True)
class Load:
    """Workers that ask until they are told to stop."""

    tally: ChaosTally
    expected: Expected
    engine: str
    seed: int
    directory: Path
    workers: int = 6
    scripts: int = SCRIPTS
    """Different conversations; as many as ``undisturbed`` was told of."""
    rest_s: float = 0.2
    """Longest pause of a client between two turns."""
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    @contextmanager
    def running(self) -> Iterator[None]:
        """The load is on while the block runs; at its end what is under way is waited for."""
        work: list[tuple[Callable[[int], None], int]] = [(self._converse, n) for n in range(self.workers)]
        work += [(self._documents, 0), (self._crews, 0)]
        for do, number in work:
            self._threads.append(threading.Thread(target=self._until_stopped, args=(do, number), daemon=True))
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join(TIMEOUT_S + CREW_S)
            hanging = sum(thread.is_alive() for thread in self._threads)
            if hanging:
                self.tally.wrong("never answered", f"{hanging} clients still wait at the end")

    def _until_stopped(self, do: Callable[[int], None], number: int) -> None:
        try:
            do(number)
        except Exception as error:  # noqa: BLE001 - a client that dies would make a run look quiet
            self.tally.wrong("client failed", f"{type(error).__name__}: {error}")

    def _converse(self, worker: int) -> None:
        dice, number = random.Random(self.seed * 1_000 + worker), 0
        with client(self.tally.target.base_url, self.engine) as http:
            while not self._stop.is_set():
                number += 1
                self._conversation(http, dice, (f"chaos-{worker}-{number}", "lead"))

    def _conversation(self, http: httpx2.Client, dice: random.Random, agent: Agent) -> None:
        messages: Messages = ()
        for words in script(dice.randrange(self.scripts)):
            messages = (*messages, ("user", words))
            said = self._asked(http, messages, agent, stream=dice.random() < 0.5)
            if said is None:
                self._stop.wait(GIVEN_UP_S)
                return
            if said != self.expected.answers[messages]:
                wanted = self.expected.answers[messages]
                self.tally.wrong("other answer", f"{agent[0]}: {said!r} instead of {wanted!r}")
                return
            messages = (*messages, ("assistant", said))
            if dice.random() < 0.3:
                self._hint(http, agent)
            self._stop.wait(dice.random() * self.rest_s)

    def _asked(self, http: httpx2.Client, messages: Messages, agent: Agent, *, stream: bool) -> str | None:
        """Asks again where it is refused or cut off; None: given up."""
        for number in range(TRIES):
            if self._stop.is_set():
                return None
            began = time.monotonic()
            self.tally.attempt(agent)
            try:
                said = ask(http, messages, agent, stream=stream)
            except httpx2.HTTPError as error:
                self.tally.cut(f"a turn of {agent[0]} ({type(error).__name__})", (began, time.monotonic()))
            else:
                if said.text is not None:
                    self.tally.answered(agent, time.monotonic())
                    return said.text
                assert said.refusal is not None
                self.tally.refused(agent, f"a turn of {agent[0]}", said.refusal, (began, time.monotonic()))
            self._stop.wait(PAUSE_S * 2**number)
        self.tally.count("turns given up")
        return None

    def _hint(self, http: httpx2.Client, agent: Agent) -> None:
        began = time.monotonic()
        try:
            answer = http.post(
                f"/v1/agents/{agent[0]}/{agent[1]}/hint", json={"next": "tool", "expected_ms": 200}
            )
        except httpx2.HTTPError as error:
            self.tally.cut(f"a hint ({type(error).__name__})", (began, time.monotonic()))
            return
        self.tally.count("hints")
        # After a restart no agent is known until its next turn.
        if answer.status_code not in (200, 404):
            self.tally.refused(None, "a hint", _refusal(answer), (began, time.monotonic()))

    # --- documents ----------------------------------------------------------------------------

    def _documents(self, worker: int) -> None:
        dice, number = random.Random(self.seed * 1_000 + 900 + worker), 0
        kept: dict[str, bytes] = {}
        with client(self.tally.target.base_url, self.engine) as http:
            while not self._stop.is_set():
                number += 1
                self._put(http, number, kept)
                if kept:
                    self._compare(http, dice.choice(list(kept)), kept)
                if len(kept) > 12:
                    self._remove(http, dice.choice(list(kept)), kept)
                self._stop.wait(0.3 + dice.random() * 0.4)

    def _put(self, http: httpx2.Client, number: int, kept: dict[str, bytes]) -> None:
        data = document(self.seed * 100_000 + number)
        answer = self._errand(
            "an upload",
            lambda: http.post(
                "/v1/files", files={"file": (f"{number}.txt", data)}, data={"purpose": "user_data"}
            ),
        )
        if answer is not None and answer.status_code == 200:
            self.tally.count("documents kept")
            kept[answer.json()["id"]] = data

    def _compare(self, http: httpx2.Client, name: str, kept: dict[str, bytes]) -> None:
        """What was said to be kept is there, whatever has happened since."""
        answer = self._errand("a download", lambda: http.get(f"/v1/files/{name}/content"), missing=True)
        if answer is None:
            return
        if answer.status_code == 404:
            self.tally.wrong("document lost", name)
            del kept[name]
        elif answer.status_code == 200:
            self.tally.count("documents compared")
            if hashlib.sha256(answer.content).digest() != hashlib.sha256(kept[name]).digest():
                self.tally.wrong("other document", name)

    def _remove(self, http: httpx2.Client, name: str, kept: dict[str, bytes]) -> None:
        del kept[name]
        self._errand("a removal", lambda: http.delete(f"/v1/files/{name}"))

    def _errand(
        self, what: str, do: Callable[[], httpx2.Response], *, missing: bool = False
    ) -> httpx2.Response | None:
        began = time.monotonic()
        try:
            answer = do()
        except httpx2.HTTPError as error:
            self.tally.cut(f"{what} ({type(error).__name__})", (began, time.monotonic()))
            return None
        self.tally.count("errands")
        if answer.status_code != 200 and not (missing and answer.status_code == 404):
            self.tally.refused(None, what, _refusal(answer), (began, time.monotonic()))
        return answer

    # --- crews --------------------------------------------------------------------------------

    def _crews(self, worker: int) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            began = time.monotonic()
            path = self.directory / f"crew-{self.seed}-{worker}-{number}.db"
            try:
                status, said = run_crew(self.tally.target.base_url, path)
            except (StepwellError, TimeoutError) as error:
                status, said = "failed", f"{type(error).__name__}: {error}"
            self.tally.count(f"crews {status}")
            if status == "completed":
                if said != self.expected.crew:
                    self.tally.wrong("other answer", f"a crew: {said!r} instead of {self.expected.crew!r}")
            else:
                self.tally.cut(f"a crew ({said[:120]})", (began, time.monotonic()))
            self._stop.wait(0.5)

"""Crews against a fleet: the same work each time, so that a killed run can be compared with a whole one."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx2

from stepwell.bench.client import GREEDY_STREAM, StreamedAnswer
from stepwell.engines.prose import prose
from stepwell.errors import StepwellError

TRIES = 12
"""Of one turn. SDKs make fewer, and a person presses the button again."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0
TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class Work:
    """Crews that share a document; agents that have a role each and take several turns, pausing between."""

    model: str
    crews: int = 6
    agents: int = 4
    turns: int = 4
    document_words: int = 60
    role_words: int = 15
    output_tokens: int = 16
    pause_s: float = 0.2


@dataclass(slots=True)
class AgentRun:
    """One agent, as its client saw it."""

    crew: int
    number: int
    texts: list[str] = field(default_factory=list)
    took_s: float = 0.0
    tries: int = 0
    broken: int = 0
    """Streams that ended with an error in the middle."""
    prompt_tokens: list[int] = field(default_factory=list)
    cached_tokens: list[int] = field(default_factory=list)
    output_tokens: list[int] = field(default_factory=list)
    cost_microusd: int = 0
    failed: str = ""
    """Why its last try gave no answer."""

    def add(self, usage: Mapping[str, Any]) -> None:
        """What an answered turn took."""
        self.prompt_tokens.append(usage["prompt_tokens"])
        self.cached_tokens.append((usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0))
        self.output_tokens.append(usage["completion_tokens"])
        self.cost_microusd += round(usage.get("cost", 0) * 1_000_000)


@dataclass(slots=True)
class LoadRun:
    """One arm."""

    agents: list[AgentRun]
    took_s: float

    def answers(self) -> list[str]:
        """One per crew: a digest of all that its agents said."""
        crews = sorted({one.crew for one in self.agents})
        said = {crew: [one.texts for one in self.agents if one.crew == crew] for crew in crews}
        return [hashlib.sha256(json.dumps(said[crew]).encode()).hexdigest()[:12] for crew in crews]

    @property
    def turns(self) -> int:
        return sum(len(one.texts) for one in self.agents)

    @property
    def computed(self) -> int:
        return sum(sum(one.prompt_tokens) - sum(one.cached_tokens) for one in self.agents)

    def new_tokens(self, document_tokens: int) -> int:
        """Prompt tokens that were not computed before: each crew's document once, then what is added."""
        crews = len({one.crew for one in self.agents})
        total = crews * document_tokens
        for one in self.agents:
            before = document_tokens
            for prompt, output in zip(one.prompt_tokens, one.output_tokens, strict=True):
                total += max(0, prompt - before)
                before = prompt + output
        return total


class FleetCrews:
    """Runs the work under one key."""

    def __init__(self, base_url: str, key: str, work: Work, answered: Callable[[int], None]) -> None:
        """``answered`` is told how many turns have been."""
        self._url, self._key, self._work, self._answered = base_url, key, work, answered
        self._count = 0

    async def run(self) -> LoadRun:
        began = time.perf_counter()
        limits = httpx2.Limits(max_connections=None)
        async with httpx2.AsyncClient(
            base_url=self._url, timeout=TIMEOUT_S, trust_env=False, limits=limits
        ) as http:
            work = self._work
            runs = [AgentRun(crew, number) for crew in range(work.crews) for number in range(work.agents)]
            await asyncio.gather(*(self._agent(http, one) for one in runs))
        return LoadRun(runs, time.perf_counter() - began)

    async def _agent(self, http: httpx2.AsyncClient, one: AgentRun) -> None:
        work, began = self._work, time.perf_counter()
        document = words(work.document_words, 1_000 + one.crew)
        role = words(work.role_words, 2_000 + one.crew * 100 + one.number)
        messages = [{"role": "system", "content": document}, {"role": "user", "content": role}]
        for turn in range(work.turns):
            text = await self._turn(http, one, messages)
            if text is None:
                break
            one.texts.append(text)
            self._count += 1
            self._answered(self._count)
            messages += [
                {"role": "assistant", "content": text},
                {"role": "user", "content": words(4, 3_000 + turn)},
            ]
            await asyncio.sleep(work.pause_s)
        one.took_s = time.perf_counter() - began

    async def _turn(
        self, http: httpx2.AsyncClient, one: AgentRun, messages: list[dict[str, str]]
    ) -> str | None:
        """As a careful client does it: what is retryable is tried again, with pauses that grow."""
        pause_s = FIRST_PAUSE_S
        for _ in range(TRIES):
            one.tries += 1
            try:
                answer = await self._stream(http, one, messages)
                one.failed = answer.failure or ("" if answer.usage else "the server reported no usage")
                one.broken += answer.error is not None
            except (httpx2.TransportError, StepwellError) as lost:
                one.failed = str(lost) or type(lost).__name__
            if not one.failed:
                one.add(answer.usage)
                return answer.text
            await asyncio.sleep(pause_s)
            pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)
        return None

    async def _stream(
        self, http: httpx2.AsyncClient, one: AgentRun, messages: list[dict[str, str]]
    ) -> StreamedAnswer:
        work, answer = self._work, StreamedAnswer()
        body = {"model": work.model, "messages": messages, "max_tokens": work.output_tokens, **GREEDY_STREAM}
        headers = {
            "authorization": f"Bearer {self._key}",
            "x-session-id": f"crew-{one.crew}",
            "x-agent-id": f"agent-{one.number}",
        }
        async with http.stream("POST", "/v1/chat/completions", json=body, headers=headers) as response:
            if response.status_code != 200:
                raise StepwellError(f"HTTP {response.status_code}: {(await response.aread())[:200]!r}")
            async for line in response.aiter_lines():
                if answer.add(line):
                    break
        return answer


async def burst(base_url: str, key: str, model: str, requests: int, at_once: int) -> float:
    """So many short streamed answers, ``at_once`` at a time. Seconds from the first to the last."""
    gate = asyncio.Semaphore(at_once)
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(
        base_url=base_url, timeout=TIMEOUT_S, trust_env=False, limits=limits
    ) as http:

        async def ask(number: int) -> None:
            body = {"model": model, "prompt": "tick", "max_tokens": 4, "stream": True, "ignore_eos": True}
            headers = {"authorization": f"Bearer {key}", "x-session-id": f"burst-{number}"}
            async with gate, http.stream("POST", "/v1/completions", json=body, headers=headers) as response:
                await response.aread()
                response.raise_for_status()

        began = time.perf_counter()
        await asyncio.gather(*(ask(number) for number in range(requests)))
        return time.perf_counter() - began


def words(count: int, seed: int) -> str:
    """The same words for the same seed."""
    return prose(random.Random(seed), count)

"""The clients of the pressure benchmark: plain HTTP streaming, time measured where the user sits."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import httpx2

from stepwell.basics.quantiles import percentile
from stepwell.bench.workload import Pressure, agents_of, next_prompt, unrelated
from stepwell.errors import StepwellError

TIMEOUT_S = 600.0
GREEDY_STREAM = {
    "temperature": 0,
    "ignore_eos": True,
    "stream": True,
    "stream_options": {"include_usage": True},
}
"""What every turn whose time or text is compared asks for."""


@dataclass(frozen=True, slots=True)
class TurnSample:
    """One turn as its client saw it. Times are seconds; ``start_s`` counts from the run's start."""

    agent: int
    turn: int
    start_s: float
    ttft_s: float
    e2e_s: float
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    text: str
    error: str | None = None
    session: str = ""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class ClientsFigures:
    """What follows from the samples of all clients of one server. ``error``: the server itself failed; its
    samples, if any, count for nothing."""

    __slots__ = ()
    samples: list[TurnSample]
    error: str | None

    @property
    def failed(self) -> int:
        return sum(1 for sample in self.samples if sample.error)

    @property
    def failure(self) -> str | None:
        """Why its figures are none: its own error, or the first of its turns'."""
        return self.error or next((f"a turn failed: {one.error}" for one in self.samples if one.error), None)

    @property
    def usable(self) -> bool:
        return self.failure is None and bool(self.samples)

    @property
    def computed_tokens(self) -> int:
        """Prompt tokens that went through the model, counted from what clients were told."""
        return sum(sample.prompt_tokens - sample.cached_tokens for sample in self.samples)

    def ttft_s(self, percent: int, *, later_turns: bool = True) -> float:
        """TTFT over all turns after the first, or over the first turns."""
        chosen = [s.ttft_s for s in self.samples if (s.turn > 0) is later_turns and not s.error]
        return percentile(chosen, percent)


@dataclass(slots=True)
class StreamedAnswer:
    """A streamed answer, of completions or of chat, as its lines come."""

    text: str = ""
    usage: dict[str, Any] = field(default_factory=dict)
    error: dict[str, Any] | None = None
    """That the server sent in the middle."""
    ended: bool = False
    first_s: float | None = None
    """When its first words came, by ``time.perf_counter``."""

    def add(self, line: str) -> bool:
        """Take a line. True: nothing more is to come."""
        if not line.startswith("data:"):
            return False
        payload = line[5:].strip()
        if payload == "[DONE]":
            self.ended = True
            return True
        event = json.loads(payload)
        self.error = event.get("error")
        for choice in event.get("choices") or ():
            self.text += choice.get("text") or (choice.get("delta") or {}).get("content") or ""
        if self.text and self.first_s is None:
            self.first_s = time.perf_counter()
        self.usage = event.get("usage") or self.usage
        return self.error is not None

    @property
    def failure(self) -> str | None:
        """Why it is no whole answer; None: it is one."""
        if self.error is not None:
            return json.dumps(self.error)[:200]
        return None if self.ended else "the stream ended without [DONE]"


def complete(
    http: httpx2.Client,
    model: str,
    prompt: str,
    output_tokens: int,
    agent: str,
    *,
    turn: int = 0,
    began_s: float = 0.0,
    headers: Mapping[str, str] | None = None,
) -> TurnSample:
    """One streamed completion. A failure is a sample with ``error``, never an exception. ``headers``: what
    else the client says."""
    body = {"model": model, "prompt": prompt, "max_tokens": output_tokens, **GREEDY_STREAM}
    answer, error = StreamedAnswer(), None
    started = time.perf_counter()
    try:
        said = {"X-Session-ID": agent, **(headers or {})}
        with http.stream("POST", "/v1/completions", json=body, headers=said) as response:
            if response.status_code != 200:
                error = f"HTTP {response.status_code}: {response.read().decode(errors='replace')[:200]}"
            else:
                any(map(answer.add, response.iter_lines()))
                error = answer.failure
    except httpx2.HTTPError as failure:
        error = f"{type(failure).__name__}: {failure}"
    return _sample(answer, error, started, time.perf_counter(), agent, turn, began_s)


def warm_up(http: httpx2.Client, model: str, workload: Pressure) -> float:
    """One request that shares nothing with the workload: prompt tokens a second, which shows whether servers
    compute equally quickly. Raises ``StepwellError``."""
    warm = complete(http, model, unrelated(workload), 4, "warm-up")
    if warm.error:
        raise StepwellError(f"the warm-up request failed: {warm.error}")
    return warm.prompt_tokens / warm.ttft_s


def run_clients(
    base_url: str, model: str, workload: Pressure, done: Callable[[TurnSample], None] = lambda sample: None
) -> tuple[list[TurnSample], float]:
    """Run the whole workload. Returns the samples, ordered by start, and the total seconds."""
    samples: list[TurnSample] = []
    lock = threading.Lock()
    began = time.perf_counter()

    def keep(sample: TurnSample) -> None:
        with lock:
            samples.append(sample)
            done(sample)

    threads = [
        threading.Thread(target=_client, args=(base_url, model, workload, number, began, keep), daemon=True)
        for number in range(workload.clients)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total_s = time.perf_counter() - began
    return sorted(samples, key=lambda sample: sample.start_s), total_s


def _client(
    base_url: str,
    model: str,
    workload: Pressure,
    number: int,
    began_s: float,
    keep: Callable[[TurnSample], None],
) -> None:
    """One client: turn t of all its agents before turn t + 1 of any."""
    so_far: dict[int, str] = {}
    tokens = workload.output_tokens
    with httpx2.Client(base_url=base_url, timeout=TIMEOUT_S, trust_env=False) as http:
        for turn in range(workload.turns):
            for agent in agents_of(workload, number):
                prompt = next_prompt(workload, agent, turn, so_far.get(agent, ""))
                name = f"pressure-{agent}"
                sample = complete(http, model, prompt, tokens, name, turn=turn, began_s=began_s)
                so_far[agent] = prompt + sample.text
                keep(sample)


def _sample(
    answer: StreamedAnswer,
    error: str | None,
    started: float,
    ended: float,
    agent: str,
    turn: int,
    began_s: float,
) -> TurnSample:
    usage = answer.usage
    if error is None and not usage:
        error = "the server reported no usage"
    details = usage.get("prompt_tokens_details") or {}
    return TurnSample(
        agent=_agent_number(agent),
        turn=turn,
        start_s=started - began_s if began_s else 0.0,
        ttft_s=(answer.first_s or ended) - started,
        e2e_s=ended - started,
        prompt_tokens=usage.get("prompt_tokens", 0),
        cached_tokens=details.get("cached_tokens") or 0,
        output_tokens=usage.get("completion_tokens", 0),
        text=answer.text,
        error=error,
        session=agent,
    )


def _agent_number(name: str) -> int:
    tail = name.rsplit("-", 1)[-1]
    return int(tail) if tail.isdigit() else -1

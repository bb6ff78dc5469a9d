"""``stepwell bench shared-document``: what ten agents attach is computed once, and for no stranger."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import httpx2
from cyclopts import Parameter
from cyclopts.validators import Number

from stepwell.basics.this_machine import usable_cores
from stepwell.bench.harness import (
    BenchRun,
    ModelOption,
    SeedOption,
    ThreadsOption,
    bench,
    require_real,
    scratch,
)
from stepwell.bench.servers import our_server, running
from stepwell.console.options import Positive
from stepwell.console.output import sheet
from stepwell.console.progress import Ticker
from stepwell.console.report import Verdict
from stepwell.engines.prose import prose
from stepwell.errors import StepwellError

TIMEOUT_S = 600.0
OWN, STRANGER = "sk-bench-own", "sk-bench-stranger"
ROUTES = ("computed", "device", "host", "disk")
BLOCK_TOKENS = 64
MOST_TIMES = 1.25
"""Once, and for each agent that comes meanwhile the rest of the block in which its own part begins: blocks
are shared when they are whole, or when the turn that computes them has ended. Judged for documents of
``LONG_TOKENS`` or more, of which such rests are a small part."""
LONG_TOKENS = 1_000
COLUMNS = {
    "agents": "{name}",
    "number": "{agents:,}",
    "document": "{document_tokens:,}",
    "prompts": "{sent:,}",
    "own parts": "{own_tokens:,}",
    **{route: f"{{{route}:,}}" for route in ROUTES},
    "times computed": "{times_computed:.2f}",
}
AT_ONCE, IN_TURN, STRANGERS = "at once", "one after the other", "another tenant"


@dataclass(slots=True)
class DocumentAttached:
    """What some agents' first turns came to, all with the same document."""

    name: str
    agents: int
    document_tokens: int
    prompts: list[int] = field(default_factory=list)
    """Tokens of each agent's prompt."""
    computed: list[int] = field(default_factory=list)
    """Of these, what was not found in the cache when the turn began."""
    tokens: dict[str, int] = field(default_factory=dict)
    """Of the prompts, by where they came from: the server's counters."""

    @property
    def own_tokens(self) -> int:
        """What is not the document: questions and the chat's frame, of all agents together."""
        return sum(self.prompts) - self.agents * self.document_tokens

    @property
    def of_document(self) -> list[int]:
        """Per agent: what it computed beyond what is its own."""
        pairs = zip(self.prompts, self.computed, strict=True)
        return [max(0, computed - (prompt - self.document_tokens)) for prompt, computed in pairs]

    @property
    def times(self) -> float:
        """How often the document was computed."""
        return sum(self.of_document) / self.document_tokens

    @property
    def computing_agents(self) -> int:
        """Those that computed more of it than the rest of a block."""
        return sum(1 for tokens in self.of_document if tokens >= BLOCK_TOKENS)

    @property
    def found_tokens(self) -> int:
        return sum(self.tokens[route] for route in ROUTES[1:])


@bench("shared-document")
def main(
    run: BenchRun,
    *,
    model: ModelOption = "smollm2",
    agents: Positive = 10,
    words: Annotated[int | None, Parameter(validator=Number(gte=100))] = None,
    threads: ThreadsOption = None,
    seed: SeedOption = 1,
) -> None:
    """Show by the server's counters that a document which ten agents attach is computed once.

    A document is uploaded to ``/v1/files`` and attached by ten agents of one tenant: all at once, and another
    document one agent after the other. Then another tenant uploads and attaches the first one: it finds
    nothing.

    Example: ``stepwell bench shared-document``

    Parameters
    ----------
    agents
        How many attach each document.
    words
        Words of each document (default: 1,200; quick: 300).
    """
    words = words or (300 if run.quick else 1_200)
    require_real(model)
    run.settings = {"model": model, "agents": agents, "words": words, "seed": seed}
    found = measure(model, agents, words, seed, threads or usable_cores(), run.progress)
    run.results = {
        one.name: asdict(one) | {"own_tokens": one.own_tokens, "times_computed": one.times} for one in found
    }
    run.verdicts = verdicts(found)
    rows = [found | found["tokens"] | {"sent": sum(found["prompts"])} for found in run.results.values()]
    run.show(sheet("A document attached to first turns (tokens)", COLUMNS, rows))


def measure(
    model: str, agents: int, words: int, seed: int, threads: int, progress: Ticker
) -> list[DocumentAttached]:
    """All three on one server."""
    first, second = (prose(random.Random(f"{seed}/{number}"), words) for number in range(2))
    with served(model, threads) as url:
        warm_up(url)
        progress.phase(f"{agents} agents attach a document at once", agents)
        at_once = attach(url, OWN, AT_ONCE, first, agents, agents, progress)
        progress.phase(f"{agents} agents attach another one after the other", agents)
        in_turn = attach(url, OWN, IN_TURN, second, agents, 1, progress)
        progress.phase("another tenant attaches the first")
        stranger = attach(url, STRANGER, STRANGERS, first, 1, 1, progress)
    return [at_once, in_turn, stranger]


@contextmanager
def served(model: str, threads: int) -> Iterator[str]:
    """Our server with a library and two tenants."""
    with scratch("shared") as place:
        config = place / "shared.toml"
        config.write_text(_settings(place), encoding="utf-8")
        arm = our_server(
            "stepwell", model, device_kv_tokens=16_384, host_kv="1GiB", disk_kv="0", disk_dir=place / "disk",
            threads=threads, more={"config": config, "ledger": "none"},
        )  # fmt: skip
        with running(arm):
            yield arm.base_url


def _settings(directory: Path) -> str:
    lines = ["[library]", f"dir = {json.dumps(str(directory / 'library'))}"]
    for key in (OWN, STRANGER):
        lines += ["[[keys]]", f"key = {json.dumps(key)}", f"tenant = {json.dumps(key.removeprefix('sk-'))}"]
        lines += ["operator = true"] if key == OWN else []  # reads the counters
    return "\n".join(lines) + "\n"


def attach(
    url: str, key: str, name: str, text: str, agents: int, at_once: int, progress: Ticker
) -> DocumentAttached:
    """Upload, then a turn of each agent, ``at_once`` of them together."""
    with _client(url, key) as http:
        file = _checked(
            http.post(
                "/v1/files", files={"file": ("wells.txt", text.encode())}, data={"purpose": "user_data"}
            )
        )
        model = _checked(http.get("/v1/models"))["data"][0]["id"]
        found = DocumentAttached(name, agents, int(file["tokens"]))
        before = counters(url)

        def ask(number: int) -> dict[str, Any]:
            usage: dict[str, Any] = _ask(http, model, f"{name}-{number}", number, file["id"])["usage"]
            progress.advance()
            return usage

        with ThreadPoolExecutor(at_once) as pool:
            for usage in pool.map(ask, range(agents)):
                found.prompts.append(usage["prompt_tokens"])
                cached = usage["prompt_tokens_details"]["cached_tokens"]
                found.computed.append(usage["prompt_tokens"] - cached)
        after = counters(url)
    found.tokens = {
        route: after[f"prompt_tokens_{route}"] - before[f"prompt_tokens_{route}"] for route in ROUTES
    }
    return found


def warm_up(url: str) -> None:
    """A turn that shares nothing, so that no agent's first turn pays for the first one of all."""
    with _client(url, STRANGER) as http:
        model = _checked(http.get("/v1/models"))["data"][0]["id"]
        _checked(http.post("/v1/completions", json={"model": model, "prompt": "Warm-up", "max_tokens": 2}))


def _ask(http: httpx2.Client, model: str, agent: str, number: int, file: str) -> dict[str, Any]:
    content = [
        {"type": "file", "file": {"file_id": file}},
        {"type": "text", "text": f"Agent {number}: what does the document say about well {number}?"},
    ]
    body = {
        "model": model,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": 8,
        "temperature": 0,
    }
    headers = {"X-Session-ID": "shared", "X-Agent-ID": agent.replace(" ", "-")}
    return _checked(http.post("/v1/chat/completions", json=body, headers=headers))


def counters(url: str) -> dict[str, int]:
    """The server's counters as they are now: for the operator alone."""
    with _client(url, OWN) as http:
        found: dict[str, int] = _checked(http.get("/admin/snapshot"))["counters"]
    return found


def _client(url: str, key: str) -> httpx2.Client:
    return httpx2.Client(
        base_url=url, timeout=TIMEOUT_S, trust_env=False, headers={"Authorization": f"Bearer {key}"}
    )


def _checked(response: httpx2.Response) -> dict[str, Any]:
    if response.status_code != 200:
        raise StepwellError(f"the server answered {response.status_code}: {response.text[:200]}")
    body: dict[str, Any] = response.json()
    return body


def verdicts(found: Sequence[DocumentAttached]) -> list[Verdict]:
    """Once for a tenant, however its agents come; nothing is shared with another tenant."""
    made = []
    for one in found:
        if one.name == STRANGERS:
            target = "another tenant with the same text: prompt tokens that it found"
            made.append(Verdict(target, one.found_tokens, 0))
            continue
        work = f"{one.agents} agents, {one.name}"
        made.append(Verdict(f"{work}: agents that computed more of it than a block", one.computing_agents, 1))
        times = one.times if one.document_tokens >= LONG_TOKENS else None
        made.append(Verdict(f"{work}: times it was computed", times, MOST_TIMES, "x"))
    return made

"""The job: three customers at once, each with a session of the shipped ``documents`` crew.

This is what ``stepwell run documents FILE --ask ... --ask ...`` does, three times: the same crew, the same
runtime, the same passages. The customer reads each answer for a while before the next question; meanwhile
the KV of all its agents waits.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from stepwell.agents.client import Client
from stepwell.agents.crews.definition import Crew
from stepwell.agents.limits import PAUSES
from stepwell.agents.passages import rests_on
from stepwell.agents.planner import open_session
from stepwell.agents.session import Reading
from stepwell.agents.state import Message
from stepwell.agents.tools.registry import build_tools
from stepwell.agents.tools.workspace import Workspace
from stepwell.demo.board import RunBoard
from stepwell.demo.expected import is_right
from stepwell.demo.record import KV_TIERS, AgentSample, CheckedAnswer, DemoCustomer, DemoRun, Sample
from stepwell.demo.screen import PlainScreen
from stepwell.errors import StepwellError
from stepwell.launch.embedded import EmbeddedNode
from stepwell.library.documents import Document
from stepwell.loop.snapshot import Snapshot
from stepwell.policy.types import KvTier

SAMPLE_S = 0.2
MAX_SAMPLES = 3_000
"""Ten minutes; a slower machine is sampled more coarsely after that, so that the page stays small."""
ARRIVAL_GAP_S = 0.5
"""Customers come one after the other."""
READS_S = (2.0, 4.0)
"""How long a person reads an answer before the next question."""
Sleep = Callable[[float], Awaitable[None]]
Conversations = Mapping[str, Sequence[Message]]
"""By agent, ``tenant/name``, everything that was said."""


@dataclass(frozen=True, slots=True)
class DemoJob:
    """What every run does."""

    crew: Crew
    document: Document
    reading: Reading
    customers: tuple[DemoCustomer, ...]
    seed: int = 0
    patience: float = 1.0
    """Scales the time that a person reads."""


async def converse(
    job: DemoJob, customer: DemoCustomer, client: Client, model: str, board: RunBoard, sleep: Sleep
) -> Conversations:
    """One customer's session: question after question to the same crew. Raises ``StepwellError``."""
    # Drawn per customer, so that it is the same in every run however turns interleave.
    chance = random.Random(f"{job.seed}/{customer.tenant}")
    toolbox = partial(build_tools, workspace=Workspace(Path()))
    session = open_session(job.crew, client, ":memory:", toolbox, reading=job.reading)
    session.id, session.model = customer.tenant, model
    session.tell.listeners.append(board.listener(customer.tenant))
    answers = board.answers.setdefault(customer.tenant, [])
    try:
        for left, question in zip(reversed(range(len(customer.questions))), customer.questions, strict=True):
            result = await session.run(question, more=left > 0)
            if result.status in PAUSES:
                raise StepwellError(f"{customer.name}'s crew was stopped: {result.sentence}")
            answers.append(answer_of(job.document, question, result.answer))
            if left:
                low_s, high_s = READS_S
                await sleep(job.patience * (low_s + (high_s - low_s) * chance.random()))
        return {f"{customer.tenant}/{one.id}": one.messages for one in session.agents.values()}
    finally:
        session.store.close()


def answer_of(document: Document, question: str, text: str) -> CheckedAnswer:
    """The answer with the passage of the document that it rests on, and whether it is right."""
    found = rests_on([document], text)
    return CheckedAnswer(
        question,
        text,
        *(("", "") if found is None else (found.heading, found.text)),
        is_right(question, text),
    )


async def perform(
    node: EmbeddedNode, job: DemoJob, run: DemoRun, turns: int, screen: PlainScreen
) -> Conversations:
    """Run the job to its end. Raises ``StepwellError`` when a crew cannot go on."""
    board = RunBoard(began_s=time.perf_counter())
    run.began_us = time.time_ns() // 1000
    screen.begin(run, board, turns)
    completed = False
    said: dict[str, Sequence[Message]] = {}
    watcher = asyncio.create_task(_watch(node, run, board, screen))
    try:
        async with asyncio.TaskGroup() as group:
            sessions = [
                group.create_task(_session(node, job, customer, board, number * ARRIVAL_GAP_S))
                for number, customer in enumerate(job.customers)
            ]
        completed = True
    finally:
        run.duration_s = time.perf_counter() - board.began_s
        watcher.cancel()
        await asyncio.gather(watcher, return_exceptions=True)
        screen.end(completed)
    await _look(node, run, board, screen)
    run.turns, run.sessions_s, run.answers = board.turns, board.sessions_s, board.answers
    for session in sessions:
        said |= session.result()
    return said


async def _session(
    node: EmbeddedNode, job: DemoJob, customer: DemoCustomer, board: RunBoard, arrives_s: float
) -> Conversations:
    await asyncio.sleep(arrives_s)
    began_s = time.perf_counter() - board.began_s
    async with Client(node.url, customer.api_key, job.seed, stream=True) as client:
        said = await converse(job, customer, client, node.node.text.name, board, asyncio.sleep)
    board.sessions_s[customer.tenant] = (began_s, time.perf_counter() - board.began_s)
    return said


def run_job(
    node: EmbeddedNode, job: DemoJob, run: DemoRun, turns: int, screen: PlainScreen
) -> tuple[DemoRun, Conversations]:
    """One run of the whole job, and all that was said. Raises ``StepwellError``."""
    try:
        said = asyncio.run(perform(node, job, run, turns, screen))
    except* StepwellError as group:
        raise _first(group) from None
    return run, said


def _first(group: BaseExceptionGroup[StepwellError]) -> StepwellError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, StepwellError)
    return error


async def _watch(node: EmbeddedNode, run: DemoRun, board: RunBoard, screen: PlainScreen) -> None:
    while True:
        await _look(node, run, board, screen)
        await asyncio.sleep(SAMPLE_S * (1 + len(run.samples) // MAX_SAMPLES))


async def _look(node: EmbeddedNode, run: DemoRun, board: RunBoard, screen: PlainScreen) -> None:
    """One look at the server. In a thread: the driver answers between two steps of its loop, and
    waiting for that here would hold up the crews' clocks."""
    snapshot = await asyncio.to_thread(node.node.driver.snapshot)
    sample = sample_of(snapshot, time.perf_counter() - board.began_s)
    run.samples.append(sample)
    run.counters = dict(snapshot.counters)
    screen.show(sample)


def sample_of(snapshot: Snapshot, t_s: float) -> Sample:
    """What the picture needs of a snapshot; its agents are called ``tenant/name``."""
    agents = {
        view.agent: AgentSample(
            view.state, view.tokens, *(view.kv_tokens.get(KvTier(tier), 0) for tier in KV_TIERS)
        )
        for view in snapshot.agents
    }
    used = {tier: snapshot.usage[KvTier(tier)].used_bytes for tier in KV_TIERS}
    return Sample(t_s, agents, used, snapshot.running, snapshot.waiting)

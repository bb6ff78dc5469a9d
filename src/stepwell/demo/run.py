"""One run of the whole job: the server up, three crews at work, somebody watching, the server down."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from stepwell.demo.client import CallFailed, HttpApi
from stepwell.demo.crew import Board, Brief, Crew, Shape
from stepwell.demo.node import Node
from stepwell.demo.record import KV_TIERS, AgentSample, Capacity, Run, Sample
from stepwell.demo.screen import Screen
from stepwell.loop.snapshot import Snapshot
from stepwell.policy.types import KvTier

SAMPLE_S = 0.2
MAX_SAMPLES = 3_000
"""Ten minutes; a slower machine is sampled more coarsely after that, so that the page stays small."""
ARRIVAL_GAP_S = 0.5
"""Customers come one after the other."""


@dataclass(frozen=True, slots=True)
class Job:
    """What every run does."""

    briefs: tuple[Brief, ...]
    shape: Shape
    turns: int


def run_job(node: Node, job: Job, capacity: Capacity, name: str, screen: Screen) -> Run:
    """Run the job to its end. Raises ``CallFailed`` when the server refuses or loses a turn."""
    run = Run(name, capacity, agents=tuple(crew_agents(job.briefs, job.shape)))
    try:
        asyncio.run(_run(node, job, run, screen))
    except* CallFailed as group:
        raise _first(group) from None
    return run


def _first(group: BaseExceptionGroup[CallFailed]) -> CallFailed:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, CallFailed)
    return error


async def _run(node: Node, job: Job, run: Run, screen: Screen) -> None:
    api = HttpApi(node.url, node.model, chat=node.chat)
    board = Board(began_s=time.perf_counter())
    run.began_us = time.time_ns() // 1000
    crews = [Crew(brief, job.shape, api, board) for brief in job.briefs]
    screen.begin(run, board, job.turns)
    completed = False
    watcher = asyncio.create_task(_watch(node, run, board, screen))
    try:
        async with asyncio.TaskGroup() as group:
            for number, crew in enumerate(crews):
                group.create_task(_session(crew, board, number * ARRIVAL_GAP_S))
        completed = True
    finally:
        run.duration_s = time.perf_counter() - board.began_s
        watcher.cancel()
        await asyncio.gather(watcher, return_exceptions=True)
        await api.close()
        screen.end(completed)
    await _look(node, run, board, screen)
    run.turns, run.sessions_s, run.answers = board.turns, board.sessions_s, board.answers


async def _session(crew: Crew, board: Board, arrives_s: float) -> None:
    await asyncio.sleep(arrives_s)
    tenant = crew.brief.customer.tenant
    began_s = time.perf_counter() - board.began_s
    answer = await crew.run()
    board.sessions_s[tenant] = (began_s, time.perf_counter() - board.began_s)
    board.answers[tenant] = answer


async def _watch(node: Node, run: Run, board: Board, screen: Screen) -> None:
    while True:
        await _look(node, run, board, screen)
        await asyncio.sleep(SAMPLE_S * (1 + len(run.samples) // MAX_SAMPLES))


async def _look(node: Node, run: Run, board: Board, screen: Screen) -> None:
    """One look at the server. In a thread: the driver answers between two steps of its loop, and
    waiting for that here would hold up the crews' clocks."""
    snapshot = await asyncio.to_thread(node.driver.snapshot)
    sample = sample_of(snapshot, time.perf_counter() - board.began_s)
    run.samples.append(sample)
    run.counters = dict(snapshot.counters)
    screen.show(sample)


def sample_of(snapshot: Snapshot, t_s: float) -> Sample:
    """What the picture needs of a snapshot. Agents are named ``tenant/role`` by their own headers."""
    agents = {
        view.agent: AgentSample(
            view.state, view.tokens, *(view.kv_tokens.get(KvTier(tier), 0) for tier in KV_TIERS)
        )
        for view in snapshot.agents
    }
    used = {tier: snapshot.usage[KvTier(tier)].used_bytes for tier in KV_TIERS}
    return Sample(t_s, agents, used, snapshot.running, snapshot.waiting)


def crew_agents(briefs: Sequence[Brief], shape: Shape) -> list[str]:
    """The keys of all agents, in the order in which they are shown."""
    roles = ["lead", *(f"reader-{number + 1}" for number in range(shape.readers)), "critic", "writer"]
    return [f"{brief.customer.tenant}/{role}" for brief in briefs for role in roles]

"""A made-up run of the demo: 21 agents whose KV sinks and comes back, from a seed."""

from __future__ import annotations

import random

from stepwell.demo.figures import (
    SCHEMA,
    DemoFigures,
    DocumentFigures,
    figures_of_run,
    result_sentence,
    speedup,
)
from stepwell.demo.record import AgentSample, Capacity, CheckedAnswer, DemoCustomer, DemoRun, DemoTurn, Sample

CUSTOMERS = (
    DemoCustomer("Almond", "priority", ("Who was the patron of stepwells?", "And why?")),
    DemoCustomer("Birch", "default", ("What kept the walls from falling in?", "And why?")),
    DemoCustomer("Cedar", "flex", ("Why did <stepwells> & their keepers go?", "And?")),
)
ROLES = ("planner", "reader-1", "reader-2", "reader-3", "verifier-1", "writer-1", "judge-1")
TOKEN_BYTES = 23_040


def fake_run(
    name: str = "With KV tiers", *, tiering: bool = True, seconds: float = 40.0, seed: int = 1
) -> DemoRun:
    """Agents take turns at random; between turns their tokens sink a KV tier every few seconds."""
    rng = random.Random(seed)
    host, disk = (80 * 2**20, 350 * 2**20) if tiering else (0, 0)
    keys = tuple(f"{customer.tenant}/{role}" for customer in CUSTOMERS for role in ROLES)
    capacity = Capacity(2560, host, disk, TOKEN_BYTES, 10_240, 15_400)
    run = DemoRun(name, capacity, agents=keys, duration_s=seconds)
    for agent in keys:
        run.turns += _turns(agent, seconds, tiering, rng)
    for step in range(int(seconds * 5)):
        run.samples.append(_sample(run, list(keys), step / 5, tiering))
    for customer in CUSTOMERS:
        run.sessions_s[customer.tenant] = (0.0, seconds - 1)
        text = f"Because the water was there, said {customer.name} <b>& others</b>."
        passage = f"A <quote>. {text}"
        run.answers[customer.tenant] = [
            CheckedAnswer(question, text, "The water", passage, right)
            for question, right in zip(customer.questions, (True, None), strict=True)
        ]
    run.counters = {"recomputed_tokens": sum(turn.recomputed_tokens for turn in run.turns)}
    return run


def _turns(agent: str, seconds: float, tiering: bool, rng: random.Random) -> list[DemoTurn]:
    made: list[DemoTurn] = []
    start, prompt = rng.uniform(0, seconds / 4), 320
    while start < seconds - 4:
        ttft, writing = rng.uniform(0.2, 1.5 if tiering else 3), rng.uniform(0.3, 1.2)
        cached = prompt - 100 if made and tiering else 0
        kinds = rng.choice([(1, 0, 0), (0, 1, 0), (0, 0, 1)])
        made.append(
            DemoTurn(
                agent,
                len(made) + 1,
                "reads page 1",
                start,
                start + ttft,
                start + ttft + writing,
                prompt,
                24,
                dict(zip(("device", "host", "disk"), (k * cached for k in kinds), strict=True)),
                0 if tiering or not made else prompt - 100,
            )
        )
        prompt += 124
        start += ttft + writing + rng.uniform(2, seconds / 5)
    return made


def _sample(run: DemoRun, agents: list[str], t_s: float, tiering: bool) -> Sample:
    seen = {agent: state for agent in agents if (state := _agent(run, agent, t_s, tiering)) is not None}
    used = {
        tier: TOKEN_BYTES * sum(getattr(a, tier) for a in seen.values())
        for tier in ("device", "host", "disk")
    }
    running = sum(a.state == "running" for a in seen.values())
    return Sample(t_s, seen, used, running, len(agents) // 4)


def _agent(run: DemoRun, agent: str, t_s: float, tiering: bool) -> AgentSample | None:
    begun = [turn for turn in run.turns if turn.agent == agent and turn.start_s <= t_s]
    if not begun:
        return None
    turn = begun[-1]
    tokens = turn.prompt_tokens + turn.output_tokens
    if t_s < turn.first_token_s:
        return AgentSample("waiting", turn.prompt_tokens, turn.prompt_tokens // 3, 0, 0)
    if t_s < turn.end_s:
        return AgentSample("running", tokens, tokens, 0, 0)
    sunk = min(1.0, (t_s - turn.end_s) / 4)
    below = int(tokens * sunk) // 64 * 64
    if not tiering:
        return AgentSample("idle", tokens, tokens - below, 0, 0)
    disk = int(below * max(0.0, sunk - 0.5))
    return AgentSample("idle", tokens, tokens - below, below - disk, disk)


def fake_figures() -> DemoFigures:
    """Both runs, as the page and the JSON file get them."""
    runs = (
        fake_run(),
        fake_run("Without: host memory and disk off", tiering=False, seconds=83.0, seed=2),
    )
    made = tuple(figures_of_run(run, CUSTOMERS) for run in runs)
    return DemoFigures(
        schema=SCHEMA,
        date="2026-11-22T10:00:00+00:00",
        stepwell="0.1.0",
        model="smollm2-135m-instruct",
        machine={"cpu": "a slow one", "cores": 2},
        versions={"stepwell": "0.1.0"},
        document=DocumentFigures("stepwells.md", "markdown", "How a stepwell was built", 3_560, 4_643),
        customers=CUSTOMERS,
        agents=21,
        device_share=0.25,
        runs=made,
        speedup=speedup(*made),
        result=result_sentence(made, 21, 0.25),
    )

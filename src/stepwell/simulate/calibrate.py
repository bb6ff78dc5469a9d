"""What a workload needs, whatever serves it, and how fast it must come to keep a machine half busy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

from stepwell.simulate.hardware import StepCosts
from stepwell.simulate.workload import Runs, SessionSpec, TurnSpec, Workload, part, run_length

BUSY = 0.55
"""Share of time that the machine would compute if it never lost anything."""


@dataclass(frozen=True, slots=True)
class WorkloadFacts:
    """A workload with memory for everything."""

    turns: int
    units: int
    """Units of all prompts together."""
    units_hit: int
    """Of these, how many had been in a prompt or an answer before."""
    unique_units: int
    prefill_tokens: int
    """To be computed all the same."""
    work_us: int
    """Computing them, and decoding every answer in a batch of two."""


def facts_of(workload: Workload, model: StepCosts) -> WorkloadFacts:
    """Walk the workload in the order of its trace with memory for everything."""
    hits = units = unique = prefill = work = count = 0
    seen: set[int] = set()
    for session in _in_order(workload):
        if not workload.shared:
            unique += len(seen)
            seen = set()
        for turn in sorted(session.turns, key=lambda t: (t.at_us, t.number)):
            total, hit = run_length(turn.prompt), _seen_prefix(turn.prompt, seen)
            for first, length in part(turn.prompt, hit, total) + (turn.grown or ()):
                seen.update(range(first, first + length))
            start = min(hit * workload.unit_tokens, turn.prompt_tokens - 1)
            hits, units, count = hits + hit, units + total, count + 1
            prefill += turn.prompt_tokens - start
            work += model.prefill_us(start, turn.prompt_tokens) + _decode_us(turn, model)
    return WorkloadFacts(count, units, hits, unique + len(seen), prefill, work)


def _in_order(workload: Workload) -> Iterator[SessionSpec]:
    yield from sorted(workload.sessions, key=lambda session: session.start_us)


def _seen_prefix(prompt: Runs, seen: set[int]) -> int:
    """A name stands for its whole prefix, so the first unseen one ends what is known: bisect."""
    hit = 0
    for first, length in prompt:
        if first + length - 1 in seen:
            hit += length
            continue
        low, high = 0, length
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if first + middle in seen else (low, middle)
        return hit + low
    return hit


def _decode_us(turn: TurnSpec, model: StepCosts) -> int:
    """Its tokens after the first, in a batch of two."""
    return (turn.new_tokens - 1) * model.step_us(0, 2, 0, 2 * turn.prompt_tokens) // 2


def working_set_blocks(workload: Workload) -> int:
    """The most blocks that are live at one time: used already, and to be used again (at the trace's times).

    What fits this needs to compute nothing twice, if it is told what to keep.
    """
    per_block = workload.block_tokens // workload.unit_tokens
    changes: list[tuple[int, int]] = []
    lives: dict[int, list[int]] = {}
    for session in _in_order(workload):
        if not workload.shared:
            changes += _changes(lives)
            lives = {}
        for turn in session.turns:
            at_us = session.start_us + turn.at_us
            for name in _block_names(turn.prompt, per_block):
                life = lives.setdefault(name, [at_us, at_us])
                life[0], life[1] = min(life[0], at_us), max(life[1], at_us)
    changes += _changes(lives)
    live = most = 0
    for _, change in sorted(changes):
        live += change
        most = max(most, live)
    return most


def _block_names(prompt: Runs, per_block: int) -> Iterator[int]:
    """The names of full blocks: those of their last units."""
    position = 0
    for first, length in prompt:
        start = first + (-1 - position) % per_block
        yield from range(start, first + length, per_block)
        position += length


def _changes(lives: dict[int, list[int]]) -> list[tuple[int, int]]:
    """A block counts from its first use to its last; one that is used once needs no keeping."""
    again = [life for life in lives.values() if life[0] < life[1]]
    return [(life[0], 1) for life in again] + [(life[1], -1) for life in again]


def paced(workload: Workload, span_us: int) -> Workload:
    """The same sessions, their starts stretched or squeezed so that the last one starts at ``span_us``."""
    last_us = max((session.start_us for session in workload.sessions), default=0)
    if not last_us:
        return workload
    sessions = tuple(replace(s, start_us=s.start_us * span_us // last_us) for s in workload.sessions)
    return replace(workload, sessions=sessions)


def hurried(workload: Workload, share: Fraction) -> Workload:
    """The same turns, their pauses and the trace's times only ``share`` as long: quicker tools and people.
    The working set is then that of the shorter sessions."""
    if share == 1:
        return workload
    sessions = tuple(
        replace(
            session,
            agents=tuple(replace(one, offset_us=int(one.offset_us * share)) for one in session.agents),
            turns=tuple(_hurried(turn, share) for turn in session.turns),
        )
        for session in workload.sessions
    )
    return replace(workload, sessions=sessions, notes=(*workload.notes, f"all pauses are {share} as long"))


def _hurried(turn: TurnSpec, share: Fraction) -> TurnSpec:
    return replace(
        turn,
        at_us=int(turn.at_us * share),
        gap_us=int(turn.gap_us * share),
        rest_us=None if turn.rest_us is None else int(turn.rest_us * share),
    )


def calibrated(workload: Workload, model: StepCosts, busy: float = BUSY) -> tuple[Workload, WorkloadFacts]:
    """The workload at the pace at which the machine computes ``busy`` of the time in which sessions begin."""
    facts = facts_of(workload, model)
    span_us = int(facts.work_us / busy)
    note = (
        f"with memory for everything the machine would compute {facts.work_us / 1e6:,.0f} s; "
        f"sessions begin over {span_us / 1e6:,.0f} s, so that it is {busy:.0%} busy meanwhile"
    )
    return replace(paced(workload, span_us), notes=(*workload.notes, note)), facts

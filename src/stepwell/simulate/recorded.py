"""Yesterday's turns under another policy: an open-loop workload from a live server's recording.

Every turn arrives when it did, whatever the policy makes of the one before, and generates what it generated.
What the machine costs is fitted to the recording's own steps and transfers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import median

from stepwell.policy.config import PolicyConfig
from stepwell.policy.types import (
    Computed,
    Event,
    Hinted,
    KvTier,
    Moved,
    Progressed,
    Recovered,
    RequestArrived,
    RequestCancelled,
    RequestId,
)
from stepwell.recording.file import RecordedStep
from stepwell.simulate.fit import fit
from stepwell.simulate.foresight import Timetable
from stepwell.simulate.hardware import MachineModel
from stepwell.simulate.machine import ComingTurn, Due


@dataclass(slots=True, eq=False)
class RecordedTurn:
    """A turn of the recording. It is a ``ComingTurn``."""

    at_us: int
    recorded: RequestArrived
    units_known: list[bytes]
    total: int
    """Tokens it knew when the recording heard of it last."""
    first_us: int = 0
    """When it had its first token; 0: it never had one."""
    ended_us: int = 0
    """When the recording heard of it last."""
    ended: bool = False
    cancelled: bool = False
    timetable: Timetable | None = None

    @property
    def new_tokens(self) -> int:
        """What it generated; a cancelled one would have gone on to its limit."""
        generated = self.total - self.recorded.prompt_tokens
        return max(1, self.recorded.max_new_tokens if self.cancelled else generated)

    def arrival(self, request: RequestId) -> RequestArrived:
        if self.timetable is not None:
            self.timetable.opened(self.recorded.units)
        return replace(self.recorded, request=request)

    def units(self, unit_tokens: int) -> list[bytes]:
        """Recorded names, then made-up ones for what a cancelled turn may generate here and did not there."""
        total = (self.recorded.prompt_tokens + self.new_tokens) // unit_tokens
        missing = range(len(self.units_known), total)
        salt = b"not recorded" + self.recorded.request.to_bytes(8, "big")
        made_up = [hashlib.blake2b(salt + i.to_bytes(8, "big"), digest_size=16).digest() for i in missing]
        return [*self.units_known, *made_up][:total]

    def tail(self, n_tokens: int) -> bytes | None:
        return None


@dataclass(eq=False)
class Recorded:
    """A recording as a ``Source``. Times count from its first step."""

    config: PolicyConfig
    turns: dict[RequestId, RecordedTurn] = field(default_factory=dict)
    others: list[tuple[int, Event]] = field(default_factory=list)
    """Cancels, hints and what the disk held at the start."""
    steps: list[Computed] = field(default_factory=list)
    moves: list[Moved] = field(default_factory=list)

    @cached_property
    def timetable(self) -> Timetable:
        return Timetable((turn.at_us, turn.recorded.units) for turn in self.turns.values())

    def start(self) -> Iterator[Due]:
        """Turns are numbered anew in the order in which they came."""
        numbers = {request: place for place, request in enumerate(self.turns, start=1)}
        self.timetable = Timetable((t.at_us, t.recorded.units) for t in self.turns.values())
        for turn in self.turns.values():
            turn.timetable = self.timetable
            yield turn.at_us, turn
        for at_us, event in self.others:
            if isinstance(event, Recovered):
                yield at_us, event
            elif isinstance(event, Hinted | RequestCancelled) and event.request in numbers:
                yield at_us, replace(event, request=numbers[event.request])

    def future(self) -> Timetable:
        """What an oracle may ask."""
        return self.timetable

    def ended(self, call: ComingTurn, request: RequestId, now_us: int, reason: str) -> Iterable[Due]:
        assert isinstance(call, RecordedTurn)
        self.timetable.closed(call.recorded.units)
        return ()

    @property
    def unfinished(self) -> int:
        """Turns whose end the recording does not hold; they generate what is known of them."""
        return sum(1 for turn in self.turns.values() if not turn.ended)


def recorded_workload(config: PolicyConfig, steps: Iterable[RecordedStep]) -> Recorded:
    """Read a recording to its end."""
    found = Recorded(config)
    first_us: int | None = None
    for step in steps:
        first_us = step.now_us if first_us is None else first_us
        for event in step.events:
            _take(found, step.now_us - first_us, event)
    return found


def _take(found: Recorded, at_us: int, event: Event) -> None:
    match event:
        case RequestArrived():
            found.turns[event.request] = RecordedTurn(at_us, event, list(event.units), event.prompt_tokens)
        case Progressed():
            _progressed(found.turns.get(event.request), at_us, event)
        case Computed():
            found.steps.append(event)
        case Moved(ok=True):
            found.moves.append(event)
        case RequestCancelled(request):
            _cancelled(found.turns.get(request))
            found.others.append((at_us, event))
        case Hinted() | Recovered():
            found.others.append((at_us, event))


def _progressed(turn: RecordedTurn | None, at_us: int, event: Progressed) -> None:
    if turn is not None:
        turn.ended_us = at_us
        if not turn.first_us and event.total > turn.recorded.prompt_tokens:
            turn.first_us = at_us
        turn.units_known += event.units
        turn.total = max(turn.total, event.total)
        turn.ended |= event.finished is not None


def _cancelled(turn: RecordedTurn | None) -> None:
    if turn is not None and not turn.ended:
        turn.cancelled = turn.ended = True


# --- what the machine cost --------------------------------------------------------------------


def measured_model(found: Recorded) -> MachineModel:
    """The machine's costs as the recording shows them; what it does not show keeps its default."""
    model = replace(MachineModel(), token_bytes=found.config.token_bytes)
    model = _with_steps(model, found.steps)
    copies = [m.duration_us for m in found.moves if KvTier.DEVICE in (m.source, m.target)]
    if copies:
        model = replace(model, copy_us_per_block=round(median(copies)))
    reads = _bytes_per_s([m for m in found.moves if m.source is KvTier.DISK])
    writes = _bytes_per_s([m for m in found.moves if m.target is KvTier.DISK])
    return replace(
        model,
        read_bytes_per_s=reads or model.read_bytes_per_s,
        write_bytes_per_s=writes or model.write_bytes_per_s,
        transfer_us=0 if reads or writes else model.transfer_us,
    )


def _with_steps(model: MachineModel, steps: Sequence[Computed]) -> MachineModel:
    """Least squares over all steps: prompt tokens, their depth, a step that decodes, its sequences."""
    rows = [(s.prefill_tokens, s.depth_tokens, int(s.decode_tokens > 0), s.decode_tokens) for s in steps]
    if not rows:
        return model
    prefill, depth, step, sequence = fit(rows, [s.duration_us for s in steps])
    return replace(
        model,
        prefill_us_per_token=round(prefill) if any(row[0] for row in rows) else model.prefill_us_per_token,
        depth_ns_per_token=round(depth * 1000),
        decode_us_per_step=round(step) if any(row[2] for row in rows) else model.decode_us_per_step,
        decode_us_per_sequence=round(sequence)
        if any(row[2] for row in rows)
        else model.decode_us_per_sequence,
    )


def _bytes_per_s(moves: Sequence[Moved]) -> int:
    """Bytes over the time of their transfers; 0 when there were none."""
    duration_us = sum(m.duration_us for m in moves)
    return sum(m.size_bytes for m in moves) * 1_000_000 // duration_us if duration_us else 0

"""When sessions begin: as recorded, by a renewal process, or as the clients of a ServeGen file do."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from pathlib import Path

from stepwell.errors import BadInput
from stepwell.simulate.files import read_trace
from stepwell.simulate.traces import TIER_SHARES
from stepwell.simulate.workload import SessionSpec, Workload

FORMS = "recorded, poisson:RATE, gamma:RATE:CV, weibull:RATE:CV, or servegen:FILE (RATE in sessions a second)"
_KINDS = ("poisson", "gamma", "weibull")


@dataclass(frozen=True, slots=True)
class Arrivals:
    """How sessions begin."""

    kind: str = "recorded"
    rate_per_s: float = 1.0
    cv: float = 1.0
    """Standard deviation of the time between two starts over its mean."""
    file: Path | None = None

    @classmethod
    def parse(cls, text: str) -> Arrivals:
        """``BadInput`` says what may be given."""
        kind, *numbers = text.split(":", 1) if text.startswith("servegen") else text.split(":")
        if kind == "recorded" and not numbers:
            return cls()
        if kind == "servegen" and len(numbers) == 1:
            return cls(kind, file=Path(numbers[0]))
        if kind in _KINDS and len(numbers) == (1 if kind == "poisson" else 2):
            try:
                rate, cv = float(numbers[0]), float(numbers[1]) if len(numbers) > 1 else 1.0
            except ValueError:
                rate = cv = -1.0
            if 0 < rate < 1e6 and 0.05 <= cv <= 50:
                return cls(kind, rate, cv)
        raise BadInput(f"--arrivals {text}: give {FORMS}, with CV from 0.05 to 50")


def arranged(workload: Workload, arrivals: Arrivals, seed: int) -> Workload:
    """The same sessions, beginning as ``arrivals`` says, in the order in which the trace has them."""
    if arrivals.kind == "recorded":
        return workload
    draw = random.Random(f"arrivals/{seed}")
    if arrivals.file is not None:
        return _as_clients(workload, arrivals.file, draw)
    shape = _weibull_shape(arrivals.cv) if arrivals.kind == "weibull" else 1 / arrivals.cv**2
    mean_s, at_s, sessions = 1 / arrivals.rate_per_s, 0.0, []
    for session in workload.sessions:
        sessions.append(replace(session, start_us=int(at_s * 1e6)))
        at_s += gap_s(draw, "W" if arrivals.kind == "weibull" else "G", shape, mean_s)
    note = f"sessions begin as {arrivals.kind}, {arrivals.rate_per_s:g} a second, CV {arrivals.cv:g}"
    return replace(workload, sessions=tuple(sessions), notes=(*workload.notes, note))


def gap_s(draw: random.Random, family: str, shape: float, mean_s: float) -> float:
    """Seconds between two starts, Gamma (``G``) or Weibull (``W``), with that mean."""
    if family == "W":
        return draw.weibullvariate(mean_s / math.gamma(1 + 1 / shape), shape)
    return draw.gammavariate(shape, mean_s / shape)


def _weibull_shape(cv: float) -> float:
    """The shape with that coefficient of variation, by halving; a larger shape varies less."""
    low, high = 0.1, 50.0
    for _ in range(80):
        middle = math.sqrt(low * high)
        first, second = math.lgamma(1 + 1 / middle), math.lgamma(1 + 2 / middle)
        spread = math.sqrt(max(0.0, math.expm1(second - 2 * first)))
        low, high = (middle, high) if spread > cv else (low, middle)
    return math.sqrt(low * high)


# --- ServeGen's clients -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ArrivalClient:
    """One customer: windows of ``window_s`` with a rate and a family of gaps."""

    name: str
    window_s: float
    windows: tuple[tuple[float, float, str, float], ...]
    """(start in seconds, starts a second, ``G`` or ``W``, shape), ascending."""

    @property
    def weight(self) -> float:
        return sum(rate for _, rate, _, _ in self.windows) * self.window_s


def read_clients(path: Path) -> tuple[list[ArrivalClient], str]:
    """The clients of a ServeGen file, the busiest first, and what was malformed in it, in one sentence."""
    try:
        file = read_trace(path)
    except BadInput as error:
        raise BadInput(f"--arrivals servegen:{error}") from error
    if file.kind != "servegen":
        raise BadInput(f"--arrivals servegen:{path}: these are no clients of ServeGen ({file.kind})")
    records = [record for record in file.records if record["trace"]]
    if not records:
        raise BadInput(f"--arrivals servegen:{path}: there is no client in it")
    found = [ArrivalClient(r["name"], r["window_s"], tuple(r["trace"])) for r in records]
    return sorted(found, key=lambda client: (-client.weight, client.name)), file.bad_note()


def _as_clients(workload: Workload, path: Path, draw: random.Random) -> Workload:
    """Each session belongs to a client, drawn by how busy it is, and begins when that client next sends. The
    busiest clients are the customers of the heaviest service tier: no public trace says who paid for what."""
    clients, bad = read_clients(path)
    tiers = _tiers(len(clients))
    picked = draw.choices(
        range(len(clients)), [client.weight for client in clients], k=len(workload.sessions)
    )
    starts = {number: _starts(clients[number], picked.count(number), draw) for number in sorted({*picked})}
    sessions: list[SessionSpec] = []
    for session, number in zip(workload.sessions, picked, strict=True):
        tenant = session.tenant if workload.shared else clients[number].name
        start_us = int(starts[number].pop() * 1e6)
        sessions.append(replace(session, tenant=tenant, service_tier=tiers[number], start_us=start_us))
    sessions.sort(key=lambda session: (session.start_us, session.name))
    note = f"sessions begin as those of {len(starts)} clients of {path.name}, tiers by how busy a client is"
    notes = (*workload.notes, note, *([f"{path.name}: {bad}"] if bad else []))
    return replace(workload, sessions=tuple(sessions), notes=notes)


def _tiers(count: int) -> list[str]:
    found: list[str] = []
    for name, share in TIER_SHARES:
        found += [name] * max(1, round(share * count))
    return [*found, *["flex"] * count][:count]


def _starts(client: ArrivalClient, count: int, draw: random.Random) -> list[float]:
    """``count`` starts over the client's windows, thinned to its rate so that they span all of them; the last
    first. Bursts stay bursts: gaps come from the window's own family and shape."""
    expected = client.weight
    found: list[float] = []
    for start_s, rate, family, shape in client.windows:
        mean_s = expected / (count * rate)
        at_s = start_s + gap_s(draw, family, shape, mean_s) * draw.random()
        while at_s < start_s + client.window_s:
            found.append(at_s)
            at_s += gap_s(draw, family, shape, mean_s)
    while len(found) < count:
        start_s, _, _, _ = draw.choice(client.windows)
        found.append(start_s + draw.random() * client.window_s)
    return sorted(draw.sample(found, count), reverse=True)

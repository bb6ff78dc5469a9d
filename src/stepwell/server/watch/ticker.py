"""What happened between two pictures of the server, in lines for people."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from stepwell.loop.requests import Generation, Output, Rejected
from stepwell.loop.snapshot import AgentView
from stepwell.policy.types import KvTier

AgentName = tuple[str, str]
"""Tenant and agent."""
MAX_REFUSALS = 256


@dataclass(frozen=True, slots=True)
class Happening:
    """One line. ``kind``: ``preempted``, ``evicted``, ``came_back``, ``refused``."""

    kind: str
    tenant: str
    session: str
    agent: str
    detail: str

    def line(self, at: float, *, operator: bool) -> dict[str, Any]:
        whose = {"tenant": self.tenant} if operator else {}
        return {
            "at": at,
            "kind": self.kind,
            **whose,
            "session_id": self.session or None,
            "agent_id": self.agent or None,
            "detail": self.detail,
        }


class Refusals:
    """The driver's refusals since the last look; bounded, the oldest goes. Lives in the event loop."""

    def __init__(self) -> None:
        self._recent: deque[Happening] = deque(maxlen=MAX_REFUSALS)

    def beside(self, observe: Callable[[Generation, Output], None]) -> Callable[[Generation, Output], None]:
        """An observer that tells ``observe`` everything and keeps the refusals."""

        def heard(generation: Generation, output: Output) -> None:
            observe(generation, output)
            if isinstance(output, Rejected):
                caller = generation.caller
                name = caller.tenant, caller.session, caller.agent
                self._recent.append(Happening("refused", *name, output.code))

        return heard

    def take(self) -> list[Happening]:
        taken = list(self._recent)
        self._recent.clear()
        return taken


def happenings(
    before: Mapping[AgentName, AgentView], after: Mapping[AgentName, AgentView]
) -> Iterator[Happening]:
    """Agents that were preempted, whose KV went down, or came back up, from one picture to the next."""
    for name, view in after.items():
        old = before.get(name)
        if old is not None and old is not view and old != view:
            yield from _of_one(old, view)


def _of_one(old: AgentView, new: AgentView) -> Iterator[Happening]:
    name = new.tenant, new.session, new.agent
    if new.state == "preempted" and old.state != "preempted":
        yield Happening("preempted", *name, f"{new.tokens:,} tokens of context wait")
    if new.turns != old.turns or new.tokens != old.tokens:
        return  # its context has grown: where it lies is not to be compared token by token
    device = new.kv_tokens.get(KvTier.DEVICE, 0) - old.kv_tokens.get(KvTier.DEVICE, 0)
    if device < 0:
        yield Happening("evicted", *name, f"{-device:,} tokens left the device, {_rest(new)}")
    elif device > 0 and (below := _below(old, new)) > 0:
        yield Happening("came_back", *name, f"{below:,} tokens from {_source(old, new)}")
    elif device == 0 and _held(new) < _held(old):
        yield Happening("evicted", *name, f"{_held(old) - _held(new):,} tokens dropped, {_rest(new)}")


def _held(view: AgentView) -> int:
    return sum(view.kv_tokens.values())


def _below(old: AgentView, new: AgentView) -> int:
    """Tokens that no longer lie below the device."""
    tiers = (KvTier.HOST, KvTier.DISK)
    return sum(max(0, old.kv_tokens.get(t, 0) - new.kv_tokens.get(t, 0)) for t in tiers)


def _source(old: AgentView, new: AgentView) -> str:
    return "host" if old.kv_tokens.get(KvTier.HOST, 0) > new.kv_tokens.get(KvTier.HOST, 0) else "disk"


def _rest(view: AgentView) -> str:
    host, disk = (view.kv_tokens.get(t, 0) for t in (KvTier.HOST, KvTier.DISK))
    gone = max(0, view.tokens - _held(view))
    parts = [f"{n:,} {where}" for n, where in ((host, "on host"), (disk, "on disk"), (gone, "gone")) if n]
    return ", ".join(parts) or "none below"

"""One view of the server as JSON: a whole frame, and what has changed since the frame before.

A view is one tenant's (its own agents and nothing of the machine that would tell of others) or the
operators' (everything). Rows of agents are those of ``/v1/agents`` with ``cost_microusd`` beside.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from stepwell.loop.snapshot import AgentView, Snapshot
from stepwell.policy.types import KvTier
from stepwell.server.watch.ticker import AgentName

TICKER_LINES = 200
POINT_EVERY_S = 5.0
POINTS = 180
"""Fifteen minutes."""
SUMMED = ("prompt_tokens_computed", "prompt_tokens_device", "prompt_tokens_host", "prompt_tokens_disk")
AT_WORK = ("running", "loading")
QUEUED = ("waiting", "preempted")

Row = dict[str, Any]


def event(name: str, seq: int, data: Mapping[str, Any]) -> bytes:
    """A server-sent event with its sequence number as id."""
    return f"event: {name}\nid: {seq}\ndata: ".encode() + msgspec.json.encode(data) + b"\n\n"


@dataclass(slots=True)
class View:
    """What all watchers of one view are told. Encoded once, however many they are."""

    tenant: str | None
    """None: the operators' view."""
    about: Mapping[str, Any]
    """What never changes: model, units."""
    seq: int = 0
    watchers: int = 0
    left_s: float = 0.0
    """When its last watcher left, by the event loop's clock."""
    rows: dict[AgentName, Row] = field(default_factory=dict)
    ticker: deque[Row] = field(default_factory=lambda: deque(maxlen=TICKER_LINES))
    history: deque[Row] = field(default_factory=lambda: deque(maxlen=POINTS))
    difference: bytes = b""
    """From the frame before to this one."""
    _state: dict[str, Any] = field(default_factory=dict)
    _full: bytes = b""
    _at: float = 0.0

    def update(
        self,
        at: float,
        snapshot: Snapshot,
        views: Sequence[AgentView],
        rows: dict[AgentName, Row],
        lines: Sequence[Row],
    ) -> None:
        """The next frame."""
        self.seq += 1
        state = self._picture(snapshot, views)
        changed, gone = differences(self.rows, rows, with_tenant=self.tenant is None)
        told: dict[str, Any] = {"seq": self.seq, "at": at}
        told |= {name: value for name, value in state.items() if self._state.get(name) != value}
        if changed or gone:
            told["agents"] = {"changed": changed, "gone": gone}
        if lines:
            told["ticker"] = list(lines)
        if (point := self._point(at, state)) is not None:
            told["point"] = point
        self.rows, self._state = rows, state
        self.ticker.extend(lines)
        self.difference, self._full = event("diff", self.seq, told), b""
        self._at = at

    def full(self) -> bytes:
        """The whole frame; encoded when it is first asked for."""
        if not self._full:
            whole = {
                "seq": self.seq,
                "at": self._at,
                **self.about,
                **self._state,
                "agents": list(self.rows.values()),
                "ticker": list(self.ticker),
                "history": list(self.history),
            }
            self._full = event("full", self.seq, whole)
        return self._full

    def _picture(self, snapshot: Snapshot, views: Sequence[AgentView]) -> dict[str, Any]:
        tokens = dict.fromkeys((kv_tier.value for kv_tier in KvTier), 0)
        for view in views:
            for kv_tier, held in view.kv_tokens.items():
                tokens[kv_tier.value] += held
        tiers: dict[str, dict[str, int]] = {name: {"agent_tokens": n} for name, n in tokens.items()}
        if self.tenant is not None:
            running = sum(view.state in AT_WORK for view in views)
            waiting = sum(view.state in QUEUED for view in views)
            return {"kv_tiers": tiers, "requests": {"running": running, "waiting": waiting}}
        for kv_tier, usage in snapshot.usage.items():
            tiers[kv_tier.value] |= {
                "used_bytes": usage.used_bytes,
                "limit_bytes": usage.limit_bytes,
                "blocks": usage.blocks,
            }
        return {
            "kv_tiers": tiers,
            "requests": {"running": snapshot.running, "waiting": snapshot.waiting},
            "counters": dict(snapshot.counters),
            "kv_token_bytes": snapshot.token_bytes,
        }

    def _point(self, at: float, state: Mapping[str, Any]) -> Row | None:
        """A point of the charts, every few seconds."""
        if self.history and at - self.history[-1]["at"] < POINT_EVERY_S:
            return None
        tiers, counters = state["kv_tiers"], state.get("counters", {})
        point: Row = {"at": at, **state["requests"]}
        for name, tier in tiers.items():
            point[name] = tier.get("used_bytes", tier["agent_tokens"])
        for name in (*SUMMED, "generation_tokens", "preemptions", "recomputed_tokens"):
            if name in counters:
                point[name] = counters[name]
        self.history.append(point)
        return point


def differences(
    before: Mapping[AgentName, Row], after: Mapping[AgentName, Row], *, with_tenant: bool
) -> tuple[list[Row], list[Row]]:
    """Changed rows, with their changed fields alone, and the names of those that are gone."""
    changed = []
    for name, row in after.items():
        old = before.get(name)
        if old is row:
            continue
        if old is None:
            changed.append(row)
            continue
        fields = {key: value for key, value in row.items() if old.get(key) != value}
        if fields:
            changed.append({**_named(name, with_tenant=with_tenant), **fields})
    gone = [_named(name, with_tenant=with_tenant) for name in before if name not in after]
    return changed, gone


def _named(name: AgentName, *, with_tenant: bool) -> Row:
    return {"id": name[1], **({"tenant": name[0]} if with_tenant else {})}

"""Where a node's agents lie, by its own account: its ``/v1/watch``, read as an operator.

``full`` replaces all that was known of the node, so a front end that was killed, or a node that was started
again, is right after one frame. ``diff`` carries what has changed since.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import msgspec

from stepwell.basics.per_tier import PerTier
from stepwell.fleet.state import Fleet
from stepwell.fleet.types import AgentName, HeldTokens

Row = tuple[AgentName, str, int, HeldTokens]
MOST_FRAME_BYTES = 512 * 2**20


class Feed:
    """Takes the frames of one node in."""

    def __init__(self, fleet: Fleet, node: str) -> None:
        self._fleet = fleet
        self._node = node

    def take(self, kind: str, frame: dict[str, Any]) -> None:
        """One frame, ``full`` or ``diff``; others say nothing of agents."""
        places = self._fleet.places
        if kind == "full":
            places.replace(self._node, list(self._rows(frame.get("agents") or ())))
            self._room(frame.get("kv_tiers"), frame.get("kv_token_bytes"))
        elif kind == "diff":
            agents = frame.get("agents") or {}
            for row in self._rows(agents.get("changed") or ()):
                places.put(row[0], row[1], row[2], self._node, row[3])
            for gone in agents.get("gone") or ():
                places.gone((gone.get("tenant", ""), gone["id"]), self._node)
        node, requests = self._fleet.nodes.get(self._node), frame.get("requests")
        if node is not None and isinstance(requests, dict):
            node.reported(requests.get("running", 0), requests.get("waiting", 0))

    def _room(self, tiers: Any, token_bytes: Any) -> None:
        """How much KV the node can hold, where it says so."""
        node = self._fleet.nodes.get(self._node)
        if node is None or not isinstance(tiers, dict) or not isinstance(token_bytes, int) or token_bytes < 1:
            return
        limits = [tier.get("limit_bytes") for tier in tiers.values() if isinstance(tier, dict)]
        node.kv_tokens = sum([limit for limit in limits if isinstance(limit, int)]) // token_bytes or None

    def _rows(self, rows: Any) -> Iterator[Row]:
        """A row of a difference holds only the fields that have changed: the others are as they were."""
        for row in rows:
            name = (row.get("tenant", ""), row["id"])
            place = self._fleet.places.find(name)
            known = None if place is None else place.held.get(self._node)
            kv = row.get("kv_tokens")
            if kv is None and known is None:
                continue
            held = known if kv is None else PerTier(*(int(kv.get(tier, 0)) for tier in PerTier._fields))
            assert held is not None
            session = row.get("session_id", "" if place is None else place.session) or ""
            context = row.get("context_tokens", sum(held) if place is None else place.context_tokens)
            yield name, session, int(context), held


async def frames(chunks: AsyncIterator[bytes]) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """Server-sent events with JSON in them. Raises ``ValueError`` for what is none."""
    buffer = bytearray()
    async for chunk in chunks:
        buffer += chunk
        if len(buffer) > MOST_FRAME_BYTES:
            raise ValueError("a frame of /v1/watch is larger than any fleet's")
        while (end := buffer.find(b"\n\n")) >= 0:
            event = bytes(buffer[:end])
            del buffer[: end + 2]
            kind, data = "", b""
            for line in event.split(b"\n"):
                if line.startswith(b"event: "):
                    kind = line[7:].decode()
                elif line.startswith(b"data: "):
                    data = line[6:]
            if data:
                yield kind, msgspec.json.decode(data, type=dict[str, Any])

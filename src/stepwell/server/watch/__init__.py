"""``GET /v1/watch``: the agents, the KV tiers and the queue as they change, for pages and other screens."""

from __future__ import annotations

"""The pictures of several models as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from stepwell.loop.served_model import ServedModel
from stepwell.loop.snapshot import AgentView, ModelView, Snapshot
from stepwell.policy.types import KvTier
from stepwell.tiers.base import TierUsage


def merged(models: Sequence[ServedModel], host_bytes: int) -> Snapshot:
    """Sums over all; the agents of each, with its name."""
    pictures = [model.driver.snapshot() for model in models]
    agents: list[AgentView] = []
    counters: dict[str, int] = {}
    views: dict[str, ModelView] = {}
    for model, picture in zip(models, pictures, strict=True):
        agents += [replace(view, model=model.name) for view in picture.agents]
        for name, count in picture.counters.items():
            counters[name] = counters.get(name, 0) + count
        views[model.name] = model.view(picture)
    host = pictures[0].usage[KvTier.HOST]  # one pool: each sees it whole
    return Snapshot(
        now_us=max(picture.now_us for picture in pictures),
        running=sum(picture.running for picture in pictures),
        waiting=sum(picture.waiting for picture in pictures),
        usage={
            KvTier.DEVICE: _sum([picture.usage[KvTier.DEVICE] for picture in pictures]),
            KvTier.HOST: replace(host, limit_bytes=host_bytes),
            KvTier.DISK: _sum([picture.usage[KvTier.DISK] for picture in pictures]),
        },
        agents=agents,
        counters=counters,
        models=views,
    )


def _sum(usages: Sequence[TierUsage]) -> TierUsage:
    return TierUsage(
        sum(usage.used_bytes for usage in usages),
        sum(usage.limit_bytes for usage in usages),
        sum(usage.blocks for usage in usages),
    )

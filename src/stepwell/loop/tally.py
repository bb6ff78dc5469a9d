"""What a server has done since it started, in counters that only grow."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from stepwell.basics.per_tier import PerTier
from stepwell.engines.base import BatchItem
from stepwell.loop.live import LiveRequest
from stepwell.loop.requests import found_tokens
from stepwell.loop.snapshot import ROUTES
from stepwell.policy.types import Computed, Event, Moved, Open, Plan


class Tally:
    """The loop's own counters; the policy keeps the others. ``Snapshot.counters`` says what they mean."""

    def __init__(self, max_agents: int) -> None:
        names = [f"prompt_tokens_{source}" for source in ("computed", *PerTier._fields)]
        names += ["generation_tokens", "computed_tokens", "engine_us", "drafted_tokens", "accepted_tokens"]
        names += ["failed_loads", "failed_steps"]
        names += [f"requests_{end}" for end in ("finished", "cancelled", "rejected")]
        for route in ROUTES:
            names += [f"moved_bytes_{route}", f"moved_us_{route}"]
        self.counters = dict.fromkeys(names, 0)
        self.ttft_us: OrderedDict[tuple[str, str], int] = OrderedDict()
        """Of each agent's latest turn, by tenant and agent."""
        self._max_agents = max_agents

    def add(self, name: str, amount: int = 1) -> None:
        self.counters[name] += amount

    def decided(self, now_us: int, events: Sequence[Event], plan: Plan) -> None:
        for event in events:
            if isinstance(event, Moved) and event.ok:
                self._moved(event)

    def close(self, now_us: int) -> None:
        """Counters stay readable."""

    def _moved(self, event: Moved) -> None:
        route = f"{event.source.value}_{event.target.value}"
        self.counters[f"moved_bytes_{route}"] += event.size_bytes
        self.counters[f"moved_us_{route}"] += event.duration_us

    def admitted(self, action: Open, prompt_tokens: int) -> None:
        """A request was opened for the first time."""
        for kv_tier, tokens in found_tokens(action)._asdict().items():
            self.counters[f"prompt_tokens_{kv_tier}"] += tokens
        self.counters["prompt_tokens_computed"] += prompt_tokens - action.cached_tokens

    def ran(self, items: Sequence[BatchItem], duration_us: int) -> Computed:
        """A batch has run: the event that says so."""
        draft = sum(i.draft for i in items)
        prefill = sum(len(i.tokens) for i in items if len(i.tokens) > 1 and not i.draft)
        decode = sum(len(i.tokens) - i.draft for i in items if len(i.tokens) == 1 or i.draft)
        depth = sum(len(i.tokens) * (2 * i.start + len(i.tokens)) // 2 for i in items)
        self.counters["engine_us"] += duration_us
        self.counters["computed_tokens"] += prefill + decode + draft
        return Computed(prefill, decode, depth, duration_us, draft)

    def took(self, live: LiveRequest, drafted: int, taken: int, *, finished: bool) -> None:
        """A request has taken so many tokens of a step, in which ``drafted`` guesses were checked."""
        self.counters["generation_tokens"] += taken
        self.counters["requests_finished"] += finished
        if drafted:
            self.counters["drafted_tokens"] += drafted
            self.counters["accepted_tokens"] += taken - 1
        if 0 < live.generated == taken:
            caller = live.generation.caller
            self.ttft_us[caller.tenant, caller.agent] = live.first_token_us or 0
            while len(self.ttft_us) > self._max_agents:
                self.ttft_us.popitem(last=False)

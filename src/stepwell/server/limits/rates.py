"""Requests and tokens per minute of API keys: a bucket of each that fills evenly.

A request takes its prompt and the most that it may generate; what it has not generated is given back at its
end. One that is larger than the whole bucket is taken when the bucket is full, and paid off afterwards, so
that it is late and not impossible.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stepwell.basics.units import counted
from stepwell.loop.requests import Generation
from stepwell.server.backends.bridge import Generations
from stepwell.server.callers.keys import ApiKey
from stepwell.server.errors import ApiError, rate_limited

MINUTE_S = 60.0
LEAST_WAIT_S = 0.001
LEAST = 1e-6
"""Less than this is rounding."""


@dataclass(slots=True)
class RateBucket:
    """``level`` of ``limit`` as of ``at_s``; below zero: in debt."""

    limit: int
    level: float
    at_s: float

    def fill(self, limit: int, now_s: float) -> None:
        """Up to now; ``limit`` may have been changed by a reload of the keys."""
        rate = self.limit / MINUTE_S
        self.level = min(limit, self.level + max(0.0, now_s - self.at_s) * rate)
        self.limit, self.at_s = limit, now_s

    def wait_s(self, amount: float) -> float:
        """How long until so much is there, or the bucket is full; 0: it is."""
        missing = min(amount, self.limit) - self.level
        return missing * MINUTE_S / self.limit if missing > LEAST else 0.0

    @property
    def remaining(self) -> int:
        return max(0, math.floor(self.level + LEAST))

    @property
    def full_in_s(self) -> float:
        return max(0.0, (self.limit - self.level) * MINUTE_S / self.limit)


class KeyRates:
    """By key id, so that a key keeps its buckets when the keys are read again. Lives in the event loop."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._buckets: dict[tuple[str, str], RateBucket] = {}

    def request(self, key: ApiKey) -> dict[str, str]:
        """Count a request. Gives the headers; raises a 429 ``ApiError`` with them."""
        return self._take(key, "requests", key.requests_per_minute, 1)

    def tokens(self, key: ApiKey, generations: Sequence[Generation]) -> dict[str, str]:
        """Take what the generations may come to. Gives the headers; raises a 429 ``ApiError`` with them."""
        return self._take(key, "tokens", key.tokens_per_minute, tokens_of(generations))

    def counted(self, key: ApiKey, tokens: int) -> dict[str, str]:
        """Take tokens that are counted already. Gives the headers; raises a 429 ``ApiError`` with them."""
        return self._take(key, "tokens", key.tokens_per_minute, tokens)

    def give_back(self, key: ApiKey, batch: Generations) -> None:
        """What the generations that have ended did not generate. One that is cut short gives nothing back."""
        self.refund(
            key,
            sum(
                max(0, batch.generations[index].max_new_tokens - finished.generated_tokens)
                for index, finished in batch.finished.items()
            ),
        )

    def refund(self, key: ApiKey, tokens: int) -> None:
        """Tokens that were taken and not used."""
        bucket = self._buckets.get((key.id, "tokens"))
        if bucket is not None:
            bucket.level = min(bucket.limit, bucket.level + tokens)

    def left(self, key: ApiKey) -> dict[str, int]:
        """What is left of this minute's requests and tokens, where there are limits."""
        limits = (("requests", key.requests_per_minute), ("tokens", key.tokens_per_minute))
        return {what: self._bucket(key, what, limit).remaining for what, limit in limits if limit is not None}

    def _bucket(self, key: ApiKey, what: str, limit: int) -> RateBucket:
        now_s = self._now_s()
        bucket = self._buckets.setdefault((key.id, what), RateBucket(limit, limit, now_s))
        bucket.fill(limit, now_s)
        return bucket

    def _take(self, key: ApiKey, what: str, limit: int | None, amount: int) -> dict[str, str]:
        if limit is None:
            return {}
        bucket = self._bucket(key, what, limit)
        wait_s = bucket.wait_s(amount)
        if wait_s > 0:
            raise _too_many(what, limit, amount, bucket, max(wait_s, LEAST_WAIT_S))
        bucket.level -= amount
        return _headers(what, bucket)


def tokens_of(generations: Sequence[Generation]) -> int:
    """At most: a prompt that several choices share counts once."""
    return sum((0 if one.same_prompt else len(one.prompt)) + one.max_new_tokens for one in generations)


def _too_many(what: str, limit: int, amount: int, bucket: RateBucket, wait_s: float) -> ApiError:
    asked = f"; this one may come to {amount:,}" if what == "tokens" else ""
    error = rate_limited(
        f"This API key may use {counted(limit, what[:-1])} a minute, and "
        f"{bucket.remaining:,} are left{asked}. "
        f"Try again in {wait_s:.3g} s.",
        math.ceil(wait_s * 1000),
    )
    error.headers |= _headers(what, bucket)
    return error


def _headers(what: str, bucket: RateBucket) -> dict[str, str]:
    """OpenAI's; ``reset`` is when the bucket is full again."""
    return {
        f"x-ratelimit-limit-{what}": str(bucket.limit),
        f"x-ratelimit-remaining-{what}": str(bucket.remaining),
        f"x-ratelimit-reset-{what}": f"{bucket.full_in_s:.3f}s",
    }

"""What is asked of the driver, and what comes back.

The server (or a benchmark) hands a ``Generation`` to ``Driver.submit`` together with a sink; the
driver calls the sink, from its own thread, with the outputs below in this order::

    Admitted  (Delta | Preempted)*  Finished      the usual way; where the prompt is scored there is one
                                                  ``Scored`` before the first ``Delta``
    Rejected                                      never admitted, or lost: nothing more follows

A sink must return at once (hand over to a queue or an event loop).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from stepwell.basics.per_tier import PerTier
from stepwell.engines.base import SamplingParams
from stepwell.ledger.metering.metered import Use
from stepwell.loop.timing import Timing
from stepwell.policy.types import NO_HINT, Caller, Hint, Open, RequestArrived, RequestId

LOCAL_TENANT = "local"
LOCAL = Caller(LOCAL_TENANT)
"""A program on this machine that says nothing of itself."""


@dataclass(frozen=True, slots=True)
class Generation:
    """One turn of one agent. ``prompt`` holds token ids and is never empty."""

    prompt: tuple[int, ...]
    max_new_tokens: int
    sampling: SamplingParams
    stop: tuple[str, ...] = ()
    """Generation ends where one of these appears; it is not part of the output."""
    caller: Caller = LOCAL
    hint: Hint = NO_HINT
    """What comes after this turn, as far as the client says."""
    prewarm: bool = False
    """Only compute the prompt's KV: the one token that is sampled for it is dropped."""
    same_prompt: bool = False
    """A further choice of a prompt that is paid for by another generation."""
    model: str = ""
    """Which of a server's models; empty: the first."""
    opening: str | None = None
    """Of a chat: the mark that the prompt has opened for the answer, such as ``<think>`` (empty: none), and
    the text keeps the marks that a reader needs. None: plain text is wanted."""

    def arrival(self, request: RequestId = 0, units: tuple[bytes, ...] = ()) -> RequestArrived:
        """As the policy and the ledger hear of it. ``units``: the chained hashes of the prompt."""
        return RequestArrived(
            request=request,
            caller=self.caller,
            prompt_tokens=len(self.prompt),
            max_new_tokens=self.max_new_tokens,
            units=units,
            hint=self.hint,
            prewarm=self.prewarm,
            same_prompt=self.same_prompt,
            adapter=self.sampling.adapter,
        )


def found_tokens(action: Open) -> PerTier[int]:
    """Of the request's prompt, where KV of it lay when it got its place."""
    return PerTier(action.from_device_tokens, action.from_host_tokens, action.from_disk_tokens)


@dataclass(frozen=True, slots=True)
class Admitted:
    """The request got a place. Which of its tokens lay where at that moment, and how long it waited."""

    request: RequestId
    cached: PerTier[int]
    queue_us: int

    @property
    def cached_tokens(self) -> int:
        return sum(self.cached)


@dataclass(frozen=True, slots=True)
class TokenInfo:
    """One token, generated or of a scored prompt; ``logprob`` and ``top`` only when they were asked for."""

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Delta:
    """Text that is now certain (it may be empty while a character or a stop string is undecided)."""

    text: str
    tokens: tuple[TokenInfo, ...]


@dataclass(frozen=True, slots=True)
class Scored:
    """The tokens of the prompt, and how likely each was after those before it; the first has no
    ``logprob``."""

    tokens: tuple[TokenInfo, ...]


@dataclass(frozen=True, slots=True)
class Preempted:
    """The request was taken off the device; it goes on by itself later."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The end. ``reason``: ``stop`` (end token or stop string), ``length``, or ``cancelled``."""

    reason: str
    stop_string: str | None
    prompt_tokens: int
    generated_tokens: int
    recomputed_tokens: int
    """Tokens of this request that had been computed before, for any request, and were again."""
    ttft_us: int
    """From submit to the first token."""
    e2e_us: int
    preemptions: int
    use: Use | None = None
    """What the request used of the machine; None where no ledger is kept."""
    timing: Timing | None = None
    """Where its time went; None where nothing observes the loop."""
    drafted_tokens: int = 0
    """Guesses at tokens that were checked beside the token before them; see ``policy/drafting.py``."""
    accepted_tokens: int = 0
    """Of those, the right ones: tokens of the answer."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """The request was not served. ``code`` is the OpenAI error code, ``message`` one sentence."""

    code: str
    message: str
    retry_after_ms: int | None = None


Output = Admitted | Scored | Delta | Preempted | Finished | Rejected
Sink = Callable[[Output], None]

"""One request from submit to its end: its tokens, its text, and what its sink is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from stepwell.engines.base import BatchItem, PromptToken, Sampled, TextModel
from stepwell.ledger.metering.metered import Use
from stepwell.loop.drafts import Drafts
from stepwell.loop.requests import (
    Admitted,
    Delta,
    Finished,
    Generation,
    Output,
    Preempted,
    Rejected,
    Scored,
    Sink,
    TokenInfo,
    found_tokens,
)
from stepwell.loop.textstream import TextStream
from stepwell.loop.timing import Timing
from stepwell.policy.chain import TokenChain
from stepwell.policy.types import Open, Piece, Progressed, RequestArrived, RequestId

UseOf = Callable[[RequestId, int], Use | None]
"""What a request has used until now."""
TimingOf = Callable[[RequestId, int, str], Timing | None]
"""Where the time of a request went that ends now, for the reason given."""


class LiveRequest:
    """A request that has not ended. All times are the driver's clock."""

    def __init__(
        self,
        request: RequestId,
        generation: Generation,
        sink: Sink,
        chain: TokenChain,
        text: TextModel,
        now_us: int,
        use_of: UseOf = lambda request, now_us: None,
        timing_of: TimingOf = lambda request, now_us, finish: None,
        draft_tokens: int = 0,
    ) -> None:
        """``draft_tokens``: most tokens of a guess at what comes next; 0: none is made."""
        self.request = request
        self.generation = generation
        self.chain = chain
        self.ended = False
        self.generated = 0
        self.first_token_us: int | None = None
        """From submit to the first token."""
        self._sink = sink
        self._use_of = use_of
        self._timing_of = timing_of
        self._text = text
        marks = generation.opening is not None
        self._stream = TextStream(text.detokenizer(marks), generation.stop)
        self.submitted_us = now_us
        self._admitted = False
        self._preemptions = 0
        self._recomputed = 0
        self._drafts = Drafts(draft_tokens, text.is_end) if draft_tokens else None
        self.draft: list[int] = []
        """A guess at what comes next."""
        self.drafted = self.accepted = 0
        """Tokens of guesses that were checked, and those of them that were right."""

    def tell(self, output: Output) -> None:
        """Hand an output to the sink; after the end nothing follows."""
        if not self.ended:
            self.ended = isinstance(output, Finished | Rejected)
            self._sink(output)

    def arrival(self) -> RequestArrived:
        return self.generation.arrival(self.request, tuple(self.chain.units))

    def opened(self, action: Open, now_us: int) -> bool:
        """It has a place on the device; True if that is for the first time."""
        self._recomputed += action.recomputed_tokens
        if self._admitted:
            return False
        self._admitted = True
        self.tell(Admitted(self.request, found_tokens(action), now_us - self.submitted_us))
        return True

    def preempted(self) -> None:
        self._preemptions += 1
        self.tell(Preempted())

    def item(self, piece: Piece) -> BatchItem:
        """The tokens of a piece; sampled if it reaches the last token that is known, drafted beyond that."""
        tokens = self.chain.tokens
        end = piece.start + piece.count
        draft = max(0, end - len(tokens))
        run = tokens[piece.start : end] + self.draft[:draft]
        return BatchItem(piece.request, piece.start, run, end >= len(tokens), draft)

    def guess(self, context_tokens: int) -> int:
        """Look for what may come next; how many tokens that are. None beyond where the answer ends anyhow."""
        if self._drafts is None or self.generation.prewarm:
            return 0
        left = self.generation.max_new_tokens - self.generated - 1
        room = context_tokens - len(self.chain.tokens) - 1
        self.draft = self._drafts.next(self.chain.tokens)[: max(0, min(left, room))]
        return len(self.draft)

    def advance(
        self, item: BatchItem, sampled: Sequence[Sampled], context_tokens: int, now_us: Callable[[], int]
    ) -> tuple[Progressed, int]:
        """A step has computed ``item`` and drawn ``sampled``: what the policy is told of it, and how many of
        the tokens were taken. Those behind the end of the answer are not."""
        units: tuple[bytes, ...] = ()
        reason, taken = None, 0
        self.drafted += item.draft
        for one in sampled:
            units += self.chain.extend((one.token,))
            self.accepted += taken > 0
            reason, taken = self.take(one, context_tokens, now_us()), taken + 1
            if reason is not None:
                break
        computed = item.start + len(item.tokens) - item.draft + max(0, taken - 1)
        draft = self.guess(context_tokens) if sampled and reason is None else 0
        total, tail = len(self.chain.tokens), self.chain.name(computed)
        return Progressed(self.request, computed, total, units, tail, reason, draft), taken

    def take(self, sampled: Sampled, context_tokens: int, now_us: int) -> str | None:
        """A new token: pass on the text that is certain now. The finish reason if it was the last."""
        self.generated += 1
        if self.first_token_us is None:
            self.first_token_us = now_us - self.submitted_us
        if sampled.prompt:
            self.tell(Scored(_scored(self.generation.prompt, sampled.prompt)))
        if self.generation.prewarm:
            return self.finish("stop", now_us)
        if sampled.failed:
            self.tell(Rejected("constraint_failed", f"The answer could not be finished: {sampled.failed}."))
            return "failed"
        if self._text.is_end(sampled.token) and not self.generation.sampling.ignore_eos:
            if sampled.prompt:  # evaluation harnesses count on one token of an answer behind the prompt's
                self.tell(Delta("", (_info(sampled),)))
            return self._finish("stop", now_us)
        piece = self._stream.add(sampled.token)
        self.tell(Delta(piece.text, (_info(sampled),)))
        if piece.stopped_by is not None:
            return self.finish("stop", now_us, piece.stopped_by)
        if len(self.chain.tokens) >= context_tokens or self.generated >= self.generation.max_new_tokens:
            return self._finish("length", now_us)
        return None

    def _finish(self, reason: str, now_us: int) -> str:
        """Flush what was held back; a stop string may still complete in it."""
        rest = self._stream.finish()
        if rest.text:
            self.tell(Delta(rest.text, ()))
        return self.finish("stop" if rest.stopped_by is not None else reason, now_us, rest.stopped_by)

    def finish(self, reason: str, now_us: int, stopped_by: str | None = None) -> str:
        self.tell(
            Finished(
                reason,
                stopped_by,
                prompt_tokens=len(self.generation.prompt),
                generated_tokens=0 if self.generation.prewarm else self.generated,
                recomputed_tokens=self._recomputed,
                ttft_us=self.first_token_us or 0,
                e2e_us=now_us - self.submitted_us,
                preemptions=self._preemptions,
                use=self._use_of(self.request, now_us),
                timing=self._timing_of(self.request, now_us, reason),
                drafted_tokens=self.drafted,
                accepted_tokens=self.accepted,
            )
        )
        return reason


def _scored(prompt: Sequence[int], scores: Sequence[PromptToken | None]) -> tuple[TokenInfo, ...]:
    return tuple(
        TokenInfo(token)
        if score is None
        else TokenInfo(token, score.logprob.logprob, tuple((top.token, top.logprob) for top in score.top))
        for token, score in zip(prompt, scores, strict=True)
    )


def _info(sampled: Sampled) -> TokenInfo:
    return TokenInfo(
        sampled.token,
        sampled.logprob.logprob if sampled.logprob else None,
        tuple((top.token, top.logprob) for top in sampled.top_logprobs),
    )

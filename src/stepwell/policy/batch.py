"""The batch of a step: which turns get compute now, and how much.

Heavier service tiers first. A lighter one runs beside them as far as their targets leave time in the
step; what it is owed by its guarantee it gets in any case, and what has waited for too long gets a fifth of
the others' time. Among the prompts of one tenant the oldest has half, so that none starves, and the shortest
of every session has the rest, so that none waits for a long one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from stepwell.policy.contracts import AGED_TAKE, WHOLE, Contract
from stepwell.policy.drafting import worth_checking
from stepwell.policy.turn_table import TurnTable
from stepwell.policy.turns import RUNNING, Turn
from stepwell.policy.types import KvTier, Piece, RequestId

_PREFILL_LEAVES: Final = 16  # beside a prompt with a target, lighter turns take a sixteenth of its time
_LEAST_DEBT_PIECE_US: Final = 1_000
_MOST_DEBT_PIECE_US: Final = 25_000
"""A debt is paid in pieces: all of it at once would be felt by turns with a target."""


@dataclass(slots=True)
class _Part:
    """What one service tier has of a step."""

    tokens_left: int
    """Of the tokens it may use: up to its cap, without what others have reserved."""
    spent_us: int = 0


@dataclass(slots=True)
class _Step:
    """One step while it is put together. Times are estimates from what was measured."""

    tokens_left: int
    time_left_us: int | None = None
    """For turns lighter than any that has a target; None: none has one."""
    limit_weight: int = 0
    """Service tiers lighter than this are limited."""
    decode_us: tuple[int, int] = (1, 1)
    """What the first sequence that decodes adds, and every further one; never nothing."""
    decoding: int = 0
    so_far_us: int = 0
    aged_us: int = 0
    """Of that, what turns have that are limited and have waited for too long."""
    coming_us: int = 0
    """What prompts of those that limit them will take of the step, while those turns are looked at."""
    pieces: dict[RequestId, Piece] = field(default_factory=dict)
    cost_us: dict[RequestId, int] = field(default_factory=dict)
    parts: dict[str, _Part] = field(default_factory=dict)
    """By service tier."""


def by_tenant(prompts: Sequence[Turn]) -> list[list[Turn]]:
    """Prompts in order, those of one tenant together; each one that has waited too long stands by itself."""
    groups: dict[tuple[str, ...], list[Turn]] = {}
    for turn in prompts:
        alone = (str(turn.id),) if turn.aged else ()
        groups.setdefault((*turn.account, *alone), []).append(turn)
    return list(groups.values())


def shortest_first(prompts: Sequence[Turn]) -> list[Turn]:
    """The oldest, then the others: the shortest of every session, then the second, and so on.

    Shortest first alone would starve long prompts; the oldest alone would make an agent's short turn wait for
    the long prompt of another session.
    """
    oldest = min(prompts, key=lambda turn: turn.id)
    before: dict[str, int] = {}
    ranked: list[tuple[int, int, int, Turn]] = []
    for turn in sorted(prompts, key=lambda turn: (turn.remaining, turn.id)):
        if turn is not oldest:
            session = turn.arrival.session
            ranked.append((before.get(session, 0), turn.remaining, turn.id, turn))
            before[session] = before.get(session, 0) + 1
    return [oldest, *(entry[-1] for entry in sorted(ranked, key=lambda entry: entry[:-1]))]


def portions(turns: Sequence[Turn], tokens: int, least: int) -> list[tuple[Turn, int]]:
    """How ``tokens`` are shared, in order: every session has the same, but ``least`` where there is any, and
    what one does not need the next ones have."""
    sessions = len(dict.fromkeys(turn.arrival.session for turn in turns))
    share = max(least, tokens // max(1, sessions))
    had: dict[str, int] = {}
    given: list[int] = []
    for turn in turns:
        session = turn.arrival.session
        count = min(turn.remaining, share - had.get(session, 0), tokens)
        had[session] = had.get(session, 0) + count
        tokens -= count
        given.append(count)
    for at, turn in enumerate(turns):
        more = min(turn.remaining - given[at], tokens)
        tokens -= more
        given[at] += more
    return list(zip(turns, given, strict=True))


class BatchBuilder:
    """Fills a step up to ``step_tokens`` and makes room for what it runs, by preemption if need be."""

    def __init__(self, table: TurnTable) -> None:
        self.table = table
        self.config = table.config
        self.block_manager = table.block_manager
        self.book = table.book
        self.checkpoints = table.checkpoints
        self.attained = table.waiting.attained
        self._shares: dict[str, int] = {}

    def build(self) -> tuple[Piece, ...]:
        """One token for each stream, then prompts, up to ``step_tokens``."""
        first_us, further_us = self.block_manager.costs.decode_us()
        order = self._order()
        prompts = [turn for turn in order if turn.prefilling]
        tokens = self._tokens_of_step(prompts)
        step = _Step(tokens, decode_us=(max(1, first_us), max(1, further_us)))
        streams = [turn for turn in order if not turn.prefilling]
        if streams and streams[0].leads:  # what it may have beside those with a target, they say
            streams.sort(key=lambda turn: -turn.contract.weight)
        for turn in streams:
            turn.checked = 0
        self._add_decoding(streams, step)
        if self.config.draft_tokens and not prompts:
            self._add_drafts(streams, step)
        if prompts and prompts[0].leads:
            step.coming_us = self._coming_us(prompts, step)
        for group in by_tenant(prompts) if self.book.ordered else [[turn] for turn in prompts]:
            self._add_prompts(group, step)
        self._charge(step, order)
        if self.checkpoints.active:
            for piece in step.pieces.values():
                self.checkpoints.plan(self.table.turns[piece.request], piece)
        self.block_manager.descent.batch_built()
        return tuple(step.pieces.values())

    def _tokens_of_step(self, prompts: Sequence[Turn]) -> int:
        """``step_tokens``; while a turn waits for the disk, as many as are computed until the transfers under
        way have ended, a block at least: what has come is noticed at the end of a step, and a full step takes
        far longer than most reads."""
        most, memory = self.config.step_tokens, self.block_manager
        if not (self.table.fetches and prompts and self.book.ordered):
            return most
        costs, block_tokens = memory.costs, self.config.block_tokens
        writing_bytes = memory.writes_in_flight * self.config.block_bytes
        transfers_us = max(
            costs.move_us(KvTier.DISK, KvTier.HOST, memory.reading_bytes),
            costs.move_us(KvTier.HOST, KvTier.DISK, writing_bytes),
        )
        start = prompts[0].computed
        block_us = max(1, costs.compute_us(start, start + block_tokens))
        return min(most, block_tokens * max(1, transfers_us // block_us))

    def _order(self) -> list[Turn]:
        """The running turns: the heaviest service tier first, then the tenant with the least attained
        service, then in order of admission. Before them the leader of those that have waited too long; the
        others that have stand before the rest of their service tier."""
        turns = [self.table.turns[request] for request in self.table.running]
        if not self.book.ordered:
            return turns
        rank = self.attained.rank
        return sorted(turns, key=lambda t: (not t.leads, -t.contract.weight, not t.aged, rank(t)))

    def _add_prompts(self, prompts: Sequence[Turn], step: _Step) -> None:
        """Those of one tenant: half of what it gets is kept for the oldest, and the others share the rest."""
        oldest, *others = shortest_first(prompts)
        tokens = self._tokens_for(oldest, step)
        rest = tokens - min(oldest.remaining, self._half(tokens))
        for turn, portion in portions(others, rest, self.config.block_tokens):
            self._add(turn, True, step, portion)
        self._add(oldest, True, step, tokens)

    def _half(self, tokens: int) -> int:
        """In whole blocks where that leaves the others something: a piece ends where a block does."""
        block_tokens = self.config.block_tokens
        half = max(1, tokens // 2)
        whole = -(-half // block_tokens) * block_tokens
        return whole if 4 * whole <= 3 * tokens else half

    def _tokens_for(self, turn: Turn, step: _Step) -> int:
        """Tokens of the step that are left for its service tier."""
        part = step.parts.get(turn.contract.name) or self._begin_part(turn.contract, step)
        return min(step.tokens_left, part.tokens_left)

    def _add_decoding(self, turns: Sequence[Turn], step: _Step) -> None:
        """One token each. Most have a frame for it and time enough: for them it is ``_add`` unrolled."""
        block_tokens, parts = self.config.block_tokens, step.parts
        first_us, further_us = step.decode_us
        for turn in turns:
            contract, start = turn.contract, turn.computed
            part, cost_us = parts.get(contract.name), further_us if step.decoding else first_us
            left_us = step.time_left_us
            limited = left_us is not None and contract.weight < step.limit_weight
            if (
                part is None
                or step.tokens_left < 1
                or part.tokens_left < 1
                or (limited and left_us is not None and (turn.aged or cost_us > left_us))
                or start >= (len(turn.path) + turn.frames) * block_tokens
                or turn.state is not RUNNING
            ):
                self._add(turn, False, step, 1)
                continue
            step.pieces[turn.id], step.cost_us[turn.id] = Piece(turn.id, start, 1), cost_us
            step.tokens_left -= 1
            step.decoding += 1
            step.so_far_us += cost_us
            part.tokens_left -= 1
            part.spent_us += cost_us
            if limited and left_us is not None:
                step.time_left_us = left_us - cost_us
            elif contract.tpot_target_us is not None:
                self._limit(turn, False, cost_us, step)

    # --- one piece ----------------------------------------------------------------------------

    def _add(self, turn: Turn, prefilling: bool, step: _Step, most: int) -> None:
        """Give a turn its piece of at most so many tokens."""
        if turn.state is not RUNNING:
            return  # it has just made room for another
        tokens = min(most, self._tokens_for(turn, step))
        part = step.parts[turn.contract.name]
        if tokens > 0 and step.time_left_us is not None and turn.contract.weight < step.limit_weight:
            tokens = self._tokens_in_time(turn, prefilling, tokens, step)
        piece = self._piece(turn, tokens, step) if tokens > 0 else None
        if piece is None:
            return
        cost_us = self._cost_us(turn, prefilling, piece.count, step)
        step.pieces[turn.id], step.cost_us[turn.id] = piece, cost_us
        step.tokens_left -= piece.count
        step.decoding += not prefilling
        step.so_far_us += cost_us
        part.tokens_left -= piece.count
        part.spent_us += cost_us
        self._limit(turn, prefilling, cost_us, step)

    def _add_drafts(self, streams: Sequence[Turn], step: _Step) -> None:
        """Lengthen pieces by drafted tokens that are worth checking, inside the frames that are there and
        without filling one: what is wrong of a full frame could not be taken back."""
        costs, block_tokens = self.block_manager.costs, self.config.block_tokens
        left = min(self.config.step_draft_tokens - step.decoding, step.tokens_left)
        for turn in streams:
            piece = step.pieces.get(turn.id)
            if piece is None or not turn.draft or left <= 0:
                continue
            room = block_tokens - 2 - piece.start % block_tokens
            offered = min(turn.draft, self.config.draft_tokens, room, left)
            turn.checked = worth_checking(turn.record.drafts, offered, step.decoding, costs)
            if turn.checked:
                step.pieces[turn.id] = Piece(turn.id, piece.start, piece.count + turn.checked)
                step.tokens_left -= turn.checked
                step.cost_us[turn.id] += turn.checked * costs.draft_us()
                left -= turn.checked

    def _coming_us(self, prompts: Sequence[Turn], step: _Step) -> int:
        """What prompts take of the step that are not limited and stand behind turns that waited too long."""
        tokens, total_us = step.tokens_left, 0
        for turn in prompts:
            if not turn.leads and turn.contract.weight >= step.limit_weight:
                count = min(turn.remaining, tokens, self._tokens_for(turn, step))
                total_us += self._cost_us(turn, True, count, step)
                tokens -= count
        return total_us

    def _begin_part(self, contract: Contract, step: _Step) -> _Part:
        share = self._share_of_step(contract) if self.book.ordered else step.tokens_left
        part = step.parts[contract.name] = _Part(share)
        return part

    def _tokens_in_time(self, turn: Turn, prefilling: bool, tokens: int, step: _Step) -> int:
        """How many of ``tokens`` it may have beside those that have a target, or because it is owed them, or
        has waited for too long."""
        per_token_us = max(1, self._cost_us(turn, prefilling, 1, step))
        if step.time_left_us is None:
            return tokens
        if not prefilling and per_token_us <= step.time_left_us:
            return tokens
        owed_us = self.attained.debt_us(turn.contract.name) - step.parts[turn.contract.name].spent_us
        paid_us = min(owed_us, _MOST_DEBT_PIECE_US) if owed_us >= _LEAST_DEBT_PIECE_US else 0
        time_us = max(step.time_left_us, paid_us)
        if turn.aged:  # one token in any case: so it goes on where no target can be met
            at_least_us = 0 if step.aged_us else per_token_us
            others_us = step.so_far_us - step.aged_us + step.coming_us
            time_us = max(time_us, others_us // AGED_TAKE - step.aged_us, at_least_us)
        if not prefilling:
            return tokens if per_token_us <= time_us else 0
        return min(tokens, time_us // per_token_us)

    def _share_of_step(self, contract: Contract) -> int:
        """Tokens of a step a service tier may use: up to its cap, without what others have reserved."""
        known = self._shares.get(contract.name)
        if known is None:
            others = (self.book.of(name) for name in self.book.names if name != contract.name)
            reserved = sum(other.reserved("step_tokens") for other in others)
            share = max(1, min(contract.cap.step_tokens, WHOLE - reserved))
            known = self._shares[contract.name] = max(1, self.config.step_tokens * share // WHOLE)
        return known

    def _cost_us(self, turn: Turn, prefilling: bool, tokens: int, step: _Step) -> int:
        """What the piece adds to the step."""
        if prefilling:
            return self.block_manager.costs.compute_us(turn.computed, turn.computed + tokens)
        return step.decode_us[step.decoding > 0]

    def _limit(self, turn: Turn, prefilling: bool, cost_us: int, step: _Step) -> None:
        """A turn with a target limits how much of the step is left for lighter service tiers."""
        contract = turn.contract
        target_us = contract.ttft_target_us if prefilling else contract.tpot_target_us
        if contract.weight < step.limit_weight and step.time_left_us is not None:
            step.aged_us += cost_us if turn.aged else 0
            step.time_left_us = max(0, step.time_left_us - cost_us)
        elif target_us is not None:
            hurries = prefilling or self._is_waited_for(contract)
            left_us = cost_us // _PREFILL_LEAVES if hurries else target_us - step.so_far_us
            known_us = step.time_left_us
            step.time_left_us = max(0, left_us if known_us is None else min(known_us, left_us))
            step.limit_weight = max(step.limit_weight, contract.weight)

    def _is_waited_for(self, contract: Contract) -> bool:
        """Whether a turn with a target waits for what those of its service tier hold: the sooner they are
        done, the sooner it begins."""
        return contract.ttft_target_us is not None and self.table.waiting.demands(contract.name)

    def _charge(self, step: _Step, order: list[Turn]) -> None:
        """Book what each service tier, tenant and session was given."""
        if not self.book.ordered:
            return
        demanding = {name for name in self.book.names if self.table.waiting.demands(name)}
        now_us = self.table.now_us
        for turn in order:
            demanding.add(turn.contract.name)
            if turn.id in step.pieces:
                turn.goes_on(now_us)
            elif turn.state is RUNNING:
                turn.stands_still(now_us)
                if now_us - turn.waiting_since_us >= turn.contract.max_wait_us:
                    self.table.waiting.at_bound.add(turn)
        self.attained.charge(order, step.cost_us)
        self.attained.settle({name: part.spent_us for name, part in step.parts.items()}, demanding)

    # --- its frames ---------------------------------------------------------------------------

    def _piece(self, turn: Turn, budget: int, step: _Step) -> Piece | None:
        start, count = turn.computed, turn.remaining
        if budget < count:
            count = budget if turn.leads else self._to_block_border(start, budget)
        if self.checkpoints.active:
            count = self.checkpoints.piece_tokens(turn, count)
        if start + count > turn.blocks_held * self.config.block_tokens:
            needed = self.config.blocks_for(start + count) - turn.blocks_held
            if not self.block_manager.descent.may_grow(needed, turn.contract.name):
                return None  # something is being written to make room for it
            if not self._grow(turn, needed, step):
                return None
        return Piece(turn.id, start, count)

    def _to_block_border(self, start: int, count: int) -> int:
        """End a piece where a block ends if it can: what is whole can be shared at once."""
        end = (start + count) // self.config.block_tokens * self.config.block_tokens
        return end - start if end > start else count

    def _grow(self, turn: Turn, needed: int, step: _Step) -> bool:
        """Take frames; the lightest, youngest running turn makes room, and if that is ``turn``, it goes."""
        self.block_manager.beneficiary = turn.id
        while not self.block_manager.take_frames(needed, turn.contract.name):
            victim = min((self.table.turns[r] for r in self.table.running), key=self.table.preemptable)
            step.pieces.pop(victim.id, None)
            self.table.preempt(victim)
            if victim is turn:
                break
        else:
            turn.frames += needed
        self.block_manager.beneficiary = 0
        return turn.state is RUNNING

"""Displacement by hand: who took the room of whose KV, and what it cost to compute it again."""

from __future__ import annotations

import json
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path

from stepwell.ledger.base import Run
from stepwell.ledger.metering.displaced import Displaced, DisplacedSpan, shares
from stepwell.ledger.metering.holdings import Holder
from stepwell.ledger.reading.grouping import parse_by
from stepwell.ledger.reading.margin import margin, read_sums
from stepwell.ledger.reading.queries import Period, runs
from stepwell.ledger.reading.run_rates import rates_of
from stepwell.ledger.stores.sqlite import SqliteStore
from stepwell.ledger.types import Account, Kind, Posting, Resource
from stepwell.policy.types import BlockMeta, KvTier, Open, Piece
from tests.driver.harness import Rig, make_rig
from tests.ledger.books import PRICES
from tests.ledger.made_books import COST_BOOK
from tests.ledger.meter_world import end, got, turn

PROMPT = list(range(60, 60 + 48))  # three blocks of 16; with an answer of 5 four
LONG = list(range(120, 120 + 100))
"""Takes 7 of 8 frames with its answer: one block of anybody else's stays."""
AGAIN = 52 - 16
TOKEN_US = 2_000


def displaced(rig: Rig) -> list[Posting]:
    return [
        posting
        for batch in rig.books.batches
        for posting in batch.postings
        if posting.resource is Resource.DISPLACED
    ]


def small(host: int = 0, disk: int = 0) -> Rig:
    return make_rig(device=8, host=host, disk=disk)


def victim_comes_back(rig: Rig, winner: str = "w") -> int:
    """The victim's second turn, after somebody else's long one: how many tokens it had to compute again."""
    first = turn(rig, PROMPT, 5, agent="v", tenant="blue")
    turn(rig, LONG, 4, agent=winner, tenant="red" if winner == "w" else "blue")
    second = turn(rig, [*PROMPT, *first.tokens, 97], 1, agent="v", tenant="blue")
    return int(second.end.recomputed_tokens)  # type: ignore[union-attr]


def test_who_computes_again_what_another_displaced_is_owed_exactly_that_time() -> None:
    rig = small()
    again = victim_comes_back(rig)
    end(rig)
    assert again == AGAIN
    (posting,) = displaced(rig)
    assert (posting.debit.agent, posting.credit.agent) == ("v", "w")
    assert (posting.debit.tenant, posting.credit.tenant) == ("blue", "red")
    # 38 tokens were computed in one step; 36 of them had been there before.
    assert posting.amount == again * TOKEN_US
    assert posting.request == 3
    assert got(rig, Resource.COMPUTE, "v", request=3) == (AGAIN + 2) * TOKEN_US
    balances = rig.books.balances()
    assert balances[posting.credit][Resource.DISPLACED] == -balances[posting.debit][Resource.DISPLACED]


def test_what_was_computed_again_is_nobodys_doing_any_more() -> None:
    """It may be computed once more because that is quicker than to load it: then for nobody's sake."""
    rig = small()
    victim_comes_back(rig)
    meter = rig.keeper.meter
    there = [unit for held in meter.holdings.blocks.values() for unit in held.meta.units]
    assert len(there) >= 12
    assert not set(there) & meter._displaced._winners.keys()
    end(rig)


def test_the_last_loss_of_a_unit_says_for_whom() -> None:
    """A tail is lost to somebody while a full block has its units; that one is lost for nobody."""
    rig = small()
    rig.ask(LONG, 4, agent="w")
    rig.driver.step()
    meter = rig.keeper.meter
    holder = Holder(agent("v"), 0)
    tail = BlockMeta(b"tail", None, 0, 8, (b"u1", b"u2"), "acme", 64)
    full = BlockMeta(b"full", None, 0, 16, (b"u1", b"u2", b"u3", b"u4"), "acme", 128)
    for block in (tail, full):
        meter.holdings.sealed(holder, block, 0)
    meter._lost(b"tail", KvTier.DEVICE, 1)
    assert {meter._displaced._winners[unit].agent for unit in tail.units} == {"w"}
    meter._lost(b"full", KvTier.DEVICE, 0)
    assert not meter._displaced._winners


def test_it_is_told_with_the_answer() -> None:
    rig = small()
    first = turn(rig, PROMPT, 5, agent="v")
    turn(rig, LONG, 4, agent="w")
    answer = turn(rig, [*PROMPT, *first.tokens, 97], 3, agent="v")
    use = answer.end.use  # type: ignore[union-attr]
    assert use is not None
    assert use.displaced_us == AGAIN * TOKEN_US <= use.compute_us
    end(rig)


def test_a_recompute_in_several_steps_is_posted_in_each() -> None:
    rig = make_rig(device=8, host=0, disk=0, step_tokens=20)
    assert victim_comes_back(rig) == AGAIN
    end(rig)
    assert [posting.amount for posting in displaced(rig)] == [t * TOKEN_US for t in (16, 16, 4)]


def test_nobody_displaces_itself() -> None:
    rig = small()
    assert victim_comes_back(rig, winner="v") == AGAIN
    end(rig)
    assert displaced(rig) == []


def test_what_comes_back_from_disk_was_not_displaced() -> None:
    rig = small(host=8, disk=64)
    assert victim_comes_back(rig) == 0
    end(rig)
    assert displaced(rig) == []


def test_a_block_that_is_lost_to_a_damaged_disk_is_nobodys_doing() -> None:
    rig = small(host=8, disk=64)
    first = turn(rig, PROMPT, 5, agent="v")
    rig.driver.demote_idle(KvTier.DISK)
    turn(rig, LONG, 4, agent="w")
    rig.tiers.kept[KvTier.DISK].clear()
    rig.tiers.kept[KvTier.HOST].clear()
    answer = turn(rig, [*PROMPT, *first.tokens, 97], 1, agent="v")
    assert answer.end.recomputed_tokens == 52  # type: ignore[union-attr]
    end(rig)
    assert displaced(rig) == []


def test_who_pays_is_told_once_although_it_is_displaced_twice() -> None:
    rig = small()
    context = [*PROMPT, *turn(rig, PROMPT, 5, agent="v").tokens, 97]
    for winner, prompt in (("w", LONG), ("x", [token + 1 for token in LONG])):
        turn(rig, prompt, 4, agent=winner)
        turn(rig, context, 1, agent="v")
    end(rig)
    assert [posting.credit.agent for posting in displaced(rig)] == ["w", "x"]


def test_both_sides_stand_in_the_margin_statement(tmp_path: Path) -> None:
    rig = small()
    victim_comes_back(rig)
    end(rig)
    store = SqliteStore(tmp_path / "ledger.db")
    config = json.dumps(asdict(rig.driver.scheduler.config))
    run = store.begin(Run("node", 0, "null", config, COST_BOOK, PRICES))
    for batch in rig.books.batches:
        store.write(run, batch)
    rates = rates_of(runs(store))
    found = margin(read_sums(store, Period()), rates, parse_by("agent"))
    (exchange,) = found.exchanges
    assert exchange.amount_us == AGAIN * TOKEN_US
    exact = AGAIN * TOKEN_US * rates[run].microusd[Resource.COMPUTE]
    assert abs(exchange.cost_microusd - exact) <= Fraction(1, 2)
    lines = {line.group[-1]: line for line in found.lines}
    assert lines["v"].lost_microusd == lines["w"].caused_microusd == exchange.cost_microusd > 0
    assert lines["v"].caused_microusd == lines["w"].lost_microusd == 0
    assert lines["v"].lost_microusd <= lines["v"].cost[Resource.COMPUTE]
    store.close()


# --- the memory of it ----------------------------------------------------------------------------


def agent(name: str, tenant: str = "acme") -> Account:
    return Account(Kind.AGENT, tenant, agent=name)


def opens(cached_tokens: int, recomputed_tokens: int) -> Open:
    return Open(1, (), cached_tokens, cached_tokens, 0, 0, recomputed_tokens)


UNITS = [bytes([n]) for n in range(20)]


def test_the_oldest_losses_are_forgotten_first() -> None:
    lost = Displaced(4, most_units=3)
    lost.lost(UNITS[:3], agent("w"))
    lost.lost(UNITS[:1], agent("x"))  # again: it is the newest now
    lost.lost(UNITS[3:5], agent("y"))
    spans = lost.spans(UNITS, opens(0, 20), agent("v"))
    assert spans == [DisplacedSpan(0, 4, agent("x")), DisplacedSpan(12, 20, agent("y"))]
    assert len(lost._winners) == 3


def test_what_is_there_again_was_not_lost() -> None:
    lost = Displaced(4, 100)
    lost.lost(UNITS[:4], agent("w"))
    lost.back(UNITS[1:2])
    assert lost.spans(UNITS, opens(0, 16), agent("v")) == [
        DisplacedSpan(0, 4, agent("w")),
        DisplacedSpan(8, 16, agent("w")),
    ]


def test_only_what_is_computed_again_counts() -> None:
    lost = Displaced(4, 100)
    lost.lost(UNITS, agent("w"))
    assert lost.spans(UNITS, opens(8, 8), agent("v")) == [DisplacedSpan(8, 16, agent("w"))]
    assert lost.spans(UNITS, opens(8, 0), agent("v")) == []
    assert lost.spans(UNITS[:3], opens(8, 400), agent("v")) == [DisplacedSpan(8, 12, agent("w"))]


def test_an_agent_of_the_same_name_of_another_tenant_is_another_one() -> None:
    lost = Displaced(4, 100)
    lost.lost(UNITS[:1], agent("a", "red"))
    lost.lost(UNITS[1:2], agent("a", "blue")._replace(key="another key of its own"))
    assert lost.spans(UNITS, opens(0, 8), agent("a", "blue")) == [DisplacedSpan(0, 4, agent("a", "red"))]


def test_a_piece_is_shared_by_the_tokens_that_lie_in_a_span() -> None:
    spans = [DisplacedSpan(0, 8, agent("w")), DisplacedSpan(8, 16, agent("x"))]
    assert shares(spans, Piece(1, 4, 16), 1_600) == [(agent("w"), 400), (agent("x"), 800)]
    assert shares(spans, Piece(1, 16, 4), 1_600) == []
    assert sum(us for _, us in shares(spans, Piece(1, 0, 16), 17)) <= 17

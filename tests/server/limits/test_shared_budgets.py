"""Budgets that nodes share, as clients see them: two servers of one ledger."""

from __future__ import annotations

import asyncio
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import cast

import pytest

from stepwell.ledger.budgets.lessee import Lessee
from stepwell.ledger.settings import LedgerSettings
from stepwell.ledger.types import Budget, Scope
from stepwell.policy.types import Caller
from stepwell.server.limits.shared_budgets import amount_ahead
from tests.server.admin.test_budgets import TURN, TURN_MICROUSD
from tests.server.ledgers import Kept, bearer, keeping
from tests.server.wire import post

WHO = Caller("acme")
SHARED = LedgerSettings(follow_budgets_s=3_600)


class Slow:
    """A lessee whose books take as long as the test says."""

    def __init__(self) -> None:
        self.asked, self.answer = threading.Event(), threading.Event()
        self.held = 0

    def lacks(self, who: Caller, hold_microusd: int) -> bool:
        return True

    def hold_ahead(self, who: Caller, hold_microusd: int) -> bool:
        self.asked.set()
        assert self.answer.wait(60)
        self.held += hold_microusd
        return True

    def end_ahead(self, who: Caller, hold_microusd: int) -> None:
        self.held -= hold_microusd


def test_what_was_held_for_a_client_that_went_away_is_given_back() -> None:
    slow = Slow()

    async def scenario() -> None:
        async def ask() -> None:
            async with amount_ahead(cast("Lessee", slow), WHO, 5):
                raise AssertionError("nobody waits any more")

        task = asyncio.create_task(ask())
        await asyncio.to_thread(slow.asked.wait, 60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        slow.answer.set()
        await asyncio.get_running_loop().shutdown_default_executor()
        await asyncio.sleep(0)

    asyncio.run(scenario())
    assert slow.held == 0


def test_what_was_held_for_a_request_that_is_refused_is_given_back() -> None:
    slow = Slow()
    slow.answer.set()

    async def scenario() -> None:
        with pytest.raises(KeyError):
            async with amount_ahead(cast("Lessee", slow), WHO, 5):
                raise KeyError
        await asyncio.sleep(0)

    asyncio.run(scenario())
    assert slow.held == 0


def taken(nodes: list[Kept], asks: int) -> int:
    """Answers to prompts that nobody has asked before, asked of the nodes in turn."""
    statuses = []
    for number in range(asks):
        turn = TURN | {"prompt": chr(ord("a") + number) * 99}
        kept = nodes[number % len(nodes)]
        statuses.append(post(kept.server, "/v1/completions", turn, **bearer("acme")).status_code)
    assert statuses == sorted(statuses), "once there is no room there is none anywhere"
    assert set(statuses) <= {200, 429}
    return statuses.count(200)


def test_two_nodes_take_as_many_turns_as_one(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    budget = Budget(Scope.TENANT, "acme", "", None, 7 * TURN_MICROUSD + 1)
    with keeping(tmp_path / "one", budgets=[budget]) as alone:
        of_one = taken([alone], 12)
    assert 1 < of_one < 12
    with ExitStack() as stack:
        nodes = [
            stack.enter_context(keeping(tmp_path / "two", budgets=[budget], settings=SHARED, node=name))
            for name in ("first", "second")
        ]
        assert taken(nodes, 12) == of_one

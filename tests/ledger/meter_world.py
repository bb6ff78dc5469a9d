"""A server without a thread whose books a test can read: who got what, when, and for which request."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from stepwell.ledger.budgets.book import BudgetBook
from stepwell.ledger.types import MACHINE, Budget, Cause, Kind, Posting, Resource, Scope, Usage
from stepwell.loop.requests import Finished
from tests.driver.harness import Answer, Rig, make_rig
from tests.ledger.books import check_books

FRAME = 16 * 8
"""Bytes of one block on the device of a rig."""
HOUR_US = 3_600_000_000


def postings(
    rig: Rig,
    resource: Resource,
    agent: str | None = None,
    *,
    kind: Kind = Kind.AGENT,
    request: int | None = None,
    cause: Cause | None = None,
) -> Iterator[Posting]:
    """Those that credit such accounts, in order."""
    for batch in rig.books.batches:
        for posting in batch.postings:
            if (
                posting.resource is resource
                and posting.credit.kind is kind
                and agent in (None, posting.credit.agent)
                and request in (None, posting.request)
                and cause in (None, posting.cause)
            ):
                yield posting


def got(rig: Rig, resource: Resource, agent: str | None = None, **which: Any) -> int:
    """Their sum."""
    return sum(posting.amount for posting in postings(rig, resource, agent, **which))


def machine_gave(rig: Rig, resource: Resource) -> int:
    return -rig.books.balances()[MACHINE][resource]


def usage_of(rig: Rig, request: int) -> list[Usage]:
    return [usage for usage in rig.books.usage() if usage.request == request]


def wait(rig: Rig, us: int) -> None:
    """Nobody calls for so long."""
    rig.clock.sleep_us(us)
    rig.driver.step()


def turn(rig: Rig, prompt: Sequence[int], new_tokens: int = 4, **generation: Any) -> Answer:
    """One whole turn."""
    answer = rig.ask(prompt, new_tokens, **generation)
    rig.settle()
    assert isinstance(answer.end, Finished), answer.end
    return answer


def end(rig: Rig) -> None:
    """Stop, and hold the books against what must be true of them."""
    rig.driver.stop()
    check_books(rig.books, rig.keeper)
    nothing_is_held(rig.keeper.budgets)


def nothing_is_held(budgets: BudgetBook, upto: int = 1_000) -> None:
    assert [request for request in range(1, upto) if budgets.held_microusd(request) is not None] == []
    assert all(state.held_microusd == 0 for state in budgets.states())


def budget(rig: Rig, hard_microusd: int | None, scope: Scope = Scope.TENANT, name: str = "") -> None:
    rig.keeper.budgets.set(Budget(scope, "local", name, None, hard_microusd))


__all__ = [
    "FRAME",
    "HOUR_US",
    "budget",
    "end",
    "got",
    "machine_gave",
    "make_rig",
    "nothing_is_held",
    "postings",
    "turn",
    "usage_of",
    "wait",
]

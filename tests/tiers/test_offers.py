"""A turn waits a moment for what other nodes have of its prompt, and never for long."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from stepwell.policy.types import BlockId
from stepwell.tiers.objects.offers import Offers
from tests.tiers.harness import ManualClock, ManualWorkers

KEYS = [b"one", b"two"]


class Store:
    """Has the second block once it was looked at."""

    def __init__(self) -> None:
        self.looks, self.well = 0, True
        self.held: threading.Event | None = None
        self.entered = threading.Event()

    def look(self) -> bool:
        self.looks += 1
        self.entered.set()
        if self.held is not None:
            assert self.held.wait(60)
        return self.well

    def offers(self, keys: Sequence[BlockId]) -> list[bool]:
        return [self.looks > 0 and key == b"two" for key in keys]


def test_all_who_ask_meanwhile_are_answered_by_one_look() -> None:
    store, workers = Store(), ManualWorkers()
    offers = Offers(store, make_worker=workers)
    told: list[list[bool]] = []
    for _ in range(3):
        offers.ask(KEYS, told.append)
    assert told == []
    workers.by_name["stepwell-look"].run_all()
    assert (store.looks, told) == (1, [[False, True]] * 3)
    offers.close()


def test_a_store_that_does_not_answer_is_left_alone_for_a_while() -> None:
    store, workers, clock = Store(), ManualWorkers(), ManualClock()
    store.well = False
    offers = Offers(store, clock=clock, make_worker=workers)
    told: list[list[bool]] = []
    offers.ask(KEYS, told.append)
    workers.by_name["stepwell-look"].run_all()
    offers.ask(KEYS, told.append)
    assert (store.looks, len(told)) == (1, 2), "the second is answered at once"
    clock.now_s += 60
    offers.ask(KEYS, told.append)
    workers.by_name["stepwell-look"].run_all()
    assert (store.looks, len(told)) == (2, 3)
    offers.close()


def test_nobody_waits_longer_than_the_patience_for_a_store_that_hangs() -> None:
    store = Store()
    store.held = threading.Event()
    offers = Offers(store, patience_s=0.01)
    answered = threading.Event()
    offers.ask(KEYS, lambda there: answered.set())
    assert store.entered.wait(60)
    assert answered.wait(60), "although the look goes on"
    told: list[list[bool]] = []
    offers.ask(KEYS, told.append)
    assert told == [[False, True]], "who comes now waits for nothing"
    store.held.set()
    offers.close()

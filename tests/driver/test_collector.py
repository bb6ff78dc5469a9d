"""The garbage collector runs between steps and while the server is idle, never inside a step."""

from __future__ import annotations

import gc
from dataclasses import dataclass, field

from stepwell.loop.collector import Collector
from tests.driver.harness import make_rig


@dataclass
class FakeGc:
    young: int = 0
    calls: list[str] = field(default_factory=list)

    def collect(self, generation: int = 2) -> int:
        self.calls.append(f"collect {generation}")
        self.young = 0
        return 0

    def freeze(self) -> None:
        self.calls.append("freeze")

    def unfreeze(self) -> None:
        self.calls.append("unfreeze")

    def disable(self) -> None:
        self.calls.append("disable")

    def enable(self) -> None:
        self.calls.append("enable")

    def get_count(self) -> tuple[int, int, int]:
        return self.young, 0, 0


def test_it_runs_only_when_told_and_only_when_it_is_worth_it() -> None:
    fake = FakeGc()
    collector = Collector(fake)
    fake.young = 10**6
    collector.between_steps()
    collector.idle()
    assert fake.calls == [], "nobody has handed it over yet"
    collector.take_over()
    assert fake.calls == ["collect 2", "freeze", "disable"]
    fake.calls.clear()
    for fake.young in (0, 1_000):
        collector.between_steps()
        collector.idle()
    assert fake.calls == []
    fake.young = 10**6
    collector.between_steps()
    collector.between_steps()
    assert fake.calls == ["collect 0"], "a server that is never idle does not fill the memory"
    collector.idle()
    collector.idle()
    assert fake.calls == ["collect 0", "collect 2"], "what grew old under load is looked at once it is idle"
    collector.give_back()
    collector.give_back()
    assert fake.calls[2:] == ["unfreeze", "enable"]


def test_a_driver_with_it_collects_nothing_inside_its_steps() -> None:
    rig = make_rig(device=12, host=10, disk=30)
    collector = rig.driver.collector = Collector()
    collector.take_over()
    passes: list[str] = []

    def watch(phase: str, info: dict[str, int]) -> None:
        passes.append(phase)

    gc.callbacks.append(watch)
    try:
        for number in range(6):
            rig.ask([number, *range(60, 100)], 5, agent=f"a{number}")
        rig.settle()
        assert passes == []
    finally:
        gc.callbacks.remove(watch)
        collector.give_back()
    assert gc.isenabled()

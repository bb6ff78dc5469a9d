"""Random lives under the rule that loses nothing needlessly: no block goes that could have been kept."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant

from tests.driver.test_random_life import Life


class LosslessLife(Life):
    """Failures of the disk, of reads and of loads, cancellations and hints that lie, as in every life."""

    @initialize(
        device=st.integers(6, 24),
        host=st.sampled_from([0, 3, 10, 40]),
        disk=st.sampled_from([0, 4, 30, 400]),
        always_load=st.booleans(),
        max_running=st.integers(1, 6),
        eviction=st.just("stepwell"),
    )
    def build(
        self, device: int, host: int, disk: int, always_load: bool, max_running: int, eviction: str
    ) -> None:
        super().build(device, host, disk, always_load, max_running, eviction)

    @invariant()
    def nothing_is_lost_that_could_have_been_kept(self) -> None:
        if hasattr(self, "rig"):
            assert self.rig.driver.scheduler.block_manager.descent.needless_losses == 0


TestLosslessLife = LosslessLife.TestCase
TestLosslessLife.settings = settings(
    max_examples=30,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)

"""What the loop of a server asks of its ledger: budgets before a request, metering at every step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from stepwell.ledger.metering.metered import Use
from stepwell.policy.types import Computed, Event, Piece, Plan, RequestArrived, RequestId


class Refusal(NamedTuple):
    """Why a request is not taken."""

    code: str
    message: str
    retry_after_ms: int | None = None
    """When it may be taken; None: not before an operator has done something."""


class Bookkeeper:
    """Keeps no books as it stands: every request is taken and nothing is counted. ``Keeper`` does keep them.

    Everything but ``reserve`` is called from the loop's thread.
    """

    def reserve(self, arrival: RequestArrived) -> Refusal | None:
        """Hold what the request may come to, or say why it is not taken. Thread-safe."""
        return None

    def refused(self, request: RequestId) -> None:
        """A request is told that it is not served."""

    def decided(self, now_us: int, events: Sequence[Event], plan: Plan) -> None:
        """A step was decided; what the one before it used is posted."""

    def ran(self, computed: Computed, pieces: Sequence[Piece]) -> None:
        """A batch has run."""

    def use_of(self, request: RequestId, now_us: int) -> Use | None:
        """What a request has used until now; None where that is not known."""
        return None

    def due_us(self) -> int | None:
        """When a step is wanted at the latest although nothing happens; None: never."""
        return None

    def check(self, booked_bytes: Sequence[int]) -> None:
        """Assert that the books see what the policy has booked on device, host and disk."""

    def close(self, now_us: int) -> None:
        """The run ends: everything is posted and the books are closed."""

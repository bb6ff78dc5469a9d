"""What a server needs of whatever generates for it: the one way in. ``Driver`` is one; tests have others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from stepwell.engines.base import EngineInfo
from stepwell.loop.requests import Generation, Sink
from stepwell.loop.snapshot import AgentView, Snapshot
from stepwell.policy.types import Embedded, Hint, RequestId


class LoopPort(Protocol):
    """Every method may be called from any thread."""

    @property
    def info(self) -> EngineInfo:
        """The model and what it runs on."""

    @property
    def serves(self) -> bool:
        """Whether requests are taken at all; False after ``stop``, or when the loop could not go on."""

    def now_us(self) -> int:
        """The time by which a snapshot's times are given."""

    def validate(self, generation: Generation) -> None:
        """Raise ``ValueError`` with one sentence when a turn cannot be honoured: a token that the model
        does not have, a grammar that does not compile. A grammar may take a while."""

    def submit(self, generation: Generation, sink: Sink) -> RequestId:
        """Queue a turn. Raises nothing: what is wrong arrives as ``Rejected``."""

    def cancel(self, request: RequestId, reason: str = "cancelled") -> None:
        """Stop a turn within a step. Unknown or ended requests are ignored. ``reason``: an error code where
        the server gives it up, which is not charged."""

    def hint(
        self, request: RequestId, tenant: str, agent: str, hint: Hint, *, paid_only: bool = False
    ) -> None:
        """More is known about what an agent waits for; unknown agents are ignored. ``request`` is the turn
        that the hint follows, 0 when it was said between turns. ``paid_only``: it keeps the context no longer
        than the agent's own turns have paid for."""

    def embedded(self, event: Embedded) -> None:
        """Texts were embedded or ranked for a customer: the books enter it with the next step."""

    def named(self, requests: Sequence[RequestId], name: str) -> None:
        """They came with one HTTP request, whose id this is: for ``why``."""

    def why(self, what: str) -> list[dict[str, Any]]:
        """Where the time went of a request, by the id it was named or its number, or of an agent's or a
        session's requests: those under way and the newest that have ended. See ``explainer.told``."""

    def snapshot(self) -> Snapshot:
        """A consistent picture of this moment."""

    def agent(self, tenant: str, agent: str) -> AgentView | None:
        """One agent as it is now; None: not known. Cheap however many there are."""

    def stop(self, drain_s: float = 30.0) -> None:
        """Let running requests finish for up to ``drain_s``, put blocks worth keeping on disk, end."""

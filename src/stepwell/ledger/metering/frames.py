"""How many frames each running request holds beside its blocks, read off the plans alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from stepwell.policy.types import Action, Adopt, Close, Open, OpenFailed, Piece, RequestId, Seal


@dataclass(slots=True)
class _Place:
    """``held`` counts the frames behind its tokens, ``sealed`` those of them that are blocks by now."""

    held: int
    sealed: int


class RunningFrames:
    """A request holds frames from ``Open`` to ``Close``: for what is cached, then for every piece it runs."""

    def __init__(self, block_tokens: int) -> None:
        self._block_tokens = block_tokens
        self._places: dict[RequestId, _Place] = {}

    def open_failed(self, event: OpenFailed) -> None:
        self._places.pop(event.request, None)

    def carry_out(self, action: Action) -> None:
        match action:
            case Seal(request) | Adopt(request):
                if (place := self._places.get(request)) is not None:
                    place.sealed += 1
            case Open(request, _, cached_tokens):
                self._places[request] = _Place(
                    self._frames_for(cached_tokens), cached_tokens // self._block_tokens
                )
            case Close(request):
                self._places.pop(request, None)

    def run(self, piece: Piece) -> None:
        """It has room for its tokens up to the end of the piece."""
        place = self._places[piece.request]
        place.held = max(place.held, self._frames_for(piece.start + piece.count))

    def counts(self) -> Iterator[tuple[RequestId, int]]:
        """Every running request, in the order in which they were opened, and its frames."""
        for request, place in self._places.items():
            yield request, place.held - place.sealed

    def _frames_for(self, tokens: int) -> int:
        return -(-tokens // self._block_tokens)

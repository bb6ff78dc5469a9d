"""From tokens to text that is certain: whole characters only, and never past a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stepwell.engines.base import Detokenizer


@dataclass(frozen=True, slots=True)
class TextPiece:
    """Text that can be sent now, and the stop string that ended the stream, if one did."""

    text: str
    stopped_by: str | None = None


class TextStream:
    """Detokenises one answer and holds text back while it may be the beginning of a stop string."""

    def __init__(self, detokenizer: Detokenizer, stops: Sequence[str] = ()) -> None:
        self._detokenizer = detokenizer
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""

    def add(self, token: int) -> TextPiece:
        return self._take(self._detokenizer.add(token))

    def finish(self) -> TextPiece:
        """The rest, once no token follows; a stop string may still complete in it."""
        piece = self._take(self._detokenizer.flush())
        if piece.stopped_by is not None:
            return piece
        rest, self._held = self._held, ""
        return TextPiece(piece.text + rest)

    def _take(self, text: str) -> TextPiece:
        self._held += text
        found = self._first_stop()
        if found is not None:
            position, stop = found
            certain, self._held = self._held[:position], ""
            return TextPiece(certain, stop)
        keep = self._undecided()
        certain = self._held[: len(self._held) - keep]
        self._held = self._held[len(self._held) - keep :]
        return TextPiece(certain)

    def _first_stop(self) -> tuple[int, str] | None:
        """The stop string that begins first; of two at one place the longer."""
        hits = [(self._held.find(stop), -len(stop), stop) for stop in self._stops if stop in self._held]
        if not hits:
            return None
        position, _, stop = min(hits)
        return position, stop

    def _undecided(self) -> int:
        """How many characters at the end might grow into a stop string."""
        longest = 0
        for stop in self._stops:
            for length in range(min(len(stop) - 1, len(self._held)), longest, -1):
                if self._held.endswith(stop[:length]):
                    longest = length
                    break
        return longest

"""Vector stores, as OpenAI's clients know them: collections of the document library."""

from __future__ import annotations

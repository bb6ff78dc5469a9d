"""How what is found is ranked, as far as clients may say."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from stepwell.server.wire.schema import Schema


class RankingOptions(Schema):
    """``ranker`` and weights are not read: there is one way to rank here."""

    score_threshold: Annotated[float, Field(ge=0, le=1)] | None = None

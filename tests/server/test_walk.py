"""How far a reader walks who follows a chat request: no further than when this was counted last."""

from __future__ import annotations

from tests.server.walk import walk_of_a_request

FUNCTIONS, RETURNS = 53, 8


def test_a_request_is_followed_in_few_steps() -> None:
    walk = walk_of_a_request()
    assert walk.missing == []
    assert len(walk.stops) <= FUNCTIONS, str(walk)
    assert walk.returns <= RETURNS, str(walk)

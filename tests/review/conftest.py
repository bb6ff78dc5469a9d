"""A site for tests of fetching."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.review.site import serving


@pytest.fixture
def site() -> Iterator[str]:
    with serving() as url:
        yield url

"""How many of a list are in one answer."""

from __future__ import annotations

from starlette.requests import Request

from stepwell.server.errors import bad_request

MAX_PAGE = 100
DEFAULT_PAGE = 20


def page_limit(
    request: Request, param: str = "limit", *, default: int = DEFAULT_PAGE, most: int = MAX_PAGE
) -> int:
    """How many a list may have: 1 to ``most``. Raises ``ApiError``."""
    text = request.query_params.get(param, str(default))
    if not (text.isascii() and text.isdecimal() and len(text) <= 4 and 1 <= int(text) <= most):
        raise bad_request(f"'{param}' must be between 1 and {most}.", param=param)
    return int(text)

"""One or two lines that make other packages' agents tell Stepwell the caller and what comes next.

Each module here needs the package it is named after and nothing else of Stepwell; docs/integrations.md
shows them.
"""

from __future__ import annotations

from stepwell.integrations._tell import session

__all__ = ["session"]

"""Secrets taken out of what people and logs get to read: one place, for whatever text is on its way out.

Connection strings of databases hold passwords, and so do the messages of the libraries that open them.
"""

from __future__ import annotations

import logging
import re

HIDDEN = "***"
_NAMED = re.compile(
    r"(?P<name>\b(?:password|passwd|pwd|sslpassword|api_key|apikey|access_token)\s{0,4}=\s{0,4})"
    r"(?:'[^']{0,1024}'|[^\s&'\"]{1,1024})",
    re.IGNORECASE,
)
_SCHEME = "://"


def redacted(text: str) -> str:
    """``text`` without the passwords of URLs and of ``password=...``. Linear in its length."""
    if _SCHEME in text:
        text = "".join(_without_password(word) for word in re.split(r"(\s+)", text))
    return _NAMED.sub(lambda match: match["name"] + HIDDEN, text)


def _without_password(word: str) -> str:
    """``postgresql://user:secret@host/db`` -> ``postgresql://user:***@host/db``. A password may hold any
    sign, also ``/`` and ``@`` that nobody has escaped: everything up to the last ``@`` of the word goes."""
    scheme, separator, rest = word.partition(_SCHEME)
    user_and_password, at, host = rest.rpartition("@")
    user, colon, password = user_and_password.partition(":")
    if not (separator and at and colon and password):
        return word
    return f"{scheme}{separator}{user}:{HIDDEN}@{host}"


class RedactingFormatter(logging.Formatter):
    """Log lines, tracebacks in them included."""

    def format(self, record: logging.LogRecord) -> str:
        return redacted(super().format(record))

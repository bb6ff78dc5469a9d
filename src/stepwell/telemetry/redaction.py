"""Secrets taken out of what people and logs get to read: one place, for whatever text is on its way out.

Connection strings of databases hold passwords, and so do the messages of the libraries that open them.
"""

from __future__ import annotations

import logging
import re

HIDDEN = "***"
_NAMED = re.compile(
    r"(?P<name>(?:password|passwd|pwd|secret(?:_access)?(?:_key)?|api_?key|access_token|auth_token)"
    r"(?:\s{0,4}=\s{0,4}|[\"']\s{0,4}:\s{0,4}(?=[\"'])))"
    r"(?:'[^']{0,1024}'|\"[^\"]{0,1024}\"|[^\s&'\"]{1,1024})",
    re.IGNORECASE,
)
"""``PGPASSWORD=x``, ``password = 'x'``, ``"api_key": "x"``: the name stays."""
_HEADER = re.compile(
    r"(?P<name>\b(?:(?:proxy-)?authorization|x-(?:goog-)?api-key)[\"']?\s{0,4}[:=]\s{0,4}[\"']?"
    r"(?:[a-z][\w-]{0,20} (?=\S))?|\bbearer )[^\s\"',}]{4,}",
    re.IGNORECASE,
)
_KEY = re.compile(r"\b(?P<name>sk|pk)-[\w-]{8,1024}")
"""Keys as OpenAI, Anthropic, Langfuse and the examples here write them."""
_SCHEME = "://"


def redacted(text: str) -> str:
    """``text`` without the passwords of URLs, of ``password=...``, and without API keys that look like some.
    Linear in its length."""
    if _SCHEME in text:
        text = "".join(_without_password(word) for word in re.split(r"(\s+)", text))
    for pattern in (_NAMED, _HEADER):
        text = pattern.sub(lambda match: match["name"] + HIDDEN, text)
    return _KEY.sub(lambda match: f"{match['name']}-{HIDDEN}", text)


def _without_password(word: str) -> str:
    """``postgresql://user:secret@host/db`` -> ``postgresql://user:***@host/db``. A password may hold any
    sign, also ``/`` and ``@`` that are not escaped: everything up to the last ``@`` of the word goes."""
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

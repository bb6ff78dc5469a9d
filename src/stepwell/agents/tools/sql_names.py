"""Texts and names as SQL writes them."""

from __future__ import annotations

import re
import unicodedata


def quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def name(text: str) -> str:
    """A column or table of this name, whatever signs it has."""
    return '"' + text.replace('"', '""') + '"'


def identifier(text: str) -> str:
    """A name for a table in letters of any script, such as ``sales_1`` for ``sales[1]``."""
    plain = re.sub(r"\W+", "_", unicodedata.normalize("NFC", text)).strip("_") or "data"
    return f"t_{plain}" if plain[0].isdigit() else plain

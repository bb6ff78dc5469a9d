"""``/v1/batches`` and Anthropic's message batches: requests that nobody waits for, kept on disk."""

from __future__ import annotations

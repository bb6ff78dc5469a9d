"""``/v1/batches`` and Anthropic's message batches: requests that no client waits for, kept on disk."""

from __future__ import annotations

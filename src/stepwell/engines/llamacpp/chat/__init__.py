"""Chat formats: from messages to a prompt, and from what a model writes to content, reasoning and calls."""

from __future__ import annotations

from stepwell.engines.llamacpp.chat.plain import PlainChat
from stepwell.engines.llamacpp.chat.template import ChatTemplate

__all__ = ["ChatTemplate", "PlainChat"]

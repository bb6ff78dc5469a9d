"""Answers that point: an agent chooses, under a grammar, the sentence of its passages that answers.

Even the smallest models recognise an answer that they cannot word, and a sentence that is copied cannot say
what the document does not. The sentences stand in the agent's message, so a resumed session finds them again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stepwell.agents.state import Message

HEAD = "Sentences:"
BEFORE_TASK = "\n\nTask: "
MOST_TOKENS = 8
"""Of the number of a sentence."""


def with_sentences(passages: str, sentences: Sequence[str]) -> str:
    """Passages, and below them the sentences that may be pointed at."""
    if not sentences:
        return passages
    return "\n".join([f"{passages}\n\n{HEAD}", *(f"{at}. {one}" for at, one in enumerate(sentences, 1))])


def sentences_in(messages: Sequence[Message], task: str) -> list[str]:
    """Those that the message with this task offers; empty where it offers none."""
    end = BEFORE_TASK + task
    for message in reversed(messages):
        text = message.get("content")
        if message["role"] == "user" and isinstance(text, str) and text.endswith(end):
            _, found, listed = text.removesuffix(end).rpartition(f"\n\n{HEAD}\n")
            return [line.partition(". ")[2] for line in listed.splitlines()] if found else []
    return []


def pointing_schema(sentences: Sequence[str]) -> dict[str, Any]:
    """The number of one of the sentences."""
    return {"type": "integer", "enum": list(range(1, len(sentences) + 1))}

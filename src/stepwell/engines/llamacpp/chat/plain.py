"""For models that bring no template: ChatML written as ordinary text.

A base model has not been trained on it, but it shows the speaker and where a turn ends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stepwell.engines.base import RenderedChat
from stepwell.engines.llamacpp.chat.marks import ControlMarks, Quoter
from stepwell.engines.llamacpp.chat.messages import Message, normalized
from stepwell.engines.llamacpp.chat.repairs import in_words, told

_START, _END = "<|im_start|>", "<|im_end|>"


class PlainChat:
    """See the module."""

    def __init__(self, marks: ControlMarks | None = None) -> None:
        self._marks = marks

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]] | None,
        *,
        add_generation_prompt: bool,
        options: Mapping[str, Any] | None = None,
    ) -> RenderedChat:
        quoter = Quoter(self._marks, [messages, tools])
        plain = quoter.quote([normalized(message) for message in messages])
        known = quoter.quote(list(tools or ()))
        turns = [
            f"{_START}{message['role']}\n{message['content']}{_END}\n"
            for message in told(in_words(plain, ""), known)
        ]
        if add_generation_prompt:
            turns.append(f"{_START}assistant\n")
        text, literal = quoter.unquote("".join(turns))
        return RenderedChat(text, stops=(_END, _START), literal=literal)

"""Where an answer begins: the end of the generation prompt that the model goes on from."""

from __future__ import annotations

from stepwell.engines.llamacpp.chat.formats import REASONING, SEAMS

_TAIL_CHARS = 200


def opening_of(prompt: str, template: str) -> str:
    """The mark that the prompt has opened for the answer, such as ``<think>``, or nothing."""
    tail = prompt[-_TAIL_CHARS:].rstrip()
    marks = [*SEAMS, *(kind.opening for kind in REASONING)]
    return next((mark for mark in marks if mark in template and tail.endswith(mark.rstrip())), "")

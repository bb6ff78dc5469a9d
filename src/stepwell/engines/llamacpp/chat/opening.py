"""Where an answer begins: the end of the generation prompt that the model goes on from."""

from __future__ import annotations

from stepwell.engines.base import Thinking
from stepwell.engines.llamacpp.chat.formats import REASONING, SEAMS, ReasoningMarks, with_made_marks

_TAIL_CHARS = 200
_CHANNEL, _FINAL = "<|channel|>", "<|channel|>final<|message|>"
_TAGS = ("<think>", "<seed:think>", "<mm:think>")
"""Marks that stand on lines of their own."""


def opening_of(prompt: str, template: str) -> str:
    """The mark that the prompt has opened for the answer, such as ``<think>``, or nothing."""
    tail, template = prompt[-_TAIL_CHARS:].rstrip(), with_made_marks(template)
    marks = [*SEAMS, *(kind.opening for kind in REASONING)]
    return next((mark for mark in marks if mark in template and tail.endswith(mark.rstrip())), "")


def straight_of(opening: str, template: str) -> str:
    """What goes between a prompt that ends in ``opening`` and an answer that is not thought about first."""
    kind = next((kind for kind in REASONING if kind.opening == opening), None)
    if kind is not None:
        return _ending(kind)
    if opening == "<|start|>assistant":
        return _FINAL if _CHANNEL in template else "<|message|>"
    return {"<|begin|>assistant": "<|content|>", ">>>": "all\n"}.get(opening, "")


def thinking_of(opening: str, template: str) -> Thinking | None:
    """How a model of this template marks what it thinks; None: it has no marks for it."""
    if _CHANNEL in template and "analysis" in template:
        return Thinking("<|channel|>analysis<|message|>", "<|end|>", "<|end|><|start|>assistant" + _FINAL)
    template = with_made_marks(template)
    known = [kind for kind in REASONING if kind.opening == opening]
    known += [kind for kind in REASONING if kind.opening.rstrip() in template or kind.closing in template]
    if not known:
        return None
    kind = known[0]
    begins = "" if kind.opening == opening else kind.opening
    return Thinking(begins, kind.closing, _ending(kind))


def _ending(kind: ReasoningMarks) -> str:
    return f"\n{kind.closing}\n\n" if kind.opening in _TAGS else kind.closing

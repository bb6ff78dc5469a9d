"""The marks that families write around their reasoning, and where an answer goes on from a prompt."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ReasoningMarks:
    """What opens and closes reasoning in an answer."""

    opening: str
    closing: str


REASONING = (
    ReasoningMarks("<think>", "</think>"),
    ReasoningMarks("<seed:think>", "</seed:think>"),
    ReasoningMarks("<mm:think>", "</mm:think>"),
    ReasoningMarks("[THINK]", "[/THINK]"),
    ReasoningMarks("<|START_THINKING|>", "<|END_THINKING|>"),
    ReasoningMarks("<|channel>thought\n", "<channel|>"),
    ReasoningMarks("<|inner_prefix|>", "<|inner_suffix|>"),
    ReasoningMarks("<|think|>", "<|end|>"),
)
SEAMS = ("<|start|>assistant", "<|begin|>assistant", ">>>")
"""Generation prompts that end in the middle of a turn's head."""

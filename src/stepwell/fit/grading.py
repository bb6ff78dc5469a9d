"""Whether a reply is right: numbers, words, and programs by their hidden tests."""

from __future__ import annotations

import re
import tempfile
from decimal import Decimal
from pathlib import Path

from stepwell.agents.tools.base import ToolError
from stepwell.agents.tools.coding import check_code, program_of
from stepwell.agents.tools.workspace import Limits, Workspace
from stepwell.fit.tasks import Item, TaskSet

LIMITS = Limits(wall_s=4.0, cpu_s=2, memory_bytes=256 << 20)
"""A small function over a dozen small arguments: what takes longer does not end."""
NUMBER = re.compile(r"(?<![\w.])[-\u2212]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?![\w])")


async def right(task_set: TaskSet, item: Item, answer: str) -> bool:
    """Whether ``answer``, a whole reply, is right by the set's grader. A broken reply is a wrong one."""
    if task_set.grader == "number":
        return last_number(answer) == last_number(item.answer)
    if task_set.grader == "words":
        return names_only(answer, item.answer, item.wrong)
    return await passes(program_of(answer), item.answer)


def last_number(reply: str) -> Decimal | None:
    """The last number in a reply (``1,250.50``; a point that ends a sentence is no part of it), or None."""
    found = NUMBER.findall(reply)
    return Decimal(found[-1].replace(",", "").replace("\u2212", "-")) if found else None


def names_only(reply: str, answer: str, wrong: tuple[str, ...]) -> bool:
    """Whether the answer's words stand in the reply, as whole words in order, and none of ``wrong`` does.

    Case, punctuation and the commas in ``1,250`` do not matter.
    """
    words = words_of(reply)
    return _within(words_of(answer), words) and not any(_within(words_of(other), words) for other in wrong)


def words_of(text: str) -> list[str]:
    """Its words, without case and without the commas in numbers."""
    return re.findall(r"\w+", re.sub(r"(?<=\d),(?=\d{3}\b)", "", text.casefold()))


def _within(sought: list[str], words: list[str]) -> bool:
    length = len(sought)
    return length > 0 and any(
        words[start : start + length] == sought for start in range(len(words) - length + 1)
    )


async def passes(code: str, tests: str) -> bool:
    """Whether all tests pass over ``code``, in the sandbox that crews use."""
    with tempfile.TemporaryDirectory(prefix="stepwell-grading-") as directory:
        try:
            verdict = await check_code(code, tests, Workspace(Path(directory), limits=LIMITS))
        except ToolError:
            return False
    return verdict.good

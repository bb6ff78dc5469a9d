"""What an item's readers read: which tables there are, and its passages, the nearest to their task first."""

from __future__ import annotations

from collections.abc import Sequence

from stepwell.agents.reading import with_tables
from stepwell.agents.session import Reading
from stepwell.agents.tools import Workspace
from stepwell.fit.tasks import Item
from stepwell.library.search import count_words, search


def ranked(passages: Sequence[str], task: str) -> list[str]:
    """All passages, the nearest to the task first (BM25); those that share no word with it in their order."""
    found = search([count_words(passage) for passage in passages], task, max_results=len(passages))
    nearest = list(dict.fromkeys(one.file for one in found))
    return [passages[at] for at in dict.fromkeys([*nearest, *range(len(passages))])]


async def reading_of(item: Item, workspace: Workspace) -> Reading | None:
    """The list of tables, and one passage for each reader; one with the very same task as others gets the
    next nearest."""
    return await with_tables(_passages_of(item), workspace)


def _passages_of(item: Item) -> Reading | None:
    if not item.passages:
        return None

    def read(task: str, number: int) -> str:
        return ranked(item.passages, task)[number % len(item.passages)]

    return read


async def whole_of(item: Item, workspace: Workspace) -> Reading | None:
    """All passages and tables in their order: what the single call reads."""
    text = "\n".join([*item.passages, *(f"{name}:\n{table.strip()}" for name, table in item.tables)])
    return (lambda task, number: text) if text else None

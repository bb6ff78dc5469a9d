"""The task sets that ship, each made by seeded code: no data files, the same items on every machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from stepwell.fit.sets.facts import facts_set
from stepwell.fit.sets.functions import functions_set
from stepwell.fit.sets.sums import sums_set
from stepwell.fit.sets.tables import tables_set
from stepwell.fit.tasks import TaskSet

SHIPPED: Mapping[str, Callable[[], TaskSet]] = {
    "functions": functions_set,
    "facts": facts_set,
    "sums": sums_set,
    "tables": tables_set,
}

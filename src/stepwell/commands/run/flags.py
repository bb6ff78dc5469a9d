"""The options of ``stepwell run``, but for those of ``look.py``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from stepwell.commands.run.library import Attach
from stepwell.commands.run.limits import NAMES
from stepwell.console.options import option

LIMIT_HELP = f"A limit in place of the crew's, like turns_per_agent=24 (repeat for more): {', '.join(NAMES)}."
WarehouseOption = Annotated[
    Sequence[str],
    Parameter(
        env_var="STEPWELL_WAREHOUSE",
        show_env_var=True,
        help="Tables to ask in place: postgresql://, bigquery:// or duckdb:// (repeat for more).",
    ),
]
AskOption = Annotated[
    Sequence[str],
    option("The question. Repeat it for more: the same agents answer them one after the other."),
]
CrewArgument = Annotated[str, option("A crew that ships, or a TOML or YAML file.")]
FileArgument = Annotated[Path, option("A document, a table or tests that it works on (repeat for more).")]
KeyOption = Annotated[str | None, option("Its API key. [$OPENAI_API_KEY]")]
RunModelOption = Annotated[
    str | None, option("For roles that name none; for servers of its own smollm2 or a GGUF file. [smollm2]")
]
ProfileOption = Annotated[
    str, option("The crew as it is written (pro), flash, another of its own, or a file. [pro]")
]
BudgetOption = Annotated[str | None, option("USD that the session may cost, where the server says it.")]
LimitOption = Annotated[Sequence[str], option(LIMIT_HELP)]
RunSeedOption = Annotated[int, option("Seed of the models' choices and of waits. [0]")]
ResumeOption = Annotated[Path | None, option("Go on with this session, with the same crew and files.")]
OutputOption = Annotated[
    Path | None, option("Where charts and files of tools go. [a directory that goes away]")
]
LibraryOption = Annotated[
    Sequence[str], option("A document of the library, by name or id, as one more file (repeat for more).")
]
AttachOption = Annotated[
    Attach, option("Whether prompts begin with it, or have passages of it. [auto: if short]")
]

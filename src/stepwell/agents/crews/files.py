"""How a crew is written in TOML or YAML, and where one is found.

::

    [crew]
    name = "documents"
    entry = "planner"
    [crew.limits]
    budget_usd = 0.02
    [roles.planner]                    # a role that ships: whatever is not said here comes from roles.py
    may_spawn = ["reader", "solver"]
    [roles.historian]
    instructions = "You know the history of wells."
    tools = ["calculator"]
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from importlib import resources
from pathlib import Path
from typing import Any

from stepwell.agents.crews.definition import Crew, Example, Role, SessionLimits
from stepwell.agents.crews.roles import MAX_STEPS, SHIPPED, WRITER
from stepwell.agents.crews.tables import names_file, read_table, toml_table
from stepwell.agents.crews.values import (
    names_of,
    number_of,
    require_keys,
    require_known,
    table_of,
    typed,
    whole_of,
)
from stepwell.agents.tools.workspace import McpServer
from stepwell.errors import BadInput

MICROUSD_PER_USD = 1_000_000
MAX_ROLES = 64
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}")


def load_crew(path: Path) -> Crew:
    """The crew in a TOML or YAML file. Raises ``BadInput`` with one sentence."""
    return replace(make_crew(read_table(path, "crew"), str(path)), folder=path.parent.resolve())


def shipped_crews() -> list[str]:
    """The names of the crews that come with the package."""
    files = resources.files("stepwell.agents.crews").iterdir()
    return sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml"))


def find_crew(name: str) -> Crew:
    """A shipped crew by its name, or a TOML or YAML file by its path. Raises ``BadInput``."""
    if names_file(name):
        return load_crew(Path(name))
    require_known(name, shipped_crews(), "crew")
    file = resources.files("stepwell.agents.crews").joinpath(f"{name}.toml")
    return parse_crew(file.read_text("utf-8"), f"{name}.toml")


def parse_crew(text: str, where: str = "crew") -> Crew:
    """A crew from TOML. Raises ``BadInput`` with one sentence that names the key and what may stand there."""
    return make_crew(toml_table(text, where), where)


def make_crew(data: Mapping[str, Any], where: str = "crew") -> Crew:
    """A crew of its table. Raises ``BadInput`` with one sentence."""
    require_keys(data, ("crew", "roles", "mcp", "profiles"), where)
    head = table_of(data, "crew", where)
    require_keys(head, ("name", "entry", "drop", "limits"), f"{where}: [crew]")
    given = table_of(data, "roles", where)
    if not 1 <= len(given) <= MAX_ROLES:
        raise BadInput(f"{where} has {len(given)} roles: 1 to {MAX_ROLES} [roles.NAME] tables are needed")
    roles = {name: make_role(name, table_of(given, name, where), where) for name in given}
    limits = parse_limits(table_of(head, "limits", where), f"{where}: [crew.limits]")
    entry = typed(head, "entry", str, f"{where}: [crew]", next(iter(roles)))
    name = typed(head, "name", str, f"{where}: [crew]", Path(where).stem)
    dropped = names_of(head, "drop", f"{where}: [crew]")
    return Crew(
        name,
        entry,
        and_writer(roles, dropped) if entry in roles and roles[entry].plans else roles,
        limits,
        parse_servers(table_of(data, "mcp", where), where),
        dropped=dropped,
        profiles=table_of(data, "profiles", where),
    )


def and_writer(roles: Mapping[str, Role], dropped: Sequence[str]) -> dict[str, Role]:
    """The roles of a crew that plans, with the writer that ships unless it has one or drops it.

    It stands among the others, so that profiles can change it and a fit can do without it.
    """
    return dict(roles) if WRITER in dropped or WRITER in roles else {**roles, WRITER: make_role(WRITER, {})}


_SERVER_TYPES = {
    "command": str, "args": list, "env": dict, "start_timeout_s": Decimal, "timeout_s": Decimal,
    "volatile": list,
}  # fmt: skip
MAX_TIMEOUT_S = 3_600


def parse_servers(data: Mapping[str, Any], where: str = "crew") -> dict[str, McpServer]:
    """``[mcp.NAME]``: programs that are MCP servers. Nothing is started and no variable is looked up."""
    return {name: _server(name, table_of(data, name, where), f"{where}: [mcp.{name}]") for name in data}


def _server(name: str, data: Mapping[str, Any], where: str) -> McpServer:
    if not _NAME.fullmatch(name):
        raise BadInput(f"{where}: a server's name is letters, digits, - and _, at most 40")
    require_keys(data, _SERVER_TYPES, where)
    if not data.get("command"):
        raise BadInput(f"{where} has no command: name the program that is the server")
    values: dict[str, Any] = {
        key: _seconds(data[key], f"{where}: {key}") if kind is Decimal else typed(data, key, kind, where)
        for key, kind in _SERVER_TYPES.items()
        if key in data
    }
    lists: dict[str, Any] = {key: tuple(values[key]) for key in ("args", "volatile") if key in values}
    for key, of in (*lists.items(), ("env", values.get("env", {}).values())):
        if not all(isinstance(one, str) for one in of):
            raise BadInput(f"{where}: {key} holds text alone: put numbers in quotes")
    return McpServer(**values | lists)


def _seconds(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | Decimal) or not 0 < value <= MAX_TIMEOUT_S:
        raise BadInput(f"{where} is a number of seconds, at most {MAX_TIMEOUT_S}, not {value}")
    return float(value)


def parse_limits(data: Mapping[str, Any], where: str = "limits") -> SessionLimits:
    """``[crew.limits]``; money is written as ``budget_usd``."""
    names = ("depth", "concurrent", "agents", "turns_per_agent", "rounds", "tokens", "seconds")
    require_keys(data, (*names, "budget_usd"), where)
    values = {name: whole_of(data, name, where) for name in names if name in data}
    return SessionLimits(**values, budget_microusd=budget_microusd(data.get("budget_usd"), where))


def budget_microusd(usd: object, where: str) -> int | None:
    """Dollars as written into whole micro-dollars; None stays None. Raises ``BadInput``."""
    if usd is None:
        return None
    amount = usd if isinstance(usd, int | Decimal) and not isinstance(usd, bool) else None
    if amount is None or not 0 <= amount <= 10**6:
        raise BadInput(f"{where}: the budget {usd} is no amount: write dollars, like 0.02")
    return int(amount * MICROUSD_PER_USD)


_ROLE_TYPES: dict[str, type] = {
    "instructions": str, "description": str, "model": str, "tools": list, "may_spawn": list,
    "max_tokens": int, "temperature": Decimal, "output": str, "schema": dict, "max_turns": int, "calls": str,
    "briefed": bool, "plans": bool, "splits": bool, "max_steps": int, "reads": bool, "points": bool,
    "examples": list, "shots": int, "samples": int, "stop": list,
    "finish": str, "narrow": str, "check": str, "pass_rate": Decimal, "usual_tokens": int,
}  # fmt: skip
MAX_SAMPLES = 64
_CHOICES = {"output": ("text", "json"), "calls": ("tools", "schema")}


def make_role(name: str, data: Mapping[str, Any], where: str = "crew") -> Role:
    """A role of its settings; one with the name of a shipped role begins with that one's."""
    where = f"{where}: [roles.{name}]"
    if not _NAME.fullmatch(name):
        raise BadInput(f"{where}: a role's name is letters, digits, - and _, at most 40")
    values = dict(SHIPPED.get(name, {})) | role_values(data, where)
    if not values.get("instructions"):
        raise BadInput(f"{where} has no instructions, and no role of that name ships: say what it is to do")
    if values.get("output") == "json" and not values.get("schema"):
        raise BadInput(f'{where}: output = "json" needs a schema')
    if values.get("finish") and values.get("output") != "json":
        raise BadInput(f'{where}: finish needs output = "json": its schema is that of the tool\'s arguments')
    if values.get("narrow") and values.get("output") != "json":
        raise BadInput(f'{where}: narrow needs output = "json": it makes the schema of a task narrower')
    return Role(name=name, **values)


def role_values(data: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Settings of a role, read. Raises ``BadInput``."""
    require_keys(data, _ROLE_TYPES, where)
    values = {key: _role_value(data, key, where) for key in data}
    if not 1 <= values.get("samples", 1) <= MAX_SAMPLES:
        raise BadInput(f"{where}: samples is 1 to {MAX_SAMPLES}, not {values['samples']}")
    if not 1 <= values.get("max_steps", 1) <= MAX_STEPS:
        raise BadInput(f"{where}: max_steps is 1 to {MAX_STEPS}, not {values['max_steps']}")
    return values


def _role_value(data: Mapping[str, Any], key: str, where: str) -> Any:
    kind = _ROLE_TYPES[key]
    if kind is int:
        return whole_of(data, key, where)
    if kind is Decimal:
        return number_of(data, key, where, most=2 if key == "temperature" else 1)
    if key == "examples":
        return tuple(_example(one, f"{where}: examples") for one in typed(data, key, list, where))
    value = typed(data, key, kind, where)
    if key in _CHOICES:
        require_known(value, _CHOICES[key], f"{where}: {key}")
    if kind is list:
        return names_of(data, key, where)
    return plain(value)


def _example(data: Any, where: str) -> Example:
    """Of a table with ``ask`` and ``answer``, or a list of the two."""
    pair = [data.get("ask"), data.get("answer")] if isinstance(data, dict) else data
    if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(one, str) for one in pair):
        raise BadInput(f'{where}: an example is {{ ask = "...", answer = "..." }}, not {data!r}')
    return Example(*pair)


def plain(value: Any) -> Any:
    """Decimals inside a schema as the floats that JSON knows."""
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [plain(one) for one in value]
    return float(value) if isinstance(value, Decimal) else value

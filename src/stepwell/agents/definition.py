"""What a crew is: its roles, its limits, and how both are written in TOML.

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

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from importlib import resources
from pathlib import Path
from typing import Any

from stepwell.agents.penalty import Penalty
from stepwell.agents.roles import MAX_STEPS, SHIPPED
from stepwell.agents.tools.workspace import McpServer
from stepwell.errors import BadInput

MICROUSD_PER_USD = 1_000_000
MAX_ROLES = 64
MAX_TOML_BYTES = 1 << 20
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}")


@dataclass(frozen=True, slots=True)
class Limits:
    """What a session may come to in all. Defaults suit a laptop."""

    depth: int = 3
    """How many agents may stand above one; the entry has none."""
    concurrent: int = 6
    """Sub-agents that are at work at once, the entry not counted."""
    agents: int = 64
    """Sub-agents that are made in all."""
    turns_per_agent: int = 12
    """Where a role does not say ``max_turns``."""
    rounds: int = 3
    """Plans that a planner makes."""
    tokens: int = 500_000
    """Prompt and answer of every turn, cached or not."""
    seconds: int = 1_800
    """Wall time, of a session that is resumed: since then."""
    budget_microusd: int | None = None
    """What the turns may cost where the server says what they do; None: no limit."""


@dataclass(frozen=True, slots=True)
class Example:
    """A question and the answer to it, shown to an agent as turns that were."""

    ask: str
    answer: str


@dataclass(frozen=True, slots=True)
class Role:
    """What agents of one kind are told and may do."""

    name: str
    instructions: str
    model: str = ""
    """Empty: the server's only one."""
    tools: tuple[str, ...] = ()
    may_spawn: tuple[str, ...] = ()
    """Roles that it may spawn, or plan with; with any, the verbs are among its tools."""
    max_tokens: int = 256
    temperature: float = 0.0
    stop: tuple[str, ...] = ()
    """Texts that end an answer, at most four; they are no part of it."""
    output: str = "text"
    """``text``, or ``json`` with a ``schema``."""
    schema: Mapping[str, Any] | None = None
    first_schema: Mapping[str, Any] | None = None
    """In place of ``schema`` for an agent's first task: a planner's first plan is never empty."""
    max_turns: int | None = None
    """Per task; None: the crew's ``turns_per_agent``."""
    calls: str = "tools"
    """``tools``: the API's field. ``schema``: every turn is one JSON object that names a tool or answers,
    under a grammar, so that a small model cannot emit an invalid call."""
    plans: bool = False
    """Whether it makes plans that the runtime carries out, instead of calling the verbs itself."""
    max_steps: int = MAX_STEPS
    """Of one of its plans."""
    splits: bool = True
    """Whether its plans word a task for each step; otherwise each step is the whole question."""
    reads: bool = False
    """Whether it is given passages of the documents with its task."""
    examples: tuple[Example, ...] = ()
    shots: int = 0
    """How many of the examples an agent sees; 0: all. Agents that answer the same step see others, where
    the examples are several sets of so many."""
    samples: int = 1
    """How many agents answer each planned step, at most."""
    finish: str = ""
    """A tool that the answer, its arguments as JSON, is given to: what it gives back is the answer."""
    check: str = ""
    """A tool with one argument that says whether an answer is right: one that is ends the work."""
    pass_rate: float = 0.5
    """How often an answer passes the check, or is right, before anything is known of the question."""
    usual_tokens: int = 0
    """Of an answer; 0: not known, as many as it may have."""


@dataclass(frozen=True, slots=True)
class Crew:
    """Roles that work together; ``entry`` is asked and answers."""

    name: str
    entry: str
    roles: Mapping[str, Role]
    limits: Limits = field(default_factory=Limits)
    mcp_servers: Mapping[str, McpServer] = field(default_factory=dict)
    """Programs whose tools roles ask for as ``mcp:NAME`` or ``mcp:NAME/TOOL``."""
    dropped: tuple[str, ...] = ()
    """Roles that are not used. Without its planner every other role has one step of a fixed plan."""
    wave: int = 0
    """How many of a step's ``samples`` are asked for at once; 0: all."""
    penalty: Penalty | None = None
    """What intermediate tokens are worth; None: they are not weighed."""
    profiles: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Tables of ``[profiles.NAME]``, as they are written: ``profile.py`` reads them."""
    folder: Path | None = field(default=None, compare=False)
    """Where its file lies: paths in it are seen from there. None: from where the program was started."""

    def __post_init__(self) -> None:
        require_known(self.entry, self.roles, f"crew {self.name}: entry")
        for role in self.roles.values():
            for name in role.may_spawn:
                require_known(name, self.roles, f"crew {self.name}: role {role.name}: may_spawn")


def load_crew(path: Path) -> Crew:
    """The crew in a TOML file. Raises ``BadInput`` with one sentence."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_TOML_BYTES + 1)
    except OSError as error:
        raise BadInput(f"crew {path} cannot be read: {error.strerror}") from error
    if len(data) > MAX_TOML_BYTES:
        raise BadInput(f"crew {path} is larger than {MAX_TOML_BYTES} bytes: a crew is a short file")
    return replace(
        parse_crew(data.decode("utf-8", errors="replace"), str(path)), folder=path.parent.resolve()
    )


def shipped_crews() -> list[str]:
    """The names of the crews that come with the package."""
    files = resources.files("stepwell.agents").joinpath("crews").iterdir()
    return sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml"))


def find_crew(name: str) -> Crew:
    """A shipped crew by its name, or a TOML file by its path. Raises ``BadInput``."""
    if Path(name).suffix == ".toml" or Path(name).exists():
        return load_crew(Path(name))
    require_known(name, shipped_crews(), "crew")
    file = resources.files("stepwell.agents").joinpath("crews", f"{name}.toml")
    return parse_crew(file.read_text("utf-8"), f"{name}.toml")


def parse_crew(text: str, where: str = "crew") -> Crew:
    """A crew from TOML. Raises ``BadInput`` with one sentence that names the key and what may stand there."""
    try:
        data = tomllib.loads(text, parse_float=Decimal)
    except tomllib.TOMLDecodeError as error:
        raise BadInput(f"{where} is not TOML: {error}") from error
    require_keys(data, ("crew", "roles", "mcp", "profiles"), where)
    head = table_of(data, "crew", where)
    require_keys(head, ("name", "entry", "drop", "limits"), f"{where}: [crew]")
    given = table_of(data, "roles", where)
    if not 1 <= len(given) <= MAX_ROLES:
        raise BadInput(f"{where} has {len(given)} roles: 1 to {MAX_ROLES} [roles.NAME] tables are needed")
    roles = {name: make_role(name, table_of(given, name, where), where) for name in given}
    limits = parse_limits(table_of(head, "limits", where), f"{where}: [crew.limits]")
    entry = _typed(head, "entry", str, f"{where}: [crew]", next(iter(roles)))
    name = _typed(head, "name", str, f"{where}: [crew]", Path(where).stem)
    return Crew(
        name,
        entry,
        roles,
        limits,
        parse_servers(table_of(data, "mcp", where), where),
        dropped=names_of(head, "drop", f"{where}: [crew]"),
        profiles=table_of(data, "profiles", where),
    )


def names_of(data: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    """A list of names. Raises ``BadInput``."""
    names = _typed(data, key, list, where, [])
    if not all(isinstance(one, str) for one in names):
        raise BadInput(f"{where}: {key} is a list of names")
    return tuple(names)


_SERVER_TYPES = {"command": str, "args": list, "env": dict, "start_timeout_s": Decimal, "timeout_s": Decimal}
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
        key: _seconds(data[key], f"{where}: {key}") if kind is Decimal else _typed(data, key, kind, where)
        for key, kind in _SERVER_TYPES.items()
        if key in data
    }
    for key, of in (("args", values.get("args", ())), ("env", values.get("env", {}).values())):
        if not all(isinstance(one, str) for one in of):
            raise BadInput(f"{where}: {key} holds text alone: put numbers in quotes")
    return McpServer(**values | {"args": tuple(values.get("args", ()))})


def _seconds(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | Decimal) or not 0 < value <= MAX_TIMEOUT_S:
        raise BadInput(f"{where} is a number of seconds, at most {MAX_TIMEOUT_S}, not {value}")
    return float(value)


def parse_limits(data: Mapping[str, Any], where: str = "limits") -> Limits:
    """``[crew.limits]``; money is written as ``budget_usd``."""
    names = ("depth", "concurrent", "agents", "turns_per_agent", "rounds", "tokens", "seconds")
    require_keys(data, (*names, "budget_usd"), where)
    values = {name: whole_of(data, name, where) for name in names if name in data}
    return Limits(**values, budget_microusd=budget_microusd(data.get("budget_usd"), where))


def budget_microusd(usd: object, where: str) -> int | None:
    """Dollars as written into whole micro-dollars; None stays None. Raises ``BadInput``."""
    if usd is None:
        return None
    amount = usd if isinstance(usd, int | Decimal) and not isinstance(usd, bool) else None
    if amount is None or not 0 <= amount <= 10**6:
        raise BadInput(f"{where}: the budget {usd} is no amount: write dollars, like 0.02")
    return int(amount * MICROUSD_PER_USD)


_ROLE_TYPES: dict[str, type] = {
    "instructions": str, "model": str, "tools": list, "may_spawn": list, "max_tokens": int,
    "temperature": Decimal, "output": str, "schema": dict, "max_turns": int, "calls": str,
    "plans": bool, "splits": bool, "max_steps": int, "reads": bool, "examples": list, "shots": int,
    "samples": int, "stop": list,
    "finish": str, "check": str, "pass_rate": Decimal, "usual_tokens": int,
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
        return tuple(_example(one, f"{where}: examples") for one in _typed(data, key, list, where))
    value = _typed(data, key, kind, where)
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


def number_of(data: Mapping[str, Any], key: str, where: str, *, most: float, default: float = 0.0) -> float:
    """A number from 0 to ``most``. Raises ``BadInput``."""
    value = data.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal) or not 0 <= value <= most:
        raise BadInput(f"{where}: {key} is a number from 0 to {most:g}, not {value}")
    return float(value)


def plain(value: Any) -> Any:
    """Decimals inside a schema as the floats that JSON knows."""
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [plain(one) for one in value]
    return float(value) if isinstance(value, Decimal) else value


def table_of(data: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    table: Mapping[str, Any] = _typed(data, key, dict, where, {})
    return table


def _typed(data: Mapping[str, Any], key: str, kind: type, where: str, default: Any = None) -> Any:
    value = data.get(key, default)
    if not isinstance(value, kind):
        names = {str: "text", list: "a list", dict: "a table", bool: "true or false"}
        raise BadInput(f"{where}: {key} is {names[kind]}, not {value!r}")
    return value


def whole_of(data: Mapping[str, Any], key: str, where: str) -> int:
    value = data[key]
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
        raise BadInput(f"{where}: {key} is a whole number, not {value!r}")
    return value


def require_keys(data: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    for key in data:
        require_known(key, known, f"{where}: key", "known")


def require_known(name: str, known: Iterable[str], where: str, what: str = "there") -> None:
    names = list(known)
    if name in names:
        return
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"there is {', '.join(names)}"
    raise BadInput(f"{where} {name!r} is not {what}: {hint}")

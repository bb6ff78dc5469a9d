"""Every setting with its type, default and meaning, read off the settings' own classes and docstrings."""

from __future__ import annotations

import ast
import inspect
import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from pydantic import BeforeValidator

from stepwell.basics.units import format_size
from stepwell.ledger.settings import BudgetEntry
from stepwell.server.callers.keys import KeyEntry
from stepwell.settings.engine import ModelEntry
from stepwell.settings.file import Settings, env_name, sections
from stepwell.settings.service_tiers import ServiceTierEntry, SharesEntry
from stepwell.settings.values import OptionalSizeBytes, SizeBytes, size_bytes

FIRST = "0.1.0"
NEXT = "0.2.0"
IN_FIRST: Mapping[str, str] = {
    "engine": "model kind device_kv_tokens context_tokens max_sequences threads n_gpu_layers kv_type_k "
    "kv_type_v exact_lone_decode",
    "kv": "host_kv disk_kv disk_dir disk_read_deadline_ms",
    "policy": "name step_tokens max_running max_waiting reserve_tokens max_agents always_load "
    "disk_write_per_day",
    "server": "host port model_aliases max_body_bytes body_timeout_s send_timeout_s max_messages max_tools "
    "max_choices max_prompts max_stop max_grammar_bytes default_max_new_tokens max_concurrent_requests "
    "retry_after_ms keep_alive_s drain_s max_stored_responses max_stored_bytes max_background_responses "
    "max_response_chain public_metrics",
    "ledger": "path node price_book cost_book on_failure batch_ms storage_every_s backlog_postings",
    "library": "dir quota quotas max_file max_chars max_pages upload_timeout_s embeddings embeddings_model "
    "embeddings_key",
    "": "keys_file record",
    "service_tiers.NAME": "weight guaranteed cap borrowable ttft_target_ms tpot_target_ms max_wait_s "
    "keep_weight",
    "service_tiers.NAME.guaranteed": "step_tokens device host disk",
    "keys": "tenant key key_sha256 service_tiers default_service_tier operator max_concurrent_requests "
    "projects soft_usd hard_usd",
    "budgets": "tenant key session agent soft_usd hard_usd",
}
"""The settings of the first release. All others have come since."""
_PLURALS = {"keys": "[[keys]]", "budgets": "[[budgets]]", "models": "[[models]]"}
_SIZES = (SizeBytes, OptionalSizeBytes)


@dataclass(frozen=True, slots=True)
class Setting:
    """One key of a table."""

    table: str
    """``engine``, ``[[keys]]``, ``service_tiers.NAME``; empty: at the top."""
    name: str
    type: str
    default: str
    since: str
    meaning: str
    environment: str
    """The variable that sets it; empty for keys of tables that are lists."""


def all_settings() -> list[Setting]:
    """In the order of the settings file."""
    found: list[Setting] = []
    for table, cls in sections().items():
        found += _of(cls, table, environment=True)
    found += _of(Settings, "", environment=True, only=("keys_file", "record"))
    found += _of(ServiceTierEntry, "service_tiers.NAME")
    found += _of(SharesEntry, "service_tiers.NAME.guaranteed")
    found += _of(KeyEntry, "keys")
    found += _of(BudgetEntry, "budgets")
    found += _of(ModelEntry, "models")
    return found


def _of(cls: type, table: str, *, environment: bool = False, only: Sequence[str] = ()) -> Iterator[Setting]:
    hints, meanings = get_type_hints(cls, include_extras=True), docstrings(cls)
    for one in fields(cls):
        if only and one.name not in only:
            continue
        path = (table, one.name) if table else (one.name,)
        yield Setting(
            _PLURALS.get(table, table),
            one.name,
            _type(hints[one.name]),
            _default(one, hints[one.name]),
            FIRST if one.name in IN_FIRST.get(table, "").split() else NEXT,
            meanings.get(one.name, ""),
            env_name(path) if environment else "",
        )


def docstrings(cls: type) -> dict[str, str]:
    """The string below each field of a class, on one line."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(body, ast.ClassDef)
    found: dict[str, str] = {}
    name = ""
    for node in body.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name = node.target.id
        elif name and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            found[name], name = " ".join(str(node.value.value).split()), ""
        else:
            name = ""
    return found


def _type(hint: Any) -> str:
    """In the words of a settings file."""
    if hint in _SIZES:
        return "size"
    origin, inside = get_origin(hint), get_args(hint)
    if origin is Annotated:
        if any(isinstance(one, BeforeValidator) and one.func is size_bytes for one in inside[1:]):
            return "size"
        return _type(inside[0])
    if origin is Literal:
        return ", ".join(f"`{one}`" for one in inside)
    if origin is dict:
        return f"table of {_type(inside[1])}"
    if origin is tuple:
        return f"list of {_type(inside[0])}"
    if inside and type(None) in inside:
        return " or ".join(_type(one) for one in inside if one is not type(None))
    names = {str: "text", Path: "path", int: "integer", float: "number", bool: "true, false"}
    name = str(hint.__name__)
    return names.get(hint, {"Decimal": "USD", "SharesEntry": "table"}.get(name, name))


def _default(one: Field[Any], hint: Any) -> str:
    if one.default_factory is not MISSING:
        value = one.default_factory()
    elif one.default is not MISSING:
        value = one.default
    else:
        return "required"
    if value is None or value == () or value == {} or isinstance(value, SharesEntry):
        return ""
    if isinstance(value, Path):
        return f"`{_at_home(value)}`"
    if _type(hint) == "size" and isinstance(value, int):
        return f"`{format_size(value).replace(' ', '')}`"
    return f"`{json.dumps(list(value) if isinstance(value, tuple) else value)}`"


def _at_home(path: Path) -> str:
    """The same on every machine."""
    folders = {
        "kv": "~/.cache/stepwell/kv",
        "library": "~/.local/share/stepwell/library",
        "batches": "~/.local/share/stepwell/batches",
    }
    return folders.get(path.name, str(path))


HEAD = """# Settings

Generated by `stepwell settings --markdown`; do not edit.

A settings file is TOML; `stepwell serve --config FILE` or `$STEPWELL_CONFIG` names it. Flags win over the
environment, and the environment over the file. A key of the tables below is also read from an environment
variable: `host_kv` of `[kv]` from `STEPWELL_KV_HOST_KV`. A size is written as `512MiB`, `2GB` or `0`. An
unknown key is an error. `stepwell serve --check` says whether a server with these settings would start,
before it loads a model; `stepwell settings WORD` finds a setting.
"""


COLUMNS = ("| key | type | default | since | |", "|---|---|---|---|---|")


def markdown() -> str:
    """``docs/settings.md``."""
    lines, table = [HEAD.rstrip()], None
    for one in all_settings():
        if one.table != table:
            table = one.table
            lines += [
                "",
                f"## {_title(table)}",
                "",
                "| key | type | default | since | |",
                "|---|---|---|---|---|",
            ]
        lines.append(f"| `{one.name}` | {one.type} | {one.default} | {one.since} | {_cell(one.meaning)} |")
    return "\n".join(lines) + "\n"


def _title(table: str) -> str:
    if not table:
        return "At the top of the file"
    return f"`{table}`" if table.startswith("[[") else f"`[{table}]`"


def _cell(text: str) -> str:
    return text.replace("``", "`").replace("|", "\\|")

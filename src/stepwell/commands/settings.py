"""``stepwell settings``: every setting, what it takes and what it means."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console

from stepwell.commands.settings_reference import Setting, all_settings, markdown
from stepwell.console.options import flag
from stepwell.errors import BadInput


def settings(
    about: Annotated[str, Parameter(help="Only those whose name or meaning contains this.")] = "",
    *,
    markdown_out: Annotated[bool, flag("All of them as docs/settings.md has them.", "--markdown")] = False,
    json_out: Annotated[bool, flag("As JSON.", "--json")] = False,
) -> int:
    """List the settings of 'stepwell serve': type, default, since which version, and meaning.

    Example: ``stepwell settings disk``
    """
    if markdown_out:
        print(markdown(), end="")
        return 0
    found = [one for one in all_settings() if about.casefold() in f"{_key(one)} {one.meaning}".casefold()]
    if not found:
        raise BadInput(f"no setting is about {about!r}: 'stepwell settings' lists all of them")
    if json_out:
        print(json.dumps([asdict(one) for one in found], indent=2))
        return 0
    console = Console(highlight=False, markup=False)
    for one in found:
        default = f", default {one.default.strip('`')}" if one.default not in ("", "required") else ""
        required = ", required" if one.default == "required" else ""
        console.print(f"{_key(one)}  ({one.type.replace('`', '')}{default}{required}; since {one.since})")
        console.print(f"    {one.meaning.replace('``', '')}")
    console.print(f"{len(found)} settings")
    return 0


def _key(one: Setting) -> str:
    return f"{one.table}.{one.name}" if one.table else one.name

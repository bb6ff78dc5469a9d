"""``stepwell catalogue hardware | models | prices``: the figures that plans rest on, with their sources."""

from __future__ import annotations

import json
from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from stepwell.catalogue.kv import kv_bytes_per_token
from stepwell.catalogue.load import MARKS, Entry, entries, entry

HARDWARE = ("hbm_gb", "hbm_tb_s", "tflops_bf16", "tflops_fp8", "kw_all_in", "usd_hour_tco", "usd_hour_rent")
PRICES = ("input", "cached_input", "output")
MODELS = ("params_b", "active_params_b", "layers", "kv_heads", "mla_width", "window_layers", "linear_layers")


def hardware(name: str | None = None, *, json: bool = False) -> int:
    """Show accelerators, memory and disks: size, bandwidth, FLOP/s, power, prices.

    Example: ``stepwell catalogue hardware h200``

    Parameters
    ----------
    name
        One part, with the source of every figure. Without: all, one line each.
    json
        Write JSON to standard output.
    """
    known = {**entries("parts"), **entries("memory")}
    if name is not None:
        _show_one(known.get(name.lower()) or entry("parts", name), json)
        return 0
    _show_all("hardware", known, HARDWARE, json)
    return 0


def models(name: str | None = None, *, json: bool = False) -> int:
    """Show models: layers, KV heads, latent widths, windows, parameters in total and active.

    Example: ``stepwell catalogue models deepseek-v3``

    Parameters
    ----------
    name
        One model, with the source of every figure. Without: all, one line each.
    json
        Write JSON to standard output.
    """
    return _show("models", name, MODELS, json)


def prices(name: str | None = None, *, json: bool = False) -> int:
    """Show list prices of vendors, USD per million tokens; 'plan price --list-price' takes their names.

    Example: ``stepwell catalogue prices gpt-5``

    Parameters
    ----------
    name
        One price, with the source of every figure. Without: all, one line each.
    json
        Write JSON to standard output.
    """
    return _show("prices", name, PRICES, json)


def _show(kind: str, name: str | None, columns: tuple[str, ...], as_json: bool) -> int:
    if name is None:
        _show_all(kind, entries(kind), columns, as_json)
    else:
        _show_one(entry(kind, name), as_json)
    return 0


def _show_one(found: Entry, as_json: bool) -> None:
    if as_json:
        print(json.dumps(found.as_json(), indent=2))
        return
    table = Table("figure", "value", "mark", "source", "date", title=found.name)
    for name, figure in found.figures.items():
        table.add_row(name, f"{figure.value:,}", figure.mark, figure.source, figure.date)
    console = Console(highlight=False)
    console.print(table)
    if "layers" in found.figures:
        console.print(f"KV at 2 bytes a value: {kv_bytes_per_token(found, 2):,.0f} bytes per token")
    console.print("marks: " + "; ".join(f"{mark} {text}" for mark, text in MARKS.items()), markup=False)


def _show_all(title: str, known: Mapping[str, Entry], columns: tuple[str, ...], as_json: bool) -> None:
    if as_json:
        print(json.dumps([found.as_json() for found in known.values()], indent=2))
        return
    table = Table("key", *columns, title=title)
    for key, found in known.items():
        cells = [found.figures.get(column) for column in columns]
        table.add_row(key, *("" if c is None else f"{c.value:,} {c.mark}" for c in cells))
    console = Console(highlight=False)
    console.print(table)
    console.print(f"{len(known)} entries; 'stepwell catalogue {title} NAME' gives each figure's source")

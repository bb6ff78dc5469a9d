"""For the verifier: every cell again, from the raw bytes and from the other cells."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from decimal import Decimal, localcontext
from typing import Any
from xml.etree import ElementTree


def recompute(
    id: str,
    cells: Mapping[str, Any],
    data: Mapping[str, bytes],
    read: dict[str, Any],
    fault: Callable[[str], None],
    above: Sequence[str],
) -> Any:
    """The cell's value, read or computed anew; ``None`` where it cannot be, which is a fault unless it is
    missing.
    """
    if id in read:
        return read[id]
    row = cells.get(id)
    value: Any = None
    if row is None or id in above:
        fault(f"{id}: a cell that is not in the trace, or rests on itself")
    elif row.get("missing"):
        value = None
    else:
        try:
            if "place" in row:
                value = _at(row["place"], row["unit"], data)
            else:
                how = row["derivation"]
                inputs = [recompute(one, cells, data, read, fault, (*above, id)) for one in how["inputs"]]
                value = _computed(how, inputs, [cells[one] for one in how["inputs"]])
            if str(value) != row["value"] and not _same(value, row["value"]):
                fault(f"{id}: the trace has {row['value']}, its bytes give {value}")
        except (
            KeyError,
            ValueError,
            TypeError,
            IndexError,
            ArithmeticError,
            ElementTree.ParseError,
            csv.Error,
        ) as error:
            fault(f"{id}: it cannot be read again ({type(error).__name__})")
    read[id] = value
    return value


def _same(value: Any, text: str) -> bool:
    return isinstance(value, Decimal) and value == Decimal(text)


def _at(place: Mapping[str, str], unit: str, data: Mapping[str, bytes]) -> Any:
    """What stands in the raw bytes at a path; ``*1000`` behind it says in what unit it was published."""
    path, _, factor = place["path"].partition("*")
    if place["kind"] == "parquet":
        return Decimal(_in_parquet(data[place["sha256"]], path))
    text = data[place["sha256"]].decode("utf-8-sig")
    found = {"json": _in_json, "csv": _in_csv, "xml": _in_xml, "table": _in_table}[place["kind"]](text, path)
    if unit == "name":
        return found
    if unit == "date":
        return date.fromisoformat(found[:10])
    return Decimal(found.replace(",", "")) * Decimal(factor or 1)


def _in_json(text: str, path: str) -> str:
    value = json.loads(text, parse_float=str, parse_int=str)
    for key in path.strip("/").split("/"):
        value = value[int(key)] if isinstance(value, list) else value[key]
    return str(value)


def _in_csv(text: str, path: str) -> str:
    row, column = path.split("/")
    return list(csv.DictReader(io.StringIO(text)))[int(row)][column]


def _in_parquet(data: bytes, path: str) -> str:
    """One value of one row, as the shortest text that stands for it."""
    import duckdb

    row, column = path.split("/")
    with tempfile.NamedTemporaryFile(suffix=".parquet") as file, duckdb.connect() as connection:
        file.write(data)
        file.flush()
        table = connection.from_parquet(file.name).select(duckdb.ColumnExpression(column))
        (found,) = table.limit(1, offset=int(row)).fetchall()
    return str(found[0])


def _in_xml(text: str, path: str) -> str:
    entry, tag = path.split("/")
    if "<!" in text:
        raise ValueError("a declaration")
    rows = [one for one in ElementTree.fromstring(text).iter() if one.tag.rpartition("}")[2] == "properties"]
    return next(child.text or "" for child in rows[int(entry)] if child.tag.rpartition("}")[2] == tag)


def _in_table(text: str, path: str) -> str:
    lines, number = text.splitlines(), int(path.split("/")[0])
    top = number
    while top and lines[top - 1].startswith("|"):
        top -= 1
    header = [field.strip().lower() for field in lines[top].strip().strip("|").split("|")]
    fields = [field.strip() for field in lines[number].strip().strip("|").split("|")]
    return fields[header.index(path.split("/")[1])]


def _computed(how: Mapping[str, Any], values: Sequence[Any], cells: Sequence[Mapping[str, Any]]) -> Any:
    if how["version"] != 1:
        raise ValueError("an unknown version")
    if how["formula"] == "session":
        return date.fromisoformat(cells[0]["observed"])
    with localcontext(prec=34):
        match how["formula"], values:
            case "same", [value]:
                return value
            case "change_percent", [last, base]:
                return (last / base - 1) * 100
            case "difference" | "points_of_percent" | "surprise" | "revision", [last, base]:
                return last - base
            case "basis_points", [last, base]:
                return (last - base) * 100
            case "yearly", [month]:
                return month * 12
            case "sum", parts:
                return sum(parts, Decimal(0))
            case "residual", [total, *parts]:
                return total - sum(parts, Decimal(0))
            case "contribution_points", [weight, change]:
                return weight * change / 100
    raise ValueError("an unknown formula")

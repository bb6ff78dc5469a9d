"""The roofline's constants that ship: fitted by ``stepwell calibrate`` to public measured points."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

from stepwell.economics.roofline import TERMS
from stepwell.errors import BadInput


def load_constants(engine: str, file: Path | None = None) -> list[float]:
    """The constants of one engine, from a file of ``stepwell calibrate --out`` or as shipped."""
    shipped = resources.files("stepwell.catalogue").joinpath("roofline.json")
    try:
        data = json.loads(shipped.read_text("utf-8") if file is None else file.read_text("utf-8"))
        known = {name: [float(values[term]) for term in TERMS] for name, values in data["constants"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{file}: these are no constants of 'stepwell calibrate --out': {error!r}") from error
    if engine not in known:
        raise BadInput(f"--engine {engine}: constants were fitted for {', '.join(known)}")
    return known[engine]

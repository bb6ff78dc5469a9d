"""A last look at an answer under a JSON schema before its end is told: no ``stop`` is sent that breaks it.

The mask has held every token already; this finds what a stop string cut short, and a fault of ours. Patterns
are left to the mask, which matches them in linear time: Python's regular expressions do not.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any

from jsonschema import Draft202012Validator, ValidationError, validators

from stepwell.engines.base import RELAXED
from stepwell.loop.requests import Delta, Finished, Output, Rejected

log = logging.getLogger("stepwell.server")

_properties = Draft202012Validator.VALIDATORS["additionalProperties"]


def _nothing(*_: Any) -> Iterator[ValidationError]:
    return iter(())


def _additional(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if "patternProperties" not in schema:
        yield from _properties(validator, value, instance, schema)


_Validator = validators.extend(
    Draft202012Validator,
    {"pattern": _nothing, "patternProperties": _nothing, "additionalProperties": _additional},
)


@lru_cache(maxsize=64)
def _validator(text: str) -> Any:
    return _Validator(_strict(json.loads(text)) or {"type": "object"})


def _strict(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    return {} if schema.get(RELAXED) is True else {key: _strict(value) for key, value in schema.items()}


class Judge:
    """Hears the outputs of one generation under a schema, and changes its end if that is wrong."""

    __slots__ = ("_pieces", "_schema")

    def __init__(self, schema: str) -> None:
        self._schema = schema
        self._pieces: list[str] = []

    def hear(self, output: Output) -> Output:
        """``output`` as it may be told. Cut by a stop string before the schema is obeyed: ``length``."""
        if isinstance(output, Delta):
            self._pieces.append(output.text)
        if not isinstance(output, Finished) or output.reason != "stop":
            return output
        wrong = what_is_wrong(self._schema, "".join(self._pieces))
        if not wrong:
            return output
        if output.stop_string is not None:
            return replace(output, reason="length")
        log.error("an answer under a schema does not obey it: %s", wrong[:200])
        return Rejected(
            "constraint_broken", "The answer does not obey the JSON schema and is not to be used."
        )


def what_is_wrong(schema: str, text: str) -> str:
    """Why ``text`` does not obey ``schema``; empty: it does."""
    try:
        value = json.loads(text)
        problem = next(_validator(schema).iter_errors(value), None)
    except RecursionError:
        return ""  # nested deeper than this can look; the mask has held it
    except ValueError as error:
        return f"it is not JSON ({error})"
    return "" if problem is None else f"{problem.validator} at {problem.json_path}"

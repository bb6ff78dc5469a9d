"""A last look at an answer under a JSON schema before its end is told: no ``stop`` is sent that breaks it.

The mask has held every token already; this finds what a stop string cut short, and a fault of ours. Patterns
are left to the mask, which matches them in linear time: Python's regular expressions do not.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal, localcontext
from functools import lru_cache
from typing import Any

from jsonschema import Draft202012Validator, ValidationError, validators

from stepwell.engines.base import RELAXED
from stepwell.loop.requests import Delta, Finished, Output, Rejected

log = logging.getLogger("stepwell.server")

_NAMED = frozenset(
    ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies")
)
_VALUES = frozenset(("enum", "const", "default", "examples", "required"))
_MOST_DIGITS = 1_000
"""Between a number and what it is to be a multiple of: more would be computed for ever."""
_properties = Draft202012Validator.VALIDATORS["additionalProperties"]


def _nothing(*_: Any) -> Iterator[ValidationError]:
    return iter(())


def _additional(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if "patternProperties" not in schema:
        yield from _properties(validator, value, instance, schema)


def _multiple(validator: Any, of: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    """By the digits that are written: 0.6 is a multiple of 0.1, which floats deny."""
    if not validator.is_type(instance, "number") or not isinstance(of, int | float) or not of:
        return
    number, unit = Decimal(repr(instance)), Decimal(repr(of))
    if not number.is_finite() or number.adjusted() - unit.adjusted() >= _MOST_DIGITS:
        return
    with localcontext(prec=2 * _MOST_DIGITS):
        if number % unit:
            yield ValidationError(f"{instance!r} is not a multiple of {of}")


_Validator = validators.extend(
    Draft202012Validator,
    {
        "pattern": _nothing,
        "patternProperties": _nothing,
        "additionalProperties": _additional,
        "multipleOf": _multiple,
    },
)


@lru_cache(maxsize=64)
def _validator(text: str) -> Any:
    return _Validator(_as_meant(json.loads(text)) or {"type": "object"})


def _as_meant(schema: Any) -> Any:
    """The schema in the words of 2020-12, as the mask reads it: ``nullable``, tuples and excluded bounds as
    older drafts have them; without identifiers, and without what is relaxed."""
    if not isinstance(schema, dict):
        return schema
    if schema.get(RELAXED) is True:
        return {}
    told = {key: _below(key, value) for key, value in schema.items() if key not in ("$id", "id", "$schema")}
    if isinstance(told.get("items"), list):
        told["prefixItems"] = told.pop("items")
        if "additionalItems" in told:
            told["items"] = told.pop("additionalItems")
    for bound, excluded in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if told.get(excluded) is True and bound in told:
            told[excluded] = told.pop(bound)
        elif isinstance(told.get(excluded), bool):
            del told[excluded]
    if told.get("nullable") is True and "type" in told:
        return {"anyOf": [told, {"type": "null"}]}
    return told


def _below(key: str, value: Any) -> Any:
    if key in _NAMED and isinstance(value, dict):
        return {name: _as_meant(one) for name, one in value.items()}
    if key in _VALUES:
        return value
    return [_as_meant(one) for one in value] if isinstance(value, list) else _as_meant(value)


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
    except Exception:  # of a keyword that the mask reads otherwise than this library
        log.exception("an answer could not be compared with its schema; its mask has held it")
        return ""
    return "" if problem is None else f"{problem.validator} at {problem.json_path}"

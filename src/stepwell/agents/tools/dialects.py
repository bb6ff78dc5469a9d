"""A model's question, written for DuckDB, in the dialect of a warehouse: only questions, only known tables.

sqlglot reads it and writes it again, so that what reaches a warehouse is never the model's own text.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from stepwell.agents.tools.base import ToolError
from stepwell.errors import MissingExtra

READ_AS = "duckdb"
FAULTS = (AttributeError, LookupError, NotImplementedError, RecursionError, TypeError, ValueError)
"""What sqlglot raises besides its own errors, at texts that only a model would write."""


@dataclass(frozen=True, slots=True)
class TableRef:
    """A table as a statement names it."""

    schema: str
    """Empty: not said."""
    name: str
    quoted: bool = False


class Question:
    """One statement, understood."""

    def __init__(self, tree: Any) -> None:
        self._tree = tree

    @property
    def described(self) -> bool:
        """It asks for a table's columns."""
        return isinstance(self._tree, _exp().Describe)

    @property
    def lists_tables(self) -> bool:
        """``SHOW TABLES``."""
        return isinstance(self._tree, _exp().Show) and self._tree.name.upper().endswith("TABLES")

    @property
    def tables(self) -> list[TableRef]:
        """What it reads, without the names that it makes itself (``WITH``)."""
        return [_ref(node) for node in self._nodes()]

    def written(self, dialect: str, named: Callable[[TableRef], Naming]) -> str:
        """The same question for a warehouse: tables and columns as they are called there.

        ``ToolError``: it is more than a question, or has no form there.
        """
        tree = self._tree.copy()
        _require_question(tree)
        known: dict[str, set[str]] = {}
        for node in Question(tree)._nodes():
            naming = named(_ref(node))
            for column in naming.columns:
                known.setdefault(column.lower(), set()).add(column)
            _rename(node, naming)
        for node in tree.find_all(_exp().Column, _exp().Alias):
            identifier = node.args.get("alias") if isinstance(node, _exp().Alias) else node.this
            _recase(identifier, known)
        try:
            text: str = tree.sql(dialect=dialect, unsupported_level=_sqlglot().ErrorLevel.IGNORE)
        except (_sqlglot().errors.SqlglotError, *FAULTS) as error:
            raise ToolError(f"the statement cannot be said in {dialect}: {one_line(error)}") from None
        _require_sound(text, dialect, {(node.db, node.name) for node in Question(tree)._nodes()})
        return text

    def _nodes(self) -> list[Any]:
        exp = _exp()
        made = {common.alias.lower() for common in self._tree.find_all(exp.CTE)}
        # A name may be made in one place and read in another, where it is a system table's.
        made = {name for name in made if not name.startswith("pg_")}
        return [
            node
            for node in self._tree.find_all(exp.Table)
            if isinstance(node.this, exp.Identifier) and (node.db or node.name.lower() not in made)
        ]


@dataclass(frozen=True, slots=True)
class Naming:
    """What a table is really called, and its columns."""

    schema: str
    name: str
    columns: tuple[str, ...]


def understood(statement: str, other: str | None = None) -> Question:
    """Read one statement, as DuckDB's or else as ``other``'s. ``ToolError`` says where it cannot be read."""
    problem = ""
    for dialect in dict.fromkeys((READ_AS, other or READ_AS)):
        try:
            trees = [tree for tree in _sqlglot().parse(statement, read=dialect) if tree is not None]
        except (_sqlglot().errors.SqlglotError, *FAULTS) as error:
            problem = problem or _place(error)
            continue
        if len(trees) != 1:
            raise ToolError(f"one statement at a time, not {len(trees)}")
        return Question(trees[0])
    raise ToolError(f"the statement cannot be read{problem}")


def called_names(text: str, dialect: str) -> list[str]:
    """Every name that a parenthesis follows, in lower case: all functions are among them."""
    sqlglot = _sqlglot()
    tokens = sqlglot.tokenize(text, read=dialect)
    follows = sqlglot.TokenType.L_PAREN
    pairs = pairwise(tokens)
    return sorted({token.text.lower() for token, after in pairs if after.token_type == follows})


def select_all(dialect: str, *parts: str) -> str:
    """``SELECT *`` of one table, each part of its name quoted as the dialect wants it."""
    exp = _exp()
    names = [exp.to_identifier(part, quoted=True) for part in parts if part]
    table = exp.Table(**dict(zip(("this", "db", "catalog"), reversed(names), strict=False)))
    text: str = exp.select("*").from_(table).sql(dialect=dialect)
    return text


def one_line(error: BaseException) -> str:
    """An error's first words, without the colours and drawings of parsers."""
    text = str(error).replace("\033[4m", "").replace("\033[0m", "").strip().partition("\n")[0]
    return " ".join(text.split())[:300].rstrip(".") or type(error).__name__


def _place(error: BaseException) -> str:
    """Where reading ended. sqlglot's own words for why are about its inside."""
    found = getattr(error, "errors", None) or [{}]
    near = str(found[0].get("highlight") or "").strip()
    line = found[0].get("line")
    if not line:
        return ": it is too deep" if isinstance(error, RecursionError) else ""
    return f": line {line}" + (f", near {near[:40]}" if near else "")


def _require_question(tree: Any) -> None:
    exp = _exp()
    if not isinstance(tree, exp.Query):
        kind = type(tree).__name__ if not isinstance(tree, exp.Command) else str(tree.this)
        raise ToolError(f"only questions are allowed (SELECT, WITH), not {kind.upper()}")
    for node in tree.find_all(exp.DML, exp.DDL, exp.Into, exp.Command, exp.Lock):
        # To sqlglot a query is DML and DDL as well.
        if not isinstance(node, exp.Query):
            raise ToolError(f"only questions are allowed, and this one holds {type(node).__name__.upper()}")


def _require_sound(text: str, dialect: str, known: set[tuple[str, str]]) -> None:
    """What is sent must read there as what was meant: one question, to no table but those."""
    try:
        trees = [tree for tree in _sqlglot().parse(text, read=dialect) if tree is not None]
    except (_sqlglot().errors.SqlglotError, *FAULTS):
        trees = []
    if len(trees) != 1 or not {(node.db, node.name) for node in Question(trees[0])._nodes()} <= known:
        raise ToolError(f"the statement has no clear form in {dialect}: write it more simply")
    _require_question(trees[0])


def _ref(node: Any) -> TableRef:
    return TableRef(node.db, node.name, bool(node.this.args.get("quoted")))


def _rename(node: Any, naming: Naming) -> None:
    exp = _exp()
    alias = node.alias or node.name
    if node.args.get("alias") is None:
        # Columns may be written with the table's name as the model knows it.
        node.set("alias", exp.TableAlias(this=exp.to_identifier(alias, quoted=node.this.args.get("quoted"))))
    node.set("this", exp.to_identifier(naming.name, quoted=True))
    node.set("db", exp.to_identifier(naming.schema, quoted=True) if naming.schema else None)
    node.set("catalog", None)


def _recase(identifier: Any, known: Mapping[str, set[str]]) -> None:
    """DuckDB does not care for case; a column that was made with quotes must be written as it was made.

    What a statement calls like a column is spelt like it too, so that it is found again further out.
    """
    if not isinstance(identifier, _exp().Identifier) or identifier.args.get("quoted"):
        return
    spelt = known.get(identifier.name.lower(), set())
    if len(spelt) == 1 and (name := min(spelt)) != name.lower():
        identifier.set("this", name)
        identifier.set("quoted", True)


def _sqlglot() -> Any:
    try:
        import sqlglot
    except ImportError:
        raise MissingExtra("asking a warehouse", "warehouse") from None
    # It warns of every oddity on stderr, where a live screen may be.
    logging.getLogger("sqlglot").setLevel(logging.CRITICAL)
    return sqlglot


def _exp() -> Any:
    return _sqlglot().exp

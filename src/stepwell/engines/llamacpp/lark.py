"""Parsed GBNF written down as a Lark grammar for llguidance. See ``gbnf``."""

from __future__ import annotations

from collections.abc import Mapping

from stepwell.engines.llamacpp.gbnf import (
    MAX_DEPTH,
    MAX_TIMES,
    Alt,
    Chars,
    Node,
    Ref,
    Repeat,
    Seq,
    Text,
    parse,
    quoted,
    refs_of,
)


def lark_of(gbnf: str) -> str:
    """``ValueError`` with one sentence for a grammar that cannot be used."""
    return _Writer(_without_aliases(parse(gbnf))).text()


def _without_aliases(rules: Mapping[str, Node]) -> dict[str, Node]:
    """Rules that only name another rule are replaced by it: chains of them may be long."""
    target: dict[str, str] = {}
    for name in rules:
        at, seen = name, {name}
        while isinstance(body := rules[at], Ref):
            at = body.name
            if at in seen:
                raise ValueError(f"the grammar's rule {name[:60]!r} is only ever itself")
            seen.add(at)
        target[name] = at
    kept = {name: _renamed(rules[at], target) for name, at in target.items() if name in ("root", at)}
    return _reachable(kept)


def _renamed(node: Node, target: Mapping[str, str]) -> Node:
    match node:
        case Ref(name):
            return Ref(target[name])
        case Repeat(item, low, high):
            return Repeat(_renamed(item, target), low, high)
        case Seq(items):
            return Seq(tuple(_renamed(item, target) for item in items))
        case Alt(items):
            return Alt(tuple(_renamed(item, target) for item in items))
    return node


def _reachable(rules: dict[str, Node]) -> dict[str, Node]:
    found, left = {"root"}, ["root"]
    while left:
        for name in refs_of(rules[left.pop()]):
            if name not in found:
                found.add(name)
                left.append(name)
    return {name: body for name, body in rules.items() if name in found}


def _heights(rules: Mapping[str, Node]) -> dict[str, int]:
    """How many rules deep each rule that cannot come back to itself is; the others are not in it."""
    waits = {name: set(refs_of(body)) for name, body in rules.items()}
    used_by: dict[str, list[str]] = {name: [] for name in rules}
    for name, refs in waits.items():
        for ref in refs:
            used_by[ref].append(name)
    heights: dict[str, int] = {}
    ready = [name for name, refs in waits.items() if not refs]
    while ready:
        name = ready.pop()
        heights[name] = 1 + max((heights[ref] for ref in refs_of(rules[name])), default=0)
        for user in used_by[name]:
            waits[user].discard(name)
            if not waits[user]:
                ready.append(user)
    return heights


class _Writer:
    def __init__(self, rules: Mapping[str, Node]) -> None:
        self._rules = rules
        heights = _heights(rules)
        if max(heights.values(), default=0) > MAX_DEPTH:
            raise ValueError(f"the grammar's rules refer to one another more than {MAX_DEPTH} deep")
        self._terminal = {name: f"T{number}" for number, name in enumerate(sorted(heights))}
        self._rule = {name: f"r{number}" for number, name in enumerate(sorted(rules)) if name not in heights}
        _refuse_long_ways(rules, self._rule)
        self._runs: list[str] = []

    def text(self) -> str:
        lines = [f"{name}: {self._regular(self._rules[rule])}" for rule, name in self._terminal.items()]
        lines += [f"{name}: {self._free(self._rules[rule])}" for rule, name in self._rule.items()]
        root = self._rule.get("root") or self._terminal["root"]
        return "\n".join([f"start: {root}", *lines, *self._runs]) + "\n"

    def _is_regular(self, node: Node) -> bool:
        return all(name in self._terminal for name in refs_of(node))

    def _regular(self, node: Node, times: int = 1) -> str:
        """``node`` in the body of a terminal."""
        match node:
            case Text(value):
                return quoted(value)
            case Chars():
                return _chars(node)
            case Ref(name):
                return self._terminal[name]
            case Repeat(_, _, 0):
                return '""'
            case Repeat(item, low, high):
                inner = times * max(low, high or 1)
                if inner > MAX_TIMES:
                    raise ValueError("the grammar repeats repetitions too often")
                return f"({self._regular(item, inner)}){_times(low, high)}"
            case Seq(items):
                return "(" + (" ".join(self._regular(item, times) for item in items) or '""') + ")"
            case Alt(items):
                return "(" + " | ".join(self._regular(item, times) for item in items) + ")"

    def _free(self, node: Node) -> str:
        """``node`` in the body of a rule; what is regular in a row becomes one terminal."""
        match node:
            case _ if self._is_regular(node):
                return self._run((node,))
            case Ref(name):
                return self._rule[name]
            case Repeat(_, _, 0):
                return '""'
            case Repeat(item, low, high):
                return f"({self._free(item)}){_times(low, high)}"
            case Alt(items):
                return "(" + " | ".join(self._free(item) for item in items) + ")"
            case Seq(items):
                return "(" + " ".join(self._row(items)) + ")"
        raise AssertionError("texts and characters are regular")

    def _row(self, items: tuple[Node, ...]) -> list[str]:
        parts: list[str] = []
        run: list[Node] = []
        for item in items:
            if self._is_regular(item):
                run.append(item)
                continue
            if run:
                parts.append(self._run(tuple(run)))
            run = []
            parts.append(self._free(item))
        return [*parts, self._run(tuple(run))] if run else parts

    def _run(self, items: tuple[Node, ...]) -> str:
        if all(item in (Text(""), Seq(())) for item in items):
            return '""'
        name = f"R{len(self._runs)}"
        self._runs.append(f"{name}: {self._regular(Seq(items))}")
        return name


def _refuse_long_ways(rules: Mapping[str, Node], recursive: Mapping[str, str]) -> None:
    """Recursive rules one below the other: the furthest from the root is this deep."""
    depth, level, seen = 0, ["root"], {"root"}
    while level:
        depth += 1
        below = {
            ref for name in level for ref in refs_of(rules[name]) if ref in recursive and ref not in seen
        }
        seen |= below
        level = sorted(below)
    if depth > MAX_DEPTH:
        raise ValueError(f"the grammar's rules refer to one another more than {MAX_DEPTH} deep")


def _times(low: int, high: int | None) -> str:
    return f"{{{low},{'' if high is None else high}}}"


def _chars(node: Chars) -> str:
    if not node.ranges:
        return r"/[\x{0}-\x{10FFFF}]/"
    inside = "".join(f"\\x{{{low:X}}}-\\x{{{high:X}}}" for low, high in node.ranges)
    return f"/[{'^' * node.negated}{inside}]/"

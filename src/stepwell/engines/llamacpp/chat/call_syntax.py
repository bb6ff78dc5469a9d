"""How a template writes a call, found by letting it write one: for calls that a request demands.

A call is rendered as history, with a name and arguments that stand nowhere else, and what lies around them is
the syntax. It counts only if the reader finds the same call in it again. Families whose arguments are no JSON
object (elements, Python) have none here: a demanded call is then bare JSON.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from stepwell.engines.base import ARGUMENTS, ID, NAME, CallSyntax, RenderedChat
from stepwell.engines.llamacpp.chat.reader import MarkReader

_NAMES = ("probe_first", "probe_second")
_IDS = ("probeId01", "probeId02")
_WORDS = ("kettle", "lantern")
_KEY, _PLAIN = "probe_key", "pelican"

Render = Callable[..., RenderedChat]


def call_syntax(render: Render, template: str, ends: Sequence[str]) -> CallSyntax | None:
    """``ends``: texts that end a turn. None: calls are not written with arguments in JSON, or one that this
    template writes is not read back."""
    try:
        one, two = (_written(render, ends, count) for count in (1, 2))
    except ValueError:
        return None
    if one is None or _read(one, template) != [0]:
        return None
    parts = _parts(one.text)
    if parts.count(NAME) != 1 or parts.count(ARGUMENTS) != 1 or parts.index(NAME) > parts.index(ARGUMENTS):
        return None
    name, arguments = parts.index(NAME), parts.index(ARGUMENTS)
    after = parts[arguments + 1 :]
    syntax = CallSyntax(parts[:name], parts[name + 1 : arguments], after, None, one.straight)
    if two is None or _read(two, template) != [0, 1]:
        return syntax
    between = _between(_parts(two.text), syntax)
    ended = any(end and end in part for end in ends for part in between or ())
    return syntax if ended else replace(syntax, between=between)


def _between(two: tuple[str, ...], syntax: CallSyntax) -> tuple[str, ...] | None:
    """What stands between the arguments of one call and the name of the next; None: they differ in more."""
    call = (NAME, *syntax.middle, ARGUMENTS)
    first, last = (*syntax.before, *call), (*call, *syntax.after)
    rest = len(two) - len(last)
    if rest <= len(first) or two[: len(first)] != first or two[rest:] != last:
        return None
    return two[len(first) : rest]


@dataclass(frozen=True, slots=True)
class _Written:
    """What the model is taken to have written for some calls."""

    text: str
    straight: bool
    """Behind the place for reasoning."""
    opening: str


def _written(render: Render, ends: Sequence[str], count: int) -> _Written | None:
    question = {"role": "user", "content": "Q"}
    plain = {"role": "assistant", "content": _PLAIN}
    calls = [
        {
            "id": _IDS[index],
            "type": "function",
            "function": {"name": _NAMES[index], "arguments": f'{{"{_KEY}": "{_WORDS[index]}"}}'},
        }
        for index in range(count)
    ]
    tools = [_tool(name) for name in _NAMES]
    turn = {"role": "assistant", "content": "", "tool_calls": calls}
    prompt = render([question], tools, add_generation_prompt=True)
    whole = render([question, turn], tools, add_generation_prompt=False).text
    begun = _begun(prompt, whole)
    if begun is None:
        return None
    said = render([question, plain], tools, add_generation_prompt=False).text
    text = _cut(whole[len(begun) :], (*ends, said.rpartition(_PLAIN)[2]))
    straight = begun != prompt.text
    return _Written(text, straight, "" if straight else prompt.opening)


def _begun(prompt: RenderedChat, whole: str) -> str | None:
    """How much of the whole is the prompt: with the place for reasoning left empty, as it is, or without the
    reasoning that it has opened and that earlier turns have no more."""
    bare = prompt.text.rstrip().removesuffix(prompt.opening.rstrip()) if prompt.opening else prompt.text
    known = (prompt.text + prompt.straight, prompt.text, bare)
    return next((begun for begun in known if begun and whole.startswith(begun)), None)


def _cut(text: str, ends: Sequence[str]) -> str:
    """Without the end of the turn, which the model says by itself."""
    last = max((match.end() for match in re.finditer(re.escape(_KEY), text)), default=0)
    found = [at for end in ends if end and (at := text.find(end, last)) >= 0]
    return text[: min(found, default=len(text))]


def _tool(name: str) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {_KEY: {"type": "string"}}, "required": [_KEY]}
    return {"type": "function", "function": {"name": name, "description": "d", "parameters": parameters}}


def _parts(text: str) -> tuple[str, ...]:
    """The text cut at its places."""
    arguments = rf'\{{\s*"{_KEY}"\s*:\s*"(?:{"|".join(_WORDS)})"\s*\}}'
    places = re.compile(f"({'|'.join(_NAMES)})|({arguments})|({'|'.join(_IDS)})")
    parts: list[str] = []
    at = 0
    for match in places.finditer(text):
        parts += [text[at : match.start()], (NAME, ARGUMENTS, ID)[(match.lastindex or 1) - 1]]
        at = match.end()
    return tuple(part for part in (*parts, text[at:]) if part)


def _read(written: _Written, template: str) -> list[int] | None:
    """Which of the probe's calls the reader finds; None: something else."""
    reader = MarkReader({name: {"type": "object"} for name in _NAMES}, template, written.opening)
    text = written.text
    names: list[str] = []
    arguments: dict[int, str] = {}
    for part in (*reader.add(text), *reader.finish()):
        if part.kind == "call":
            names.append(part.text)
        elif part.kind == "arguments":
            arguments[part.call] = arguments.get(part.call, "") + part.text
    wanted = [re.compile(rf'\{{\s*"{_KEY}"\s*:\s*"{word}"\s*\}}') for word in _WORDS]
    if any(not wanted[at].fullmatch(arguments.get(at, "").strip()) for at in range(len(names))):
        return None
    return [_NAMES.index(name) for name in names] if set(names) <= set(_NAMES) else None

"""Chat templates: the Jinja text a GGUF carries, rendered as the model's makers do.

The environment is the one Hugging Face's ``apply_chat_template`` documents (trimmed blocks, loop
controls, ``raise_exception``, ``strftime_now``, ``tojson``), and it is sandboxed: a template is code
from the maker of the file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time
from functools import lru_cache
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import SandboxedEnvironment

from stepwell.engines.base import RenderedChat
from stepwell.engines.llamacpp.chat.marks import ControlMarks, Quoter
from stepwell.engines.llamacpp.chat.messages import Message, normalized
from stepwell.engines.llamacpp.chat.opening import opening_of, straight_of, thinking_of
from stepwell.engines.llamacpp.chat.repairs import told
from stepwell.engines.llamacpp.chat.search import USUAL, Form, Outline, find_form, outline

_FAILURES = (
    jinja2.TemplateError, TypeError, KeyError, ValueError, IndexError, AttributeError, RecursionError,
    ZeroDivisionError, OverflowError, MemoryError,
)  # fmt: skip
_RESERVED = frozenset({"messages", "tools", "add_generation_prompt", "bos_token", "eos_token"})
_KNOWN_OUTLINES = 4096


class _Generation(Extension):
    """``{% generation %}`` marks the assistant's words for training; here they are just rendered."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's own declaration

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **other: Any) -> str:
    given = {key: other[key] for key in ("separators", "sort_keys") if other.get(key) is not None}
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **given)


def _now(form: str) -> str:
    """The day, without the time: a prompt that changed every second could never be reused."""
    today = datetime.now().astimezone().replace(hour=0, minute=0, second=0, microsecond=0)
    return today.strftime(form)


def _environment() -> SandboxedEnvironment:
    environment = SandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.filters["from_json"] = json.loads
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = _now
    return environment


class ChatTemplate:
    """A template, the two texts every template may ask for, and the marks of the vocabulary."""

    def __init__(self, source: str, bos: str, eos: str, marks: ControlMarks | None = None) -> None:
        self.source = source
        self._bos, self._eos, self._marks = bos, eos, marks
        self._template: jinja2.Template | None = None
        self._broken = ""
        self._form_of = lru_cache(maxsize=_KNOWN_OUTLINES)(self._find)
        try:
            self._template = _environment().from_string(source)
        except (jinja2.TemplateError, RecursionError) as error:
            self._broken = str(error)

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]] | None,
        *,
        add_generation_prompt: bool,
        options: Mapping[str, Any] | None = None,
    ) -> RenderedChat:
        """The conversation in the form this template takes. ``options`` are further variables of it
        (``enable_thinking``, ``reasoning_effort``, ``date`` as YYYY-MM-DD for ``strftime_now``).
        Raises ``ValueError`` with one sentence."""
        if self._template is None:
            raise ValueError(f"the model's chat template cannot be read: {self._broken}")
        quoter = Quoter(self._marks, [messages, tools, options])
        plain = quoter.quote([normalized(message) for message in messages])
        known = quoter.quote(list(tools or ()))
        variables = _variables(quoter.quote(dict(options or {})))
        try:
            form = self._form_of(outline(plain, known))
            if isinstance(form, str):
                raise ValueError(form)
            text = self._written_or_told(form, plain, known, add_generation_prompt, variables)
        except _FAILURES as error:
            raise ValueError(f"the model's chat template refuses these messages: {error}") from error
        text, literal = quoter.unquote(text)
        opening = opening_of(text, self.source) if add_generation_prompt else ""
        return RenderedChat(
            text,
            literal=literal,
            opening=opening,
            straight=straight_of(opening, self.source),
            thinking=thinking_of(opening, self.source),
        )

    def _find(self, shadow: Outline) -> Form | str:
        """Which form keeps every message, or why none does: tried once for every outline."""

        def attempt(form: Form, messages: list[Message], tools: list[dict[str, Any]]) -> str | Exception:
            try:
                return self._written(form, messages, tools, True, {})
            except _FAILURES as error:
                return error

        usual = self._form_of(USUAL) if shadow != USUAL else None
        try:
            return find_form(shadow, self.source, attempt, usual if isinstance(usual, Form) else None)
        except ValueError as error:
            return str(error)

    def _written_or_told(
        self,
        form: Form,
        messages: list[Message],
        tools: list[dict[str, Any]],
        add_generation_prompt: bool,
        variables: Mapping[str, Any],
    ) -> str:
        """Some templates turn the tools' parameters into words of a language and do not come through with
        some (Hermes 2 Pro with a type of ``["string", "null"]``): then the tools are told in the system
        message, as where a template knows none."""
        try:
            return self._written(form, messages, tools, add_generation_prompt, variables)
        except _FAILURES:
            if not tools or form.told:
                raise
            messages = told(messages, tools)
            without = self._form_of(outline(messages, []))
            if isinstance(without, str):
                raise
            return self._written(without, messages, [], add_generation_prompt, variables)

    def _written(
        self,
        form: Form,
        messages: list[Message],
        tools: list[dict[str, Any]],
        add_generation_prompt: bool,
        variables: Mapping[str, Any],
    ) -> str:
        assert self._template is not None
        shaped, offered = form.apply(messages, tools, self.source)
        given = {} if form.no_tools == "undefined" and not offered else {"tools": offered or form.empty}
        return self._template.render(
            messages=[_with_reasoning(message, self.source) for message in shaped],
            add_generation_prompt=add_generation_prompt,
            bos_token=self._bos,
            eos_token=self._eos,
            **{**variables, **given},
        )


def _variables(options: Mapping[str, Any] | None) -> dict[str, Any]:
    given = {key: value for key, value in (options or {}).items() if key not in _RESERVED}
    day = given.pop("date", None)
    if day is None:
        return given
    try:
        moment = datetime.combine(date.fromisoformat(day), time())
    except (TypeError, ValueError):
        raise ValueError("the chat template option 'date' must be a day like 2026-01-31") from None
    return {**given, "strftime_now": moment.strftime}


def _with_reasoning(message: Message, source: str) -> Message:
    """The reasoning of an earlier turn under the name this template reads."""
    reasoning = message.get("reasoning_content")
    if not reasoning or "reasoning_content" in source:
        return message
    if "thinking" in source and not (message["content"] and "message.thinking" in source):
        return {**message, "thinking": reasoning}
    return {**message, "reasoning": reasoning}

"""Chat templates: the Jinja text a GGUF carries, rendered as the model's makers do.

The environment is the one Hugging Face's ``apply_chat_template`` documents (trimmed blocks, loop
controls, ``raise_exception``, ``strftime_now``, ``tojson``), and it is sandboxed: a template is code
from whoever made the file.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from stepwell.engines.base import RenderedChat
from stepwell.engines.llamacpp.tools import call_as_text, instruction

Message = dict[str, Any]

_PLAIN_START, _PLAIN_END = "<|im_start|>", "<|im_end|>"


class _Generation(Extension):
    """``{% generation %}`` marks the assistant's words for training; here they are just rendered."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's own declaration

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **_: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().astimezone().strftime(form)
    return environment


class ChatTemplate:
    """A template and the two texts every template may ask for."""

    def __init__(self, source: str, bos: str, eos: str) -> None:
        self._bos, self._eos = bos, eos
        self._knows_tools = "tools" in source
        self._template: jinja2.Template | None = None
        self._broken = ""
        try:
            self._template = _environment().from_string(source)
        except jinja2.TemplateError as error:
            self._broken = str(error)

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]] | None,
        *,
        add_generation_prompt: bool,
    ) -> RenderedChat:
        if self._template is None:
            raise ValueError(f"the model's chat template cannot be read: {self._broken}")
        plain = [_flat(message) for message in messages]
        if not self._knows_tools:
            plain = _without_tools(plain, tools)
        try:
            text = self._template.render(
                messages=plain,
                tools=list(tools) if tools and self._knows_tools else None,
                add_generation_prompt=add_generation_prompt,
                bos_token=self._bos,
                eos_token=self._eos,
            )
        except (jinja2.TemplateError, TypeError, KeyError, ValueError, IndexError, RecursionError) as error:
            raise ValueError(f"the model's chat template refuses these messages: {error}") from error
        return RenderedChat(text)


class PlainChat:
    """For models that bring no template: ChatML written as ordinary text.

    A base model has not been trained on it, but it shows who speaks and where a turn ends.
    """

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]] | None,
        *,
        add_generation_prompt: bool,
    ) -> RenderedChat:
        turns = [
            f"{_PLAIN_START}{message['role']}\n{message['content']}{_PLAIN_END}\n"
            for message in _without_tools([_flat(message) for message in messages], tools)
        ]
        if add_generation_prompt:
            turns.append(f"{_PLAIN_START}assistant\n")
        return RenderedChat("".join(turns), stops=(_PLAIN_END, _PLAIN_START))


def _flat(message: Message) -> Message:
    """A message as templates expect it: text content, known roles, arguments as objects."""
    flat = dict(message)
    content = flat.get("content")
    if isinstance(content, list):
        content = "".join(part.get("text") or "" for part in content if isinstance(part, dict))
    flat["content"] = "" if content is None else content
    if flat.get("role") == "developer":
        flat["role"] = "system"
    if flat.get("tool_calls"):
        flat["tool_calls"] = [_with_object_arguments(call) for call in flat["tool_calls"]]
    return flat


def _with_object_arguments(call: dict[str, Any]) -> dict[str, Any]:
    """OpenAI sends arguments as JSON text; templates write them with ``tojson`` and want the object."""
    function = dict(call.get("function") or {})
    # What is an object already, or what a model once made up, stays as it is.
    with contextlib.suppress(TypeError, ValueError):
        function["arguments"] = json.loads(function.get("arguments") or "{}")
    return {**call, "function": function}


def _without_tools(messages: Sequence[Message], tools: Sequence[dict[str, Any]] | None) -> list[Message]:
    """Tools, calls and results as plain words, for a template that knows nothing of them."""
    turns = [_as_words(message) for message in messages]
    if not tools:
        return turns
    words = instruction(tools)
    if turns and turns[0]["role"] == "system":
        first = {**turns[0], "content": f"{turns[0]['content']}\n\n{words}"}
        return [first, *turns[1:]]
    return [{"role": "system", "content": words}, *turns]


def _as_words(message: Message) -> Message:
    if message.get("role") == "tool":
        return {"role": "user", "content": f"<tool_response>\n{message['content']}\n</tool_response>"}
    calls = message.get("tool_calls")
    if not calls:
        return message
    written = "\n".join(call_as_text(call["function"]) for call in calls)
    return {"role": message["role"], "content": "\n".join(t for t in (message["content"], written) if t)}

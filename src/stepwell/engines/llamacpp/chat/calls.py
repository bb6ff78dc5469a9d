"""The syntaxes in which families write their calls. Each reader returns whether it found a call; if not,
what it looked at stays text."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from stepwell.engines.llamacpp.chat.literals import gemma_arguments, python_calls
from stepwell.engines.llamacpp.chat.nested import nested_value
from stepwell.engines.llamacpp.chat.source import StreamSource, Wait, certain
from stepwell.engines.llamacpp.chat.values import (
    as_object,
    from_text,
    is_text,
    scan_string,
    scan_value,
    whole_string,
    whole_value,
)

_NAMES = ("name", "tool_name", "function_name")
_ARGUMENTS = ("arguments", "parameters", "args")
_MAX_NAME = 256
_NUMBERED = re.compile(r":[0-9]+\Z")
_END_OF_VALUE = re.compile(r"(\\n|\n)?</(?:parameter|arg_value)>")
"""In a template, with the line break that some write before it (and one after the value's beginning)."""


class CallReader:
    """Reads calls of the functions that were offered (``None``: of any) and tells ``begin`` and ``more``."""

    def __init__(
        self,
        source: StreamSource,
        functions: Mapping[str, Mapping[str, Any]] | None,
        begin: Callable[[str], None],
        more: Callable[[str], None],
        template: str | None = None,
    ) -> None:
        """``template``: whose model speaks, as far as it is known. One that writes no values says nothing of
        the line breaks around them: then they are taken for the frame that most models were taught."""
        ends = _END_OF_VALUE.findall(template or "")
        self._framed = not ends or any(ends)
        self._source = source
        self._functions = functions
        self._begin = begin
        self._more = more

    def known(self, name: str | None) -> bool:
        return bool(name) and (self._functions is None or name in self._functions)

    def _schema(self, name: str, key: str) -> Mapping[str, Any] | None:
        properties = (self._functions or {}).get(name, {}).get("properties")
        found = properties.get(key) if isinstance(properties, Mapping) else None
        return found if isinstance(found, Mapping) else None

    def _emit(self, name: str, arguments: str) -> None:
        self._begin(name)
        self._more(arguments)

    # --- JSON ---------------------------------------------------------------------------------

    def json_calls(self, bare: bool = False) -> Wait[bool]:
        """An object, several of them, or a list. ``bare``: without marks around it."""
        yield from self._source.spaces()
        listed = yield from self._source.literal("[")
        found = False
        while True:
            yield from self._source.spaces()
            if (yield from self._source.char()) != "{" or not (yield from self._object(bare)):
                break
            found = True
            before = self._source.at
            yield from self._source.spaces()
            if not (yield from self._source.any_of((",", ";"))) and bare and not listed:
                self._source.at = before
                break
        if found and listed:
            yield from self._source.literal("]")
        return found

    def _object(self, bare: bool) -> Wait[bool]:
        """``{"name": ..., "arguments": {...}}``, in any order and with other members between."""
        source, start = self._source, self._source.at
        name: str | None = None
        arguments: str | None = None
        source.at += 1
        while True:
            yield from source.spaces()
            if (yield from source.literal("}")):
                break
            key = yield from self._key()
            if key in _NAMES or (key == "function" and (yield from source.char()) == '"'):
                name = yield from whole_string(source)
                if not self.known(name):
                    source.at = start
                    return False
            elif key in _ARGUMENTS and name is not None:
                yield from self._arguments(name)
                yield from self._skip_rest()
                return True
            elif key == "function" and (yield from source.char()) == "{":
                found = yield from self._object(bare)
                if found:
                    yield from self._skip_rest()
                    return True
                source.at = start
                return False
            else:
                value = None if key is None else (yield from whole_value(source))
                if value is None:
                    source.at = start
                    return False
                arguments = value if key in _ARGUMENTS else arguments
            yield from source.spaces()
            yield from source.literal(",")
        if name is None or (bare and arguments is None):
            source.at = start
            return False
        self._emit(name, as_object(arguments or "{}"))
        return True

    def _key(self) -> Wait[str | None]:
        key = yield from whole_string(self._source)
        yield from self._source.spaces()
        if key is None or not (yield from self._source.literal(":")):
            return None
        yield from self._source.spaces()
        return key

    def _arguments(self, name: str) -> Wait[bool]:
        """The value of the arguments, told while it is written if it is an object."""
        self._begin(name)
        if (yield from self._source.char()) == "{":
            return (yield from scan_value(self._source, self._more))
        start = self._source.at
        value = yield from whole_value(self._source)
        self._more(as_object(value) if value is not None else self._source.text[start : self._source.at])
        return value is not None

    def _skip_rest(self) -> Wait[None]:
        """To the end of an object whose members of interest were read."""
        depth = 1
        while depth:
            character = yield from self._source.char()
            if not character:
                return
            if character == '"':
                yield from scan_string(self._source, lambda text: None)
                continue
            depth += (character in "{[") - (character in "}]")
            self._source.at += 1

    def named_objects(self) -> Wait[bool]:
        """Apertus: ``[{"NAME": {...}}, ...]``."""
        yield from self._source.spaces()
        yield from self._source.literal("[")
        found = False
        while True:
            yield from self._source.spaces()
            if not (yield from self._source.literal("{")):
                break
            yield from self._source.spaces()
            name = yield from self._key()
            if name is None or not self.known(name):
                break
            yield from self._arguments(name)
            yield from self._skip_rest()
            found = True
            yield from self._source.spaces()
            yield from self._source.literal(",")
        if found:
            yield from self._source.literal("]")
        return found

    # --- a name, then the arguments as JSON -----------------------------------------------------

    def name_then_json(self, ending: str) -> Wait[bool]:
        """``NAME`` + ending + ``{...}``: Mistral, DeepSeek V3.1, Kimi, functionary."""
        written = yield from self._source.until(ending, _MAX_NAME)
        if written is None:
            return False
        name = _NUMBERED.sub("", written.strip()).removeprefix("functions.")
        yield from self._source.spaces()
        if not self.known(name) or (yield from self._source.char()) not in ("{", ""):
            return False
        yield from self._arguments(name)
        return True

    def json_of(self, name: str) -> Wait[bool]:
        """Arguments of a function whose name was read already."""
        if not self.known(name) or (yield from self._source.char()) not in ("{", ""):
            return False
        yield from self._arguments(name)
        return True

    def mistral(self) -> Wait[bool]:
        """``[{...}]``, or ``NAME[CALL_ID]ID[ARGS]{...}``."""
        if (yield from self._source.char()) in ("[", "{", " "):
            return (yield from self.json_calls())
        return (yield from self._mistral_named())

    def _mistral_named(self) -> Wait[bool]:
        head = yield from self._source.until("{", 2 * _MAX_NAME)
        if head is None:
            return False
        self._source.at -= 1
        name = head.partition("[")[0].strip()
        if not self.known(name):
            return False
        yield from self._arguments(name)
        return True

    def deepseek(self) -> Wait[bool]:
        """``NAME<sep>{...}``, or ``function<sep>NAME`` and a fence of JSON."""
        separator, fence = "<｜tool▁sep｜>", "\n```json\n"
        first = yield from self._source.until(separator, _MAX_NAME)
        if first is None:
            return False
        if self.known(first.strip()) and (yield from self._source.char()) == "{":
            yield from self._arguments(first.strip())
            return True
        name = yield from self._source.until(fence, _MAX_NAME)
        if name is None or not self.known(name.strip()):
            return False
        yield from self._arguments(name.strip())
        yield from self._source.spaces()
        yield from self._source.literal("```")
        return True

    def solar(self) -> Wait[bool]:
        """``ID<|tool_call:name|>NAME<|tool_call:args|>{...}``."""
        if (yield from self._source.until("<|tool_call:name|>", _MAX_NAME)) is None:
            return False
        return (yield from self.name_then_json("<|tool_call:args|>"))

    # --- elements -----------------------------------------------------------------------------

    def function_element(self) -> Wait[bool]:
        """``NAME>`` and parameters as elements, or as JSON: Qwen3-Coder, Seed, functionary 3.1."""
        name = yield from self._source.until(">", _MAX_NAME)
        if name is None or not self.known(name):
            return False
        yield from self._source.spaces()
        if (yield from self._source.char()) == "{":
            yield from self._arguments(name)
            yield from self._source.spaces()
            yield from self._source.literal("</function>")
            return True
        return (yield from self._elements(name, "<parameter=", ">", "</parameter>", "</function>"))

    def invoke(self, prefix: str) -> Wait[bool]:
        """``NAME">`` and ``<parameter name="KEY">``: MiniMax M2, DeepSeek V4."""
        name = yield from self._source.until('">', _MAX_NAME)
        if name is None or not self.known(name):
            return False
        tag = f"{prefix}parameter"
        return (yield from self._elements(name, f'<{tag} name="', ">", f"</{tag}>", f"</{prefix}invoke>"))

    def _elements(self, name: str, opening: str, after_key: str, closing: str, end: str) -> Wait[bool]:
        source = self._source
        yield from source.spaces()
        step = yield from source.any_of((opening, end))
        if not step:
            return False
        self._begin(name)
        lead = "{"
        while step == opening:
            head = yield from source.until(after_key, 4 * _MAX_NAME)
            if head is None:
                break
            key, _, attributes = head.partition('"')
            text = 'string="true"' in attributes
            self._more(f"{lead}{json.dumps(key, ensure_ascii=False)}: ")
            lead = ", "
            if not (yield from self._parameter(name, key, closing, text)):
                return True  # cut in the middle: the arguments stay open
            yield from source.spaces()
            step = yield from source.any_of((opening, end))
        if step == end or not source.ended:
            self._more("{}" if lead == "{" else "}")
        return True

    def _parameter(self, name: str, key: str, closing: str, text: bool) -> Wait[bool]:
        """A value up to ``closing``; without the line breaks around it."""
        schema = {"type": "string"} if text else self._schema(name, key)
        if is_text(schema):
            return (yield from self._text_parameter(closing, framed=self._framed))
        start = self._source.at
        value = yield from self._source.until(closing)
        if value is None:
            self._more(json.dumps(self._source.text[start:], ensure_ascii=False)[:-1])
            self._source.at = len(self._source.text)
            return False
        self._more(from_text(_unwrapped(value), schema))
        return True

    def nested(self, mark: str) -> Wait[bool]:
        """``NAME">`` and elements within elements, ``mark`` before each: MiniMax M3."""
        source = self._source
        name = yield from source.until('">', _MAX_NAME)
        if name is None or not self.known(name):
            return False
        self._begin(name)
        lead, end = "{", f"{mark}</invoke>"
        yield from source.spaces()
        while (step := (yield from source.any_of((end, f"{mark}<")))) not in ("", end):
            key = yield from source.until(">", _MAX_NAME)
            if key is None:
                break
            self._more(f"{lead}{json.dumps(key, ensure_ascii=False)}: ")
            lead = ", "
            if not (yield from self._nested_member(name, key, mark)):
                return True
            yield from source.spaces()
        if step == end or not source.ended:
            self._more("{}" if lead == "{" else "}")
        return True

    def _nested_member(self, name: str, key: str, mark: str) -> Wait[bool]:
        """One argument, to the end of its element; elements of the same name may lie within."""
        source, schema = self._source, self._schema(name, key)
        opening, closing = f"{mark}<{key}>", f"{mark}</{key}>"
        if is_text(schema):
            return (yield from self._text_parameter(closing, framed=False))
        start, depth = source.at, 1
        while depth:
            part = yield from source.until(closing)
            if part is None:
                self._more(json.dumps(source.text[start:], ensure_ascii=False)[:-1])
                source.at = len(source.text)
                return False
            depth += part.count(opening) - 1
        self._more(nested_value(source.text[start : source.at - len(closing)], mark, schema))
        return True

    def _text_parameter(self, closing: str, *, framed: bool) -> Wait[bool]:
        """A text, told while it is written. ``framed``: line breaks around it are not its own."""
        source = self._source
        if framed:
            yield from source.literal("\n")
        self._more('"')
        while True:
            found = source.text.find(closing, source.at)
            end = found if found >= 0 else len(source.text)
            if found < 0 and not source.ended:
                end = max(source.at, end - len(closing) - 1)
            if found < 0 and source.ended:
                end = certain(source.text, closing)
            text = source.text[source.at : max(source.at, end)]
            if framed and (found >= 0 or source.ended):
                text = text.removesuffix("\n")
            self._more(json.dumps(text, ensure_ascii=False)[1:-1])
            source.at = end
            if found >= 0:
                self._more('"')
                source.at += len(closing)
                return True
            if source.ended:
                return False
            yield

    def keyed(self, mark: str = "") -> Wait[bool]:
        """``NAME`` and ``<arg_key>``/``<arg_value>`` pairs up to ``</tool_call>``: GLM and its kin. ``mark``:
        what stands at the end of these names (Hy3)."""
        source, first, end = self._source, f"<arg_key{mark}>", f"</tool_call{mark}>"
        head = yield from self._head(f"<tool_sep{mark}>")
        name = head.strip()
        opening = yield from source.literal(first)
        closed = not opening and (yield from source.literal(end))
        if not self.known(name) or not (opening or (closed and self._functions is not None)):
            return False
        self._begin(name)
        lead = "{"
        while opening:
            key = yield from source.until(f"</arg_key{mark}>", 4 * _MAX_NAME)
            yield from source.spaces()
            if key is None or not (yield from source.literal(f"<arg_value{mark}>")):
                break
            self._more(f"{lead}{json.dumps(key, ensure_ascii=False)}: ")
            lead = ", "
            if not (yield from self._parameter(name, key, f"</arg_value{mark}>", False)):
                return True
            yield from source.spaces()
            opening = yield from source.literal(first)
        if not source.ended or lead == "{" or (yield from source.literal(end)):
            self._more("{}" if lead == "{" else "}")
        return True

    def _head(self, separator: str) -> Wait[str]:
        """A name up to the next element."""
        source, start = self._source, self._source.at
        while True:
            character = yield from source.char()
            if not character or source.at - start > _MAX_NAME:
                return ""
            if character == "<":
                name = source.text[start : source.at]
                yield from source.literal(separator)
                yield from source.spaces()
                return name
            source.at += 1

    # --- literals -----------------------------------------------------------------------------

    def pythonic(self) -> Wait[bool]:
        """``[name(key="value"), ...]``: Llama 3.2 and 4, LFM2."""
        source, start = self._source, self._source.at
        if not (yield from source.literal("[")):
            return False
        yield from source.spaces()
        name_at = source.at
        while ((yield from source.char()) or " ").isidentifier() or (yield from source.char()) in tuple(
            ".-0123456789"
        ):
            source.at += 1
        if not self.known(source.text[name_at : source.at]) or not (yield from source.literal("(")):
            return False
        if not (yield from self._closing_bracket()):
            return False
        calls = python_calls(source.text[start : source.at], self._functions)
        if not calls or not all(self.known(name) for name, _ in calls):
            return False
        for name, arguments in calls:
            self._emit(name, arguments)
        return True

    def _closing_bracket(self) -> Wait[bool]:
        """To the bracket that closes the list; strings may hold others."""
        source, quote, depth = self._source, "", 1
        while depth:
            character = yield from source.char()
            if not character:
                return False
            source.at += 1
            if character == "\\" and quote:
                yield from source.char()
                source.at += 1
            elif quote:
                quote = "" if character == quote else quote
            elif character in "\"'":
                quote = character
            else:
                depth += (character == "[") - (character == "]")
        return True

    def gemma(self, quote: str, ending: str) -> Wait[bool]:
        """``call:NAME{key:<quote>text<quote>,...}``: functiongemma and Gemma 4."""
        if not (yield from self._source.literal("call:")):
            return False
        name = yield from self._source.until("{", _MAX_NAME)
        if name is None or not self.known(name.strip()):
            return False
        written = yield from self._source.until(ending)
        if written is None:
            return False
        self._emit(name.strip(), gemma_arguments("{" + written.rstrip(), quote))
        return True


def _unwrapped(value: str) -> str:
    return value.removeprefix("\n").removesuffix("\n")

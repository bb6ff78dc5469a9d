"""Python functions as tools."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import re
import threading
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, TypeVar, get_type_hints, overload

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.errors import PydanticUserError
from pydantic_core import to_json

from stepwell.agents.tools.base import Tool, ToolError, line_of
from stepwell.errors import BadInput

TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
ENDS_S = 1.0
"""How long a thread that has said its outcome may take to end."""
T = TypeVar("T")
_ARGUMENT_LINE = re.compile(r"\s*(\w+)(?:\s*\([^)]*\))?:\s+(\S.*)")


@overload
def tool(fn: Callable[..., Any]) -> Tool: ...
@overload
def tool(**options: Any) -> Callable[[Callable[..., Any]], Tool]: ...
def tool(fn: Callable[..., Any] | None = None, **options: Any) -> Tool | Callable[[Callable[..., Any]], Tool]:
    """Decorator: the function becomes a Tool, ``@tool`` or with options: ``@tool(volatile=True)``.

    The options and their defaults are those of ``from_function``.
    """
    return partial(from_function, **options) if fn is None else from_function(fn, **options)


def from_function(
    fn: Callable[..., Any],
    *,
    name: str | None = None,
    description: str | None = None,
    expected_ms: int = 100,
    timeout_s: float = 30.0,
    max_answer_chars: int = 8_000,
    idempotent: bool = False,
    volatile: bool = False,
) -> Tool:
    """A Python function, sync or async, as a Tool.

    Its name, the first paragraph of its docstring, its annotations and the ``Args:`` of its docstring are
    what the model is told. Arguments are checked (``"3"`` is taken for an ``int``) before it is called. A
    sync function runs in a thread of its own. What it returns is the answer: text as it is, anything
    else as JSON. ``BadInput`` when the function cannot be described: no docstring, a parameter without
    annotation, ``*args``.
    """
    told = name or fn.__name__
    if not TOOL_NAME.fullmatch(told):
        raise BadInput(f"tool {told!r}: a name has at most 64 letters, digits, _ and -; give name=...")
    text = description or _first_paragraph(fn)
    if not text:
        raise BadInput(f"tool {told}: say in its docstring what it does: the model chooses by it")
    arguments = _arguments_model(fn, told)
    return Tool(
        name=told,
        description=text,
        parameters=_schema(arguments),
        call=_call(fn, arguments),
        expected_ms=expected_ms,
        timeout_s=timeout_s,
        max_answer_chars=max_answer_chars,
        idempotent=idempotent,
        volatile=volatile,
    )


def _first_paragraph(fn: Callable[..., Any]) -> str:
    return " ".join((inspect.getdoc(fn) or "").partition("\n\n")[0].split())


def _argument_lines(fn: Callable[..., Any]) -> dict[str, str]:
    """``Args:`` of a docstring, one line per argument."""
    _, _, section = (inspect.getdoc(fn) or "").partition("Args:\n")
    section = section.partition("\n\n")[0]
    return {found[1]: found[2] for line in section.splitlines() if (found := _ARGUMENT_LINE.match(line))}


def _arguments_model(fn: Callable[..., Any], told: str) -> type[BaseModel]:
    """A model whose fields are the parameters, by alias: a parameter may have any name, ``schema`` too."""
    hints, lines = _hints(fn, told), _argument_lines(fn)
    fields: dict[str, Any] = {}
    for number, parameter in enumerate(inspect.signature(fn).parameters.values()):
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise BadInput(f"tool {told}: {parameter} cannot be given by name: use plain parameters")
        if parameter.name not in hints:
            raise BadInput(f"tool {told}: annotate {parameter.name}: the model is told its type")
        default = ... if parameter.default is parameter.empty else parameter.default
        about: dict[str, Any] = {"alias": parameter.name}
        if parameter.name in lines:
            about["description"] = lines[parameter.name]
        fields[f"arg_{number}"] = (hints[parameter.name], Field(default, **about))
    try:
        return create_model("Arguments", __config__=ConfigDict(extra="forbid"), **fields)
    except PydanticUserError as error:
        raise BadInput(
            f"tool {told}: a parameter has a type that JSON cannot hold: {line_of(error)}"
        ) from error


def _hints(fn: Callable[..., Any], told: str) -> dict[str, Any]:
    try:
        return get_type_hints(fn, include_extras=True)
    except (NameError, TypeError) as error:
        raise BadInput(f"tool {told}: its annotations cannot be read: {error}") from error


def _schema(arguments: type[BaseModel]) -> dict[str, Any]:
    """Without titles: they repeat the names, and every token of a schema is read by the model."""
    schema: dict[str, Any] = _untitled(arguments.model_json_schema(by_alias=True))
    schema.setdefault("properties", {})
    return schema


def _untitled(node: Any) -> Any:
    if isinstance(node, dict):
        return {
            key: {name: _untitled(value) for name, value in inner.items()}
            if key in ("properties", "$defs") and isinstance(inner, dict)
            else _untitled(inner)
            for key, inner in node.items()
            if not (key == "title" and isinstance(inner, str))
        }
    return [_untitled(inner) for inner in node] if isinstance(node, list) else node


def _call(
    fn: Callable[..., Any], arguments: type[BaseModel]
) -> Callable[[Mapping[str, Any]], Awaitable[str]]:
    names = {field: str(info.alias) for field, info in arguments.model_fields.items()}

    async def call(given: Mapping[str, Any]) -> str:
        try:
            checked = arguments.model_validate(dict(given))
        except ValidationError as error:
            raise ToolError(_argument_sentence(error)) from None
        values = {alias: getattr(checked, field) for field, alias in names.items()}
        if inspect.iscoroutinefunction(fn):
            return _text(await fn(**values))
        return _text(await in_thread(lambda: fn(**values)))

    return call


def _argument_sentence(error: ValidationError) -> str:
    """The first complaint; a model mends one thing at a time."""
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "the arguments"
    if first["type"] == "missing":
        return f"argument {where} is missing"
    if first["type"] == "extra_forbidden":
        return f"there is no argument {where}"
    given = repr(first["input"])
    message = first["msg"][:1].lower() + first["msg"][1:]
    return f"argument {where}: {message}, not {given[:80]}"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else to_json(value, fallback=repr).decode()


async def in_thread(work: Callable[[], T]) -> T:
    """Runs ``work`` in a daemon thread.

    Not the event loop's pool: one function that never returns would take a worker of it for good, and
    keep the process from ending.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()

    def settle(value: T | None, error: BaseException | None) -> None:
        if outcome.done():
            return
        if error is None:
            outcome.set_result(value)  # type: ignore[arg-type]
        else:
            outcome.set_exception(error)

    def body() -> None:
        value: T | None = None
        failure: BaseException | None = None
        try:
            value = context.run(work)
        except StopIteration as error:
            # No future can hold one: the caller would wait until the timeout, or for ever.
            failure = RuntimeError(f"the function raised StopIteration: {error}".rstrip(": "))
        except Exception as error:  # noqa: BLE001 - it is raised again where it is awaited
            failure = error
        except BaseException as error:  # noqa: BLE001 - a future cannot hold SystemExit without ending the loop
            failure = ToolError(f"the tool raised {type(error).__name__}")
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, value, failure)

    context = contextvars.copy_context()
    thread = threading.Thread(target=body, daemon=True, name="stepwell-tool")
    thread.start()
    try:
        return await outcome
    finally:
        if outcome.done() and not outcome.cancelled():
            # It has nothing left to do; while it lives it may hold a database that the process ends without.
            thread.join(ENDS_S)

"""The OpenAPI 3.1 document of an application, from its routes and the table of operations."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode
from starlette.routing import BaseRoute, Route

from stepwell import __version__
from stepwell.server.anthropic.errors import OVERLOADED, is_anthropic
from stepwell.server.gemini.errors import is_gemini
from stepwell.server.openapi.answers import Answer, AnthropicError, Error, GoogleError
from stepwell.server.openapi.asked import Beside
from stepwell.server.openapi.operations import OPERATIONS, STREAM, Operation

REFS = "#/components/schemas/{model}"
IDENTITY = {
    "x-session-id": "The whole run that this turn belongs to.",
    "x-agent-id": "The agent whose turn it is.",
    "x-parent-agent-id": "The agent that called it into being.",
    "x-agent-next": "What it waits for afterwards: `tool; expected_ms=9000`.",
}
REASONS = {
    400: "The request is wrong; `param` names the field.",
    401: "No API key, or one that does not count.",
    403: "The key may not do this.",
    404: "There is no such thing for this key, or this server keeps none.",
    408: "The body took too long to arrive.",
    409: "Not in the state in which it is.",
    413: "The body is too large.",
    429: "Full, over a limit or over a budget; `retry-after` says when to try again.",
    503: "The server goes down, or is overloaded.",
    507: "There is no room for the file.",
    OVERLOADED: "The server goes down, or is overloaded.",
}
_PARAMETER = re.compile(r"\{(\w+)(?::\w+)?\}")


class _Names(GenerateJsonSchema):
    """Bodies that are read strictly are still plain JSON; no titles, which only repeat names."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def describe(routes: Iterable[BaseRoute], *, closed: bool = False) -> dict[str, Any]:
    """The document. ``closed``: answers may hold nothing that is not described, for tests; clients should
    pass over what they do not know."""
    rows = list(_described(routes))
    schemas, definitions = _schemas(one for _, _, operation, _ in rows for one in _types(operation))
    if not closed:
        _open(definitions)
    paths: dict[str, dict[str, Any]] = {}
    for method, path, operation, handler in rows:
        paths.setdefault(path, {})[method.lower()] = _operation(method, path, operation, handler, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Stepwell",
            "version": __version__,
            "description": "An OpenAI-compatible server for many agents; what differs is in docs/api.md.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": definitions,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


def plain_path(path: str) -> str:
    """A path of Starlette's without its converters."""
    return _PARAMETER.sub(r"{\1}", path)


def _described(routes: Iterable[BaseRoute]) -> Iterator[tuple[str, str, Operation, Callable[..., Any]]]:
    """Raises ``KeyError`` for a route without a description."""
    for route in routes:
        assert isinstance(route, Route)
        path = plain_path(route.path)
        for method in sorted((route.methods or set()) - {"HEAD"}):
            yield method, path, OPERATIONS[method, path], route.endpoint


# --- schemas -----------------------------------------------------------------------------------

Schemas = dict[tuple[Any, JsonSchemaMode], dict[str, Any]]


def _types(operation: Operation) -> Iterator[Any]:
    named = (operation.answer, operation.body, Beside, Error, AnthropicError, GoogleError)
    yield from (one for one in named if one is not None)


def _schemas(types: Iterable[Any]) -> tuple[dict[Any, dict[str, Any]], dict[str, Any]]:
    """Each type's schema, and the definitions that they share."""
    unique = {str(one): one for one in types}
    inputs: list[tuple[str, JsonSchemaMode, TypeAdapter[Any]]] = [
        (name, "validation", TypeAdapter(one)) for name, one in unique.items()
    ]
    found, rest = TypeAdapter.json_schemas(inputs, ref_template=REFS, schema_generator=_Names)
    definitions: dict[str, Any] = rest.get("$defs", {})
    return {name: schema for (name, _), schema in found.items()}, definitions


def _open(definitions: dict[str, Any]) -> None:
    answers = {one.__name__ for one in _subclasses(Answer)}
    for name, schema in definitions.items():
        if name in answers or name.partition("_")[0] in answers:
            schema.pop("additionalProperties", None)


def _subclasses(of: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for one in of.__subclasses__():
        yield one
        yield from _subclasses(one)


# --- operations --------------------------------------------------------------------------------


def _operation(
    method: str, path: str, row: Operation, handler: Callable[..., Any], schemas: dict[Any, Any]
) -> dict[str, Any]:
    said = inspect.cleandoc(handler.__doc__ or "").replace("``", "`")
    summary, _, more = said.partition("\n\n")
    described: dict[str, Any] = {
        "operationId": _operation_id(path, handler),
        "summary": " ".join(summary.split()),
        "tags": [row.tag],
        "parameters": [*_path_parameters(path), *_query(row), *_headers(row)],
        "responses": _responses(method, path, row, schemas),
    }
    if more:
        described["description"] = more
    if row.who != "anyone":
        described["security"] = [{}, {"bearer": []}, {"apiKey": []}]
    if row.body is not None:
        described["requestBody"] = _body(row, schemas)
    return described


def _operation_id(path: str, handler: Callable[..., Any]) -> str:
    """The function's name; where one serves several paths, with what tells them apart."""
    where = "file" if path.startswith("/page/{") else "v1beta" if path.startswith("/v1beta") else ""
    return f"{handler.__name__}_{where}" if where else handler.__name__


def _path_parameters(path: str) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in _PARAMETER.findall(path)
    ]


def _query(row: Operation) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "in": "query",
            "required": bool(schema.get("x-required")),
            "schema": {key: value for key, value in schema.items() if key != "x-required"},
        }
        for name, schema in row.query.items()
    ]


def _headers(row: Operation) -> list[dict[str, Any]]:
    if STREAM not in row.also or row.body is None:
        return []
    return [
        {"name": name, "in": "header", "description": said, "schema": {"type": "string"}}
        for name, said in IDENTITY.items()
    ]


def _body(row: Operation, schemas: dict[Any, Any]) -> dict[str, Any]:
    schema = schemas[str(row.body)]
    if row.beside:
        schema = {"allOf": [schema, schemas[str(Beside)]]}
    media = "multipart/form-data" if row.form else "application/json"
    return {"required": not row.optional_body, "content": {media: {"schema": schema}}}


def _responses(method: str, path: str, row: Operation, schemas: dict[Any, Any]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if row.answer is not None:
        content["application/json"] = {"schema": schemas[str(row.answer)]}
    content |= {media: {"schema": {"type": "string"}} for media in row.also}
    found: dict[str, Any] = {"200": {"description": "Done.", "content": content}}
    if row.redirects:
        found = {"307": {"description": "There is no slash at its end."}}
    anthropic = is_anthropic(path)
    shape = AnthropicError if anthropic else GoogleError if is_gemini(path, method) else Error
    error = schemas[str(shape)]
    for status in sorted(_statuses(row)):
        status = OVERLOADED if anthropic and status == 503 else status
        reason = {"description": REASONS[status], "content": {"application/json": {"schema": error}}}
        found[str(status)] = reason
    if path == "/health":
        found["503"]["content"] = content
    return found


def _statuses(row: Operation) -> set[int]:
    ask = {400} if row.body is not None or row.query or row.who != "anyone" else set()
    return {*ask, *row.fails, *((401, 403) if row.who != "anyone" else ())}

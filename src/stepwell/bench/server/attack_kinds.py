"""Single requests that are there to do harm, for ``stepwell bench attacks``.

Each has stopped some server once, ours among them: foreign text for a parser that goes back, a grammar that
explodes, a body that is all brackets, connections that say nothing.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

MIB = 2**20
TIMEOUT_S = 60.0
"""After so long an attack is given up; the server may be as slow with it as it likes, by itself."""
CONNECTIONS = 1_100
CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
MESSAGES, EMBEDDINGS, FILES = "/v1/messages", "/v1/embeddings", "/v1/files"


@dataclass(frozen=True, slots=True)
class AttackRequest:
    """One request, ready to be sent."""

    path: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=lambda: {"content-type": "application/json"})

    def __call__(self, port: int) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
        try:
            with contextlib.suppress(ConnectionError):  # answered before all of it was sent
                connection.request("POST", self.path, self.body, dict(self.headers))
            answer = connection.getresponse()
            answer.read()
            return str(answer.status)
        except TimeoutError:
            return "given up"
        except (OSError, http.client.HTTPException):
            return "cut off"
        finally:
            connection.close()


@dataclass(frozen=True, slots=True)
class SeveralRequests:
    """The same request several times at once."""

    times: int
    post: AttackRequest

    def __call__(self, port: int) -> str:
        with ThreadPoolExecutor(self.times) as pool:
            said = list(pool.map(lambda _: self.post(port), range(self.times)))
        return " ".join(sorted(set(said)))


@dataclass(frozen=True, slots=True)
class ManyConnections:
    """Many connections that send ``head`` and then nothing. Held until the caller has looked."""

    head: bytes
    stack: ExitStack

    def __call__(self, port: int) -> str:
        opened = 0
        for _ in range(CONNECTIONS):
            with contextlib.suppress(OSError):
                one = self.stack.enter_context(socket.create_connection(("127.0.0.1", port), 5.0))
                one.sendall(self.head)
                opened += 1
        return f"{opened} open"


Act = Callable[[int], str]
"""Attacks the server at a port and says what it was answered."""
Make = Callable[[str, ExitStack], Act]
"""Prepares an attack on the model of this name; what it leaves open is closed with the stack."""


def _post(path: str, **body: Any) -> Make:
    def make(model: str, stack: ExitStack) -> Act:
        return AttackRequest(path, json.dumps({"model": model, "max_tokens": 1, **body}).encode())

    return make


def _chat(**body: Any) -> Make:
    return _post(CHAT, messages=[{"role": "user", "content": "hi"}], **body)


def _raw(path: str, before: str, piece: bytes, times: int, after: str, *, at_once: int = 1) -> Make:
    """A body of many times ``piece``, put together when it is needed."""

    def make(model: str, stack: ExitStack) -> Act:
        head = f'{{"model": "{model}", "max_tokens": 1, {before}'.encode()
        post = AttackRequest(path, head + piece * times + after.encode())
        return post if at_once == 1 else SeveralRequests(at_once, post)

    return make


def _upload(name: str, piece: bytes, times: int, before: bytes = b"") -> Make:
    def make(model: str, stack: ExitStack) -> Act:
        mark = b"--of-the-bench"
        head = (
            b"--%b\r\nContent-Disposition: form-data; name=purpose\r\n\r\nuser_data\r\n--%b\r\n"
            b'Content-Disposition: form-data; name=file; filename="%b"\r\n\r\n'
        ) % (mark, mark, name.encode())
        body = head + before + piece * times + b"\r\n--%b--\r\n" % mark
        return AttackRequest(FILES, body, {"content-type": f"multipart/form-data; boundary={mark.decode()}"})

    return make


def _connections(head: bytes) -> Make:
    return lambda model, stack: ManyConnections(head, stack)


def _doubled(depth: int) -> str:
    """Rules that may be empty and double: one line more, twice the work."""
    rules = [f"r{number} ::= r{number + 1} r{number + 1}" for number in range(depth)]
    return 'root ::= "x" r0\n' + "\n".join(rules) + f'\nr{depth} ::= "a"?\n'


def _deep_schema(levels: int) -> dict[str, Any]:
    made: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        made = {"type": "object", "properties": {"a": made}, "required": ["a"]}
    return made


def _wide_schema(properties: int) -> dict[str, Any]:
    names = [f"property_{number}" for number in range(properties)]
    return {"type": "object", "properties": {name: {"type": "string"} for name in names}, "required": names}


def _format(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


_USER = '"messages": [{"role": "user", "content": '
_NO_FIELD = '"messages": [{"role": "user", "content": "hi"}], "zzz": ['

FLOOD = "flood: "
"""So many requests that answering each takes longer than ``/health`` may: the server must live, no more."""
ATTACKS: Mapping[str, Make] = {
    # Grammars and schemas.
    "grammar: 200 KB of ( behind a comment": _chat(grammar='root ::= "a"\n#\rx ::= ' + "(" * 200_000),
    "grammar: nullable rules that double": _chat(grammar=_doubled(9)),
    "grammar: 30,000 alternatives": _chat(grammar="root ::= " + " | ".join(f'"{n}"' for n in range(30_000))),
    "grammar: repetitions of repetitions": _chat(grammar='root ::= (("a"{0,99}){0,99}){0,99}'),
    "schema: 180 levels": _chat(response_format=_format(_deep_schema(180))),
    "schema: 4,000 properties": _chat(response_format=_format(_wide_schema(4_000))),
    "schema: a pattern that goes back": _chat(guided_regex="^(a+)+(b|(a+)+)+$"),
    "stop: four strings of 1 MiB": _chat(stop=["a" * MIB + str(n) for n in range(4)]),
    # Documents.
    "HTML: 211 bytes of comments": _upload("a.txt", b"<!---->", 30, b" "),
    "HTML: a million of </": _upload("a.html", b"</", 1_000_000),
    "HTML: 300,000 open tags": _upload("a.html", b"<div><b>", 150_000),
    "text: 8 MiB of headings": _upload("a.md", b"# ", 4 * MIB),
    "text: 16 MiB in one line": _upload("a.txt", b"well ", 3 * MIB),
    "CSV: 57 MiB of rows": _upload("a.csv", b"1\n", 30_000_000, b"a,b\n"),
    "CSV: one row of 4 MiB quotes": _upload("a.csv", b'"",', MIB, b"a\n"),
    "PDF: nothing but brackets": _upload("a.pdf", b"[<<", 2 * MIB, b"%PDF-1.7\n"),
    # Bodies too large, and as large as they may be.
    "body: 28 MiB of []": _raw(CHAT, _NO_FIELD, b"[],", 28 * MIB // 3, "[]]}"),
    "body: four times 28 MiB of []": _raw(CHAT, _NO_FIELD, b"[],", 28 * MIB // 3, "[]]}", at_once=4),
    "body: 4 MiB of [": _raw(CHAT, _NO_FIELD, b"[", 4 * MIB, ""),
    "body: 190 levels, 20,000 times": _raw(CHAT, _NO_FIELD, b"[" * 190 + b"]" * 190 + b",", 20_000, "1]}"),
    "body: 190 levels, 500 times": _raw(CHAT, _NO_FIELD, b"[" * 190 + b"]" * 190 + b",", 500, "1]}"),
    "7.9 MiB: []": _raw(CHAT, _NO_FIELD, b"[],", 2_750_000, "[]]}"),
    "7.9 MiB: lists at the bound": _raw(CHAT, _NO_FIELD, b'["' + b"x" * 98 + b'"],', 78_000, "1]}"),
    "7.9 MiB: objects at the bound": _raw(CHAT, _NO_FIELD, b'{"a":"' + b"x" * 90 + b'"},', 80_000, "1]}"),
    "7.9 MiB: strings at the bound": _raw(CHAT, _NO_FIELD, b'"0123456789ab",', 490_000, '""]}'),
    "7.9 MiB: numbers at the bound": _raw(CHAT, _NO_FIELD, b"1.234567890123,", 490_000, "1]}"),
    "7.9 MiB: one text": _raw(CHAT, _USER + '"', b"well ", 1_600_000, '"}]}'),
    "7.9 MiB: one text, escaped": _raw(CHAT, _USER + '"', b"\\u00e9", 1_350_000, '"}]}'),
    "7.9 MiB: one text of \\n": _raw(CHAT, _USER + '"', b"\\n", 4_000_000, '"}]}'),
    "7.9 MiB: 80,000 wrong messages": _raw(
        CHAT, '"messages": [', b'{"role":"' + b"x" * 86 + b'"},', 80_000, '{"role":"user"}]}'
    ),
    "7.9 MiB: 60,000 right messages": _raw(
        CHAT, '"messages": [', b'{"role":"user","content":"' + b"x" * 96 + b'"},', 60_000, "1]}"
    ),
    "7.9 MiB: 60,000 parts": _raw(
        CHAT, _USER + "[", b'{"type":"text","text":"' + b"x" * 96 + b'"},', 60_000, "1]}]}"
    ),
    "4 MiB: 40,000 tools": _raw(
        CHAT, '"messages": [], "tools": [', b'{"type":"x","function":{"name":"' + b"x" * 64 + b'"}},', 40_000,
        "1]}",
    ),
    "7.5 MiB: 32 prompts": _raw(COMPLETIONS, '"prompt": [', b'"' + b"well " * 51_000 + b'",', 31, '"a"]}'),
    "7.9 MiB: 490,000 token ids": _raw(COMPLETIONS, '"prompt": [', b"1234567890123,", 490_000, "1]}"),
    "7.9 MiB: items of Responses": _raw(
        RESPONSES, '"input": [', b'{"role":"' + b"x" * 86 + b'"},', 80_000, "1]}"
    ),
    "7.9 MiB: messages of Anthropic's": _raw(
        MESSAGES, '"messages": [', b'{"role":"' + b"x" * 86 + b'"},', 80_000, "1]}"
    ),
    "7.9 MiB: texts to embed": _raw(EMBEDDINGS, '"input": [', b'"0123456789ab",', 490_000, '""]}'),
    "7.9 MiB, four at once: objects": _raw(
        CHAT, _NO_FIELD, b'{"a":"' + b"x" * 90 + b'"},', 80_000, "1]}", at_once=4
    ),
    "60 KiB: objects, parsed at once": _raw(CHAT, _NO_FIELD, b"{},", 20_000, "1]}"),
    # ManyConnections.
    "1,100 silent connections": _connections(b""),
    "1,100 half heads": _connections(b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Le"),
    "flood: 1,100 half requests": _connections(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99\r\n\r\n{"
    ),
}  # fmt: skip


@contextlib.contextmanager
def prepared(name: str, model: str) -> Iterator[Act]:
    """The attack ``name``, ready to go. What it has opened is closed when the block ends."""
    with ExitStack() as stack:
        yield ATTACKS[name](model, stack)

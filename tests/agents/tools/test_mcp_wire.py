"""Whatever a server sends as an answer, the package takes what is made of it, and no word of it is lost."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.agents.tools.mcp_wire import PARTS_MOST, mended_answer, mended_list

mcp_types = pytest.importorskip("mcp_types")
answer_text = pytest.importorskip("stepwell.agents.tools.mcp_contents").answer_text


def text_of(answer: dict[str, Any]) -> str:
    return str(answer_text(mcp_types.CallToolResult.model_validate(mended_answer(answer))))


def resource(**fields: Any) -> dict[str, Any]:
    return {"content": [{"type": "resource", "resource": {"uri": "file:///e", **fields}}]}


def blob(data: bytes, mime_type: str | None = None) -> dict[str, Any]:
    kind = {} if mime_type is None else {"mimeType": mime_type}
    return resource(blob=base64.b64encode(data).decode(), **kind)


SAID: dict[str, tuple[dict[str, Any], str]] = {
    "structure alone": ({"structuredContent": {"a": [1, 2]}}, '{"a": [1, 2]}'),
    "no content": ({"content": None, "structuredContent": {"a": 1}}, '{"a": 1}'),
    "nothing": ({}, ""),
    "content that is a text": ({"content": "just text"}, "just text"),
    "content that is a part": ({"content": {"type": "text", "text": "one"}}, "one"),
    "parts that are texts": ({"content": ["one", 2]}, "one\n2"),
    "a new kind": (
        {"content": [{"type": "video", "text": "SEEN"}, {"type": "text", "text": "after"}]},
        "[video: a kind of content that is not known here] SEEN\nafter",
    ),
    "parts in a part": (
        {"content": [{"type": "tool_result", "content": [{"type": "text", "text": "INNER"}]}]},
        "INNER",
    ),
    "text that is null": ({"content": [{"type": "text", "text": None}]}, ""),
    "the form of 2024": ({"toolResult": "OLD"}, "OLD"),
    "a structure that is a list": ({"content": [], "structuredContent": [1]}, "[1]"),
    "a link without a name": (
        {"content": [{"type": "resource_link", "uri": "https://x.org/a"}]},
        "[link a: https://x.org/a]",
    ),
    "a link with odd details": (
        {"content": [{"type": "resource_link", "uri": "u:b", "name": 3, "size": "x", "annotations": 5}]},
        "[link u:b: u:b]",
    ),
    "a resource without an address": (resource(uri=None, text="T"), "[resource (no address)]\nT"),
    "several resources in one": (resource(contents=[{"uri": "f:x", "text": "N"}]), "[resource f:x]\nN"),
    "a picture without a type": (
        {"content": [{"type": "image", "data": "AAAA"}]},
        "[image: application/octet-stream, 3 bytes; it cannot be shown as text]",
    ),
    "odd annotations": (
        {"content": [{"type": "text", "text": "x", "annotations": {"audience": ["robots"], "priority": 9}}]},
        "x",
    ),
    "a script": (blob(b"print('x')\n"), "[resource file:///e]\nprint('x')\n"),
    "a script as bytes": (blob(b"x = 1", "application/octet-stream"), "[resource file:///e]\nx = 1"),
    "UTF-16": (blob("привет".encode("utf-16"), "text/plain"), "[resource file:///e]\nпривет"),
    "an encoding that is said": (
        blob("Мир".encode("cp1251"), 'text/plain; charset="windows-1251"'),
        "[resource file:///e]\nМир",
    ),
    "base64 as in URLs": (resource(blob="w7_DvsO9", mimeType="text/x"), "[resource file:///e]\nÿþý"),
    "base64 in lines": (resource(blob="aGVs\nbG8"), "[resource file:///e]\nhello"),
    "a picture whose bytes are letters": (
        blob(b"GIF89a", "image/gif"),
        "[resource file:///e: image/gif, 6 bytes; it cannot be shown as text]",
    ),
    "no base64": (
        resource(blob="%%%", mimeType="text/plain"),
        "[resource file:///e: text/plain, 2 bytes; it cannot be shown as text]",
    ),
}


@pytest.mark.parametrize("kind", SAID)
def test_what_is_said_reaches_the_model(kind: str) -> None:
    answer, wanted = SAID[kind]
    assert text_of(answer) == wanted


def test_an_error_stays_one_and_more_parts_than_anybody_reads_are_counted() -> None:
    assert mended_answer({"isError": True})["isError"] is True
    assert mended_answer({"isError": "yes"})["isError"] is False
    many = text_of({"content": [{"type": "text", "text": "x"}] * (PARTS_MOST + 7)})
    assert many.endswith("x\n[7 more parts]")


NAMES = (
    "type", "text", "data", "mimeType", "resource", "uri", "blob", "name", "size", "content", "contents",
    "annotations", "isError", "title", "inputSchema", "description",
)  # fmt: skip
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(NAMES),
            inner | st.sampled_from(["text", "image", "audio", "resource", "resource_link"]),
            max_size=5,
        )
    ),
    max_leaves=12,
)


@given(st.fixed_dictionaries({}, optional={"content": ANY, "structuredContent": ANY, "isError": ANY}))
def test_any_answer_is_one_that_the_package_takes(answer: dict[str, Any]) -> None:
    said, content = text_of(answer), answer.get("content")
    for part in content if isinstance(content, list) else [content]:
        if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
            assert part["text"] in said


@given(st.fixed_dictionaries({}, optional={"tools": st.lists(ANY, max_size=4) | ANY, "nextCursor": ANY}))
def test_any_list_is_one_that_the_package_takes(listed: dict[str, Any]) -> None:
    tools, taken = listed.get("tools"), mcp_types.ListToolsResult.model_validate(mended_list(listed))
    given = [one.get("name") for one in tools if isinstance(one, dict)] if isinstance(tools, list) else []
    assert [one.name for one in taken.tools] == [n for n in given if isinstance(n, str) and n.strip()]


def test_one_bad_tool_is_not_the_end_of_the_others() -> None:
    good = {"name": "good", "description": "d", "inputSchema": {"type": "object", "properties": {"a": {}}}}
    found = mended_list(
        {
            "tools": [
                {"inputSchema": {}}, "x", {"name": ""}, {"name": "bare"},
                {"name": "list", "inputSchema": {"type": "array"}},
                {"name": "nullable", "inputSchema": {"type": ["object", "null"], "properties": {"a": {}}}},
                {**good, "outputSchema": {"type": "object"}, "annotations": {"readOnlyHint": True, "x": 1}},
            ]
        }
    )  # fmt: skip
    any_object = {"type": "object", "properties": {}}
    assert found["tools"] == [
        {"name": "bare", "inputSchema": any_object},
        {"name": "list", "inputSchema": any_object},
        {"name": "nullable", "inputSchema": good["inputSchema"]},
        {**good, "annotations": {"readOnlyHint": True}},
    ]
    assert json.dumps(found)

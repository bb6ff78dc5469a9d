"""Answers are split into content, reasoning and calls, and alike however their text is cut."""

# ruff: noqa: E501 - answers as models write them, in one piece each
from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("llama_cpp")

from stepwell.engines.base import AnswerPart
from stepwell.engines.llamacpp.chat.formats import with_made_marks
from stepwell.engines.llamacpp.chat.opening import opening_of, straight_of
from stepwell.engines.llamacpp.chat.reader import MarkReader
from stepwell.engines.llamacpp.tools import parse_tool_calls

CITY = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
FUNCTIONS: dict[str, dict[str, Any]] = {"get_weather": CITY, "get_time": {}}
PARIS = '{"city": "Paris"}'
JSON = '{"name": "get_weather", "arguments": {"city": "Paris"}}'
ROME = '{"name": "get_weather", "arguments": {"city": "Rome"}}'
SEP = "<｜tool▁sep｜>"
M3 = "]<]minimax[>["

ONE = {
    "hermes": f"<tool_call>\n{JSON}\n</tool_call>",
    "hermes, arguments first": '<tool_call>{"arguments": {"city": "Paris"}, "name": "get_weather"}</tool_call>',
    "openai shape": f'{{"id": "x", "type": "function", "function": {JSON}}}',
    "llama json": '{"name": "get_weather", "parameters": {"city": "Paris"}}',
    "llama tag": f"<|python_tag|>{JSON}",
    "llama pythonic": '[get_weather(city="Paris")]',
    "llama element": f"<function=get_weather>{PARIS}</function>",
    "mistral list": f"[TOOL_CALLS][{JSON}]",
    "mistral named": f"[TOOL_CALLS]get_weather[ARGS]{PARIS}",
    "mistral with id": f"[TOOL_CALLS]get_weather[CALL_ID]abcdef123[ARGS]{PARIS}",
    "mistral dropped": f"[TOOL_CALLS]get_weather{PARIS}",
    "qwen coder": "<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n</function>\n</tool_call>",
    "seed": "<seed:tool_call>\n<function=get_weather>\n<parameter=city>Paris</parameter>\n</function>\n</seed:tool_call>",
    "glm": "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Paris</arg_value>\n</tool_call>",
    "minimax m2": '<minimax:tool_call>\n<invoke name="get_weather">\n<parameter name="city">Paris</parameter>\n</invoke>\n</minimax:tool_call>',
    "minimax m3": f'{M3}<tool_call>\n{M3}<invoke name="get_weather">{M3}<city>Paris{M3}</city>{M3}</invoke>\n{M3}</tool_call>',
    "hy3": "<tool_calls:opensource>\n<tool_call:opensource>get_weather<tool_sep:opensource>\n<arg_key:opensource>city</arg_key:opensource>\n<arg_value:opensource>Paris</arg_value:opensource>\n</tool_call:opensource>\n</tool_calls:opensource>",
    "deepseek v4": '<｜DSML｜tool_calls>\n<｜DSML｜invoke name="get_weather">\n<｜DSML｜parameter name="city" string="true">Paris</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>',
    "deepseek v3.1": f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather{SEP}{PARIS}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    "deepseek r1": f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function{SEP}get_weather\n```json\n{PARIS}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    "kimi": f"<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>{PARIS}<|tool_call_end|><|tool_calls_section_end|>",
    "granite 3": f"<|tool_call|>[{JSON}]",
    "phi 4": f"<|tool_call|>[{JSON}]<|/tool_call|>",
    "nemotron": f"<TOOLCALL>[{JSON}]</TOOLCALL>",
    "command": '<|START_ACTION|>[\n {"tool_call_id": "0", "tool_name": "get_weather", "parameters": {"city": "Paris"}}\n]<|END_ACTION|>',
    "minimax m1": f"<tool_calls>\n{JSON}\n</tool_calls>",
    "lfm2": '<|tool_call_start|>[get_weather(city="Paris")]<|tool_call_end|>',
    "apertus": '<|tools_prefix|>[{"get_weather": {"city": "Paris"}}]<|tools_suffix|>',
    "functiongemma": "<start_function_call>call:get_weather{city:<escape>Paris<escape>}<end_function_call>",
    "gemma 4": '<|tool_call>call:get_weather{city:<|"|>Paris<|"|>}<tool_call|>',
    "gigachat": f"function call<|role_sep|>\n{JSON}",
    "gigachat 3.1": f"<|function_call|>{JSON}<|message_sep|>",
    "solar": f"<|tool_calls|><|tool_call:begin|>7<|tool_call:name|>get_weather<|tool_call:args|>{PARIS}<|tool_call:end|>",
    "harmony": f"<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{PARIS}<|call|>",
    "harmony, recipient first": f"<|start|>assistant to=functions.get_weather<|channel|>commentary json<|message|>{PARIS}",
    "harmony dropped": f"assistantcommentary to=functions.get_weather json{PARIS}",
    "fence": f"```json\n{JSON}\n```",
    "xlam": f"[{JSON}]",
}
TWO = {
    "hermes": f"<tool_call>{JSON}</tool_call>\n<tool_call>{ROME}</tool_call>",
    "llama": f"{JSON}; {ROME}",
    "mistral": f"[TOOL_CALLS][{JSON}, {ROME}]",
    "mistral named": f'[TOOL_CALLS]get_weather[ARGS]{PARIS}[TOOL_CALLS]get_weather[ARGS]{{"city": "Rome"}}',
    "pythonic": '[get_weather(city="Paris"), get_weather(city="Rome")]',
    "granite": f"<|tool_call|>[{JSON}, {ROME}]",
    "apertus": '<|tools_prefix|>[{"get_weather": {"city": "Paris"}}, {"get_weather": {"city": "Rome"}}]<|tools_suffix|>',
    "minimax m1": f"<tool_calls>\n{JSON}\n{ROME}\n</tool_calls>",
    "minimax m3": f'{M3}<tool_call>\n{M3}<invoke name="get_weather">{M3}<city>Paris{M3}</city>{M3}</invoke>\n{M3}<invoke name="get_weather">{M3}<city>Rome{M3}</city>{M3}</invoke>\n{M3}</tool_call>',
    "hy3": "<tool_calls:opensource>\n<tool_call:opensource>get_weather<tool_sep:opensource>\n<arg_key:opensource>city</arg_key:opensource>\n<arg_value:opensource>Paris</arg_value:opensource>\n</tool_call:opensource>\n<tool_call:opensource>get_weather<tool_sep:opensource>\n<arg_key:opensource>city</arg_key:opensource>\n<arg_value:opensource>Rome</arg_value:opensource>\n</tool_call:opensource>\n</tool_calls:opensource>",
}
TEXTS = {
    "a call of nothing offered": '<tool_call>{"name": "rm", "arguments": {}}</tool_call>',
    "a person": '{"name": "Anna", "age": 7}',
    "a schema": '{"type": "object", "properties": {"name": {"type": "string"}}}',
    "code": "for (i = 0; i < 3; i++) {\n  a[i] = {};\n}",
    "a list": "[1, 2, [3]]",
    "a link": "[get_weather](https://example.org)",
    "a mention": "Write <tool_call> around it, or `[TOOL_CALLS]`.",
    "a fence": '```python\nprint({"name": "x"})\n```',
    "braces in a line": f"It would say {JSON} there.",
    "unfinished marks": "<tool_cal",
}


def parts_of(text: str, *cuts: int, template: str | None = None, opening: str = "") -> list[AnswerPart]:
    reader = MarkReader(FUNCTIONS, template, opening)
    found, at = [], 0
    for cut in (*sorted(cuts), len(text)):
        found += reader.add(text[at:cut])
        at = cut
    return _joined([*found, *reader.finish()])


def _joined(parts: list[AnswerPart]) -> list[AnswerPart]:
    joined: list[AnswerPart] = []
    for part in parts:
        if joined and part.kind != "call" and joined[-1].kind == part.kind and joined[-1].call == part.call:
            joined[-1] = AnswerPart(part.kind, joined[-1].text + part.text, part.call)
        else:
            joined.append(part)
    return joined


def calls_of(parts: list[AnswerPart]) -> list[tuple[str, Any]]:
    names = [part.text for part in parts if part.kind == "call"]
    arguments = {part.call: part.text for part in parts if part.kind == "arguments"}
    return [(name, json.loads(arguments[number])) for number, name in enumerate(names)]


@pytest.mark.parametrize("family", ONE)
def test_every_familys_call_is_read(family: str) -> None:
    assert calls_of(parts_of(ONE[family])) == [("get_weather", {"city": "Paris"})]
    _, calls = parse_tool_calls(ONE[family])
    assert [json.loads(call["arguments"]) for call in calls] == [{"city": "Paris"}]


@pytest.mark.parametrize("family", TWO)
def test_parallel_calls_are_read(family: str) -> None:
    both = [("get_weather", {"city": "Paris"}), ("get_weather", {"city": "Rome"})]
    assert calls_of(parts_of(TWO[family])) == both


@pytest.mark.parametrize("kind", TEXTS)
def test_what_only_looks_like_a_call_stays_text(kind: str) -> None:
    assert parts_of(TEXTS[kind]) == [AnswerPart("content", TEXTS[kind])]


EVERY = [*ONE.values(), *TWO.values(), *TEXTS.values()]


@pytest.mark.parametrize("text", EVERY)
def test_a_streamed_answer_is_the_whole_one_wherever_it_is_cut(text: str) -> None:
    for said in (text, f"Let me see.\n\n{text}\nThat is it."):
        whole = parts_of(said)
        assert all(parts_of(said, cut) == whole for cut in range(1, len(said)))
        assert parts_of(said, *range(1, len(said))) == whole


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.sampled_from([*EVERY, "a", " ", "\n", "<", "{", "[", '"', "}", "]", "</think>", "<think>"]),
        max_size=6,
    ),
    st.lists(st.integers(0, 400), max_size=6),
)
def test_any_mixture_is_read_alike_however_it_is_cut(pieces: list[str], cuts: list[int]) -> None:
    text = "".join(pieces)
    cuts = [min(cut, len(text)) for cut in cuts]
    for template in (None, "<think></think>"):
        assert parts_of(text, *cuts, template=template) == parts_of(text, template=template)


@pytest.mark.parametrize("family", ONE)
def test_a_cut_call_is_told_as_far_as_it_got(family: str) -> None:
    """What has been streamed cannot be taken back: its arguments are then a beginning of the whole."""
    text = ONE[family]
    whole = parts_of(text)
    for end in range(len(text)):
        for part in parts_of(text[:end]):
            if part.kind == "arguments":
                assert whole[-1].text.startswith(part.text.rstrip("}")) or part.text == "{}"


def test_arguments_stream_while_they_are_written() -> None:
    reader = MarkReader(FUNCTIONS)
    assert reader.add('<tool_call>{"name": "get_weather", "arguments": {"ci') == [
        AnswerPart("call", "get_weather", 0),
        AnswerPart("arguments", '{"ci', 0),
    ]
    assert reader.add('ty": "Pa') == [AnswerPart("arguments", 'ty": "Pa', 0)]


def test_elements_become_what_the_schema_says() -> None:
    text = "<function=get_weather>\n<parameter=city>\n5\n</parameter>\n<parameter=days>\n7\n</parameter>\n</function>"
    assert calls_of(parts_of(text)) == [("get_weather", {"city": "5", "days": 7})]


def test_many_lines_in_text_and_quotes_survive_elements() -> None:
    code = 'if a < b:\n    print("</x>")\n'
    text = f"<function=get_weather><parameter=city>\n{code}\n</parameter></function>"
    assert calls_of(parts_of(text)) == [("get_weather", {"city": code})]


def test_a_call_follows_text_of_functionary_without_a_line_break() -> None:
    template, text = "{{ '>>>all\\n' }}", f"all\nOne moment.>>>get_weather\n{PARIS}"
    for cut in range(len(text)):
        parts = parts_of(text, cut, template=template, opening=">>>")
        assert parts[0] == AnswerPart("content", "One moment.")
        assert calls_of(parts) == [("get_weather", {"city": "Paris"})]
    assert not calls_of(parts_of("all\nIt says >>>print\n{} there", template=template, opening=">>>"))


@pytest.mark.parametrize("name", ["get-weather-2", "2fa", "_x-", "class", "None", "a.b", "q"])
@pytest.mark.parametrize("family", ONE)
def test_a_function_may_have_any_name(family: str, name: str) -> None:
    """Also one that Python would not take."""
    reader = MarkReader({name: CITY, f"{name}-more": {}})
    parts = reader.add(ONE[family].replace("get_weather", name))
    assert calls_of(_joined([*parts, *reader.finish()])) == [(name, {"city": "Paris"})]


def test_parameters_may_have_any_name_and_quotes_keep_theirs() -> None:
    functions = {"get-it": {"properties": {"from": {}, "x-y": {}, "text": {}}}}
    reader = MarkReader(functions)
    parts = reader.add('[get-it(from=1, x-y=\'get-it(from=2)\', text="x-y=3 \\" get-it(")]')
    meant = {"from": 1, "x-y": "get-it(from=2)", "text": 'x-y=3 " get-it('}
    assert calls_of(_joined([*parts, *reader.finish()])) == [("get-it", meant)]


SEED = "<seed:tool_call>{{ '<parameter=' ~ key ~ '>' ~ value ~ '</parameter>' }}"
CODER = "{{ '<parameter=' + key + '>\\n' }}{{ value }}{{ '\\n</parameter>\\n' }}"


@pytest.mark.parametrize(
    ("template", "written", "meant"),
    [
        (SEED, "two\nlines\n", "two\nlines\n"),
        (SEED, "\n", "\n"),
        (SEED, "\nx", "\nx"),
        (CODER, "\nx\n\n", "x\n"),
    ]
    + [(template, "x\n", "x") for template in (CODER, None)],
)
def test_line_breaks_around_a_value_are_its_own_unless_the_template_writes_them(
    template: str | None, written: str, meant: str
) -> None:
    """A file that a model writes ends with one."""
    text = f"<function=get_weather>\n<parameter=city>{written}</parameter>\n</function>"
    for cut in range(len(text)):
        assert calls_of(parts_of(text, cut, template=template)) == [("get_weather", {"city": meant})]


@pytest.mark.parametrize("city", ["é", "日本 😀", "x é", "\u2028", "a\té"])
def test_letters_beyond_ascii_are_told_alike_wherever_they_are_cut(city: str) -> None:
    text = f'<tool_call>{{"name": "get_weather", "arguments": {{"é": "{city}", "city": "é"}}}}</tool_call>'
    whole = parts_of(text)
    for cut in range(len(text)):
        assert parts_of(text, cut) == whole


@pytest.mark.parametrize(
    ("template", "opening", "text"),
    [
        ("<think>", "", "<think>\nHm.\n</think>\n\nYes."),
        ("<think>", "<think>", "Hm.\n</think>\n\nYes."),
        ("[THINK]", "", "[THINK]Hm.[/THINK]Yes."),
        ("<seed:think>", "", "<seed:think>Hm.</seed:think>Yes."),
        ("<|START_THINKING|><|START_RESPONSE|><|END_RESPONSE|>", "",
         "<|START_THINKING|>Hm.<|END_THINKING|><|START_RESPONSE|>Yes.<|END_RESPONSE|>"),
        ("<|channel>thought", "", "<|channel>thought\nHm.\n<channel|>Yes."),
        ("<|channel|><|start|><|end|>", "<|start|>assistant",
         "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Yes."),
    ],
)  # fmt: skip
def test_reasoning_is_no_content(template: str, opening: str, text: str) -> None:
    whole = parts_of(text, template=template, opening=opening)
    assert [(part.kind, part.text.strip()) for part in whole] == [("reasoning", "Hm."), ("content", "Yes.")]
    for cut in range(len(text)):
        assert parts_of(text, cut, template=template, opening=opening) == whole


TEXT = st.text(st.characters(exclude_characters="<>[]", exclude_categories=["Cs", "Cc"]), max_size=12)
KEYS = st.sampled_from(["city", "item", "a", "b c", "ü"])
VALUES = st.recursive(
    st.one_of(TEXT, st.integers(), st.booleans()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


def schema_of(value: Any) -> dict[str, Any]:
    """What a tool that takes this value would say of it."""
    if isinstance(value, dict):
        return {"type": "object", "properties": {key: schema_of(one) for key, one in value.items()}}
    if isinstance(value, list):
        kinds = [schema_of(one) for one in value]
        return (
            {"type": "array"}
            if any(k != kinds[0] for k in kinds) or not kinds
            else {"type": "array", "items": kinds[0]}
        )
    return {"type": {bool: "boolean", int: "integer", str: "string"}[type(value)]}


def as_template(value: Any) -> str:
    """As MiniMax M3's template writes it."""
    if isinstance(value, dict):
        return "".join(f"{M3}<{key}>{as_template(one)}{M3}</{key}>" for key, one in value.items())
    if isinstance(value, list):
        return "".join(f"{M3}<item>{as_template(one)}{M3}</item>" for one in value)
    return json.dumps(value) if isinstance(value, bool) else str(value)


@given(st.dictionaries(KEYS, VALUES, max_size=4), st.lists(st.integers(0, 300), max_size=4))
def test_values_within_values_are_read_as_they_were_meant(arguments: dict[str, Any], cuts: list[int]) -> None:
    text = f'{M3}<tool_call>\n{M3}<invoke name="f">{as_template(arguments)}{M3}</invoke>\n{M3}</tool_call>'
    for at in ([], [min(cut, len(text)) for cut in sorted(cuts)]):
        reader, found = MarkReader({"f": schema_of(arguments)}), []
        for start, end in zip([0, *at], [*at, len(text)], strict=True):
            found += reader.add(text[start:end])
        ((name, read),) = calls_of(_joined([*found, *reader.finish()])) if arguments else [("f", arguments)]
        assert name == "f" and alike(read, arguments)


def alike(read: Any, meant: Any) -> bool:
    """Of a list of several kinds, whose items have no schema, only the length is known."""
    if isinstance(meant, dict):
        return (
            isinstance(read, dict)
            and read.keys() == meant.keys()
            and all(alike(read[k], meant[k]) for k in meant)
        )
    if isinstance(meant, list):
        mixed = any(schema_of(one) != schema_of(meant[0]) for one in meant)
        same = isinstance(read, list) and len(read) == len(meant)
        return same and (mixed or all(map(alike, read, meant)))
    return bool(read == meant)


def test_endless_elements_are_read_in_no_time_and_kept_as_text() -> None:
    for inside in (f"{M3}<a>" * 20_000, f"{M3}<a>{M3}</a>" * 20_000, f"{M3}</b>" * 20_000):
        text = f'{M3}<invoke name="f">{M3}<x>{inside}{M3}</x>{M3}</invoke>'
        reader = MarkReader({"f": {"properties": {"x": {"type": "object"}}}})
        calls = calls_of(_joined([*reader.add(text), *reader.finish()]))
        assert [name for name, _ in calls] == ["f"]


MADE = """{%- set X = ':opensource' %}{%- set a = '<think{}>'.format(X) %}{%- set b = '</think{}>'.format(X) %}
{%- set ns_token = ']<]minimax[>[' -%}{{ ns_token ~ '<tool_call>' }}"""


def test_python_with_line_breaks_in_quotes_and_json_within_is_read() -> None:
    """LFM2.5's template writes texts as they are, and what lies within values as JSON."""
    text = '<|tool_call_start|>[get_weather(city=\'Old\nTown \', where={"far": true, "of": [null, "a\nb"]})]<|tool_call_end|>'
    assert calls_of(parts_of(text)) == [
        ("get_weather", {"city": "Old\nTown ", "where": {"far": True, "of": [None, "a\nb"]}})
    ]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (
            "{'lat': 47.4, 'tags': ['a b', \"it's\"], 'ok': True}",
            {"lat": 47.4, "tags": ["a b", "it's"], "ok": True},
        ),
        ("{'a'", "{'a'"),
        ("{1, 2}", "{1, 2}"),
        ("{'a': 1e999}", "{'a': 1e999}"),
        ("(1, 2)", "(1, 2)"),
        ("[" * 5_000, "[" * 5_000),
    ],
)
def test_objects_in_pythons_writing_are_objects(written: str, meant: Any) -> None:
    """Seed-OSS' and Qwen3-Coder's templates leave it to Jinja to write them."""
    text = f"<function=find><parameter=where>{written}</parameter></function>"
    reader = MarkReader({"find": {"properties": {"where": {"type": "object"}}}})
    assert calls_of(_joined([*reader.add(text), *reader.finish()])) == [("find", {"where": meant})]


def test_marks_that_a_template_puts_together_are_known() -> None:
    known = with_made_marks(MADE)
    for mark in ("<think:opensource>", "</think:opensource>", f"{M3}<tool_call>"):
        assert mark in known and mark not in MADE
    assert with_made_marks("<think>") == "<think>"
    for opening in ("", "<think:opensource>"):
        whole = parts_of(
            "<think:opensource>Hm.</think:opensource>Yes."[len(opening) :], template=MADE, opening=opening
        )
        assert [(part.kind, part.text) for part in whole] == [("reasoning", "Hm."), ("content", "Yes.")]
    assert opening_of("x<think:opensource>", MADE) == "<think:opensource>"
    assert straight_of("<think:opensource>", MADE) == "</think:opensource>"


def test_marks_of_other_families_are_text() -> None:
    assert parts_of("[THINK]a[/THINK]", template="<think>") == [AnswerPart("content", "[THINK]a[/THINK]")]


@pytest.mark.parametrize(
    "line", ['{"a": [\n', "[get_weather('\n", "<tool_call>", "[TOOL_CALLS]get_weather", "```\n", '{"a": "\n']
)
def test_endless_beginnings_are_read_once(line: str) -> None:
    """Half a megabyte of what is never a call is read in vain at most a bounded number of times."""
    reader = MarkReader(FUNCTIONS)
    text = line * (100_000 // len(line))
    said = "".join(part.text for part in (*reader.add(text), *reader.finish()) if part.kind == "content")
    assert said == text

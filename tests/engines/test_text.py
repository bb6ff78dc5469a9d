"""The text side: tokens to characters and back, chat templates, tool calls."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("llama_cpp")

from stepwell.engines.base import TextModel
from stepwell.engines.llamacpp.chat import ChatTemplate, PlainChat
from stepwell.engines.llamacpp.text import ByteDetokenizer
from stepwell.engines.llamacpp.tools import instruction, parse_tool_calls

WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


@pytest.fixture(scope="module")
def smollm2(smollm2_engine: tuple[Any, TextModel]) -> TextModel:
    return smollm2_engine[1]


@pytest.fixture(scope="module")
def gemma3(gemma3_engine: tuple[Any, TextModel]) -> TextModel:
    return gemma3_engine[1]


def spelled(text: TextModel, tokens: list[int]) -> list[str]:
    detokenizer = text.detokenizer()
    return [*(detokenizer.add(token) for token in tokens), detokenizer.flush()]


# --- tokens and characters ------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(words=st.text(st.characters(max_codepoint=0x3FFFF, exclude_categories=["C"]), max_size=60))
def test_text_survives_the_way_through_tokens(smollm2: TextModel, words: str) -> None:
    """Whatever people write: SmolLM2's vocabulary lacks a few bytes, of control codes and empty planes."""
    tokens = smollm2.tokenize(words, add_bos=False, parse_special=False)
    assert "".join(spelled(smollm2, tokens)) == words


@pytest.mark.parametrize("words", ["Ünïcödé", "👩‍👩‍👧‍👦 family", "日本語テキスト", "a\0b", "🇩🇪🇫🇷"])
def test_no_character_is_broken(smollm2: TextModel, gemma3: TextModel, words: str) -> None:
    for text in (smollm2, gemma3):
        pieces = spelled(text, text.tokenize(words, add_bos=False, parse_special=False))
        assert "".join(pieces) == words
        assert "\ufffd" not in "".join(pieces)


class _Bytes:
    """A vocabulary of single bytes, and of pairs, to cut characters anywhere."""

    def piece(self, token: int, *, special: bool) -> bytes:
        return token.to_bytes(1 + (token > 255), "big")


@settings(deadline=None)
@given(data=st.binary(max_size=40), pair=st.booleans(), emoji=st.text("é👩‍👧日", max_size=5))
def test_any_bytes_come_out_as_they_would_at_once(data: bytes, pair: bool, emoji: str) -> None:
    data += emoji.encode()
    width = 2 if pair else 1
    cut = [data[i : i + width] for i in range(0, len(data), width)]
    tokens = [int.from_bytes(c, "big") if len(c) == 1 or c[0] else -1 for c in cut]
    if -1 in tokens:
        return  # this imitation cannot spell a pair that begins with a zero
    detokenizer = ByteDetokenizer(_Bytes())  # type: ignore[arg-type]
    pieces = [*(detokenizer.add(token) for token in tokens), detokenizer.flush()]
    assert "".join(pieces) == data.decode("utf-8", "replace")


def test_marks_that_a_reader_needs_stay_and_other_control_tokens_do_not() -> None:
    class Controls:
        def piece(self, token: int, *, special: bool) -> bytes:
            text = {0: b"hm", 1: b"</think>", 2: b"<|pad|>"}[token]
            return text if token == 0 or special else b""

    marked = ByteDetokenizer(Controls(), {1: "</think>"})  # type: ignore[arg-type]
    assert "".join(map(marked.add, (0, 1, 2, 0))) == "hm</think>hm"
    plain = ByteDetokenizer(Controls())  # type: ignore[arg-type]
    assert "".join(map(plain.add, (0, 1, 2, 0))) == "hmhm"


def test_special_tokens_are_read_only_when_asked_and_have_no_text(smollm2: TextModel) -> None:
    words = "a<|im_end|>b"
    special = smollm2.tokenize(words, add_bos=False, parse_special=True)
    plain = smollm2.tokenize(words, add_bos=False, parse_special=False)
    assert len(special) == 3 < len(plain)
    assert "".join(spelled(smollm2, special)) == "ab"
    assert "".join(spelled(smollm2, plain)) == words
    assert smollm2.is_end(special[1])
    assert not any(smollm2.is_end(token) for token in plain)
    assert smollm2.token_bytes(special[1]) == b"<|im_end|>"


def test_a_template_that_writes_bos_does_not_get_a_second_one(gemma3: TextModel) -> None:
    (bos,) = gemma3.tokenize("", add_bos=True, parse_special=True)
    once = gemma3.tokenize("<bos>hello", add_bos=True, parse_special=True)
    assert once.count(bos) == 1
    assert gemma3.tokenize("hello", add_bos=True, parse_special=True) == once


# --- chat templates -------------------------------------------------------------------------------


def test_smollm2s_template(smollm2: TextModel) -> None:
    assert smollm2.has_chat_template
    rendered = smollm2.render_chat(
        [
            {
                "role": "developer",
                "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}],
            },
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello."},
            {"role": "user", "content": "Why?"},
        ]
    )
    assert rendered.text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nHello.<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert rendered.stops == ()
    without = smollm2.render_chat([{"role": "user", "content": "Hi"}], add_generation_prompt=False)
    assert without.text.endswith("<|im_start|>user\nHi<|im_end|>\n")


def test_tools_reach_a_model_whose_template_knows_none(smollm2: TextModel) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rom"}'}}
    rendered = smollm2.render_chat(
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Weather?"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "1", "content": "sunny"},
        ],
        [WEATHER],
    ).text
    assert f"<|im_start|>system\nBe brief.\n\n{instruction([WEATHER])}<|im_end|>" in rendered
    assert '<tool_call>\n{"name": "weather", "arguments": {"city": "Rom"}}\n</tool_call>' in rendered
    assert "<|im_start|>user\n<tool_response>\nsunny\n</tool_response><|im_end|>" in rendered


def test_a_template_that_knows_tools_gets_them() -> None:
    template = ChatTemplate(
        "{{ bos_token }}{% for t in tools %}{{ t.function | tojson }}{% endfor %}"
        "{% for m in messages %}{% if not m.content %}{% continue %}{% endif %}{{ m.content }}"
        "{% generation %}!{% endgeneration %}{% endfor %}",
        "<s>",
        "</s>",
    )
    rendered = template.render(
        [{"role": "assistant", "content": None}, {"role": "user", "content": "é"}],
        [WEATHER],
        add_generation_prompt=True,
    )
    assert rendered.text == "<s>" + json.dumps(WEATHER["function"]) + "é!"


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('roles must alternate') }}",
        "{{ messages[0].content + 1 }}",
        "{% for m in messages %}",
        "{{ messages.__class__.__mro__[1].__subclasses__() }}{{ cycler.__init__.__globals__.os }}",
        "{{ nothing.at.all }}",
    ],
)
def test_a_template_that_refuses_is_a_value_error(source: str) -> None:
    template = ChatTemplate(source, "", "")
    with pytest.raises(ValueError, match="chat template"):
        template.render([{"role": "user", "content": "x"}], None, add_generation_prompt=True)


def test_a_model_without_a_template_gets_plain_chatml(gemma3: TextModel) -> None:
    assert not gemma3.has_chat_template
    rendered = gemma3.render_chat([{"role": "user", "content": "Hi"}])
    assert rendered.text == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert "<|im_end|>" in rendered.stops
    with_tools = PlainChat().render(
        [{"role": "user", "content": "Hi"}], [WEATHER], add_generation_prompt=False
    )
    assert with_tools.text.startswith("<|im_start|>system\nYou may call")


# --- tool calls -----------------------------------------------------------------------------------

CALL = {"name": "weather", "arguments": '{"city": "Rom"}'}
WRITTEN = '{"name": "weather", "arguments": {"city": "Rom"}}'


@pytest.mark.parametrize(
    ("answer", "content", "calls"),
    [
        (f"<tool_call>\n{WRITTEN}\n</tool_call>", "", [CALL]),
        (
            f"I look.\n<tool_call>{WRITTEN}</tool_call>\n<tool_call>{WRITTEN}</tool_call>",
            "I look.",
            [CALL] * 2,
        ),
        (f"<tool_call>{WRITTEN}", "", [CALL]),
        (f"<tool_call>[{WRITTEN}, {WRITTEN}]</tool_call>", "", [CALL] * 2),
        (WRITTEN.replace("arguments", "parameters"), "", [CALL]),
        (f"<|python_tag|>{WRITTEN}", "", [CALL]),
        ('{"name": "f", "arguments": "{}"}', "", [{"name": "f", "arguments": "{}"}]),
    ],
)
def test_tool_calls_are_read(answer: str, content: str, calls: list[dict[str, str]]) -> None:
    assert parse_tool_calls(answer) == (content, calls)


@pytest.mark.parametrize(
    "answer",
    [
        "no call at all ",
        "<tool_call>not json</tool_call>",
        '<tool_call>{"arguments": {}}</tool_call>',
        '{"name": "Anna", "age": 7}',
        '{"name": 5, "arguments": {}}',
        "[]",
        "[1, 2]",
        "<tool_call>" + "[" * 5000,
        "",
    ],
)
def test_what_is_no_call_stays_content(answer: str) -> None:
    assert parse_tool_calls(answer) == (answer, [])


def test_a_broken_call_beside_a_good_one_is_not_lost() -> None:
    content, calls = parse_tool_calls(f"<tool_call>oops</tool_call><tool_call>{WRITTEN}</tool_call>")
    assert content == "<tool_call>oops</tool_call>"
    assert calls == [CALL]


@settings(deadline=None)
@given(st.text(st.sampled_from(list('<tool_call>/{}"name:arguments[], \n')), max_size=80))
def test_reading_never_fails(answer: str) -> None:
    content, calls = parse_tool_calls(answer)
    assert calls or content == answer

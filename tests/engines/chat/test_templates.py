"""Every template takes every kind of conversation, and nothing said in it is lost."""

from __future__ import annotations

from functools import cache

import pytest

pytest.importorskip("llama_cpp")

from tests.engines.chat.conversations import (
    ALTERNATING,
    CHATML,
    HERMES,
    KINDS,
    ONE_CALL,
    PARALLEL,
    PARIS,
    STRICT_IDS,
    TEMPLATES,
    TOOLS,
    assistant,
    call,
    result,
    user,
    words,
)

from stepwell.engines.llamacpp.chat import ChatTemplate
from stepwell.engines.llamacpp.chat.messages import arguments_object
from stepwell.engines.llamacpp.chat.opening import opening_of
from stepwell.engines.llamacpp.chat.reader import MarkReader
from stepwell.engines.llamacpp.chat.repairs import short_id


@cache
def template(name: str) -> ChatTemplate:
    return ChatTemplate(TEMPLATES[name], "<s>", "</s>")


def rendered(source: str, kind: str) -> str:
    messages, tools = KINDS[kind]
    return ChatTemplate(source, "<s>", "</s>").render(messages, tools, add_generation_prompt=True).text


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_nothing_is_lost(name: str, kind: str) -> None:
    messages, tools = KINDS[kind]
    text = template(name).render(messages, tools, add_generation_prompt=True).text
    assert [word for word in words(messages) if word not in text] == []
    assert tools is None or "get_weather" in text


def test_a_template_that_takes_everything_is_given_it_as_it_is() -> None:
    text = rendered(HERMES, "parallel")
    assert text.count("<tool_call>") == 2
    assert "<|im_start|>tool\n21 degrees<|im_end|>\n<|im_start|>tool\n25 degrees<|im_end|>" in text


def test_ids_are_rewritten_alike_in_call_and_result() -> None:
    assert "[TOOL_CALLS]get_weather[ARGS]" in rendered(STRICT_IDS, "parallel")
    assert short_id("call_x") == short_id("call_x") != short_id("call_y")
    assert short_id("abcdef123") == "abcdef123"


def test_parallel_calls_go_one_after_the_other_each_with_its_result() -> None:
    text = rendered(ONE_CALL, "parallel")
    places = [text.index(word) for word in ("Paris", "21 degrees", "Rome", "25 degrees")]
    assert places == sorted(places)


def test_a_refused_system_message_is_told_to_the_user() -> None:
    assert "<start_of_turn>user\nBe kind.\n\nhello there<end_of_turn>" in rendered(ALTERNATING, "system")


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ('{"a": 1}', {"a": 1}),
        ('{"a": ', {"arguments": '{"a": '}),
        ("[1]", {"arguments": [1]}),
        ("null", {"arguments": None}),
        ("", {}),
        (None, {}),
        ({"a": 1}, {"a": 1}),
    ],
)
def test_arguments_are_always_an_object(written: object, read: object) -> None:
    assert arguments_object(written) == read


def test_the_form_of_a_conversation_does_not_change_as_it_grows() -> None:
    """Else every round of an agent's tools would compute its whole prompt again."""
    for name, source in TEMPLATES.items():
        one = ChatTemplate(source, "<s>", "</s>")
        grown = [*PARALLEL, assistant(call(PARIS, "call_3")), result("22 degrees", "call_3")]
        before = one.render(PARALLEL, TOOLS, add_generation_prompt=False).text
        after = one.render(grown, TOOLS, add_generation_prompt=True).text
        shared = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), len(before))
        assert shared >= 0.9 * len(before), name


@pytest.mark.parametrize("part", [{"type": "image_url", "image_url": {"url": "x"}}, {"type": "input_audio"}])
def test_images_are_refused_with_their_kind(part: dict[str, object]) -> None:
    message = {"role": "user", "content": [{"type": "text", "text": "look"}, part]}
    with pytest.raises(ValueError, match=str(part["type"])):
        ChatTemplate(CHATML, "", "").render([message], None, add_generation_prompt=True)


def test_switches_and_a_fixed_day_reach_the_template() -> None:
    source = "{{ strftime_now('%d %b %Y') }} {{ enable_thinking }} {{ messages[0].content }}"
    one = ChatTemplate(source, "", "")
    options = {"date": "2026-01-31", "enable_thinking": False, "messages": "not these"}
    text = one.render([user("hi")], None, add_generation_prompt=True, options=options).text
    assert text == "31 Jan 2026 False hi"
    with pytest.raises(ValueError, match="2026-01-31"):
        one.render([user("hi")], None, add_generation_prompt=True, options={"date": "tomorrow"})


def test_the_clock_does_not_change_the_prompt_within_a_day() -> None:
    one = ChatTemplate("{{ strftime_now('%H:%M:%S') }}{{ messages[0].content }}", "", "")
    assert one.render([user("hi")], None, add_generation_prompt=True).text == "00:00:00hi"


TYPES_WITHOUT_END = (
    "{% macro kind(of) %}{% if of.type is string %}{{ of.type }}{% else %}{{ kind(of) }}{% endif %}"
    "{% endmacro %}{% for tool in tools or [] %}{{ tool.function.name }}"
    "({{ kind(tool.function.parameters.properties.city) }}){% endfor %}"
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}"
    "{% for call in message.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>"
    "{% endfor %}{% endfor %}<|assistant|>"
)
"""As Hermes 2 Pro, which writes parameters as types of Python, and a nullable one without end."""


@pytest.mark.parametrize(
    "source", [TYPES_WITHOUT_END, *(TEMPLATES[one] for one in TEMPLATES if "Hermes-2-Pro" in one)]
)
def test_tools_that_a_template_cannot_write_are_told_in_the_system_message(source: str) -> None:
    hermes = ChatTemplate(source, "<s>", "</s>")
    parameters = {"type": "object", "properties": {"city": {"type": ["string", "null"], "description": "zq"}}}
    tools = [{"type": "function", "function": {"name": "get", "description": "d", "parameters": parameters}}]
    first = [{"role": "user", "content": "zq1"}]
    text = hermes.render(first, tools, add_generation_prompt=True).text
    assert '"null"' in text and text.index("get") < text.index("zq1")
    call = {"id": "c", "type": "function", "function": {"name": "get", "arguments": '{"city": "zq2"}'}}
    more = [*first, {"role": "assistant", "content": "", "tool_calls": [call]}]
    more.append({"role": "tool", "tool_call_id": "c", "content": "zq3"})
    longer = hermes.render(more, tools, add_generation_prompt=True).text
    assert longer.startswith(text[: text.index("zq1") + 3]), "the form stays while it grows"
    assert "zq2" in longer and "zq3" in longer


def test_a_template_that_drops_messages_whatever_is_tried_is_refused() -> None:
    with pytest.raises(ValueError, match="leave out"):
        ChatTemplate("always the same", "", "").render([user("hi")], None, add_generation_prompt=True)


@pytest.mark.parametrize("name", TEMPLATES)
def test_an_answer_can_begin_without_reasoning(name: str) -> None:
    """What goes between leaves nothing open, and the reader then takes the first word for content."""
    prompt = template(name).render([user("hi")], None, add_generation_prompt=True)
    if prompt.opening:
        assert prompt.straight
        assert opening_of(prompt.text + prompt.straight, TEMPLATES[name]) == ""
    if prompt.thinking is not None:
        said = f"{prompt.thinking.opening}Hm.{prompt.thinking.ending}Yes."
        reader = MarkReader({}, TEMPLATES[name], prompt.opening, calls=False)
        parts = [*reader.add(said), *reader.finish()]
        assert [(part.kind, part.text) for part in parts] == [("reasoning", "Hm."), ("content", "Yes.")]

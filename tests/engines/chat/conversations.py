"""Kinds of conversations, and templates to try them on: small ones of our own, and makers' where present."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

Message = dict[str, Any]

TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Weather",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
            },
        },
    }
]
FIRST, SECOND = "call_" + "ab12" * 6, "call_" + "cd34" * 6
PARIS, ROME = '{"city": "Paris"}', '{"city": "Rome"}'


def call(arguments: str, call_id: str = FIRST) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": "get_weather", "arguments": arguments}}


def system(text: str) -> Message:
    return {"role": "system", "content": text}


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def result(text: str, call_id: str = FIRST) -> Message:
    return {"role": "tool", "content": text, "tool_call_id": call_id}


def assistant(*calls: dict[str, Any], text: str = "", **more: Any) -> Message:
    return {
        "role": "assistant",
        "content": text,
        **({"tool_calls": list(calls)} if calls else {}),
        **more,
    }


ROUND = [user("weather?"), assistant(call(PARIS)), result("21 degrees")]
PARALLEL = [
    system("Be kind."),
    user("weather?"),
    assistant(call(PARIS), call(ROME, SECOND)),
    result("21 degrees"),
    result("25 degrees", SECOND),
]
KINDS: dict[str, tuple[list[Message], list[dict[str, Any]] | None]] = {
    "plain": ([user("hello there")], None),
    "system": ([system("Be kind."), user("hello there")], None),
    "tools not called": ([system("Be kind."), user("hello there")], TOOLS),
    "one call": (ROUND, TOOLS),
    "parallel": (PARALLEL, TOOLS),
    "text beside calls": (
        [
            user("weather?"),
            assistant(call(PARIS), text="Let me see.", reasoning_content="I should look."),
            result("21 degrees"),
            assistant(text="It is warm."),
            user("and then?"),
        ],
        TOOLS,
    ),
    "two rounds": ([*ROUND, assistant(call(ROME, SECOND)), result("25 degrees", SECOND)], TOOLS),
    "cut call": ([user("go"), assistant(call('{"city": "Par')), result("error: cut")], TOOLS),
    "list as arguments": ([user("go"), assistant(call('["Par"]')), result("error: list")], TOOLS),
    "no arguments": ([user("go"), assistant(call("")), result("error: none")], TOOLS),
    "two assistants": (
        [user("go"), assistant(text="One."), assistant(text="Two."), user("more")],
        None,
    ),
    "two users": ([user("alpha"), user("beta")], None),
    "no tools any more": ([*ROUND, user("thanks")], None),
    "system later": ([user("alpha"), assistant(text="ok"), system("Now shout."), user("beta")], None),
    "empty assistant": ([user("alpha"), assistant(), user("beta")], None),
    "orphan result": ([user("alpha"), result("21 degrees"), user("beta")], None),
    "assistant first": ([assistant(text="Welcome."), user("beta")], None),
    "unanswered call": ([user("weather?"), assistant(call(PARIS)), user("never mind")], TOOLS),
}


def words(messages: list[Message]) -> list[str]:
    """What must be in the prompt."""
    found = [message["content"] for message in messages if message["content"]]
    for made in (made for message in messages for made in message.get("tool_calls", ())):
        arguments = made["function"]["arguments"]
        found += ["get_weather", *(word for word in ("Paris", "Rome", "Par") if word in arguments)]
    return found


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
HERMES = (
    "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for c in m.tool_calls %}<tool_call>\n"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}\n</tool_call>'
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
STRICT_IDS = (
    "{{ tools | tojson if tools else '' }}"
    "{% for m in messages %}{% for c in m.tool_calls or [] %}"
    "{% if c.id | length != 9 %}{{ raise_exception('ids have nine characters') }}{% endif %}"
    "[TOOL_CALLS]{{ c.function.name }}[ARGS]{{ c.function.arguments | tojson }}{% endfor %}"
    "{% if m.role == 'tool' %}{% if m.tool_call_id | length != 9 %}"
    "{{ raise_exception('ids have nine characters') }}{% endif %}{% endif %}"
    "[{{ m.role }}]{{ m.content }}{% endfor %}"
)
ONE_CALL = (
    "{{ tools | tojson if tools else '' }}"
    "{% for m in messages %}{% if m.tool_calls %}{% if m.tool_calls | length > 1 %}"
    "{{ raise_exception('single calls only') }}{% endif %}"
    "{{ m.tool_calls[0].function | tojson }}{% else %}[{{ m.role }}]{{ m.content }}{% endif %}"
    "{% endfor %}"
)
ALTERNATING = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('alternate') }}{% endif %}"
    "<start_of_turn>{{ m.role }}\n{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
)
AS_TEXT = (
    "{% for t in tools %}{{ t | tojson }}{% endfor %}{% for m in messages %}[{{ m.role }}]{{ m.content }}"
    "{% for c in m.tool_calls %}>>>{{ c.function.name }}\n{{ c.function.arguments + '' }}{% endfor %}"
    "{% endfor %}"
)
OWN = {
    "chatml": CHATML,
    "hermes": HERMES,
    "strict ids": STRICT_IDS,
    "one call": ONE_CALL,
    "alternating": ALTERNATING,
    "arguments as text": AS_TEXT,
}


def makers() -> dict[str, str]:
    """Templates of model makers, where a folder of them lies beside the checkout."""
    root = Path(__file__).resolve().parents[3]
    given = os.environ.get("STEPWELL_TEMPLATES")
    near = [up / "shared" / "data" / "templates" for up in (root.parent, root.parent.parent)]
    folder = next((one for one in ([Path(given)] if given else near) if one.is_dir()), None)
    if folder is None:
        return {}
    return {path.stem: path.read_text("utf-8") for path in sorted(folder.glob("*.jinja"))}


TEMPLATES = {**OWN, **makers()}

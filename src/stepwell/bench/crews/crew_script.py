"""A scripted model: what every agent of the benches' crews answers, as a function of its request alone.

The same script answers inside a process (no server time at all) and over HTTP, so that a run that is killed
and resumed has one right answer.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

MODEL = "scripted"
Message = Mapping[str, Any]
STEPS = 5
"""Of a plan: the most that the runtime takes."""


def answer(role: str, agent: str, messages: Sequence[Message], rounds: int, batch: int) -> dict[str, Any]:
    """The assistant's message. ``rounds``: plans that a planner makes, or batches of ``batch`` children that
    a lead spawns."""
    said = sum(1 for message in messages if message["role"] == "assistant")
    match role:
        case "planner":
            return _text(_plan(said))
        case "verifier":
            satisfied = said + 1 >= rounds
            return _text(json.dumps({"ok": satisfied, "score": said + 1, "reason": f"draft {said + 1}"}))
        case "lead":
            return _lead(said, rounds, batch)
        case "worker" if messages[-1]["role"] != "tool":
            return _calls([("note", {"text": agent})])
        case _:
            # The result of a call may be unknown after a crash: only what was asked goes into the answer.
            asked = next(str(m["content"]) for m in reversed(messages) if m["role"] == "user")
            return _text(f"{agent} found {zlib.crc32(asked.encode()):08x}")


def reply(message: Mapping[str, Any], messages: Sequence[Message]) -> dict[str, Any]:
    """The body of a chat completion."""
    prompt = sum(len(str(one.get("content") or "")) for one in messages) // 4 + len(messages)
    finish = "tool_calls" if message.get("tool_calls") else "stop"
    return {
        "object": "chat.completion",
        "choices": [{"index": 0, "message": dict(message), "finish_reason": finish}],
        "usage": {"prompt_tokens": prompt, "completion_tokens": 8},
    }


def _plan(said: int) -> str:
    steps = [
        {"id": f"s{at}", "role": "worker", "task": f"Part {said + 1}.{at}.", "needs": []}
        for at in range(1, STEPS + 1)
    ]
    return json.dumps({"done": False, "steps": steps})


def _lead(said: int, rounds: int, batch: int) -> dict[str, Any]:
    """Spawns a batch, waits for it, spawns the next."""
    number, is_wait = divmod(said, 2)
    if number >= rounds:
        return _text("all parts are done")
    if is_wait:
        names = [f"worker-{number * batch + at + 1}" for at in range(batch)]
        return _calls([("wait_agent", {"agents": names})])
    return _calls(
        [("spawn_agent", {"role": "worker", "task": f"Part {number}.{at}."}) for at in range(batch)]
    )


def _text(content: str) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


def _calls(wanted: Sequence[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    calls = [
        {
            "id": f"call_{at}",
            "type": "function",
            "function": {"name": name, "arguments": json.dumps(arguments)},
        }
        for at, (name, arguments) in enumerate(wanted)
    ]
    return {"role": "assistant", "content": None, "tool_calls": calls}

"""What vLLM says a request has come to, read off its answer while that passes by.

vLLM is asked for usage with every event of a stream, so that a client that leaves half-way is charged for
what was computed. What the client did not ask for is taken out again before it is sent on.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from stepwell.vllm.called import Called

END_OF_EVENT = b"\n\n"
DATA = b"data: "
STREAM_OPTIONS = {"include_usage": True, "continuous_usage_stats": True}
MOST_EVENT_BYTES = 16 << 20
"""Of a longer event nothing is read: it is passed on as it is."""
PRIVATE = ("kv_transfer_params", "ec_transfer_params")
"""What vLLM may say back of what only the front end set."""


@dataclass(slots=True)
class Used:
    """Tokens of one request, as far as vLLM has said. ``choices``: how many each prompt has."""

    choices: int = 1
    cached_tokens: int = 0
    finished: str = ""
    """Why the first choice that ended did so."""
    called: Called = field(default_factory=Called)
    """The tools that it calls."""
    _prompts: dict[int, int] = field(default_factory=dict)
    _generated: dict[int, int] = field(default_factory=dict)
    _prompt_total: int = 0
    _generated_total: int = 0

    @property
    def prompt_tokens(self) -> int:
        """Over all prompts; 0: nothing was said yet."""
        return max(self._prompt_total, sum(self._prompts.values()))

    @property
    def generated_tokens(self) -> int:
        """Over all choices."""
        return max(self._generated_total, sum(self._generated.values()))

    def hear(self, said: dict[str, Any], *, streamed: bool) -> None:
        """A whole answer, or the data of one event, in OpenAI's or Anthropic's words."""
        self.called.hear(said)
        listed = said.get("choices")
        choices = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
        inner = [said, *(_object(said.get(name)) for name in ("message", "response", "delta"))]
        reasons = [one.get("finish_reason") for one in choices] + [one.get("stop_reason") for one in inner]
        self.finished = self.finished or next((r for r in reasons if isinstance(r, str)), "")
        index = choices[0].get("index") if streamed and choices else None
        for holder in inner:
            if usage := _object(holder.get("usage")):
                self._take(usage, index if isinstance(index, int) else None)

    def _take(self, usage: dict[str, Any], index: int | None) -> None:
        details = _object(usage.get("prompt_tokens_details")) or _object(usage.get("input_tokens_details"))
        cached = _count(details.get("cached_tokens"))
        if "prompt_tokens" in usage:
            prompt, generated = _count(usage["prompt_tokens"]), _count(usage.get("completion_tokens"))
        else:
            prompt, generated = _count(usage.get("input_tokens")), _count(usage.get("output_tokens"))
            apart = _count(usage.get("cache_read_input_tokens"))  # Anthropic's input tokens are the others
            prompt, cached = prompt + apart, cached or apart
        self.cached_tokens = max(self.cached_tokens, cached)
        if index is None:
            self._prompt_total = max(self._prompt_total, prompt)
            self._generated_total = max(self._generated_total, generated)
        else:
            of_prompt = index // self.choices
            self._prompts[of_prompt] = max(self._prompts.get(of_prompt, 0), prompt)
            self._generated[index] = max(self._generated.get(index, 0), generated)


class StreamReader:
    """Events of a stream, heard and made what the client asked for."""

    def __init__(self, used: Used, *, tells_usage: bool) -> None:
        """``tells_usage``: the client wants the usage at the end."""
        self._used, self._tells_usage = used, tells_usage
        self._rest = b""
        self.failed = False
        """An event said that something went wrong."""

    def feed(self, chunk: bytes) -> bytes:
        """What of it goes on to the client: whole events."""
        *events, self._rest = (self._rest + chunk).split(END_OF_EVENT)
        if len(self._rest) > MOST_EVENT_BYTES:
            events, self._rest = [*events, self._rest], b""
            return b"".join(one + END_OF_EVENT for one in events[:-1]) + events[-1]
        return b"".join(map(self._event, events))

    def end(self) -> bytes:
        """What came behind the last whole event."""
        rest, self._rest = self._rest, b""
        return rest

    def _event(self, event: bytes) -> bytes:
        head, found, data = event.partition(DATA)
        try:
            said = json.loads(data) if found and data[:1] == b"{" else None
        except (ValueError, RecursionError):
            said = None
        if not isinstance(said, dict):
            return event + END_OF_EVENT
        self._used.hear(said, streamed=True)
        self.failed = self.failed or bool(said.get("error"))
        changed = [said.pop(name) for name in PRIVATE if name in said]
        if "choices" in said and "usage" in said:  # the other dialects tell usage by themselves
            if not said["choices"]:
                return event + END_OF_EVENT if self._tells_usage else b""
            changed.append(said.pop("usage"))
            if self._tells_usage:
                said["usage"] = None  # as OpenAI has it
        if not changed:
            return event + END_OF_EVENT
        return head + DATA + _compact(said) + END_OF_EVENT


def whole(data: bytes, used: Used) -> bytes:
    """An answer that is no stream, heard and without what is not for its client."""
    try:
        said = json.loads(data)
    except (ValueError, RecursionError):
        return data
    if not isinstance(said, dict):
        return data
    used.hear(said, streamed=False)
    private = [said.pop(name) for name in PRIVATE if name in said]
    return _compact(said) if private else data


def _compact(said: dict[str, Any]) -> bytes:
    return json.dumps(said, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0

"""From messages or prompts to token ids that fit the context. Slow for long prompts: runs in a thread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from stepwell.engines.base import RenderedChat, TextModel, Thinking
from stepwell.server.errors import bad_request, clip, context_length_exceeded
from stepwell.server.generation.tools import ToolSet
from stepwell.server.wire.schema import Message, Prompt

DOCUMENT_END = "</document>"
"""The end of an attached document's frame (``attachments``)."""
MAX_TOKEN_CHARS = 512
"""Longer than any token of any vocabulary in use (the longest are runs of spaces)."""


@dataclass(frozen=True, slots=True)
class TokenPrompt:
    """A prompt ready for the driver."""

    tokens: tuple[int, ...]
    text: str
    stops: tuple[str, ...] = ()
    opening: str | None = None
    """Of a chat: the mark that it has opened for the answer; empty: none."""
    thinking: Thinking | None = None
    """Of a chat whose answer may be thought about first: how the model marks that."""

    def max_new_tokens(self, asked: int | None, default: int, context_tokens: int) -> int:
        """How much may be generated: what was asked for, cut where the context ends.

        OpenAI refuses ``max_tokens`` that does not fit behind the prompt. Frameworks send fixed large
        numbers, and contexts on small machines are short, so here it is clipped; ``finish_reason`` is
        then ``length``.
        """
        return min(default if asked is None else asked, context_tokens - len(self.tokens))


def chat_prompt(
    text_model: TextModel,
    messages: Sequence[Mapping[str, Any]],
    tools: ToolSet,
    param: str,
    options: Mapping[str, Any] | None = None,
    *,
    straight: bool = False,
    prefill: bool = False,
) -> TokenPrompt:
    """Render and tokenise a conversation. Raises ``ApiError``; ``param`` is the field to blame.

    ``options``: further variables of the chat template. ``straight``: the answer is not thought about first;
    one whose text is constrained never is. ``prefill``: a last message of the assistant begins the answer.
    """
    *before, last = messages
    begun = prefill and bool(before) and last["role"] == "assistant" and not last.get("tool_calls")
    try:
        rendered = text_model.render_chat(
            [dict(message) for message in (before if begun else messages)],
            list(tools.rendered) or None,
            options=options,
        )
    except ValueError as error:
        raise bad_request(clip(str(error), 500), param=param) from error
    if begun or straight or tools.straight:
        rendered = _begun(rendered, str(last["content"]) if begun else "")
    # As llama.cpp does it; a template that writes the beginning-of-sequence token itself gets no second.
    _refuse_endless(text_model, rendered.text, param)
    tokens = text_model.tokenize_chat(rendered)
    prompt = _checked(text_model, tokens, rendered.text, rendered.stops, param)
    return replace(prompt, opening=rendered.opening, thinking=rendered.thinking)


def _begun(rendered: RenderedChat, words: str) -> RenderedChat:
    """The prompt with the beginning of its answer: past the place for reasoning, then ``words``, as text."""
    text = rendered.text + rendered.straight
    literal = (*rendered.literal, (len(text), len(text) + len(words))) if words else rendered.literal
    return replace(rendered, text=text + words, literal=literal, opening="", thinking=None)


def plain_prompt(text_model: TextModel, prompt: Prompt) -> TokenPrompt:
    """Tokenise a completions prompt, or take it as it is. Raises ``ApiError``.

    Token ids are checked by ``LoopPort.validate``; their ``text`` is left to ``text_of``.
    """
    if isinstance(prompt, str):
        tokens = _tokenize(text_model, prompt, "prompt")
        return _checked(text_model, tokens, prompt, (), "prompt")
    return _checked(text_model, prompt, "", (), "prompt")


def text_of(text_model: TextModel, tokens: Sequence[int]) -> str:
    """What valid tokens say; bytes that are no UTF-8 are replaced."""
    return b"".join(map(text_model.token_bytes, tokens)).decode("utf-8", "replace")


def _tokenize(text_model: TextModel, text: str, param: str) -> list[int]:
    _refuse_endless(text_model, text, param)
    return text_model.tokenize(text, add_bos=True, parse_special=True)


def _refuse_endless(text_model: TextModel, text: str, param: str) -> None:
    """Tokenising megabytes takes seconds of a thread; text that cannot possibly fit is not even tried."""
    if len(text) > text_model.context_tokens * MAX_TOKEN_CHARS:
        raise context_length_exceeded(text_model.context_tokens, None, param, attached=DOCUMENT_END in text)


def _checked(
    text_model: TextModel, tokens: Sequence[int], text: str, stops: tuple[str, ...], param: str
) -> TokenPrompt:
    if not tokens:
        raise bad_request("The prompt is empty.", param=param)
    if len(tokens) >= text_model.context_tokens:
        attached = DOCUMENT_END in text
        raise context_length_exceeded(text_model.context_tokens, len(tokens), param, attached=attached)
    return TokenPrompt(tuple(tokens), text, stops)


def template_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages as chat templates know them.

    ``developer`` is OpenAI's newer word for ``system``; open models were trained on the older one.
    """
    return [_template_message(message) for message in messages]


def _template_message(message: Message) -> dict[str, Any]:
    role = {"developer": "system", "function": "tool"}.get(message.role, message.role)
    result: dict[str, Any] = {"role": role, "content": message.content or message.refusal or ""}
    if message.name is not None:
        result["name"] = message.name
    if message.tool_calls:
        result["tool_calls"] = [call.model_dump() for call in message.tool_calls]
    if message.tool_call_id is not None:
        result["tool_call_id"] = message.tool_call_id
    if role == "assistant" and (thought := message.reasoning_content or message.reasoning):
        result["reasoning_content"] = thought
    return result

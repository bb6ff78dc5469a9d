"""What of a request decides its node. Nothing here is authority: every node checks the request again."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import xxhash

from stepwell.fleet.places import Places
from stepwell.fleet.prefixes import CUTS, PromptPrefix
from stepwell.fleet.types import RoutedTurn
from stepwell.server.callers.identity import identify
from stepwell.server.callers.keys import SAME_TIER, ApiKey

CHARS_PER_TOKEN = 4
"""Of English text, and near enough for choosing a node."""
_MOST_BYTES = CUTS[-1] * CHARS_PER_TOKEN
DEFAULT_ANSWER_TOKENS = 128
MOST_ANSWER_TOKENS = 4_096
FILES = (b'"file_id"', b'"file_search"')
_RESPONSE = re.compile(rb'"id":\s?"(resp_[A-Za-z0-9_-]{1,128})"')
_USAGE = re.compile(
    rb'"(prompt_tokens|input_tokens|completion_tokens|output_tokens|cached_tokens)":\s?(\d{1,9})'
)


_NONE = msgspec.Raw(b"")


class PeekedFields(msgspec.Struct):
    """The fields of a body that name the caller, how much is asked and, as they stand, what the prompt is.
    All others are passed over unread."""

    model: Any = None
    service_tier: Any = None
    stream: Any = None
    max_tokens: Any = None
    max_completion_tokens: Any = None
    max_output_tokens: Any = None
    previous_response_id: Any = None
    session_id: Any = None
    parent_session_id: Any = None
    metadata: Any = None
    agent_hint: Any = None
    conversation: Any = None
    prompt_cache_key: Any = None
    safety_identifier: Any = None
    user: Any = None
    tools: msgspec.Raw = _NONE
    system: msgspec.Raw = _NONE
    instructions: msgspec.Raw = _NONE
    prompt: msgspec.Raw = _NONE
    messages: msgspec.Raw = _NONE
    input: msgspec.Raw = _NONE

    def texts(self) -> tuple[msgspec.Raw, ...]:
        """What the prompt is made of in chat, completions, Messages and Responses, in the prompt's order."""
        return self.tools, self.system, self.instructions, self.prompt, self.messages, self.input


_decode = msgspec.json.Decoder(PeekedFields).decode
IDENTITY_FIELDS = (
    "session_id", "parent_session_id", "metadata", "agent_hint", "conversation", "prompt_cache_key",
    "safety_identifier", "user",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Peeked:
    """A turn before it has a node."""

    turn: RoutedTurn
    model: str | None
    stream: bool
    previous_response: str | None
    has_files: bool
    conversation: bool
    """Whether it names one; where it counts, that is one of the tenant's conversations."""


def peek(headers: Mapping[str, str], body: bytes, key: ApiKey, places: Places) -> Peeked:
    """Never raises: what cannot be read is a turn without an agent, and the node says what is wrong."""
    try:
        said = _decode(body)
    except (msgspec.DecodeError, RecursionError):
        said = PeekedFields()
    fields = {name: value for name in IDENTITY_FIELDS if (value := getattr(said, name)) is not None}
    identity = identify(headers, fields, key)
    agent = identity.agent
    place = places.find((identity.tenant, agent)) if agent else None
    guess = max(1, len(body) // CHARS_PER_TOKEN)
    turn = RoutedTurn(
        identity.tenant,
        _service_tier(said.service_tier, key),
        identity.session,
        agent,
        identity.parent,
        beginnings(f"{identity.tenant}\0{said.model}", said.texts()),
        guess if place is None else max(place.context_tokens, 1),
        _answer_tokens(said),
    )
    previous = said.previous_response_id
    return Peeked(
        turn,
        said.model if isinstance(said.model, str) else None,
        said.stream is True,
        previous if isinstance(previous, str) else None,
        any(mark in body for mark in FILES),
        said.conversation is not None,
    )


def beginnings(salt: str, texts: Iterable[msgspec.Raw]) -> tuple[PromptPrefix, ...]:
    """How the prompt begins, to each of ``CUTS`` that it reaches, and the whole of it. Of its JSON as it was
    sent: the same prompt written in another way counts as another one."""
    text = b"".join([memoryview(one)[:_MOST_BYTES] for one in texts])[:_MOST_BYTES]
    digest = xxhash.xxh3_64(salt.encode(errors="surrogatepass"))
    found: list[PromptPrefix] = []
    start = 0
    for cut in CUTS:
        end = cut * CHARS_PER_TOKEN
        if end >= len(text):
            break
        digest.update(text[start:end])
        found.append(PromptPrefix(digest.hexdigest(), cut))
        start = end
    if text:
        digest.update(text[start:])
        found.append(PromptPrefix(digest.hexdigest(), -(-len(text) // CHARS_PER_TOKEN)))
    return tuple(found)


def _service_tier(asked: Any, key: ApiKey) -> str:
    if not isinstance(asked, str) or asked == "auto":
        return key.default_service_tier
    return SAME_TIER.get(asked, asked)


def _answer_tokens(said: PeekedFields) -> int:
    for value in (said.max_completion_tokens, said.max_output_tokens, said.max_tokens):
        if isinstance(value, int) and not isinstance(value, bool):
            return min(MOST_ANSWER_TOKENS, max(1, value))
    return DEFAULT_ANSWER_TOKENS


@dataclass(slots=True)
class Heard:
    """What passes by in an answer: its tokens, and the id under which it is stored."""

    prompt_tokens: int = 0
    generated_tokens: int = 0
    cached_tokens: int = 0
    events: int = 0
    response: str | None = None

    def hear(self, chunk: bytes) -> None:
        if self.response is None and b"resp_" in chunk and (found := _RESPONSE.search(chunk)):
            self.response = found[1].decode()
        self.events += chunk.count(b"data: ")
        if b"_tokens" not in chunk:
            return
        for name, digits in _USAGE.findall(chunk):
            number = int(digits)
            if name in (b"prompt_tokens", b"input_tokens"):
                self.prompt_tokens = max(self.prompt_tokens, number)
            elif name == b"cached_tokens":
                self.cached_tokens = max(self.cached_tokens, number)
            else:
                self.generated_tokens = max(self.generated_tokens, number)

    def tokens(self, turn: RoutedTurn) -> tuple[int, int, int]:
        """Context, generated and cached tokens; where the answer does not say, what can be guessed."""
        prompt = self.prompt_tokens or turn.prompt_tokens
        generated = self.generated_tokens or min(self.events, turn.max_new_tokens)
        return prompt + generated, generated, self.cached_tokens

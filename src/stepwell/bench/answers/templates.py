"""``stepwell bench templates``: what of an agent's last turn its next prompt can reuse, per chat template.

A template that writes the last turn otherwise than the model wrote it makes the server compute it again: that
is the dearest cache miss there is. One conversation (system, tools, two parallel calls, their results, an
answer, a second question) is rendered turn by turn, and each prompt is compared with the tokens that the turn
before left in the cache: its own prompt, and what the model wrote after it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from stepwell.bench.harness import BenchRun, bench
from stepwell.bench.page_table import write_between
from stepwell.console.output import table
from stepwell.engines.base import AnswerReader, RenderedChat
from stepwell.engines.llamacpp import LlamaCppConfig, load_llamacpp
from stepwell.engines.llamacpp.chat import ChatTemplate
from stepwell.engines.llamacpp.chat.formats import REASONING as REASONING_MARKS
from stepwell.engines.llamacpp.chat.reader import MarkReader
from stepwell.engines.models import resolve_model
from stepwell.errors import BadInput

Message = dict[str, Any]
Tokenize = Callable[[str], Sequence[int]]

REASONING = "The user wants to know about two cities, so I should ask for both at once."
ANSWER = "It is 21 degrees in Paris and 25 degrees in Rome, so Rome is the warmer of the two today."
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city, now.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
FUNCTIONS = {"get_weather": TOOL["function"]["parameters"]}
QUICK_TEMPLATES = 8
COLUMNS = ("after_calls", "after_calls_with_reasoning", "after_answer", "after_answer_with_reasoning")


def _call(number: int, city: str) -> dict[str, Any]:
    function = {"name": "get_weather", "arguments": f'{{"city": "{city}"}}'}
    return {"id": f"call_{number}0000000", "type": "function", "function": function}


ASKED: list[Message] = [
    {"role": "system", "content": "You are a careful assistant. Use the tools for every fact; be brief."},
    {"role": "user", "content": "Is it warmer in Paris or in Rome?"},
]
CALLS: Message = {"role": "assistant", "content": "", "tool_calls": [_call(1, "Paris"), _call(2, "Rome")]}
RESULTS: list[Message] = [
    {"role": "tool", "tool_call_id": "call_10000000", "content": "21 degrees"},
    {"role": "tool", "tool_call_id": "call_20000000", "content": "25 degrees"},
]
SAID: Message = {"role": "assistant", "content": ANSWER}
AGAIN: Message = {"role": "user", "content": "And where does it rain?"}


class Render(Protocol):
    """A chat template at work: ``ChatTemplate.render`` or ``TextModel.render_chat``."""

    def __call__(
        self, messages: Sequence[Message], tools: Sequence[Message] | None, *, add_generation_prompt: bool
    ) -> RenderedChat: ...


@dataclass(frozen=True, slots=True)
class TemplateSubject:
    """A template: how it writes, and how an answer under it is read."""

    name: str
    render: Render
    reader: Callable[[str], AnswerReader]
    """For an answer that goes on from this opening."""


@dataclass(frozen=True, slots=True)
class TemplateReuse:
    """Of one template: shares of the last turn's tokens that the next prompt begins with; None: refused."""

    name: str
    shares: Mapping[str, float | None]
    calls_read: int
    """How many of the two calls are read back from what the template writes."""

    def as_json(self) -> dict[str, Any]:
        return {"template": self.name, **self.shares, "calls_read": self.calls_read}


@bench("templates")
def main(run: BenchRun, *paths: Path, model: str = "smollm2", page: Path | None = None) -> None:
    """Show what share of an agent's last turn its next prompt reuses, for each chat template.

    Last turn: its prompt, and what the model wrote after it. Nothing is computed, only written and counted.

    Example: ``stepwell bench templates folder/of/templates --json reuse.json``

    Parameters
    ----------
    paths
        Templates (.jinja), or folders of them. Without any: the template of --model.
    model
        Whose vocabulary counts the tokens: smollm2, gemma3, or the path of a GGUF file.
    page
        Write the table into this page, between its marks.
    """
    sources = sources_of(paths)
    file = resolve_model(model)
    engine, text = load_llamacpp(LlamaCppConfig(file.path, file.name, device_kv_tokens=512))
    try:
        chosen = [of_source(name, source) for name, source in sorted(sources.items())]
        chosen = chosen or [TemplateSubject(file.name, text.render_chat, partial(text.reader, FUNCTIONS))]
        tokenize = partial(text.tokenize, add_bos=False, parse_special=True)
        found = []
        for subject in chosen[: QUICK_TEMPLATES if run.quick else None]:
            run.progress.phase(subject.name)
            found.append(measure(subject, tokenize))
    finally:
        engine.close_engine()
    run.settings = {"model": file.name, "templates": len(found)}
    run.results = {"templates": [one.as_json() for one in found]}
    run.show(table("Share of the last turn's tokens that the next prompt begins with", HEADS, rows(found)))
    if page is not None:
        write_between(page, MARKS, markdown(found))
    few = [one for one in found if one.calls_read < 2]
    run.notes = [f"{one.name}: {one.calls_read} of 2 calls are read back" for one in few]


def of_source(name: str, source: str) -> TemplateSubject:
    return TemplateSubject(name, ChatTemplate(source, "", "").render, partial(MarkReader, FUNCTIONS, source))


def sources_of(paths: Sequence[Path]) -> dict[str, str]:
    """Templates by name. ``BadInput`` for a path that holds none."""
    files = [file for path in paths for file in (sorted(path.glob("*.jinja")) if path.is_dir() else [path])]
    if paths and not files:
        raise BadInput(f"no .jinja file lies in {', '.join(map(str, paths))}")
    try:
        return {file.stem: file.read_text(encoding="utf-8") for file in files}
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"a template cannot be read: {error}") from error


# --- measuring ----------------------------------------------------------------------------------


def measure(subject: TemplateSubject, tokenize: Tokenize) -> TemplateReuse:
    """All four shares of one template."""
    render = subject.render
    shares: dict[str, float | None] = {}
    read = 0
    for reasoning in ("", REASONING):
        calls, said = _thought(CALLS, reasoning), _thought(SAID, reasoning)
        before = [*ASKED, calls, *RESULTS]
        turns = {"calls": (ASKED, calls, before), "answer": (before, said, [*before, said, AGAIN])}
        for kind, (messages, answer, following) in turns.items():
            key = f"after_{kind}" + "_with_reasoning" * bool(reasoning)
            try:
                prompt = render(messages, [TOOL], add_generation_prompt=True)
                left = _left(render, prompt, messages, answer)
                then = render(following, [TOOL], add_generation_prompt=True).text
            except ValueError:
                shares[key] = None
                continue
            shares[key] = _share(tokenize(left), tokenize(then))
            if kind == "calls" and not reasoning:
                reader = subject.reader(prompt.opening)
                parts = [*reader.add(left[len(prompt.text) :]), *reader.finish()]
                read = sum(part.kind == "call" for part in parts)
    return TemplateReuse(subject.name, shares, read)


def _thought(message: Message, reasoning: str) -> Message:
    return {**message, "reasoning_content": reasoning} if reasoning else message


def _left(render: Render, prompt: RenderedChat, messages: Sequence[Message], answer: Message) -> str:
    """What a turn leaves in the cache: its prompt, reasoning between its marks, the answer as written."""
    written = render([*messages, answer], [TOOL], add_generation_prompt=False).text
    body = written[_same_marks(prompt.text, written) :]
    reasoning, marks = answer.get("reasoning_content", ""), prompt.thinking
    ended = marks is None or bool(marks.opening) or marks.closing in body
    if written.startswith(prompt.text) and ended and (not reasoning or reasoning in body):
        return written
    if reasoning and marks is not None:
        between = f"{marks.opening}{reasoning}{marks.ending}"
    else:
        between = prompt.straight
    start = max(body.rfind(answer["content"]), 0) if answer["content"] else _start_of_calls(body)
    return prompt.text + between + body[start:]


def _start_of_calls(body: str) -> int:
    """Past reasoning that the template wrote itself, such as an empty pair of marks."""
    ends = [body.rfind(kind.closing) + len(kind.closing) for kind in REASONING_MARKS if kind.closing in body]
    return max(ends, default=0)


def _share(left: Sequence[int], then: Sequence[int]) -> float:
    return _same(left, then) / len(left)


def _same_marks(prompt: str, written: str) -> int:
    """How many characters both begin with, without a mark of which only the beginning is the same."""
    same = _same(prompt, written)
    start = written.rfind("<", 0, same)
    return start if start >= 0 and ">" not in written[start:same] else same


def _same(left: Sequence[Any], then: Sequence[Any]) -> int:
    """How many items both begin with."""
    pairs = enumerate(zip(left, then, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(left), len(then)))


# --- showing ------------------------------------------------------------------------------------

HEADS = ("template", "calls", "calls, reasoned", "answer", "answer, reasoned")


MARKS = ("<!-- templates -->", "<!-- end of templates -->")


def markdown(found: Sequence[TemplateReuse]) -> str:
    """The table of docs/models.md."""
    lines = [HEADS, ("---", *["---:"] * len(COLUMNS)), *rows(found)]
    made = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return made.replace("| --- |", "|---|").replace(" ---: |", "---:|").replace("| ---:|", "|---:|")


def rows(found: Sequence[TemplateReuse]) -> list[list[str]]:
    return [[one.name, *(_percent(one.shares[column]) for column in COLUMNS)] for one in found]


def _percent(share: float | None) -> str:
    return "refused" if share is None else f"{100 * share:.0f} %"

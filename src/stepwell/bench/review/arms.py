"""The two arms of ``stepwell bench review``: our crew, and the same model with the table in its prompt."""

from __future__ import annotations

import html
import json
import random
import re
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import httpx2 as httpx

from stepwell.agents.client import Client
from stepwell.agents.servers import ModelPlace, Servers
from stepwell.bench.review.judge import Judged, judge
from stepwell.review.crew import Level, Newsroom
from stepwell.review.facts import Facts
from stepwell.review.outline import SECTIONS, Handle, lookup, sayable
from stepwell.review.page import ReviewPage
from stepwell.review.verifier import verify
from stepwell.review.wording import LANGUAGES, MOVES, word
from stepwell.review.writer import Draft, from_templates

ROLE = "You write a weekly review of US markets. Use the figures of the table and no others. Write prose."
MAX_TOKENS = 400
SLIPS = 10
"""The scripted model slips in one of so many sentences."""


@dataclass(slots=True)
class Told:
    """What came of one week in one arm."""

    judged: Judged
    faults: int = 0
    """That the verifier found, in both languages; of the other arm there is nothing to verify."""
    numerals: int = 0
    sentences: int = 0
    chosen: int = 0
    written: int = 0
    fallbacks: int = 0
    printed: int = 0
    """Sentences on the page: of two statements that are joined there is one."""
    otherwise: int = 0
    """Of those, the ones that templates alone would not have printed."""
    tokens: int = 0
    cost_microusd: int = 0
    wall_s: float = 0.0


async def ours(facts: Facts, servers: Servers | None, level: Level) -> Told:
    """The crew, or the templates where there are no servers."""
    begun = time.perf_counter()
    if servers is None:
        draft, spent = from_templates(facts), []
    else:
        room = Newsroom(facts, servers, words=level == "write")
        draft = await room.draft()
        spent = [one.result for one in room.spent]
    told = Told(judge(plain(facts, draft), facts), sentences=draft.count, written=draft.written)
    told.chosen, told.fallbacks = draft.chosen, draft.fallbacks
    alone = from_templates(facts)
    for section in SECTIONS:
        usual, shown = alone.pieces(section, "en"), draft.pieces(section, "en")
        told.printed += len(shown)
        told.otherwise += sum(one not in usual for one in shown)
    for language in LANGUAGES:
        verdict = verify(ReviewPage(facts, draft, language).html().encode())
        told.faults += len(verdict.faults)
        told.numerals += verdict.numerals
    told.tokens = sum(one.prompt_tokens + one.visible_tokens + one.intermediate_tokens for one in spent)
    told.cost_microusd = sum(one.cost_microusd or 0 for one in spent)
    told.wall_s = time.perf_counter() - begun
    return told


def plain(facts: Facts, draft: Draft) -> str:
    """The sentences of the sections as they are read in English."""
    page = ReviewPage(facts, draft, "en")
    parts = [" ".join(page.marked(pieces) for pieces in draft.pieces(section, "en")) for section in SECTIONS]
    return html.unescape(re.sub(r"<[^>]+>", "", "\n".join(parts)))


async def table_in_prompt(facts: Facts, url: str, model: str, transport: Transport | None) -> Told:
    """One request with all that ours may say, as a table: the usual way."""
    begun = time.perf_counter()
    body = {
        "model": model,
        "messages": [{"role": "system", "content": ROLE}, {"role": "user", "content": table(facts)}],
        "max_tokens": MAX_TOKENS,
        "temperature": 0.0,
    }
    async with httpx.AsyncClient(base_url=url, timeout=600.0, transport=transport, trust_env=False) as client:
        answer = await client.post("/v1/chat/completions", json=body)
        answer.raise_for_status()
    found = answer.json()
    usage = found.get("usage") or {}
    told = Told(judge(found["choices"][0]["message"]["content"] or "", facts))
    told.tokens = int(usage.get("prompt_tokens", 0)) + int(usage.get("completion_tokens", 0))
    told.wall_s = time.perf_counter() - begun
    return told


def table(facts: Facts) -> str:
    """Every figure that may be said, in a row with what it is."""
    rows = ["| what | figure |", "|---|---|"]
    for section in SECTIONS:
        for sentence in sayable(facts, section):
            pieces = sentence.variants["en"][0]
            about = "".join(piece if isinstance(piece, str) else _about(facts, piece) for piece in pieces)
            figures = [_figure(facts, piece) for piece in pieces if isinstance(piece, Handle)]
            said = "; ".join(dict.fromkeys(one for one in figures if one))
            rows.append(f"| {' '.join(about.split()).removesuffix('.')} | {said} |")
    return "\n".join(rows)


def _about(facts: Facts, handle: Handle) -> str:
    """A name, or a gap for each thing that has to be found: a move has a direction and a size."""
    if handle.cell.startswith("name.") or handle.form == "speaker":
        return word(lookup(facts, handle.cell, "en"), handle.form, "en")
    return "... ..." if handle.form in ("move", *MOVES) else "..."


def _figure(facts: Facts, handle: Handle) -> str:
    """The value with its sign, which says the direction."""
    cell = lookup(facts, handle.cell, "en")
    if handle.cell.startswith("name.") or handle.form in ("speaker", "verb"):
        return ""
    moves = handle.form in ("magnitude", "move", *MOVES)
    return word(cell, "value" if moves else handle.form, "en")


# --- a scripted larger model ------------------------------------------------------------------------


class Transport(httpx.AsyncBaseTransport):
    """A model that writes well and slips now and then, as larger ones do: it answers within the process.

    In our arm it is asked as any model is; in the other it writes a sentence for each row of the table. In
    both a tenth of its sentences has a digit, a direction or a date of its own.
    """

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/models"):
            return httpx.Response(200, json={"data": [{"id": "scripted"}]})
        if not request.url.path.endswith("/chat/completions"):
            return httpx.Response(404, json={})
        body = json.loads(await request.aread())
        role, task = (str(body["messages"][at]["content"]) for at in (0, -1))
        usage = {"prompt_tokens": (len(role) + len(task)) // 4, "completion_tokens": 12}
        message = {"role": "assistant", "content": scripted(role, task)}
        return httpx.Response(
            200, json={"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage}
        )


def scripted(role: str, task: str) -> str:
    """The answer to a request, as a function of it."""
    chance = random.Random(zlib.crc32(task.encode()))
    letters = re.findall(r"^([a-z])\d?: ", task, re.MULTILINE)
    if role.startswith("You read"):
        return json.dumps({"worst": chance.choice([*letters, "none"])})
    if role.startswith("You order"):
        return json.dumps({"order": sorted(letters, key=lambda one: chance.random())})
    if role.startswith("You choose"):
        asked = re.findall(r"^([a-z])\d: ", task, re.MULTILINE)
        chosen = {letter: f"{letter}{chance.choice('12')}" for letter in dict.fromkeys(asked)}
        offered = re.findall(r"^([a-z] joins): (.*)$", task, re.MULTILINE)
        return json.dumps(chosen | {name: chance.choice(some.split(", ")) for name, some in offered})
    if role.startswith("You reword"):
        said = f"Over these days {task[:1].lower()}{task[1:]}"
        return json.dumps({"sentence": _slip(said, chance)})
    return " ".join(_slip(sentence, chance) for sentence in _prose(task))


def _prose(rows: str) -> Sequence[str]:
    """A sentence for each row of the table, with the figures in their places."""
    found = []
    for line in rows.splitlines()[2:]:
        about, said = (part.strip() for part in line.strip("|").split(" | "))
        figures = iter(said.split("; "))
        negative = said.startswith("\u2212")
        about = about.replace("... ...", ("fell " if negative else "rose ") + "...", 1)
        about = re.sub(r"\.\.\.", lambda _, f=figures: next(f, "").lstrip("\u2212"), about)  # type: ignore[misc]
        found.append(about + ".")
    return found


def _slip(sentence: str, chance: random.Random) -> str:
    if chance.randrange(SLIPS):
        return sentence
    turned = {"rose": "fell", "fell": "rose", "increased": "decreased", "decreased": "increased"}
    word_ = next((one for one in turned if f" {one} " in sentence), "")
    digits = [found.start() for found in re.finditer(r"\d", sentence)]
    if word_ and chance.randrange(2):
        return sentence.replace(f" {word_} ", f" {turned[word_]} ", 1)
    if digits:
        spot = chance.choice(digits)
        return (
            sentence[:spot] + str((int(sentence[spot]) + chance.randrange(1, 9)) % 10) + sentence[spot + 1 :]
        )
    return sentence.rstrip(".") + chance.choice(
        (", the most since 2019.", " and rose on Monday.", ", or 7%.")
    )


def scripted_servers() -> tuple[Servers, Client]:
    client = Client("http://127.0.0.1:9", transport=Transport())
    return Servers([ModelPlace("scripted", client, "scripted")]), client

"""``stepwell why``: where the time of a request went."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console
from rich.progress import track

from stepwell.commands.running_server import RunningServer
from stepwell.console.options import flag
from stepwell.errors import BadInput
from stepwell.loop.explainer import Explainer
from stepwell.policy.scheduler import Scheduler
from stepwell.recording.file import read_recording

LOCAL = RunningServer()
CAUSES: Mapping[str, str] = {
    "arrival": "the engine's step that was under way had to end",
    "queue": "waited in the queue",
    "room": "next in the queue, but there was no room for its context on the device",
    "place": "next in the queue, but as many requests ran as may",
    "prefix": "the beginning of its prompt was being computed for another request",
    "disk": "its KV was read from disk",
    "load": "its KV was copied from host memory to the device",
    "passed_over": "had a place, but the steps went to others",
    "prefill": "its prompt was computed, in steps shared with others",
    "decode": "its answer was generated, in steps shared with others",
}
RULES: Mapping[str, str] = {
    "arrival": "which came first",
    "aged": "which had waited for as long as its contract allows",
    "guarantee": "whose service tier was owed a place by its guarantee",
    "service_tier": "whose service tier is heavier",
    "tenant": "whose tenant had been given less compute",
    "session": "whose session had been given less compute",
    "had_a_place": "which had been preempted",
    "preempted": "which took its place",
    "load_failed": "after a block of its own did not load",
}
TITLES = {"queue": ", behind {}", "prefix": ": {}"}


def why(
    what: Annotated[str, Parameter(help="The x-request-id of an answer, or an agent or a session by name.")],
    *,
    server: RunningServer = LOCAL,
    recording: Annotated[
        Path | None,
        Parameter(help="Ask a recording of 'serve --record', not a server."),
    ] = None,
    json_out: Annotated[bool, flag("The answer as JSON.", "--json")] = False,
) -> int:
    """Say where the time of a request went: behind what it queued and by which rule, what was fetched from
    where, and what preempted it. Each millisecond has one cause, and they add up to the whole.

    A server remembers the requests that are under way and the last 2,000 that have ended. A recording knows
    its requests by agent, by session, or by their numbers. Examples:

        stepwell why req_5a6d3a555e815bf5
        stepwell why planner --server http://127.0.0.1:8000
        stepwell why planner --recording run.jsonl
    """
    found = server.get("/admin/why", of=what)["data"] if recording is None else _recorded(recording, what)
    if json_out:
        print(json.dumps({"object": "list", "data": found}, indent=2))
        return 0
    console = Console(highlight=False, soft_wrap=True)
    for story in found:
        for line in lines(story):
            console.print(line, markup=False)
        console.print()
    console.print(_last_line(found), markup=False)
    return 0


def _recorded(file: Path, what: str) -> list[dict[str, Any]]:
    """The policy decides again, and says again why."""
    config, steps = read_recording(file)
    scheduler, explainer, now_us = Scheduler(config), Explainer(), 0
    console = Console(stderr=True)
    for step in track(steps, description="deciding again", console=console, transient=True):
        now_us = step.now_us
        explainer.decided(now_us, step.events, scheduler.step(now_us, step.events))
    found = explainer.find(what, now_us)
    if not found:
        raise BadInput(f"{file} has no request, agent or session {what!r} among its last 2,000 requests")
    return found


def lines(story: Mapping[str, Any]) -> Iterator[str]:
    """One request for people."""
    state = f"ended ({story['finish']})" if story["state"] == "ended" else "under way"
    yield f"{name_of(story)}: {story['total_ms']:,.1f} ms, {state}"
    cached, prompt = story["cached_tokens"], story["prompt_tokens"]
    places = (f"{cached['device']:,} lay on the device", f"{cached['host']:,} in host memory")
    yield f"  of {prompt:,} prompt tokens {', '.join(places)}, {cached['disk']:,} on disk"
    for span in story["spans"]:
        yield f"  {span['lasted_ms']:>12,.1f} ms  {_sentence(span)}"
    told_ms = sum(span["lasted_ms"] for span in story["spans"])
    if (rest_ms := story["total_ms"] - told_ms) > 0.0005:
        yield f"  {rest_ms:>12,.1f} ms  besides, in the sums below"
    sums = ", ".join(f"{name} {ms:,.1f}" for name, ms in story["causes_ms"].items())
    yield f"  sums in ms: {sums}"
    if story["preemptions"]:
        by = ", ".join(dict.fromkeys(name_of(one) for one in story["preempted_by"])) or "others"
        yield f"  preempted {story['preemptions']} times, by {by}"


def name_of(one: Mapping[str, Any]) -> str:
    request = one.get("request_id") or f"request {one['request']}"
    agent = f" of agent {one['agent']}" if one["agent"] else ""
    return f"{request}{agent} ({one['tenant']}, {one['service_tier']})"


def _sentence(span: Mapping[str, Any]) -> str:
    text, rule = CAUSES.get(span["cause"], span["cause"]), RULES.get(span["rule"], span["rule"])
    if span["behind"] is not None:
        text += TITLES.get(span["cause"], ", beside {}").format(name_of(span["behind"]))
    return f"{text}, {rule}" if rule else text


def _last_line(found: Sequence[Mapping[str, Any]]) -> str:
    waited, total = (sum(story[name] for story in found) for name in ("waited_ms", "total_ms"))
    requests = "1 request" if len(found) == 1 else f"{len(found)} requests"
    return f"{requests}: {waited:,.1f} of {total:,.1f} ms were spent waiting for a place"

"""inference-perf's example graphs of calls as workloads: chains, fan-outs, fan-ins.

Source: kubernetes-sigs/inference-perf, ``examples/otel/test_traces``: OpenTelemetry spans of nine small runs,
made by hand, with their texts. No span says which one it waits for (one file names parents), so times do:
calls that overlap are a fan-out, each an agent of its own that is launched by the call before, and the next
call that overlaps none waits for all of them. That agrees with what the prompts quote.

Names stand for 64 characters of all that comes before, four characters are taken for a token. At that length
a run has a few hundred to a few thousand tokens; it is not scaled down.
"""

from __future__ import annotations

import json
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from stepwell.errors import BadInput
from stepwell.simulate.lmcache import again_and_again
from stepwell.simulate.workload import Workload, runs_of

INFERENCE_PERF = "inference-perf"
ARCHIVE = "inference_perf_otel_example_traces.tar.gz"
UNIT_TOKENS = 16
_UNIT_CHARS = 64
"""Of the format that is made here: it counts characters where kv-cache-tester counts tokens."""
_MALFORMED = (ValueError, KeyError, TypeError, AttributeError, RecursionError)


def inference_perf(directory: Path, *, sessions: int | None = None, seed: int = 1) -> Workload:
    """``sessions`` of the graphs (None: each once); order, arrivals, tenants and service tiers by seed."""
    records = list(_records(directory / ARCHIVE))
    note = "by hand and small; what overlaps in time is a fan-out"
    return again_and_again(
        records, INFERENCE_PERF, sessions=sessions, seed=seed, unit_tokens=UNIT_TOKENS, note=note
    )


def _records(file: Path) -> Iterator[dict[str, Any]]:
    """Every graph in the format of kv-cache-tester. ``BadInput``: missing or damaged."""
    try:
        with tarfile.open(file, "r:gz") as archive:
            members = [member for member in archive if member.isfile() and member.name.endswith(".json")]
            for member in sorted(members, key=lambda one: one.name):
                inner = archive.extractfile(member)
                assert inner is not None  # it is a file
                yield _record(member.name, sorted(json.load(inner)["spans"], key=_start_s))
    except OSError as error:
        raise BadInput(f"the trace {file} cannot be read: {error.strerror or error}") from error
    except (*_MALFORMED, EOFError, zlib.error, tarfile.TarError) as error:
        raise BadInput(f"the trace {file} is damaged: {error}") from error


def _start_s(span: Mapping[str, Any]) -> float:
    return datetime.fromisoformat(span["start_time"]).timestamp()


def _end_s(span: Mapping[str, Any]) -> float:
    return datetime.fromisoformat(span["end_time"]).timestamp()


# --- a graph as a session ---------------------------------------------------------------------


def _record(name: str, spans: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    began_s = _start_s(spans[0])
    known: dict[str, int] = {}
    requests: list[dict[str, Any]] = []
    for phase in _phases(spans):
        # In a fan-out at the very beginning, the first one launches the others.
        own = 1 if len(phase) == 1 or not requests else 0
        requests += [_request(span, began_s, known) for span in phase[:own]]
        requests += [_child(span, began_s, known) for span in phase[own:]]
    return {"id": name, "requests": requests}


def _phases(spans: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Calls in the order of their start, those together that overlap."""
    phases: list[list[Mapping[str, Any]]] = []
    until_s = float("-inf")
    for span in spans:
        if not phases or _start_s(span) >= until_s:
            phases.append([])
        phases[-1].append(span)
        until_s = max(until_s, _end_s(span))
    return phases


def _child(span: Mapping[str, Any], began_s: float, known: dict[str, int]) -> dict[str, Any]:
    """A call of a fan-out; its ``t`` is its end, as in the format."""
    request = _request(span, _start_s(span), known)
    return {
        "type": "subagent", "t": _end_s(span) - began_s, "agent_id": span["span_id"],
        "subagent_type": "call", "duration_ms": request["api_time"] * 1000, "requests": [request],
    }  # fmt: skip


def _request(span: Mapping[str, Any], began_s: float, known: dict[str, int]) -> dict[str, Any]:
    """``known``: names of the graph's prefixes so far; new ones are added."""
    attributes = span["attributes"]
    prompt, answer = _written(json.loads(attributes["gen_ai.input.messages"])), _answer(attributes)
    ends = range(_UNIT_CHARS, len(prompt) + 1, _UNIT_CHARS)
    names = [known.setdefault(prompt[:end], len(known)) for end in ends]
    return {
        "type": "n", "t": _start_s(span) - began_s, "in": len(prompt), "out": max(1, len(answer)),
        "input_types": ["text"], "stop": "end_turn", "api_time": _end_s(span) - _start_s(span),
        "hash_rle": runs_of(names),
    }  # fmt: skip


def _answer(attributes: Mapping[str, Any]) -> str:
    if "gen_ai.output.text" in attributes:
        return str(attributes["gen_ai.output.text"])
    return "".join(str(message["content"]) for message in json.loads(attributes["gen_ai.output.messages"]))


def _written(messages: Sequence[Mapping[str, Any]]) -> str:
    """As a chat template writes them: each with its role before it."""
    return "".join(f"<{message['role']}>\n{message['content']}\n" for message in messages)

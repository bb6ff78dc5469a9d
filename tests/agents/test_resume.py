"""A session that dies anywhere goes on, gives the same answer, and does nothing twice that may not be."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from stepwell.agents.state import SessionFile
from stepwell.agents.tools.base import Tool
from stepwell.errors import BadInput
from tests.agents.scripted import PATIENCE_S, Asked, Crash, Mortal, Scripted, answer, calls, crew, session
from tests.agents.test_planner import CREW, TWO, scripted, verdict
from tests.agents.test_runtime import run

VERBS = """
[roles.lead]
instructions = "You lead."
tools = ["note"]
may_spawn = ["helper"]
[roles.helper]
instructions = "You help."
tools = ["note"]
calls = "schema"
"""


def verbs_model(asked: Asked) -> Any:
    """Spawns, sends, waits, follows up, and calls a tool in both ways."""
    if asked.role == "helper":
        if asked.last.startswith("Result"):
            return json.dumps({"action": "answer", "answer": f"{asked.agent} noted"})
        return json.dumps({"action": "note", "arguments": {"text": asked.agent}})
    script = [
        [("spawn_agent", {"role": "helper", "task": "a"}), ("spawn_agent", {"role": "helper", "task": "b"})],
        [("wait_agent", {})],
        [("send_message", {"agent": "helper-1", "message": "go"}), ("note", {"text": "lead"})],
        [("followup_task", {"agent": "helper-1", "task": "c"}), ("wait_agent", {"agents": ["helper-1"]})],
    ]
    return calls(*script[asked.turn - 1]) if asked.turn <= len(script) else asked.last


def note_tool(notes: list[str], *, idempotent: bool = True, volatile: bool = False) -> Tool:
    async def note(arguments: Mapping[str, Any]) -> str:
        notes.append(arguments["text"])
        return "noted"

    schema = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
    return Tool("note", "Write down.", schema, note, idempotent=idempotent, volatile=volatile)


async def attempt(server: Scripted, text: str, store: SessionFile | Path, ask: str, *tools: Tool) -> Any:
    async with asyncio.timeout(PATIENCE_S), session(server, crew(text), store, *tools) as running:
        return await running.run(ask)


def plan_server() -> Scripted:
    return scripted([TWO, TWO], [verdict(False, 3), verdict(True, 9)])


@pytest.mark.parametrize(("text", "make"), [(VERBS, lambda: Scripted(verbs_model)), (CREW, plan_server)])
def test_dying_after_any_commit_changes_neither_the_answer_nor_the_work(
    tmp_path: Path, text: str, make: Any
) -> None:
    whole = run(answer(make(), crew(text), note_tool([])))
    died = 0
    for commits in range(1, 500):
        path = tmp_path / f"{commits}.db"
        first, second = make(), make()
        try:
            run(attempt(first, text, Mortal(path, commits), "Why?", note_tool([])))
        except Crash:
            died += 1
        else:
            break
        ask = "Why?" if commits <= 2 else ""  # before that there may be nothing to go on with
        again = run(attempt(second, text, path, ask, note_tool([])))
        assert (again.status, again.answer) == (whole.status, whole.answer)
        assert (again.agents, again.turns) == (whole.agents, whole.turns)
    assert died >= 20


def test_a_call_whose_outcome_is_unknown_is_told_and_not_made_again(tmp_path: Path) -> None:
    for commits in range(1, 100):
        notes: list[str] = []
        path, server = tmp_path / f"{commits}.db", Scripted(verbs_model)
        once = note_tool(notes, idempotent=False, volatile=True)
        try:
            run(attempt(server, VERBS, Mortal(path, commits), "Why?", once))
        except Crash:
            run(attempt(server, VERBS, path, "Why?" if commits <= 2 else "", once))
            assert len(notes) <= 4  # lead, helper-1 twice, helper-2
            told = json.dumps([one.body["messages"] for one in server.asked])
            assert len(notes) == 4 or "The outcome of this call is not known" in told
        else:
            return
    raise AssertionError("the session never came to its end")


PROGRAM = """
import asyncio, sys
sys.path.insert(0, {root!r})
from pathlib import Path
from tests.agents.scripted import Scripted, crew, session
from tests.agents.test_planner import CREW
from tests.agents.test_resume import plan_server
server = plan_server()
async def gate(asked):
    if asked.role == "verifier":
        print("ready", flush=True)
        await asyncio.Event().wait()
server.gate = gate
async def main():
    async with session(server, crew(CREW), Path({path!r})) as running:
        await running.run("Why?")
asyncio.run(main())
"""


def test_a_process_that_is_killed_is_resumed_to_the_same_answer(tmp_path: Path) -> None:
    path = tmp_path / "session.db"
    code = PROGRAM.format(root=str(Path(__file__).resolve().parents[2]), path=str(path))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        with pytest.raises(BadInput, match="cannot be opened: database is locked"):
            SessionFile(path)
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.kill()
        process.communicate(timeout=PATIENCE_S)
    server = plan_server()
    again = run(attempt(server, CREW, path, ""))
    whole = run(answer(plan_server(), crew(CREW)))
    assert (again.answer, again.turns, again.agents) == (whole.answer, whole.turns, whole.agents)
    assert server.asked[0].role == "verifier"  # what was answered is not asked again


def test_a_file_that_is_no_session_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    path.write_bytes(b"This is not a database, not at all." * 100)
    with pytest.raises(BadInput, match="cannot be opened: file is not a database"):
        SessionFile(path)


def test_a_session_of_another_crew_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    run(attempt(plan_server(), CREW, path, "Why?"))
    with pytest.raises(BadInput, match="has agents of the role 'planner', which the crew does not have"):
        run(attempt(plan_server(), '[roles.lead]\ninstructions = "x"\n', path, ""))


def two_facts(store: SessionFile) -> None:
    with store.transaction():
        store.put("b", 2)
        store.put("c", "x" * 1_000_000)


def test_a_transaction_that_finds_the_disk_full_leaves_nothing_and_the_next_one_goes_on(
    tmp_path: Path,
) -> None:
    store = SessionFile(tmp_path / "session.db")
    store.put("a", 1)
    (pages,) = store._db.execute("PRAGMA page_count").fetchone()
    store._db.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(sqlite3.OperationalError, match="full"):
        two_facts(store)
    assert (store.get("a"), store.get("b"), store.get("c")) == (1, None, None)
    store._db.execute("PRAGMA max_page_count=100000")
    store.put("c", "x" * 1_000_000)
    assert len(store.get("c")) == 1_000_000
    store.close()

"""What must hold in the books after a chaos run: they verify, and no turn was charged twice or forgotten."""

from __future__ import annotations

from stepwell.bench.chaos.tally import BOOKS, RETRIES_S, Agent, AgentTurns, ChaosTally
from stepwell.bench.chaos.target import ChaosTarget
from stepwell.ledger.base import Store
from stepwell.ledger.reading.verify import verify

READ_S = 5.0
"""How long after a kill a busy client may still read what was sent before it."""
STEP_S = 3.0
"""What was answered so shortly before a kill may have had its postings in the step that was lost."""


def books(store: Store, tally: ChaosTally) -> None:
    """Compare the books with themselves and with what the clients saw."""
    found = verify(store)
    tally.counts["postings verified"] = found.postings
    tally.counts["runs in the books"] = found.runs
    for difference in found.differences:
        tally.wrong("books", difference.sentence)
    charged = charges(store)
    for agent, asked in tally.asked.items():
        _compare(agent, asked, charged.get(agent, 0), tally)
    tally.counts["charges"] = sum(charged.get(agent, 0) for agent in tally.asked)


def server(target: ChaosTarget, tally: ChaosTally) -> None:
    """Hold against the server what its log and its ends say."""
    for kind, found in (
        ("traceback", target.tracebacks()),
        ("unclear start", target.unclear_starts),
        ("died", target.deaths),
    ):
        for sentence in found:
            tally.wrong(kind, sentence)


def charges(store: Store) -> dict[Agent, int]:
    """How many turns each agent was charged for."""
    rows = store.rows(
        "SELECT a.session, a.agent, SUM(u.requests) FROM usage u JOIN accounts a ON a.id = u.account "
        "WHERE u.charge_microusd > 0 GROUP BY a.session, a.agent"
    )
    return {(session, agent.removeprefix(f"{session}/")): int(count) for session, agent, count in rows}


def _compare(agent: Agent, asked: AgentTurns, charged: int, tally: ChaosTally) -> None:
    if charged > asked.attempts - asked.refused:
        may = asked.attempts - asked.refused
        tally.wrong(
            "charged too often", f"{agent[0]}: {charged} charges for {may} turns that were not refused"
        )
    missing = len(asked.answered_s) - charged
    if missing <= 0:
        return
    tally.counts["answered, not charged"] += missing
    excused = sum(_lost_with_a_kill(tally.target, answered_s) for answered_s in asked.answered_s)
    if missing > excused:
        tally.wrong(
            "charge lost", f"{agent[0]}: {missing} answers that are in no books, {excused} lost by a kill"
        )


def _lost_with_a_kill(target: ChaosTarget, answered_s: float) -> bool:
    """Postings of the step in flight go with the process; while books cannot be written, all that wait do."""
    return any(
        answered_s <= killed_s + READ_S
        and (killed_s - answered_s <= STEP_S or _unwritten(target, answered_s, killed_s))
        for killed_s in target.kills_s
    )


def _unwritten(target: ChaosTarget, answered_s: float, killed_s: float) -> bool:
    return any(
        window.fault in BOOKS and window.start_s <= answered_s and window.end_s + RETRIES_S >= killed_s
        for window in target.windows
    )
